"""A quantised Program as a module that trains: forward it computes the integers, backward it looks past rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.fx import Node

from ...errors import InvalidInput
from ...pass_manager import PassManager
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ..batches import Batch, Batches
from ..match import arguments, change_call, is_constant
from .scale_groups import Group, scale_groups
from .scheme import QParams
from .simulation import Layer, Simulation
from .straight_through import Step
from .surrogates import SURROGATES, quantized_operands, quantized_result
from .weights import integer_bias, overflow_of

Ranges = Literal["learned", "observed", "fixed"]
RANGES: tuple[Ranges, ...] = ("learned", "observed", "fixed")
OBSERVED_WEIGHT = 0.05
FLOATS = ("weight", "bias")
"""Arguments of float ops that are trained where they are constants."""


SPARSE = 0.2
"""The part of a weight's integers that is zero in a pruned layer: rounding alone makes fewer zero, so that a layer with
fewer trains all of them."""


def trainable(program: Program, *, ranges: Ranges = "learned", keep_zeros: bool = True) -> TrainableProgram:
    """A module that computes exactly what `program`, made by `fxpress.quantize`, computes, and can be trained.

    Its parameters are the weights and biases of the layers, integer and float ones, and with `ranges="learned"` the
    scales (learned step size, arXiv:1902.08153). With "observed" the scales follow the values seen in training mode,
    with "fixed" they stay. Zero points stay, and so do the scales next to an activation that is a table, and embedding
    tables. Batch norms were folded into the layers when the model was quantised, with the statistics of its float
    training, and stay so: there are no statistics of a batch that could differ from those of deployment, which is how
    small convolutional networks are lost (arXiv:1806.08342, section 3.2.2 recommends to freeze them).

    With `keep_zeros` weights that are zero stay zero, in layers of whose integers at least a fifth is (rounding alone
    makes fewer zero) and float weights that have some: so a Program keeps its pattern of sparsity.

    Raises InvalidInput when the Program holds nothing to train, Unsupported for int8 ops without a gradient.
    """
    return TrainableProgram(program, ranges=ranges, keep_zeros=keep_zeros)


class TrainableProgram(nn.Module):
    """What `trainable` returns. Called like the model; a batch may have another size than that of the capture."""

    def __init__(self, program: Program, *, ranges: Ranges = "learned", keep_zeros: bool = True) -> None:
        super().__init__()
        if not isinstance(program, Program):
            raise InvalidInput(
                f"program must be a quantised Program, not {type(program).__name__}; use fxpress.quantize"
            )
        if ranges not in RANGES:
            raise InvalidInput(f"ranges must be one of {list(RANGES)}, not {ranges!r}")
        self.program = _untied(program)
        self.ranges = ranges
        self._groups = scale_groups(self.program)
        if not self._groups and not any(n.target in SURROGATES for n in self.program.nodes):
            raise InvalidInput("program must be a quantised Program, but it holds no int8 op; use fxpress.quantize")
        learned = ranges == "learned"
        self.steps = nn.ModuleDict()
        for group in self._groups.values():
            if group.name not in self.steps:
                start = torch.tensor([group.params.scale])
                self.steps[group.name] = Step(start, learned=learned and not group.fixed)
        self.layers = nn.ModuleDict()
        self.floats, self.kept = nn.ParameterDict(), nn.Module()
        self._keep_zeros = keep_zeros
        for node in self.program.nodes:
            if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                self._add_parameters(node, learned)
        self.watch: Callable[[str, Any], None] | None = None
        """Shown the name and the value, in real numbers, of every node as it is computed."""
        self._batches = Batches(self.program)

    def _add_parameters(self, node: Node, learned: bool) -> None:
        values = arguments(node)
        if "weight_scale" in values and node.target in SURROGATES:
            self.layers[node.name] = self._layer(node, values, learned)
            return
        for name in FLOATS:
            constant = values.get(name)
            if _is_float_constant(constant):
                value = self.program.constant(constant)
                self.floats[str(constant.target)] = nn.Parameter(value.clone())
                if self._keep_zeros and value.dim() > 1 and 0 < int(value.count_nonzero()) < value.numel():
                    self.kept.register_buffer(str(constant.target), value != 0, persistent=False)

    def _layer(self, node: Node, values: dict[str, Any], learned: bool) -> Layer:
        program = self.program
        integers, scale = program.constant(values["weight"]), program.constant(values["weight_scale"])
        weight = integers.float() * scale.reshape(-1, *[1] * (integers.dim() - 1))
        bias = None
        if values["bias"] is not None:
            bias = program.constant(values["bias"])
            if bias.dtype == torch.int32:
                zero, x = values["x_zero"], values["x_scale"]
                whole = bias.double() + zero * integers.double().flatten(1).sum(1)
                bias = whole * (scale.double() * x)
        one = bool((scale == scale[0]).all())
        step = Step(scale[:1] if one else scale, learned=learned)
        zeros = float((integers == 0).float().mean())
        keep_zeros = self._keep_zeros and SPARSE <= zeros < 1
        return Layer(weight, None if bias is None else bias.float().clone(), step, keep_zeros=keep_zeros)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the Program, with the parameters as they are, computes; bit for bit."""
        inputs = self.program.signature.bind(args, kwargs)
        batch = self._batches.of(inputs, lambda xs, size: Simulation(self, size).run_flat(xs))
        return self.program.outputs.unflatten(list(self._run(inputs, batch)))

    def convert(self) -> Program:
        """The quantised Program with the trained numbers: it computes what this module computes, bit for bit.

        Raises InvalidInput where training made a parameter NaN or infinite, or the sums of a layer too large.
        """
        for name, parameter in self.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise InvalidInput(f"{name} must hold finite numbers, not NaN or infinity; lower the learning rate")
        return PassManager([WriteTrained(self)]).run(self.program)

    def params_of(self, node: Node) -> QParams:
        """The scale and zero point of an int8 value as they are now."""
        step, group = self.step_of(node)
        return QParams(float(step().detach()), group.params.zero)

    def arguments_of(self, node: Node) -> dict[str, Any]:
        """The arguments of a quantised op by name, with the scales as they are now; operands are nodes."""
        values = arguments(node)
        for name, (scale, zero) in quantized_operands(node).items():
            if values[name] is not None:
                params = self.params_of(values[name])
                values |= {key: value for key, value in zip((scale, zero), _pair(params), strict=True) if key in values}
        result = quantized_result(node)
        if result is not None:
            values |= dict(zip(result, _pair(self.params_of(node)), strict=True))
        return values

    def layer_constants(self, node: Node, values: dict[str, Any]) -> dict[str, Tensor]:
        """The integers, scales and bias (int64 where it is one of integers) of a layer as they are now, by argument."""
        layer = self.layers[node.name]
        assert isinstance(layer, Layer)
        integers, scale = layer.integers(), layer.scale().detach().contiguous()
        constants = {"weight": integers, "weight_scale": scale}
        if layer.bias is not None:
            bias = layer.bias.detach()
            if "x_scale" in values:
                bias = integer_bias(bias, integers, scale, QParams(values["x_scale"], values["x_zero"]))
            constants["bias"] = bias
        return constants

    def float_value(self, name: str) -> Tensor:
        """A trained constant of float ops as it is now, zero where that is to stay."""
        parameter: Tensor = self.floats[name]
        kept = self.kept._buffers.get(name)
        return parameter if kept is None else parameter * kept

    def step_of(self, node: Node) -> tuple[Step, Group]:
        """The scale of an int8 value, and the group that has it."""
        group = self._groups[node]
        step = self.steps[group.name]
        assert isinstance(step, Step)
        return step, group

    def is_integer(self, node: Node) -> bool:
        """Whether the node is an int8 value with a scale."""
        return node in self._groups

    def _run(self, inputs: Sequence[Tensor], batch: Batch) -> tuple[Tensor, ...]:
        if self.training and self.ranges == "observed":
            return Simulation(self, batch).run_and_observe(inputs)
        return Simulation(self, batch).run_flat(inputs)


