"""Runs a quantised Program on its integers and, beside them, on the real numbers whose gradients training wants."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from ...ops import fxpress
from ...ops.requantization import HIGHEST, LOWEST
from ..batches import SIZED, Batch, sizes_of
from .straight_through import Step, replaced, rounded, slopes
from .surrogates import SURROGATES, quantized_operands, quantized_result
from .weights import LARGEST, quantize_weight

if TYPE_CHECKING:
    from .training import TrainableProgram

OBSERVED_WEIGHT = 0.05
"""What a batch counts in an observed scale."""


@dataclass
class Integers:
    """An int8 value: its integers, and the real numbers that they stand for, which have a gradient."""

    exact: Tensor
    real: Tensor


class Layer(nn.Module):
    """The trained numbers of a layer: float weight and bias, from which its integers are rounded anew every time."""

    kept: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, step: Step, *, keep_zeros: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("kept", weight != 0 if keep_zeros else None, persistent=False)
        self.bias = nn.Parameter(bias) if bias is not None else None
        self.step = step

    def scale(self) -> Tensor:
        """The scale of each output channel, [oc]; channels may share one."""
        scale: Tensor = self.step()
        return scale.expand(self.weight.shape[0])

    def real(self) -> Tensor:
        """The weight before rounding, zero where that is to stay."""
        return self.weight if self.kept is None else self.weight * self.kept

    def integers(self) -> Tensor:
        """The int8 weight."""
        return quantize_weight(self.real(), self.scale().detach())

    def observe(self) -> None:
        """Make the scale that of the largest weight."""
        largest = self.real().detach().flatten(1).abs().amax(1)
        self.step.observe((largest if self.step.start.numel() > 1 else largest.max()) / LARGEST, 1.0)


class Simulation(Interpreter):
    """One run. `batch` is the size of this batch and that of the capture, where they differ."""

    def __init__(self, module: TrainableProgram, batch: Batch) -> None:
        super().__init__(module.program.graph_module)
        self.extra_traceback = False  # an error's own words say enough
        self._module = module
        self._batch = batch
        self._seen: list[tuple[Step, Tensor]] = []

    def run_flat(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The flat results of the flat inputs."""
        results: tuple[Any, ...] = self.run(*inputs)
        return tuple(x.exact if isinstance(x, Integers) else x for x in results)

    def run_and_observe(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """`run_flat`, after scales of weights, and before scales of values, follow what is seen."""
        for layer in self._module.layers.values():
            assert isinstance(layer, Layer)
            layer.observe()
        results = self.run_flat(inputs)
        for step, seen in self._seen:
            step.observe(seen, OBSERVED_WEIGHT)
        return results

    def run_node(self, n: Node) -> Any:
        value = self._compute(n)
        if self._module.watch is not None:
            self._module.watch(n.name, value.real if isinstance(value, Integers) else value)
        return value

    def _compute(self, n: Node) -> Any:
        if n.op == "get_attr" and n.target in self._module.floats:
            return self._module.float_value(str(n.target))
        if n.op != "call_function":
            value = super().run_node(n)
            return self._as_integers(n, value) if self._module.is_integer(n) else value
        if n.target is fxpress.lookup.default:
            return self._lookup(n)
        if n.target in SURROGATES:
            return self._quantized(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.target in SIZED:
            args = (args[0], sizes_of(args[1], self._batch), *args[2:])
        if n.target is operator.getitem:
            return args[0][args[1]]
        return _on_both(n.target, args, kwargs)

    def _as_integers(self, node: Node, exact: Tensor) -> Integers:
        params = self._module.params_of(node)
        return Integers(exact, fxpress.dequantize(exact, params.scale, params.zero))

    def _quantized(self, node: Node) -> Any:
        module = self._module
        now = module.arguments_of(node)
        real = {name: map_arg(value, lambda x: self.env[x]) for name, value in now.items()}
        exact = dict(real)
        for name in (*quantized_operands(node), "x"):
            value = real.get(name)
            if isinstance(value, Integers):
                real[name], exact[name] = value.real, value.exact
        if node.name in module.layers:
            real |= self._real_layer(node)
            constants = module.layer_constants(node, now)
            exact |= {name: x.to(torch.int32) if x.dtype == torch.int64 else x for name, x in constants.items()}
        with torch.no_grad():
            result = node.target(*exact.values())
        surrogate = SURROGATES[node.target](real)
        names = quantized_result(node)
        if names is None:
            is_integer = module.is_integer(node)  # of max pooling, which keeps the scale
            return Integers(result, surrogate) if is_integer else replaced(result, surrogate)
        (step, group), zero = module.step_of(node), now[names[1]]
        low, high = now.get("low", LOWEST) - zero, now.get("high", HIGHEST) - zero
        if not group.fixed:
            ends = (surrogate.detach().max(), high), (surrogate.detach().min(), low)
            # what relu cuts off, beyond an end at zero, needs no integers
            self._seen.append((step, torch.stack([end / limit if limit else end * 0 for end, limit in ends]).max()))
        return Integers(result, rounded(surrogate, step(), result.float() - zero, low, high))

    def _real_layer(self, node: Node) -> dict[str, Any]:
        layer = self._module.layers[node.name]
        assert isinstance(layer, Layer)
        scale = layer.scale().reshape(-1, *[1] * (layer.weight.dim() - 1))
        weight = rounded(layer.real(), scale, layer.integers().float(), -LARGEST, LARGEST)
        return {"weight": weight, "bias": layer.bias}

    def _lookup(self, node: Node) -> Integers:
        x, table = self.fetch_args_kwargs_from_env(node)[0]
        exact = node.target(x.exact, table)
        given, wanted = self._module.params_of(node.args[0]), self._module.params_of(node)
        slope = slopes(table)[x.exact.long() - LOWEST] * (wanted.scale / given.scale)
        return Integers(exact, replaced(self._as_integers(node, exact).real, x.real * slope))


def _on_both(op: Any, args: Any, kwargs: Any) -> Any:
    """The op on floats, or on the integers and on the real numbers of Integers."""
    if not _holds_integers(args):
        return op(*args, **kwargs)
    exact = op(*_map(args, lambda x: x.exact), **kwargs)
    real = op(*_map(args, lambda x: x.real), **kwargs)
    if isinstance(exact, Tensor):
        return Integers(exact, real)
    return [Integers(e, r) for e, r in zip(exact, real, strict=True)]


def _holds_integers(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_integers(each) for each in value)
    return isinstance(value, Integers)


def _map(value: Any, function: Callable[[Integers], Tensor]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_map(each, function) for each in value)
    return function(value) if isinstance(value, Integers) else value
