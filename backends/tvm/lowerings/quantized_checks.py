"""What the operands and numbers of a quantised op must be for kernels to compute it exactly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ....cpu import CpuTarget
from ....ops.requantization import HIGHEST, LOWEST
from ..lowering import Check

_MOST = 2.0**30  # a result is less than this many times its operand
_LEAST_SCALE = 2.0**-120  # of which float32 holds the inverse


def check_quantized(**dtypes: torch.dtype) -> Check:
    """The check of an op whose operands named so must have those dtypes."""

    def check(node: Node, target: CpuTarget) -> str | None:
        a = arguments(node)
        for name, wanted in dtypes.items():
            found = a[name].meta["val"].dtype
            if found != wanted:
                return f"its {name} must be {wanted}, not {found}"
        return check_numbers(a)

    return check


def check_numbers(a: dict[str, Any]) -> str | None:
    """Why the scales, zero points or limits among an op's arguments cannot be computed with, or None."""
    for name, value in a.items():
        if "zero" in name and not LOWEST <= value <= HIGHEST:
            return f"its {name} must be within {LOWEST}..{HIGHEST}, not {value}"
        if isinstance(value, float) and "scale" in name and not _LEAST_SCALE <= value < math.inf:
            return f"its {name} must be at least 2**-120 and finite, not {value}"
    if "low" in a and not LOWEST <= a["low"] <= a["high"] <= HIGHEST:
        return f"its low and high must be ordered and within {LOWEST}..{HIGHEST}, not {a['low']} and {a['high']}"
    for name in ("x_scale", "a_scale", "b_scale"):
        if "y_scale" in a and name in a and not 1 / _MOST < a[name] / a["y_scale"] < _MOST:
            return f"its {name} and y_scale must differ less than 2**30 times, not {a[name]} and {a['y_scale']}"
    return None
