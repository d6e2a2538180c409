"""What a Program's layers cost on the target, seconds or bytes: each is measured alone at a grid of widths."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from ...kernel_times import HasKernels, KernelTimes, KernelUse, TimingCode
from ...pass_manager import PassManager
from ...program import Program
from ...progress import Progress
from ...registry import lookup
from ...runtime.signature import Signature
from ...runtime.structure import Structure
from ...target import Target
from ..match import arguments, is_constant
from .groups import Group, Groups
from .index_maps import literals_of
from .masked import CONTRACTIONS
from .ties import FACTOR, Axis
from .widths import KeptFirst, Left, Rounding, Widths

FINE: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.125)
"""Shares left at which a layer is measured."""
COARSE: tuple[float, ...] = (1.0, 0.5, 0.125)
"""The same for each of two widths of a layer, such as the channels that a convolution reads and makes, where measuring
takes time."""


@dataclass(frozen=True)
class Side:
    """Groups whose units are one width of a layer, weighted by their indices, and the shares of them left that were
    measured, ascending."""

    groups: Mapping[Group, int]
    shares: tuple[float, ...]

    def share(self, left: Left) -> float:
        """The part of the width that is left."""
        whole = sum(group.size * weight for group, weight in self.groups.items())
        return sum(left.get(group, group.size) * weight for group, weight in self.groups.items()) / whole


@dataclass(frozen=True)
class LayerCosts:
    """The cost of one layer at each combination of its sides' shares: an array with a dim for each side."""

    node: str
    sides: tuple[Side, ...]
    costs: NDArray[np.float64]

    def at(self, left: Left) -> float:
        """The cost when only those units are left, interpolated linearly between measurements."""
        values = self.costs
        for side in self.sides:
            values = _between(side.shares, values, side.share(left))
        return float(values)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that the cost depends on."""
        return tuple(dict.fromkeys(group for side in self.sides for group in side.groups))


def _between(shares: Sequence[float], values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Linear interpolation along the first dim, and beyond its ends the nearest value."""
    after = int(np.clip(np.searchsorted(shares, share), 1, len(shares) - 1)) if len(shares) > 1 else 0
    if after == 0:
        return np.asarray(values[0])
    low, high = shares[after - 1], shares[after]
    part = min(1.0, max(0.0, (share - low) / (high - low)))
    return np.asarray((1 - part) * values[after - 1] + part * values[after])


Measure = Callable[[Sequence[Any]], Sequence[float]]
"""Takes lowered Programs of one layer each and gives what each costs."""


@dataclass(frozen=True)
class Computing:
    """The kernels of a lowered Program that compute: no copies, which a layer's neighbours in a model may spare."""

    lowered: HasKernels

    def kernel_uses(self) -> list[KernelUse]:
        """Those calls of a run, in order."""
        return [use for use in self.lowered.kernel_uses() if use.flops]

    def timing_code(self, keys: Sequence[str]) -> TimingCode:
        """Code that calls kernels of these keys one by one."""
        return self.lowered.timing_code(keys)


def seconds_of(times: KernelTimes) -> Measure:
    """Measures the seconds of what computes in a layer."""
    return lambda lowered: [sum(seconds for _, seconds in uses) for uses in times.of(*map(Computing, lowered))]


def layer_tables(
    program: Program,
    groups: Groups,
    rounding: Rounding,
    target: Target,
    measures: Sequence[Measure],
    *,
    shares: Sequence[float] = FINE,
    progress: Progress | None = None,
) -> list[list[LayerCosts]]:
    """For each measure the costs of all layers whose widths depend on a group. `shares` are those of layers with two
    widths.

    Layers that are equal are measured once.
    """
    widths, backend = Widths(groups), lookup("backends", target.backend)()
    layers = [(node, sides) for node in program.nodes if (sides := _sides(node, widths, rounding, shares))]
    points: dict[str, Program] = {}
    names: list[list[str]] = []
    for node, sides in layers:
        alone = [isolated(program, node, widths.at(left)) for left in _grid(sides)]
        names.append([each.text() for each in alone])
        points |= dict(zip(names[-1], alone, strict=True))
    if progress is not None:
        progress(f"table of layers: {len(layers)} layers, {len(points)} different ones and widths")
    lowered = [
        backend.lower(PassManager("default", verify="off", target=target).run(each), target, fallback="torch")
        for each in points.values()
    ]
    tables = []
    for measure in measures:
        costs = dict(zip(points, measure(lowered), strict=True))
        tables.append(
            [
                LayerCosts(node.name, sides, np.reshape([costs[x] for x in each], [len(side.shares) for side in sides]))
                for (node, sides), each in zip(layers, names, strict=True)
            ]
        )
    return tables


