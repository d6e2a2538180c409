"""SCALE-Sim's closed formulas for compute cycles, a baseline that many papers use.

They are those of SCALE-Sim 3 for its output- and weight-stationary dataflows: a fold of the array begins when the one
before has drained, and operands are always there. Our array takes the next tile while the former drains.
"""

from __future__ import annotations

from ....errors import InvalidInput
from ..architecture import Architecture

Gemm = tuple[int, int, int, int]
"""How often, and the m, n and k of a product of m x k by k x n."""


def baseline_scalesim(gemm: Gemm, architecture: Architecture, dataflow: str) -> int:
    """The cycles that SCALE-Sim gives for `repeats` products on an array of this shape; `dataflow` is "os" or "ws"."""
    repeats, m, n, k = gemm
    rows, columns = architecture.rows, architecture.columns
    if dataflow == "os":
        folds, cycles = _folds(m, rows) * _folds(n, columns), k + rows + columns - 2
    elif dataflow == "ws":
        folds, cycles = _folds(k, rows) * _folds(n, columns), m + 2 * rows + columns - 2
    else:
        raise InvalidInput(f"dataflow must be 'os' or 'ws', not {dataflow!r}")
    return repeats * (folds * cycles - 1)


def _folds(size: int, cells: int) -> int:
    return -(-size // cells)
