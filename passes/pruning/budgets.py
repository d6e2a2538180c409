"""Budgets as text: "latency=10ms", "latency=50%", "size=5MB", "ram=30%"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ...errors import InvalidInput

KINDS = ("latency", "size", "ram")
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
SHARE = "%"


@dataclass(frozen=True)
class PruneBudget:
    """What a pruned model may cost: `kind` is "latency" (a call on the target), "size" (all constants) or "ram"
    (the constants and the memory that a call needs).

    `amount` is in seconds or bytes, or with `relative` a share of what the unpruned model costs.
    """

    kind: str
    amount: float
    relative: bool

    @staticmethod
    def parse(text: object) -> PruneBudget:
        """The budget that a text means. Raises InvalidInput."""
        match = (
            re.fullmatch(r"\s*(\w+)\s*=\s*([-+.\deE]+?)\s*([A-Za-z]+|%)?\s*", text) if isinstance(text, str) else None
        )
        if match is None:
            raise InvalidInput(
                f"budget must look like 'latency=10ms', 'latency=50%', 'size=5MB' or 'ram=2MB', not {text!r}"
            )
        kind, number, unit = match.groups()
        if kind not in KINDS:
            raise InvalidInput(f"budget must be of one of {list(KINDS)}, not of {kind!r}")
        units = SECONDS if kind == "latency" else BYTES
        if unit != SHARE and unit not in units:
            raise InvalidInput(
                f"budget of {kind} must end in one of {[*units, SHARE]}, as in '{kind}=50%', not {text!r}"
            )
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not 0 < amount < math.inf:
            raise InvalidInput(f"budget must be a positive number, not {number!r} in {text!r}")
        if unit == SHARE and amount >= 100:
            raise InvalidInput(f"budget must be less than 100% of what the unpruned model needs, not {text!r}")
        return PruneBudget(kind, amount / 100 if unit == SHARE else amount * units[unit], unit == SHARE)

    def limit(self, whole: float) -> float:
        """Seconds or bytes that are allowed where the unpruned model needs `whole`."""
        return self.amount * whole if self.relative else self.amount
