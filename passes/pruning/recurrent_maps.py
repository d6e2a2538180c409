"""Index maps of recurrent layers: a hidden unit is a row of every gate, a column of what reads it, and its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from .map_types import IndexMap
from .ties import Axis, Ties, rank

aten = torch.ops.aten
Arguments = Mapping[str, Any]


def _recurrent(gates: int) -> Any:
    def ties(m: Ties, node: Node, a: Arguments) -> None:
        x, states = a["input"], a["hx"] if isinstance(a["hx"], list | tuple) else [a["hx"]]
        directions = 2 if a["bidirectional"] else 1
        output, unit = m.axis(states[0], -1), m.axis(states[-1], -1)
        projects = m.sizes[output] != m.sizes[unit]
        per_layer = (4 if a["has_biases"] else 2) + projects
        if rank(x) != 3:
            for value in (*node.all_input_nodes, node):
                m.hold_value(value, "a recurrent layer without a batch")
            return
        time, batch = (1, 0) if a["batch_first"] else (0, 1)
        m.hold(m.axis(x, time), "steps in time")
        m.hold(m.axis(node, time, 0), "steps in time")
        m.same(m.axis(x, batch), m.axis(node, batch, 0))
        m.same(m.axis(x, batch), m.axis(states[0], 1))
        if not projects:
            m.same(output, unit)
        for part, (state, own) in enumerate(zip(states, (output, unit), strict=False), 1):
            m.same(own, m.axis(node, -1, part))
            for dim in (0, 1):
                m.hold(m.axis(state, dim), "states by layer and batch")
                m.hold(m.axis(node, dim, part), "states by layer and batch")
        _repeated(m, m.axis(node, -1, 0), output, directions)
        for number in range(a["num_layers"] * directions):
            own = a["params"][number * per_layer : (number + 1) * per_layer]
            if number < directions:
                m.contract(m.axis(x, -1), m.axis(own[0], 1))
            else:
                _repeated(m, m.axis(own[0], 1), output, directions)
            m.same(m.axis(own[1], 1), output)
            if projects:
                *own, projection = own
                m.same(m.axis(projection, 0), output)
                m.same(m.axis(projection, 1), unit)
            for rows in own:
                _repeated(m, m.axis(rows, 0), unit, gates)

    return ties


def _repeated(m: Ties, many: Axis, unit: Axis, times: int) -> None:
    """The axis holds each unit so many times, once a gate or direction."""
    if m.sizes[many]:
        indices = np.arange(m.sizes[unit] * times)
        m.tie(many, indices, unit, indices % m.sizes[unit])


RECURRENT: dict[Any, IndexMap] = {
    aten.gru.input: IndexMap(_recurrent(gates=3)),
    aten.lstm.input: IndexMap(_recurrent(gates=4)),
}
