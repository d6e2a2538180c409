"""One step of pruning to a pattern of zeros: layers, scores, choice, and the pass that writes what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    pattern = pattern_of(config, target)
    scores = score_weights(program, layers.chosen, pattern, config, data)
    share = config.share(step)
    counts = counts_of(scores, config, _own_ratios(layers.chosen, config), share)
    zeros = {layer: Zeros(program, layer, pattern, each, config) for layer, each in scores.items()}
    found = {}
    if config.reconstruct:

        def visit(layer: WeightLayer, moment: Tensor) -> Tensor:
            found[layer] = zeros[layer].weight(counts[layer], share, moment)
            return found[layer]

        visit_layers(program, layers.chosen, sample(data, ITEMS), visit)
    else:
        found = {layer: zeros[layer].weight(counts[layer], share) for layer in layers.chosen}
    weights = {layer.weight.name: (layer.name, weight) for layer, weight in found.items()}
    return ZeroWeights(weights, layers.held if step == 1 else ())


def pattern_of(config: PruneConfig, target: Target) -> Pattern:
    """The pattern of zeros that a config means on a target. Raises InvalidInput for "units"."""
    pattern = parse_pattern(config.pattern, target)
    if pattern is None:
        raise InvalidInput(f"pattern must be one of zeros, not {config.pattern!r}")
    return pattern


@dataclass(frozen=True)
class Zeros:
    """Puts zeros into a layer's weight where its candidates have least `scores`."""

    program: Program
    layer: WeightLayer
    pattern: Pattern
    scores: Tensor
    config: PruneConfig

    def weight(self, count: int, share: float = 1.0, moment: Tensor | None = None) -> Tensor:
        """The weight with `count` candidates zero, or what the pattern says for the `share` of a schedule.

        With x.T @ x of the layer's inputs as `moment` [k, k] the weights that stay make up for those that go; which do
        is then decided by the error that is left, unless the config has another measure than the size of weights.
        """
        weight = self.program.constant(self.layer.weight)
        matrix = self.layer.matrix(weight)
        if moment is not None and self.config.importance == "l2":
            made = reconstruct(matrix, moment, self.pattern, count, share)
        else:
            gone = self.pattern.spread(self.pattern.choose(self.scores, count, share), *matrix.shape)
            if moment is None:
                made = matrix.masked_fill(gone, 0)
            else:
                made = reconstruct(matrix, moment, self.pattern, count, share, gone)
        return self.layer.weight_of(made.to(weight.dtype))


def _own_ratios(layers: Sequence[WeightLayer], config: PruneConfig) -> Mapping[WeightLayer, float]:
    calls = [call for layer in layers for call in layer.calls]
    found: dict[WeightLayer, float] = {}
    for scope, ratio in config.ratios.items():
        named = select(calls, scope, "ratios", DONE)
        found.update({layer: ratio for layer in layers if not named.isdisjoint(layer.calls)})
    return found
