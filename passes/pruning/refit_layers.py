"""layer(x, w, b)  ->  layer(x, w', b'), the least squares of what the layer gave before its inputs were pruned

Layer by layer from input to output: w' and b' bring the layer's results on calibration inputs, which come through the
refitted layers before it, near those of the original. Luo et al., "ThiNet", arXiv:1707.06342, section 3.2; He et al.,
"Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from ...errors import InvalidInput
from ...ops import fxpress
from ...ops.library import channels_first, pad
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ...search.ranges import not_searched
from ..match import arguments, change_call, is_call, is_constant, pair
from ..quantization.layer_rows import unfolded
from .least_squares import LeastSquares
from .remove_units import Removal
from .ties import Axis

aten = torch.ops.aten

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, fxpress.conv.default)
LINEARS = (aten.linear.default, fxpress.linear.default)
UNFITTED = (
    aten.conv3d.default, aten.conv_transpose1d.default, aten.conv_transpose2d.input, fxpress.conv_transpose.default,
    aten.addmm.default, aten.gru.input, aten.lstm.input,
)  # fmt: skip
"""Ops with weights that are left as they are."""
RIDGE = 1e-3
"""What is added to the diagonal of the inputs' second moments, as a part of its mean."""
CHUNK = 2**22
"""The most elements of unfolded inputs that are in memory at once, of a batch of more than one."""


@dataclass(frozen=True, eq=False)
class RefitLayers(Pass):
    """layer(x, w, b)  ->  layer(x, w', b'), the least squares of what the layer gave before its inputs were pruned

    `original` is the Program before `removals` were made of it, one after the other; `data` yields flat inputs, read
    once for every layer that follows another. Weights that are zero stay zero, unless all of a weight is. `ridge` keeps
    weights near what they were where the data says little about them, as a part of the inputs' mean energy.
    """

    name: ClassVar[str] = "refit-layers"
    accuracy: ClassVar[Accuracy] = "lossy"
    original: Program | None = None
    removals: Sequence[Removal] = ()
    data: Iterable[Sequence[Tensor]] = field(default=())
    ridge: float = field(default=RIDGE, metadata=not_searched("it only makes a matrix regular"))

    def options(self) -> dict[str, Any]:
        return {"ridge": self.ridge}

    def run(self, program: Program, rw: Rewriter) -> None:
        if self.original is None:
            raise InvalidInput("refit-layers must be given the original Program, which fxpress.prune has; no default")
        since = sum(1 for record in self.original.history if record.recipe)
        rw.recipe = {"pass": self.name, "ridge": float(self.ridge), "since": since}
        for wave in waves(program, list(changed_layers(self.original, program, rw))):
            if not rw.has_fuel():
                return
            rw.burn()
            self._refit(program, wave, rw)

    def _refit(self, program: Program, wave: list[Node], rw: Rewriter) -> None:
        assert self.original is not None
        before = {node.name: node for node in self.original.nodes}
        fits = {node: LeastSquares(_matrix(program, node), self.ridge) for node in wave}
        with torch.no_grad():
            for inputs in self.data:
                found = inputs_of(program, wave, inputs)
                wanted = inputs_of(self.original, [before[node.name] for node in wave], inputs)
                for node, fit in fits.items():
                    target = self._left(before[node.name], _sums(self.original, before[node.name], wanted[node.name]))
                    error = target - _sums(program, node, found[node.name])
                    for rows, errors in _rows(node, found[node.name], error):
                        fit.add(rows, errors)
        for node, fit in fits.items():
            _write(program, node, fit, rw)

    def _left(self, node: Node, value: Tensor) -> Tensor:
        """What is left of the original's value of a node."""
        for removal in self.removals:
            for dim in range(value.dim()):
                axis = Axis(node, dim)
                if (node.name, dim, axis.part) in removal.gone:
                    value = value.index_select(dim, torch.from_numpy(removal.indices(axis)))
        return value


def changed_layers(original: Program, program: Program, rw: Rewriter) -> Iterator[Node]:
    """The layers of `program` that receive other values than in `original` or have other weights, in order.

    Those that cannot be refitted are noted.
    """
    before = {node.name: node for node in original.nodes}
    readers: dict[str, int] = {}
    for node in program.nodes:
        if node.op == "get_attr":
            readers[str(node.target)] = readers.get(str(node.target), 0) + len(node.users)
    changed: set[Node] = set()
    for node in program.nodes:
        if node.op == "output":
            return
        if _differs(before.get(node.name), node, original, program) or changed.intersection(node.all_input_nodes):
            changed.add(node)
        if not is_call(node, *CONVOLUTIONS, *LINEARS, *UNFITTED):
            continue
        weight: Any = arguments(node).get("weight")
        has_new_weights = weight in changed and _same_shape(before.get(weight.name), weight)  # not only fewer
        if _input(node) not in changed and not has_new_weights:
            continue
        if node.name not in before or is_call(node, *UNFITTED) or not is_constant(weight):
            rw.skip(node, "keeps its weights: there is no least squares for such a layer")
        elif readers[str(weight.target)] > 1:
            rw.skip(node, f"keeps its weights: %{weight.name} is shared with another layer")
        else:
            yield node


