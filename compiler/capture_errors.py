"""The doctor: says why a model could not be traced, where, and what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)', re.MULTILINE)
_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True)
class Frame:
    """A place in the user's code."""

    file: str
    line: int
    function: str


def innermost_user_frame(trace: str) -> Frame | None:
    """The last frame of a printed stack that lies neither in PyTorch nor in fxpress."""
    frames = [Frame(m["file"], int(m["line"]), m["function"]) for m in _FRAME.finditer(trace)]
    return next((frame for frame in reversed(frames) if not frame.file.startswith(_NOT_THE_USERS)), None)


@contextmanager
def explain(model: Any, signature: Any, inputs: tuple[Any, ...]) -> Iterator[None]:
    """Turn what torch.export raises inside the block into a CaptureError."""
    yield
