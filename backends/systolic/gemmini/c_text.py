"""Pieces of C: float literals, arrays, comments, names."""

from __future__ import annotations

import re

import numpy as np
import torch

_RESERVED = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool true "
    "false memory product saturate clip main i j n c h w i0 i1 i2 i3 i4 i5 i6 i7 row column sum most".split()
)
_PER_LINE = {"elem_t": 24, "acc_t": 10}


def literal(x: float) -> str:
    """A float32 as a C literal that reads back as the same bits."""
    return f"{np.float32(x)!s}f"


def array(kind: str, name: str, values: torch.Tensor, alignment: str) -> str:
    """A constant array with its elements in row-major order."""
    numbers, count = values.flatten().tolist(), _PER_LINE[kind]
    rows = (", ".join(map(str, numbers[i : i + count])) for i in range(0, len(numbers), count))
    body = ",\n    ".join(rows)
    return f"static const {kind} {name}[{len(numbers)}] {alignment} = {{\n    {body}\n}};\n"


def comment(text: str) -> str:
    """Text that cannot end a comment early."""
    return text.replace("*/", "* /")


def identifier(name: str) -> str:
    """A name as C allows it, and that generated C does not use itself."""
    cleaned = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not cleaned or cleaned[0].isdigit():
        return f"_{cleaned}"
    return f"{cleaned}_" if cleaned in _RESERVED else cleaned


def shape(sizes: tuple[int, ...]) -> str:
    """`1x28x28x6`."""
    return "x".join(map(str, sizes)) or "1"
