"""One step of pruning to a pattern of zeros: layers, scores, choice, and the pass that writes what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import InvalidInput
from ...program import Program
from ...target import Target
from ..quantization.gptq import ITEMS
from ..quantization.scopes import select
from ..quantization.walking import sample
from .config import PruneConfig
from .named_layers import DONE
from .patterns import Pattern, parse_pattern
from .reconstruction import reconstruct, visit_layers
from .steps import Scopes
from .weight_importance import counts_of, score_weights
from .weight_layers import WeightLayer, find_layers
from .zero_weights import ZeroWeights

Inputs = Iterable[Sequence[Tensor]]


@dataclass(frozen=True)
class ZeroLayers:
    """The layers of a Program whose weights get zeros, and for what gets none its node's name and why."""

    chosen: tuple[WeightLayer, ...]
    held: tuple[tuple[str, str], ...]


def layers_to_zero(program: Program, ignore: Scopes = (), only: Scopes = ()) -> ZeroLayers:
    """The layers that scopes leave; a shared weight goes by all its calls. Raises InvalidInput where there are none."""
    found, left = find_layers(program)
    calls = [call for layer in found for call in layer.calls]
    held = [(node.name, reason) for node, reason in left]
    if not calls:
        reasons = "".join(f"\n  %{name}: {reason}" for name, reason in held)
        raise InvalidInput(
            "model must have linear layers or convolutions of floats for a pattern of zeros, but it has none"
            f"{reasons and f' that can get any:{reasons}'}"
        )
    ignored = select(calls, ignore, "ignore", DONE) if ignore else set()
    wanted = select(calls, only, "only", DONE) if only else set(calls)
    chosen = []
    for layer in found:
        if not ignored.isdisjoint(layer.calls):
            held.append((layer.name, "named in ignore"))
        elif wanted.isdisjoint(layer.calls):
            held.append((layer.name, "not named in only"))
        else:
            chosen.append(layer)
    return ZeroLayers(tuple(chosen), tuple(held))


def zero_step(
    program: Program, layers: ZeroLayers, config: PruneConfig, data: Inputs, target: Target, step: int = 1
) -> ZeroWeights:
    """The pass that takes `program` to where the schedule is after `step`.

    `data` yields flat inputs, read where `config.needs_data`. Raises InvalidInput for scores that are not finite.
    """
    zeros = find_zeros(program, layers.chosen, config, data, target, config.share(step))
    found = {}
    if config.reconstruct:

        def visit(layer: WeightLayer, moment: Tensor) -> Tensor:
            found[layer] = zeros[layer](moment)
            return found[layer]

        visit_layers(program, layers.chosen, sample(data, ITEMS), visit)
    else:
        found = {layer: zeros[layer](None) for layer in layers.chosen}
    weights = {layer.weight.name: (layer.name, weight) for layer, weight in found.items()}
    return ZeroWeights(weights, layers.held if step == 1 else ())


Zeros = Callable[[Tensor | None], Tensor]
"""A layer's weight with zeros; with x.T @ x [k, k] of its inputs the others make up for those that went."""


def find_zeros(
    program: Program, layers: Sequence[WeightLayer], config: PruneConfig, data: Inputs, target: Target, share: float
) -> dict[WeightLayer, Zeros]:
    """What makes the zeros of each layer; `share` is how much of all that goes in the end is to be gone."""
    pattern = parse_pattern(config.pattern, target)
    assert pattern is not None
    scores = score_weights(program, layers, pattern, config, data)
    counts = counts_of(scores, config, _own_ratios(layers, config), share)
    return {
        layer: _zeros(layer, program.constant(layer.weight), pattern, each, counts[layer], share, config)
        for layer, each in scores.items()
    }


def _zeros(
    layer: WeightLayer, weight: Tensor, pattern: Pattern, scores: Tensor, count: int, share: float, config: PruneConfig
) -> Zeros:
    matrix = layer.matrix(weight)

    def zeros(moment: Tensor | None) -> Tensor:
        if moment is not None and config.importance == "l2":
            made = reconstruct(matrix, moment, pattern, count, share)
        else:
            gone = pattern.spread(pattern.choose(scores, count, share), *matrix.shape)
            if moment is None:
                made = matrix.masked_fill(gone, 0)
            else:
                made = reconstruct(matrix, moment, pattern, count, share, gone)
        return layer.weight_of(made.to(weight.dtype))

    return zeros


def _own_ratios(layers: Sequence[WeightLayer], config: PruneConfig) -> Mapping[WeightLayer, float]:
    calls = [call for layer in layers for call in layer.calls]
    found: dict[WeightLayer, float] = {}
    for scope, ratio in config.ratios.items():
        named = select(calls, scope, "ratios", DONE)
        found.update({layer: ratio for layer in layers if not named.isdisjoint(layer.calls)})
    return found
