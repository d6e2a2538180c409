"""What passes that replace layers share: which layers, what a replacement must save, what is recorded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...printer import op_name
from ...program import Program
from ...report.replaced import LayerReplacement
from ...rewriter import Accuracy, Pass, Rewriter
from ..match import arguments, is_call, is_constant, only_user, shape
from ..pruning.groups import Group
from ..quantization.scopes import Scope, select

aten = torch.ops.aten

Scopes = Scope | Sequence[Scope] | None
CONVOLUTIONS = {aten.conv1d.default: 1, aten.conv2d.default: 2, aten.conv3d.default: 3}
"""Op -> how many dims an image has."""
SEPARATOR = "|"
"""What joins scopes in the text of a pipeline."""


@dataclass(frozen=True)
class Cost:
    """What a layer takes: numbers that are stored, and multiply-accumulates for one item of a batch."""

    parameters: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.macs + other.macs)

    def saves(self, before: Cost) -> bool:
        """Whether it is less than `before` in one and not more in the other."""
        pairs = (self.parameters, before.parameters), (self.macs, before.macs)
        return all(new <= old for new, old in pairs) and any(new < old for new, old in pairs)


@dataclass(frozen=True, eq=False)
class Replacement:
    """What may take a layer's place: `build(rw)` makes it. Costs, old and new, are without biases."""

    before: str
    after: str
    costs: tuple[Cost, Cost] | None
    error: float
    build: Callable[[Rewriter], Node]
    output_error: float | None = None

    @property
    def saves(self) -> bool:
        """Whether there is a reason to replace."""
        return self.costs is None or self.costs[1].saves(self.costs[0])

    def record(self, node: Node, why: str = "") -> LayerReplacement:
        """What reports show."""
        old, new = (Cost(0, 0), Cost(0, 0)) if self.costs is None else self.costs
        return LayerReplacement(
            node.name, self.before, self.after, self.error, self.output_error,
            (old.parameters, new.parameters), (old.macs, new.macs), why,
        )  # fmt: skip


@dataclass(frozen=True)
class ReplaceLayers(Pass):
    """layer  ->  a cheaper one, layer by layer, where that saves parameters or multiply-accumulates

    The base of passes. `only` and `ignore` name layers as `fxpress.quantize` takes them; in the text of a pipeline
    several are joined by "|".
    """

    accuracy: ClassVar[Accuracy] = "lossy"
    ops: ClassVar[tuple[Any, ...]] = ()
    only: Scopes = None
    ignore: Scopes = None

    def options(self) -> dict[str, Any]:
        return {**super().options(), "only": scopes_text(self.only), "ignore": scopes_text(self.ignore)}

    @abstractmethod
    def replacements(self, nodes: Sequence[Node], rw: Rewriter) -> Iterator[tuple[Node, Replacement | str]]:
        """For each layer what may take its place, or why nothing can. Layers before it have been replaced by then."""

    def run(self, program: Program, rw: Rewriter) -> None:
        for node, found in self.replacements(self.chosen(program), rw):
            if not rw.has_fuel():
                return
            if isinstance(found, str):
                rw.skip(node, found)
            elif not found.saves:
                why = f"{found.after} would save nothing"
                rw.skip(node, why)
                rw.decisions.append(found.record(node, why).to_json())
            else:
                rw.burn()
                rw.log.append(found.record(node).text())
                rw.decisions.append(found.record(node).to_json())
                rw.replace(node, found.build(rw))

    def chosen(self, program: Program) -> list[Node]:
        """The layers that scopes leave. Raises InvalidInput for a scope that means none of the pass's ops."""
        return chosen_nodes([node for node in program.nodes if is_call(node, *self.ops)], self.only, self.ignore)


