"""What a lowered CUDA kernel does, found out without a GPU: its results, the rules it breaks, the cost of its accesses.

report = evaluate(lowered_function, *arrays)
print(report.text())
"""

from .evaluator import evaluate
from .report import Report, Traffic
from .violations import (
    DivergentBarrier,
    InvalidOperand,
    LimitExceeded,
    Misaligned,
    OutOfBounds,
    Race,
    Uninitialised,
    UnknownConstruct,
    Violation,
)

__all__ = [
    "DivergentBarrier",
    "InvalidOperand",
    "LimitExceeded",
    "Misaligned",
    "OutOfBounds",
    "Race",
    "Report",
    "Traffic",
    "Uninitialised",
    "UnknownConstruct",
    "Violation",
    "evaluate",
]