def _differs(before: Node | None, node: Node, original: Program, program: Program) -> bool:
    if before is None or [x.name for x in before.all_input_nodes] != [x.name for x in node.all_input_nodes]:
        return True
    if node.op != "get_attr":
        return False
    old, new = original.constant(before), program.constant(node)
    return old.data_ptr() != new.data_ptr() and not torch.equal(old, new)


def _same_shape(first: Node | None, second: Node) -> bool:
    return first is not None and bool(first.meta["val"].shape == second.meta["val"].shape)


def _input(node: Node) -> Any:
    values = arguments(node)
    return values["x"] if "x" in values else values["input"] if "input" in values else node.args[0]


def waves(program: Program, layers: Sequence[Node]) -> list[list[Node]]:
    """The layers in portions, of which none depends on another of its portion or of a later one."""
    depth: dict[Node, int] = {}
    found: list[list[Node]] = []
    chosen = set(layers)
    for node in program.nodes:
        level = max((depth[x] for x in node.all_input_nodes), default=0)
        if node in chosen:
            found += [[]] if len(found) == level else []
            found[level].append(node)
            level += 1
        depth[node] = level
    return found


def inputs_of(program: Program, layers: Sequence[Node], inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """What each of the layers, by name, is given when the Program runs on `inputs`; it runs no further than that."""
    wanted = {_input(layer) for layer in layers}
    values: dict[Node, Any] = dict(zip(program.placeholders, inputs, strict=True))
    nodes = program.nodes
    last = {x: node for node in nodes for x in node.all_input_nodes}
    missing = wanted - set(values)
    for node in nodes:
        if not missing:
            break
        if node.op == "get_attr":
            values[node] = program.constant(node)
        elif node.op == "call_function":
            args, kwargs = map_arg((node.args, dict(node.kwargs)), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
        missing.discard(node)
        for x in node.all_input_nodes:
            if last[x] is node and x not in wanted:
                del values[x]
    return {layer.name: values[_input(layer)] for layer in layers}


def _sums(program: Program, node: Node, x: Tensor) -> Tensor:
    """What the layer makes of `x`, before residual and activation."""
    values = arguments(node)
    weight = program.constant(values["weight"])
    bias = None if values["bias"] is None else program.constant(values["bias"])
    values |= {"weight": weight, "bias": bias, "input" if "input" in values else "x": x}
    values |= {name: none for name, none in (("residual", None), ("activation", "none")) if name in values}
    result: Tensor = node.target(*values.values())
    return result


def _matrix(program: Program, node: Node) -> Tensor:
    """The layer's weight as [groups, n, k]."""
    weight = program.constant(arguments(node)["weight"])
    groups = arguments(node).get("groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _rows(node: Node, x: Tensor, error: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The layer's inputs as [groups, r, k] and the errors of its results as [groups, r, n], some at a time."""
    if is_call(node, *LINEARS):
        yield x.reshape(1, -1, x.shape[-1]), error.reshape(1, -1, error.shape[-1])
        return
    values = arguments(node)
    kernel = values["weight"].meta["val"].shape[2:]
    if x.dim() == len(kernel) + 1:
        x, error = x.unsqueeze(0), error.unsqueeze(0)
    if "channels_last" in values:
        x, error = channels_first(x, values["channels_last"]), channels_first(error, values["channels_last"])
        x = pad(x, values["padding"])
    else:
        x = pad(x, [size for size in pair(values["padding"], len(kernel)) for _ in range(2)])
    stride, dilation = (pair(values[name], len(kernel)) for name in ("stride", "dilation"))
    groups = values["groups"]
    columns = values["weight"].meta["val"][0].numel() * groups * error[0, 0].numel()
    size = max(1, CHUNK // columns)
    for some, errors in zip(torch.split(x, size), torch.split(error, size), strict=True):
        yield (
            unfolded(some, tuple(kernel), stride, dilation, groups),
            _grouped(errors, groups),
        )


def _grouped(errors: Tensor, groups: int) -> Tensor:
    """Of a convolution's results [batch, n, *spatial], as [groups, r, n of a group]."""
    batch, n = errors.shape[:2]
    return errors.reshape(batch, groups, n // groups, -1).permute(1, 0, 3, 2).reshape(groups, -1, n // groups)


def _write(program: Program, node: Node, fit: LeastSquares, rw: Rewriter) -> None:
    values = arguments(node)
    weight = program.constant(values["weight"])
    if not fit.is_finite:
        rw.skip(node, "keeps its weights: its inputs or results on the calibration data are not finite")
        return
    step, shift = fit.solve()
    rw.set_constant(values["weight"], (weight.double() + step.reshape(weight.shape)).to(weight.dtype))
    bias = (
        torch.zeros(weight.shape[0], dtype=weight.dtype) if values["bias"] is None else program.constant(values["bias"])
    )
    refitted = (bias.double() + shift.flatten()).to(bias.dtype)
    if values["bias"] is not None and len(values["bias"].users) == 1:
        rw.set_constant(values["bias"], refitted)
    else:
        change_call(node, rw, bias=rw.constant(f"{values['weight'].target}_bias", refitted))
    rw.log.append(f"{node.name}: {fit.left(step):.0%} of the error left")
