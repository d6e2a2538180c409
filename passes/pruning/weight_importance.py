"""What a weight, or a block of weights, is worth: from its size, from gradients, from what it multiplies, or by lot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ...errors import InvalidInput
from ...program import Program
from .config import PruneConfig, count_of
from .importance import Inputs, gradients
from .patterns import Pattern
from .selection import least_of_all
from .weight_layers import WeightLayer, input_of, rows_of

GONE = -1.0
"""The score of what is zero already, which goes first."""


def score_weights(
    program: Program, layers: Sequence[WeightLayer], pattern: Pattern, config: PruneConfig, data: Inputs
) -> dict[WeightLayer, Tensor]:
    """The importance of each candidate of the pattern in each layer's matrix, float64, -1 where all is zero already.

    "l1" and "l2" are norms; "activation" is the norm of weights times that of the inputs they multiply (Sun et al., "A
    Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695, equation 1), compared over the
    whole layer. `data` yields flat inputs, read only for "activation", "taylor" and "hessian". Raises InvalidInput for
    scores that are not finite.
    """
    measured = _measured(program, layers, pattern, config, data)
    found = {}
    for layer in layers:
        weight = layer.matrix(program.constant(layer.weight)).double()
        if config.importance == "l1":
            scores = pattern.total(weight.abs())
        elif config.importance == "l2":
            scores = pattern.total(weight.square()).sqrt()
        elif config.importance == "random":
            chance = np.random.default_rng([config.seed, *layer.name.encode()])
            scores = torch.from_numpy(chance.random(tuple(pattern.total(weight).shape)))
        else:
            scores = measured[layer]
        if not bool(scores.isfinite().all()):
            raise InvalidInput(
                f"weights and activations must be finite, but the {config.importance} importance of layer "
                f"{layer.name} is not"
            )
        found[layer] = scores.masked_fill(pattern.total(weight.abs()) == 0, GONE)
    return found


def counts_of(
    scores: Mapping[WeightLayer, Tensor], config: PruneConfig, ratios: Mapping[WeightLayer, float], share: float
) -> dict[WeightLayer, int]:
    """How many candidates of each layer are to be zero; `share` is how much of all that go in the end.

    With a global ranking a layer's scores count relative to their mean, so that its weights' scale does not.
    """
    if config.ranking == "local":
        return {layer: count_of(ratios.get(layer, config.goal) * share, each.numel()) for layer, each in scores.items()}
    counts = {layer: count_of(ratios[layer] * share, scores[layer].numel()) for layer in scores if layer in ratios}
    free = [layer for layer in scores if layer not in ratios]
    sizes = [scores[layer].numel() for layer in free]
    relative = [(scores[layer] / (float(scores[layer].clamp(min=0).mean()) or 1.0)).flatten().numpy() for layer in free]
    most = [count_of(config.most, size) for size in sizes]
    wanted = least_of_all(relative, most, int(config.goal * share * sum(sizes) + 1e-9))
    return counts | dict(zip(free, wanted, strict=True))


def _measured(
    program: Program, layers: Sequence[WeightLayer], pattern: Pattern, config: PruneConfig, data: Inputs
) -> dict[WeightLayer, Tensor]:
    if config.importance == "activation":
        return _activation(program, layers, pattern, data)
    if config.importance in ("taylor", "hessian"):
        return _gradient(program, layers, pattern, config, data)
    return {}


def _gradient(
    program: Program, layers: Sequence[WeightLayer], pattern: Pattern, config: PruneConfig, data: Inputs
) -> dict[WeightLayer, Tensor]:
    """taylor: E[(sum of w g)^2] of a candidate's weights w and their gradients g; hessian: E[sum of w^2 g^2]."""
    totals: dict[WeightLayer, Any] = dict.fromkeys(layers, 0.0)
    for found in gradients(program, config, data):
        for layer in layers:
            weight = program.constant(layer.weight)
            gradient = found.get(str(layer.weight.target), torch.zeros_like(weight))
            change = layer.matrix(weight).double() * layer.matrix(gradient).double()
            if config.importance == "taylor":
                totals[layer] = totals[layer] + pattern.total(change).square()
            else:
                totals[layer] = totals[layer] + pattern.total(change.square())
    return totals


def _activation(
    program: Program, layers: Sequence[WeightLayer], pattern: Pattern, data: Inputs
) -> dict[WeightLayer, Tensor]:
    energies: dict[WeightLayer, Any] = dict.fromkeys(layers, 0.0)
    for inputs in data:
        seen = _Energies(program, [call for layer in layers for call in layer.calls]).measure(inputs)
        for layer in layers:
            for call in layer.calls:
                energies[layer] = energies[layer] + seen[call]
    found = {}
    for layer, energy in energies.items():
        weight = layer.matrix(program.constant(layer.weight)).double()
        found[layer] = pattern.total(weight.square() * energy).sqrt()
    return found


class _Energies(Interpreter):
    """Runs a Program and keeps the mean square of each input of some layers' matrices."""

    def __init__(self, program: Program, calls: Iterable[Node]) -> None:
        super().__init__(program.graph_module)
        self._calls = {call: input_of(call) for call in calls}
        self._found: dict[Node, Tensor] = {}

    def measure(self, inputs: Sequence[Tensor]) -> dict[Node, Tensor]:
        with torch.no_grad():
            self.run(*inputs)
        return self._found

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._calls:
            rows = rows_of(n, self.env[self._calls[n]])
            self._found[n] = rows.double().square().mean(0)
        return value