def _sides(node: Node, widths: Widths, rounding: Rounding, shares: Sequence[float]) -> tuple[Side, ...]:
    """What a layer's cost depends on: one or two sides, none for what is no layer, or has no groups."""
    if node.op != "call_function" or node.target not in CONTRACTIONS:
        return ()
    own = _weights(_axes(node), widths)
    read = {group: n for group, n in _weights(_axes(_first(node)), widths).items() if group not in own}
    others = [axis for x in node.all_input_nodes for axis in _axes(x)]
    own |= {group: n for group, n in _weights(others, widths).items() if group not in own and group not in read}
    found = [each for each in (read, own) if each]
    wanted = shares if len(found) > 1 else FINE
    return tuple(Side(each, _shares(each, wanted, rounding)) for each in found)


def _shares(groups: Mapping[Group, int], wanted: Sequence[float], rounding: Rounding) -> tuple[float, ...]:
    """The shares that rounding makes of those wanted."""
    whole = Side(groups, ())
    return tuple(sorted({whole.share(_left(groups, share, rounding)) for share in wanted}))


def _left(groups: Mapping[Group, int], share: float, rounding: Rounding) -> dict[Group, int]:
    return {group: rounding.units(group, max(1, round(group.size * share))) for group in groups}


def _grid(sides: Sequence[Side]) -> Iterator[dict[Group, int]]:
    """The units left at all combinations of shares, the last side varying fastest."""
    if not sides:
        yield {}
        return
    for share in sides[0].shares:
        here = {group: max(1, round(group.size * share)) for group in sides[0].groups}
        for rest in _grid(sides[1:]):
            yield here | rest


def _first(node: Node) -> Node:
    """What a layer reads."""
    return next(x for x in node.all_input_nodes if not is_constant(x)) if node.all_input_nodes else node


def _axes(node: Node) -> list[Axis]:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return [Axis(node, dim) for dim in range(value.dim())]
    parts = value if isinstance(value, list | tuple) else ()
    return [Axis(node, dim, n) for n, x in enumerate(parts) if isinstance(x, torch.Tensor) for dim in range(x.dim())]


def _weights(axes: Sequence[Axis], widths: Widths) -> dict[Group, int]:
    return {group: count for axis in axes if axis.part != FACTOR for group, count in widths.parts(axis)}


def isolated(program: Program, node: Node, kept: KeptFirst) -> Program:
    """A Program of one op of another, on inputs of the sizes that are left; its constants are slices."""
    graph, mode = Graph(), program.fake_mode
    known: dict[Node, Node] = {}
    module = torch.nn.Module()
    for x in sorted(node.all_input_nodes, key=is_constant):
        sizes = [kept.count(Axis(x, dim)) for dim in range(x.meta["val"].dim())]
        name = f"x{len(known)}"
        if is_constant(x):
            tensor = program.constant(x)[tuple(slice(size) for size in sizes)].contiguous()
            module.register_buffer(name, tensor)
            known[x] = graph.create_node("get_attr", name, name=name)
            known[x].meta["val"] = mode.from_tensor(tensor, static_shapes=True)
            continue
        known[x] = graph.create_node("placeholder", name, name=name)
        with mode:
            known[x].meta["val"] = torch.empty(sizes, dtype=x.meta["val"].dtype)
    changed = literals_of(node, kept)
    values = arguments(node) | changed if changed else None
    args, kwargs = (node.args, node.kwargs) if values is None else (tuple(values.values()), {})
    call = graph.create_node("call_function", node.target, *map_arg((args, dict(kwargs)), known.__getitem__))
    with mode, torch.no_grad():
        call.meta["val"] = node.target(*map_arg(call.args, _value), **map_arg(dict(call.kwargs), _value))
    result = call
    if not isinstance(call.meta["val"], torch.Tensor):
        result = graph.create_node("call_function", operator.getitem, (call, 0))
        result.meta["val"] = call.meta["val"][0]
    graph.output((result,))
    inputs = [x for x in known.values() if x.op == "placeholder"]
    structure, _ = Structure.of(tuple(x.meta["val"] for x in inputs), lambda x: isinstance(x, torch.Tensor), "args")
    outputs, _ = Structure.of(result.meta["val"], lambda x: isinstance(x, torch.Tensor), "outputs")
    named, _ = Structure.of({}, lambda x: False, "kwargs")
    signature = Signature(tuple(x.name for x in inputs), structure, named)
    examples = [torch.zeros(x.meta["val"].shape, dtype=x.meta["val"].dtype) for x in inputs]
    return Program(GraphModule(module, graph), signature, outputs, examples)


def _value(node: Node) -> Any:
    return node.meta["val"]
