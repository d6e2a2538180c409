"""How far each layer of a changed model is off the original's, on the same inputs.

A layer is a line of the model in one of its modules, as nodes' `source` says, that reads a weight. Passes keep sources
while they rename, fuse and replace nodes, so that a line's last such node computes the line's result, and what followed
it in the original where it was fused with that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ..numerics import Float64
from ..program import Program
from .pruned import WIDTHS

MOST_FUSED = 4
"""A layer is fused with at most so many nodes after it: norm, activation, sum, activation."""
Kept = Mapping[str, list[int]]
"""The units that are left of layers that lost some, by the original's nodes."""


@dataclass(frozen=True)
class LayerError:
    """A layer of the original: its line, the nodes of that line, and how far what is there now is off.

    `error` is the norm of the difference over the norm of the original's results, computed in float64, for the units
    that are left; of integers after each channel's best scale. None where nothing is there that can be compared.
    """

    source: str
    nodes: tuple[str, ...]
    error: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal one."""
        return asdict(self) | {"nodes": list(self.nodes)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> LayerError:
        """What `to_json` described."""
        return LayerError(**{**document, "nodes": tuple(document["nodes"])})


def layer_errors(original: Program, changed: Program, items: Iterable[Sequence[Tensor]]) -> tuple[LayerError, ...]:
    """The errors of all layers of `original`, in its order, over `items`: flat inputs of both."""
    layers, now = _layers(original), _layers(changed)
    kept = _kept(changed)
    references = {source: [node, *_followers(node)] for source, node in layers.items()}
    names = {node.name for nodes in references.values() for node in nodes}
    comparisons = {
        source: [_Comparison(node.name, now[source], kept.get(layers[source].name)) for node in nodes]
        for source, nodes in references.items()
        if source in now
    }
    for inputs in items:
        wide = [x.double() if x.dtype == torch.float32 else x for x in inputs]
        with torch.no_grad():
            expected = _watched(_WatchedFloat64(original.graph_module), wide, names)
            found = _watched(_Watched(changed.graph_module), inputs, {node.name for node in now.values()})
        for source, several in comparisons.items():
            for comparison in several:
                comparison.add(found[now[source].name], expected[comparison.reference], layers[source])
    nodes_of: dict[str, list[str]] = {}
    for node in original.nodes:
        if node.op == "call_function":
            nodes_of.setdefault(_source(node), []).append(node.name)
    return tuple(
        LayerError(
            source,
            tuple(nodes_of[source]),
            min((e for c in comparisons.get(source, ()) for e in c.errors), default=None),
        )
        for source in layers
    )


def _source(node: Node) -> str:
    return str(node.meta.get("source", ""))


def _layers(program: Program) -> dict[str, Node]:
    """The last node of each source that reads a weight, a constant of at least two dims."""
    return {_source(node): node for node in program.nodes if _source(node) and _reads_weight(node)}


def _reads_weight(node: Node) -> bool:
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or value.dim() < 2:
        return False
    return any(x.op == "get_attr" and x.meta["val"].dim() > 1 for x in node.all_input_nodes)


def _followers(node: Node) -> Iterator[Node]:
    """What a layer may be fused with: the nodes after it, as long as one alone reads its result."""
    shape = node.meta["val"].shape
    for _ in range(MOST_FUSED):
        if len(node.users) != 1:
            return
        (node,) = node.users
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, Tensor) or value.shape != shape or _reads_weight(node):
            return
        yield node


def _kept(program: Program) -> Kept:
    """The units of layers that pruning left, by all its steps."""
    kept: dict[str, list[int]] = {}
    for record in program.history:
        if record.name != WIDTHS:
            continue
        gone = {group["name"]: set(group["gone"]) for group in record.recipe.get("groups", ())}
        for width in record.decisions:
            for layer in width["layers"]:
                before = kept.get(layer, list(range(width["units"])))
                if width["name"] in gone and len(before) == width["units"]:
                    kept[layer] = [unit for place, unit in enumerate(before) if place not in gone[width["name"]]]
    return kept


@dataclass
class _Comparison:
    """Sums over items of one node's results against those of the original's node `reference`."""

    reference: str
    node: Node
    kept: list[int] | None
    _sums: dict[int, Tensor] = field(default_factory=dict)  # by where channels are: at the end, or after the batch

    def add(self, found: Tensor, expected: Tensor, layer: Node) -> None:
        real = _real(self.node, found)
        if real is None:
            return
        channels = 1 if "conv" in str(layer.target) else -1
        y = _rows(expected.double(), channels)
        if self.kept is not None:
            y = y[:, _columns(self.kept, layer, y.shape[1], real, y.shape[0])]
        for at in {-1, 1} if real.dim() > 2 else {-1}:
            x = _rows(real.double(), at)
            if x.shape == y.shape:
                sums = torch.stack([(y * y).sum(0), (x * x).sum(0), (x * y).sum(0), (x - y).square().sum(0)])
                self._sums[at] = self._sums.get(at, 0) + sums

    @property
    def errors(self) -> Iterator[float]:
        """The relative error for each place where channels may be."""
        for yy, xx, xy, difference in self._sums.values():
            if not self.node.meta["val"].is_floating_point():
                scale = torch.where(xx > 0, xy / xx, 0)
                difference = (yy - 2 * scale * xy + scale * scale * xx).clamp(min=0)
            total, off = float(yy.sum()), float(difference.sum())
            if total > 0:
                yield (off / total) ** 0.5


def _rows(x: Tensor, channels: int) -> Tensor:
    """[rows, channels]."""
    return x.movedim(channels, -1).reshape(-1, x.shape[channels])


def _columns(kept: list[int], layer: Node, size: int, found: Tensor, rows: int) -> list[int]:
    """The channels of the units that are left; a unit such as a head is several channels next to each other."""
    width = found.numel() // rows // len(kept) if kept else 1
    if width * len(kept) * rows != found.numel() or any(width * (unit + 1) > size for unit in kept):
        return []
    return [width * unit + channel for unit in kept for channel in range(width)]


def _real(node: Node, value: Tensor) -> Tensor | None:
    """What a node's result means as real numbers; None for integers of unknown scale."""
    if value.is_floating_point():
        return value
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    if "y_scale" not in names:
        return None
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    scale, zero = given["y_scale"], given["y_zero"]
    return (value.double() - float(zero)) * float(scale)


class _Watched(Interpreter):
    """Keeps the values of the nodes in `names`."""

    names: set[str]
    found: dict[str, Tensor]

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            self.found[n.name] = value
        return value


class _WatchedFloat64(_Watched, Float64):
    """The same in float64."""


def _watched(interpreter: _Watched, inputs: Sequence[Tensor], names: set[str]) -> dict[str, Tensor]:
    interpreter.names, interpreter.found = names, {}
    interpreter.run(*inputs)
    return interpreter.found