def _untied(program: Program) -> Program:
    """A clone in which no two ops read the same float weight or bias: equal constants may have been merged."""
    program = program.clone()
    rw, read = Rewriter(program), set()
    for node in program.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        values = arguments(node)
        for name in FLOATS:
            constant = values.get(name)
            if _is_float_constant(constant) and constant in read:
                change_call(node, rw, **{name: rw.constant(str(constant.target), program.constant(constant))})
            read.add(constant)
    return program


def _is_float_constant(value: Any) -> TypeGuard[Node]:
    return is_constant(value) and value.meta["val"].dtype == torch.float32


def _pair(params: QParams) -> tuple[float, int]:
    return params.scale, params.zero


@dataclass(frozen=True, eq=False)
class WriteTrained(Pass):
    """Give every quantised op the integers and scales, every float op the weights, that training arrived at."""

    name: ClassVar[str] = "write-trained"
    accuracy: ClassVar[Accuracy] = "lossy"
    module: TrainableProgram

    def __str__(self) -> str:
        return self.name

    def run(self, program: Program, rw: Rewriter) -> None:
        module = self.module
        mine = dict(zip(module.program.nodes, program.nodes, strict=True))
        for old, node in mine.items():
            if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
                continue
            values = arguments(node)
            if node.target in SURROGATES:
                now = module.arguments_of(old)
                values |= {name: value for name, value in now.items() if isinstance(value, int | float)}
                if old.name in module.layers:
                    values |= self._constants(rw, node, values, module.layer_constants(old, now))
            else:
                for name, value in values.items():
                    if is_constant(value) and str(value.target) in module.floats:
                        values[name] = rw.constant(str(value.target), module.float_value(str(value.target)))
            if any(values[name] is not value for name, value in arguments(node).items()):
                change_call(node, rw, **values)

    def _constants(
        self, rw: Rewriter, node: Node, values: dict[str, Any], constants: dict[str, Tensor]
    ) -> dict[str, Node]:
        if "bias" in constants and constants["bias"].dtype == torch.int64:
            bound = overflow_of(constants["weight"], constants["bias"])
            if bound is not None:
                raise InvalidInput(
                    f"sums of %{node.name} must fit 32 bits, but training made them up to {bound}; "
                    "lower the learning rate, or leave the layer in float32 with ignore="
                )
            constants = constants | {"bias": constants["bias"].to(torch.int32)}
        return {name: rw.constant(str(values[name].target), tensor) for name, tensor in constants.items()}
