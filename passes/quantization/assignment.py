"""Which width each layer gets, as an integer linear program: the best within limits on noise, seconds and bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

Objective = Literal["seconds", "noise"]
TIME_LIMIT = 20.0  # seconds after which the best assignment found so far is taken
GAP = 1e-4


@dataclass(frozen=True)
class Option:
    """One width that a layer may have, the noise it adds at the outputs, its seconds and the bytes of its constants."""

    width: str
    noise: float
    seconds: float
    bytes: float

    @property
    def is_integer(self) -> bool:
        """Whether its operands are int8, so that neighbours of another width need conversions."""
        return self.width == "int8"


@dataclass(frozen=True)
class Limits:
    """The most that all layers together may have; infinite where there is no limit."""

    noise: float = math.inf
    seconds: float = math.inf
    bytes: float = math.inf


@dataclass(frozen=True)
class Edge:
    """A value that goes from one layer to another and takes `seconds` to convert if only one of them is int8."""

    source: int
    reader: int
    seconds: float


def solve(
    layers: Sequence[Sequence[Option]], edges: Sequence[Edge], limits: Limits, objective: Objective
) -> list[Option] | None:
    """The option of each layer with the least total `objective` within `limits`; None when there is none.

    Errors of different layers are taken to be independent, so that their powers add. Exact to one part in ten thousand.
    """
    if min(limits.noise, limits.seconds, limits.bytes) < 0:
        return None
    # an option that is too much alone would only spoil the solver's scaling
    layers = [
        [o for o in each if o.noise <= limits.noise and o.seconds <= limits.seconds and o.bytes <= limits.bytes]
        for each in layers
    ]
    if not all(layers):
        return None
    if not layers:
        return []
    flat = [option for options in layers for option in options]
    starts = np.cumsum([0, *(len(options) for options in layers)])
    costs = {
        "noise": _scaled([o.noise for o in flat] + [0.0] * len(edges), limits.noise),
        "seconds": _scaled([o.seconds for o in flat] + [e.seconds for e in edges], limits.seconds),
        "bytes": _scaled([o.bytes for o in flat] + [0.0] * len(edges), limits.bytes),
    }
    count = len(flat) + len(edges)
    one_each = np.zeros((len(layers), count))
    for index in range(len(layers)):
        one_each[index, starts[index] : starts[index + 1]] = 1
    constraints: list[Any] = [LinearConstraint(one_each, 1, 1)]
    integer = np.array([o.is_integer for o in flat], float)
    for number, edge in enumerate(edges):
        row = np.zeros(count)
        for layer, sign in ((edge.source, 1.0), (edge.reader, -1.0)):
            part = slice(starts[layer], starts[layer + 1])
            row[part] += sign * integer[part]
        for sign in (1.0, -1.0):  # converted >= |source is int8 - reader is int8|
            difference = sign * row
            difference[len(flat) + number] = -1
            constraints.append(LinearConstraint(difference, -np.inf, 0))
    for name, limit in (("noise", limits.noise), ("seconds", limits.seconds), ("bytes", limits.bytes)):
        if math.isfinite(limit):
            constraints.append(LinearConstraint(costs[name], -np.inf, 1.0 if limit > 0 else 0.0))
    found = milp(
        _scaled(costs[objective], math.inf),
        integrality=np.array([1] * len(flat) + [0] * len(edges)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": TIME_LIMIT, "mip_rel_gap": GAP},
    )
    if found.x is None:
        return None
    return [
        options[int(np.argmax(found.x[start : start + len(options)]))]
        for options, start in zip(layers, starts, strict=False)
    ]


def _scaled(values: Any, limit: float) -> Any:
    """The values in units of the limit, or of the largest where there is none: solvers have absolute tolerances."""
    array = np.asarray(values, float)
    unit = limit if math.isfinite(limit) and limit > 0 else float(array.max(initial=0.0))
    return array / unit if unit > 0 else array
