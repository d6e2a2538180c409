"""Index maps of recurrent layers: a hidden unit is a row of every gate, a column of what reads it, and its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from .map_types import IndexMap
from .ties import Axis, Ties, rank, size_of

aten = torch.ops.aten
Arguments = Mapping[str, Any]


def _recurrent(gates: int) -> Any:
    def ties(m: Ties, node: Node, a: Arguments) -> None:
        x, states = a["input"], a["hx"] if isinstance(a["hx"], list | tuple) else [a["hx"]]
        hidden, directions = size_of(states[0], -1), 2 if a["bidirectional"] else 1
        per_layer = 4 if a["has_biases"] else 2
        if len(a["params"]) != per_layer * a["num_layers"] * directions or rank(x) != 3:
            for value in (*node.all_input_nodes, node):
                m.hold_value(value, "a recurrent layer with projections, or without a batch")
            return
        time, batch = (1, 0) if a["batch_first"] else (0, 1)
        m.hold(m.axis(x, time), "steps in time")
        m.hold(m.axis(node, time, 0), "steps in time")
        m.same(m.axis(x, batch), m.axis(node, batch, 0))
        unit = m.axis(states[0], -1)
        for part, state in enumerate(states, 1):
            m.same(unit, m.axis(state, -1))
            m.same(unit, m.axis(node, -1, part))
            for dim in (0, 1):
                m.hold(m.axis(state, dim), "states by layer and batch")
                m.hold(m.axis(node, dim, part), "states by layer and batch")
        _repeated(m, m.axis(node, -1, 0), unit, hidden, directions)
        for number in range(a["num_layers"] * directions):
            own = a["params"][number * per_layer : (number + 1) * per_layer]
            if number < directions:
                m.contract(m.axis(x, -1), m.axis(own[0], 1))
            else:
                _repeated(m, m.axis(own[0], 1), unit, hidden, directions)
            m.same(m.axis(own[1], 1), unit)
            for rows in own:
                _repeated(m, m.axis(rows, 0), unit, hidden, gates)

    return ties


def _repeated(m: Ties, many: Axis, unit: Axis, hidden: int, times: int) -> None:
    """The axis holds each unit so many times, once a gate or direction."""
    if m.sizes[many]:
        indices = np.arange(hidden * times)
        m.tie(many, indices, unit, indices % hidden)


RECURRENT: dict[Any, IndexMap] = {
    aten.gru.input: IndexMap(_recurrent(gates=3)),
    aten.lstm.input: IndexMap(_recurrent(gates=4)),
}
