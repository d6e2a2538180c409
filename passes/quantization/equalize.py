"""conv(relu(conv(x, w1) + b1), w2)  ->  conv(relu(conv(x, w1 / s) + b1 / s), w2 * s), with channels of equal range

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721, sections 4.1.1
(equation 11: s = sqrt(r1 / r2) for each channel) and 4.1.3 (high biases go into the next layer). For weights that share
one scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...ops import fxpress
from ...pass_manager import PassManager
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ..fusion.channels import affine_constants, channel_dim
from ..match import arguments, change_call, is_call, is_constant
from .algorithms import Algorithm
from .calibration import Calibration
from .scheme import QuantConfig

LAYERS = (fxpress.conv.default, fxpress.linear.default)
MOST_SWEEPS = 100
CONVERGED = 1e-3
"""Sweeps end when no channel changes by more than this part."""
EVEN = 1e-2
"""Chains whose channels would change by no more than this part stay as they are."""


@dataclass(frozen=True)
class Link:
    """A layer and those that read its result, which no other node does."""

    producer: Node
    consumers: tuple[Node, ...]


@dataclass(frozen=True)
class Equalize(Pass):
    """layer(relu(layer(x, w1, b1)), w2)  ->  layer(relu(layer(x, w1 / s, b1 / s)), w2 * s)

    Layers are convolutions and linear layers with constants of their own. Between them is nothing or relu: relu6 and
    clamp stop at the same number in every channel, which a factor would move.
    """

    name: ClassVar[str] = "equalize"
    accuracy: ClassVar[Accuracy] = "reassociating"

    def run(self, program: Program, rw: Rewriter) -> None:
        links = list(find_links(program, rw))
        weights = {
            node: program.constant(arguments(node)["weight"]).double()
            for link in links
            for node in (link.producer, *link.consumers)
        }
        factors = equalizing_factors(links, weights)
        factors = {node: s for node, s in factors.items() if float(s.log().abs().max()) > EVEN}
        for link in links:
            if link.producer in factors and rw.has_fuel():
                rw.burn()
                _scale(link.producer, factors[link.producer], rw)


def find_links(program: Program, rw: Rewriter | None = None) -> Iterator[Link]:
    """The links whose channels may be scaled, in order; why others may not is told to `rw`."""
    for node in program.nodes:
        if is_call(node, *LAYERS) and node.users:
            reason = _why_not(node)
            if reason is None:
                yield Link(node, tuple(node.users))
            elif rw is not None:
                rw.skip(node, reason)


def _why_not(node: Node) -> str | None:
    a = arguments(node)
    if a["activation"] not in ("none", "relu"):
        return f"{a['activation']} of a scaled channel is not the scaled {a['activation']} of it"
    if a["residual"] is not None:
        return "a residual would have to be scaled too"
    layers = (node, *node.users)
    for layer in layers[1:]:
        values = arguments(layer) if is_call(layer, *LAYERS) else {}
        if not values or values["x"] is not node or values["residual"] is node:
            return "its result is not only read by layers"
        if not _same_channels(node, layer):
            return "its channels are not the inputs' of the layers that read it"
    for layer in layers:
        values = arguments(layer)
        for name in ("weight", "bias"):
            if values[name] is not None and not is_constant(values[name]):
                return f"a {name} is computed"
        if len(values["weight"].users) > 1:
            return "a weight is used elsewhere too"
    return None


def _same_channels(node: Node, reader: Node) -> bool:
    rank = node.meta["val"].dim()
    last = reader.target is fxpress.linear.default or arguments(reader)["channels_last"]
    return channel_dim(node) == (rank - 1 if last else 1)


def input_channels(layer: Node, weight: Tensor) -> Tensor:
    """The weight of a layer as [input channels, what each is multiplied with]."""
    groups = arguments(layer).get("groups", 1)
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).transpose(1, 2).flatten(0, 1).flatten(1)


def scale_inputs(layer: Node, weight: Tensor, s: Tensor) -> Tensor:
    """The weight with the part for each input channel multiplied by that channel's `s`."""
    groups = arguments(layer).get("groups", 1)
    grouped = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return (grouped * s.reshape(groups, 1, -1, 1)).reshape(weight.shape)


