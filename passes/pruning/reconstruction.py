"""weight  ->  weight with zeros, the others changed so that the layer's results stay near what they were

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", arXiv:2301.00774: what
removing a weight costs and how the others make up for it is equation 3 (Hassibi and Stork's optimal brain surgeon),
one factorisation for all rows sections 3.2 and 3.3, and choosing what goes while columns are passed "adaptive mask
selection" in section 3.3. Columns are passed as for GPTQ, whose code this uses. Then a few steps of conjugate gradients
bring what is left to the least squares, which takes a third off the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from ...errors import InvalidInput
from ...program import Program
from ..match import is_call, is_constant
from ..quantization.gptq import BLOCK, damped, inverse_factor, replace_columns
from ..quantization.layer_rows import second_moment
from .least_squares import conjugate_gradients
from .patterns import Blocks, Pattern
from .weight_importance import GONE
from .weight_layers import WeightLayer, input_of, rows_of

aten = torch.ops.aten

STEPS = 8
"""Of conjugate gradients, which change all that is left once it is known what goes; columns before a zero, too."""
PARTS = 8
"""Portions of columns, at least, in which it is chosen which blocks go: columns that all have many after them would
look as if those could make up for all of them at once."""
FEWEST = 8
"""Candidates of a portion, at least: of very few there is nothing to choose."""
Visit = Callable[[WeightLayer, Tensor], Tensor | None]


def reconstruct(
    matrix: Tensor, moment: Tensor, pattern: Pattern, count: int, share: float, gone: Tensor | None = None
) -> Tensor:
    """The matrix [n, k] with zeros, float64, with small |(found - matrix) @ x| on inputs with x @ x.T = `moment`.

    `gone` [n, k] says where zeros are to be; without it `count` candidates are chosen, or what the pattern says for
    `share`, by the error that is left when the columns after them make up for them. What is zero stays zero.
    """
    wanted = matrix.double()
    left, moments = wanted.clone(), moment.double().reshape(1, *moment.shape[-2:])
    factor = inverse_factor(moments)
    chooser = _Chooser(wanted, factor[0], pattern, count, share) if gone is None else None
    mask = (wanted == 0) if gone is None else gone | (wanted == 0)

    def replacement(column: int, current: Tensor) -> Tensor:
        if chooser is not None and column % chooser.width == 0:
            part = slice(column, column + chooser.width)
            mask[:, part] |= chooser.choose(current[0], part)
        return current[:, :, column].masked_fill(mask[:, column], 0)

    width = 1 if chooser is None else chooser.width
    replace_columns(left.unsqueeze(0), factor, replacement, max(1, BLOCK // width) * width)
    metric = damped(moments)
    error = (wanted - left).unsqueeze(0) @ metric
    return left + conjugate_gradients(metric, error, (~mask).double().unsqueeze(0), STEPS)[0]


class _Chooser:
    """Chooses what goes, some columns at a time, on seeing what the columns before made of them."""

    def __init__(self, matrix: Tensor, factor: Tensor, pattern: Pattern, count: int, share: float) -> None:
        self._factor, self._pattern, self._share = factor, pattern, share
        self._dead = pattern.total(matrix.abs()) == 0
        self.width = pattern.period
        if isinstance(pattern, Blocks):
            columns = min(BLOCK, matrix.shape[1] // PARTS) // pattern.period
            self.width *= max(columns, -(-FEWEST // len(self._dead)))
        self._columns = pattern.columns if isinstance(pattern, Blocks) else 1
        self._wanted = max(0, count - int(self._dead.sum()))  # of those alive
        self._alive = self._dead.numel() - int(self._dead.sum())
        self._seen = self._taken = 0

    def choose(self, current: Tensor, part: slice) -> Tensor:
        """Which weights of the columns `part` go; of those alive the share that goes of the matrix's."""
        weights = current[:, part]
        scores = self._pattern.total(self._errors(weights, part.start))
        first = part.start // self._columns
        dead = self._dead[:, first : first + scores.shape[1]]
        self._seen += int((~dead).sum())
        goal = self._wanted * self._seen // max(1, self._alive)
        count = int(dead.sum()) + goal - self._taken
        self._taken = goal
        gone = self._pattern.choose(scores.masked_fill(dead, GONE), count, self._share)
        return self._pattern.spread(gone, *weights.shape)

    def _errors(self, weights: Tensor, start: int) -> Tensor:
        """Values whose sums over candidates are the squared error that is left without them."""
        found = torch.empty_like(weights)
        for begin in range(0, weights.shape[1], self._columns):
            end = min(begin + self._columns, weights.shape[1])
            corner = self._factor[start + begin : start + end, start + begin : start + end]
            found[:, begin:end] = torch.linalg.solve_triangular(corner, weights[:, begin:end], upper=True, left=False)
        return found.square()


def visit_layers(
    program: Program, layers: Sequence[WeightLayer], items: Sequence[Sequence[Tensor]], visit: Visit
) -> None:
    """Run the Program on all items, node by node, and show each layer with x.T @ x [k, k] of its inputs to `visit`.

    What that returns is the layer's weight from then on; None changes nothing. A shared weight changes at its last
    call. Values of all items are in memory from the node that makes them to the last that reads them. Raises
    InvalidInput for a layer with inputs that are not finite.
    """
    with torch.no_grad():
        _Visits(program, layers, items, visit).run()


class _Visits:
    def __init__(
        self, program: Program, layers: Sequence[WeightLayer], items: Sequence[Sequence[Tensor]], visit: Visit
    ) -> None:
        self._program, self._items, self._visit = program, items, visit
        self._layers = {call: layer for layer in layers for call in layer.calls}
        self._moments: dict[WeightLayer, Tensor] = {}
        self._changed: dict[str, Tensor] = {}
        self._values: dict[Node, list[Any]] = {}

    def run(self) -> None:
        last_use = {x: node for node in self._program.nodes for x in node.all_input_nodes}
        placeholders = {node: number for number, node in enumerate(self._program.placeholders)}
        for node in self._program.nodes:
            if node.op == "placeholder":
                self._values[node] = [item[placeholders[node]] for item in self._items]
            elif node.op == "call_function":
                if node in self._layers:
                    self._look(node, self._layers[node])
                self._values[node] = [self._call(node, number) for number in range(len(self._items))]
            for x in node.all_input_nodes:
                if last_use[x] is node:
                    self._values.pop(x, None)

    def _look(self, node: Node, layer: WeightLayer) -> None:
        moment = sum((second_moment(rows_of(node, x).float()) for x in self._values[input_of(node)]), torch.zeros(1))
        self._moments[layer] = self._moments.get(layer, torch.zeros(1)) + moment
        if node is layer.calls[-1]:
            if not bool(self._moments[layer].isfinite().all()):
                raise InvalidInput(
                    f"inputs of layer {layer.name} must be finite on the calibration data for its reconstruction; "
                    "leave it as it is with ignore="
                )
            better = self._visit(layer, self._moments.pop(layer)[0])
            if better is not None:
                self._changed[str(layer.weight.target)] = better

    def _call(self, node: Node, number: int) -> Any:
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda x: self._value(x, number))
        return node.target(*args, **kwargs)

    def _value(self, x: Node, number: int) -> Any:
        if x.op == "get_attr":
            return self._changed.get(str(x.target), self._program.constant(x))
        if is_call(x, aten.permute.default) and is_constant(x.args[0]):
            return self._call(x, number)  # of a weight that may have changed
        return self._values[x][number]