def chosen_nodes(nodes: Sequence[Node], only: Scopes, ignore: Scopes, done: str = "replaced") -> list[Node]:
    """The nodes that `only` means, all without it, but those that `ignore` does. Raises InvalidInput as `select`."""
    wanted = set(nodes) if only is None else select(nodes, listed(only), "only", done)
    left = set() if ignore is None else select(nodes, listed(ignore), "ignore", done)
    return [node for node in nodes if node in wanted and node not in left]


def chosen_groups(groups: Sequence[Group], only: Scopes, ignore: Scopes, done: str) -> list[Group]:
    """The groups that have a layer that `only` means, all without it, and none that `ignore` does."""
    layers = list(dict.fromkeys(layer for group in groups for layer in group.layers))
    named = set(chosen_nodes(layers, only, None, done))
    ignored = set(layers) - set(chosen_nodes(layers, None, ignore, done))
    return [
        group
        for group in groups
        if (only is None or named.intersection(group.layers)) and ignored.isdisjoint(group.layers)
    ]


def listed(scopes: Scopes) -> list[Scope]:
    """Scopes one by one. The path of a layer in a `Sequential` is a number, which a pipeline's text reads as one."""
    if isinstance(scopes, str | int | float):
        return [*str(scopes).split(SEPARATOR)]
    return list(scopes) if isinstance(scopes, list | tuple | set | frozenset) else [scopes]


def scopes_text(scopes: Scopes) -> str | None:
    """Scopes as the text of a pipeline has them; a regular expression, which that cannot hold, as its pattern."""
    if scopes is None:
        return None
    return SEPARATOR.join(x if isinstance(x, str) else getattr(x, "pattern", op_name(x)) for x in listed(scopes))


def why_not_weight(program: Program, node: Node) -> str | None:
    """Why the weight of a layer cannot be taken apart; None where it can."""
    weight = arguments(node)["weight"]
    if not is_constant(weight):
        return "its weight is computed"
    if not weight.meta["val"].is_floating_point():
        return f"its weight is {weight.meta['val'].dtype}, not of floats"
    readers = [
        x for each in program.nodes if each.op == "get_attr" and each.target == weight.target for x in each.users
    ]
    if len(readers) > 1:
        return "its weight is read elsewhere too"
    if not bool(program.constant(weight).isfinite().all()):
        return "its weight is not finite"
    return None


def is_factor(node: Node, ops: Sequence[Any]) -> bool:
    """Whether the layer and one right before or after it multiply as one: it is the factor of a layer already."""
    before, after = node.all_input_nodes[0], only_user(node)
    follows = is_call(before, *ops) and arguments(before)["bias"] is None and only_user(before) is node
    leads = arguments(node)["bias"] is None and is_call(after, *ops) and arguments(after)["weight"] is not node
    return follows or leads


def convolve(
    rw: Rewriter, node: Node, x: Node, weight: Node, bias: Node | None = None, at: Node | None = None, **changed: Any
) -> Node:
    """A convolution before `at`, or `node`, of its kind: stride 1 and no padding, unless `changed` has others."""
    a = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | changed
    spread = {
        name: [value] * CONVOLUTIONS[node.target] if isinstance(value, int) and name != "groups" else value
        for name, value in a.items()
    }
    return rw.call(node.target, x, weight, bias, *spread.values(), at=at or node)


def window(node: Node) -> dict[str, Any]:
    """Where a convolution looks: stride, padding and dilation."""
    return {name: value for name, value in arguments(node).items() if name in ("stride", "padding", "dilation")}


def places(node: Node, dims: range) -> int:
    """How many places these dims of a value have, sizes that vary counted as 1."""
    return prod(size for dim in dims if isinstance(size := shape(node)[dim], int))


def image(node: Node) -> range:
    """The dims of a convolution's input and result that are those of an image: the last ones."""
    return range(-CONVOLUTIONS[node.target], 0)


def relative(difference: Tensor, whole: Tensor) -> float:
    """||difference|| / ||whole||, 0 where both are."""
    norm = float(whole.norm())
    return float(difference.norm()) / norm if norm else 0.0