def equalizing_factors(links: list[Link], weights: dict[Node, Tensor]) -> dict[Node, Tensor]:
    """For each producer what its output channels are divided by: sweeps of equation 11 until nothing changes."""
    weights = dict(weights)
    total = {link.producer: torch.ones(len(weights[link.producer]), dtype=torch.float64) for link in links}
    for _ in range(MOST_SWEEPS):
        most = 0.0
        for link in links:
            own = weights[link.producer].flatten(1).abs().amax(1)
            read = torch.stack([input_channels(c, weights[c]).abs().amax(1) for c in link.consumers]).amax(0)
            s = torch.where((own > 0) & (read > 0), (own / read.clamp(min=1e-30)).sqrt(), 1.0)
            weights[link.producer] = weights[link.producer] / s.reshape(-1, *[1] * (weights[link.producer].dim() - 1))
            for consumer in link.consumers:
                weights[consumer] = scale_inputs(consumer, weights[consumer], s)
            total[link.producer] = total[link.producer] * s
            most = max(most, float(s.log().abs().max()))
        if most < CONVERGED:
            break
    return total


def _scale(producer: Node, s: Tensor, rw: Rewriter) -> None:
    change_call(producer, rw, **affine_constants(producer, rw, 1 / s, None))
    for consumer in list(producer.users):
        stored = arguments(consumer)["weight"]
        weight = scale_inputs(consumer, rw.program.constant(stored).double(), s).float()
        change_call(consumer, rw, weight=rw.constant(f"{stored.target}_equalized", weight))


@dataclass(frozen=True, eq=False)
class AbsorbBias(Pass):
    """layer(relu(layer(x, w1, b1)), w2, b2)  ->  layer(relu(layer(x, w1, b1 - c)), w2, b2 + w2 c)

    `amounts` are c [channels] by the name of the producer. The same wherever no channel was below c before relu.
    """

    name: ClassVar[str] = "absorb-bias"
    accuracy: ClassVar[Accuracy] = "reassociating"
    amounts: dict[str, Tensor] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name

    def run(self, program: Program, rw: Rewriter) -> None:
        for link in find_links(program):
            if link.producer.name in self.amounts and rw.has_fuel():
                rw.burn()
                _absorb(link.producer, self.amounts[link.producer.name].double(), rw)


def _absorb(producer: Node, amount: Tensor, rw: Rewriter) -> None:
    change_call(producer, rw, **affine_constants(producer, rw, None, -amount))
    for consumer in list(producer.users):
        a = arguments(consumer)
        weight = rw.program.constant(a["weight"]).double()
        added = scale_inputs(consumer, weight, amount).flatten(1).sum(1)
        bias = added if a["bias"] is None else rw.program.constant(a["bias"]).double() + added
        change_call(consumer, rw, bias=rw.constant(f"{a['weight'].target}_bias_absorbed", bias.float()))


class EqualizeRanges(Algorithm):
    """Give the channels between two layers equal ranges, and take from them what they never fall below."""

    def prepare(self, program: Program, config: QuantConfig, calibration: Calibration) -> Program:
        program = PassManager([Equalize()]).run(program)
        if calibration.generated:
            return program
        bare = [link.producer for link in find_links(program) if not any(map(_is_padded, link.consumers))]
        lowest = _lowest(bare, program, calibration)
        amounts = {name: low for name, low in lowest.items() if bool((low > 0).any())}
        return PassManager([AbsorbBias(amounts)]).run(program) if amounts else program


def _is_padded(layer: Node) -> bool:
    """Whether zeros stand around the layer's input, which have no bias to absorb."""
    return any(arguments(layer).get("padding", ()))


def _lowest(nodes: list[Node], program: Program, calibration: Calibration) -> dict[str, Tensor]:
    """The lowest number in each channel of layers' results, 0 where that is negative."""
    lowest: dict[str, Tensor] = {}
    dims = {node.name: channel_dim(node) for node in nodes}
    for item in calibration.replay(program, list(dims), "equalize") if dims else ():
        for name, (_, value) in item.items():
            low = value.movedim(dims[name], 0).flatten(1).amin(1).clamp(min=0)
            lowest[name] = torch.minimum(lowest[name], low) if name in lowest else low
    return lowest
