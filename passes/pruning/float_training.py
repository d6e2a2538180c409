"""A Program of floats as a module that trains, and back: for the weights that pruning left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from ...errors import InvalidInput
from ...pass_manager import PassManager
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ..batches import SIZED, Batch, Batches, sizes_of
from ..match import arguments, is_call, is_constant

aten = torch.ops.aten

WEIGHTS = ("weight", "bias", "params")
"""Arguments of ops whose constants are trained, whoever made them."""
STATISTICS = ("running_mean", "running_var")
MOMENTUM = 0.1
"""Of batch norms that were captured without one, because they averaged over all of training."""


def trainable(program: Program, *, keep_zeros: bool = True) -> TrainableFloats:
    """A module that computes what `program` computes and can be trained: by any optimiser, in any loop.

    Its parameters are the model's, and what ops read as weights and biases. A constant that several ops read is one
    parameter. In training mode batch norms are over the batch, and their statistics follow; what capturing left out,
    such as dropout, is not there. With `keep_zeros` weights (of two or more dims) that are zero stay zero, unless all
    of a weight is: so a Program keeps its pattern of sparsity. `convert()` gives the trained Program.

    Raises InvalidInput for a Program that holds nothing to train or integers: `fxpress.quantization.trainable` is for
    those.
    """
    return TrainableFloats(program, keep_zeros=keep_zeros)


class TrainableFloats(nn.Module):
    """What `trainable` returns. Called like the model; a batch may have another size than that of the capture."""

    def __init__(self, program: Program, *, keep_zeros: bool = True) -> None:
        super().__init__()
        if not isinstance(program, Program):
            raise InvalidInput(f"program must be a Program, not {type(program).__name__}; use fxpress.capture")
        quantized = [node for node in program.nodes if "quantize" in str(node.target)]
        if quantized:
            raise InvalidInput(
                f"program must compute with floats, but %{quantized[0].name} is {quantized[0].target}; "
                "use fxpress.quantization.trainable"
            )
        self.program = program.clone()
        constants = program.constants
        statistics = set(_read_as(program, STATISTICS))
        names = [name for name in _trained(program) if name not in statistics]
        if not names:
            raise InvalidInput("program must hold weights to train, but it has none")
        self.weights = nn.ParameterDict({name: constants[name].clone() for name in names})
        self.masks, self.statistics, self.fixed = nn.Module(), nn.Module(), nn.Module()
        for name, constant in constants.items():
            if name in statistics:
                self.statistics.register_buffer(name, constant.clone())
            elif name not in self.weights:
                self.fixed.register_buffer(name, constant, persistent=False)
            elif keep_zeros and constant.dim() > 1 and constant.any() and not constant.all():
                self.masks.register_buffer(name, constant != 0, persistent=False)
        self.momentum: float | None = None
        """Of all batch norms in training mode; None for each its own."""
        self.watch: Callable[[str, Any], None] | None = None
        """Shown the name and the value of every node as it is computed."""
        self._batches = Batches(self.program)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the Program, with the parameters as they are, computes."""
        inputs = self.program.signature.bind(args, kwargs)
        batch = self._batches.of(inputs, lambda xs, size: _Run(self, size, training=False).run(*xs))
        return self.program.outputs.unflatten(list(_Run(self, batch, training=self.training).run(*inputs)))

    def value(self, name: str) -> Tensor:
        """The constant `name` as it is now, with its zeros."""
        if name in self.weights:
            parameter: Tensor = self.weights[name]
            mask = self.masks._buffers.get(name)
            return parameter if mask is None else parameter * mask
        found = self.statistics._buffers.get(name)
        found = self.fixed._buffers[name] if found is None else found
        assert found is not None
        return found

    def convert(self) -> Program:
        """The Program with the trained numbers: it computes what this module does in evaluation mode.

        Raises InvalidInput where training made a number NaN or infinite.
        """
        for name in (*self.weights, *self.statistics._buffers):
            if not bool(self.value(name).isfinite().all()):
                raise InvalidInput(f"{name} must hold finite numbers, not NaN or infinity; lower the learning rate")
        return PassManager([WriteTrainedFloats(self)]).run(self.program)


class _Run(Interpreter):
    """One run of the Program with the module's numbers."""

    def __init__(self, module: TrainableFloats, batch: Batch, *, training: bool) -> None:
        super().__init__(module.program.graph_module)
        self.extra_traceback = False  # an error's own words say enough
        self._module, self._batch, self._training = module, batch, training

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._module.value(str(target))

    def run_node(self, n: Node) -> Any:
        value = self._compute(n)
        if self._module.watch is not None:
            self._module.watch(n.name, value)
        return value

    def _compute(self, n: Node) -> Any:
        if is_call(n, *SIZED):
            x, sizes, *rest = self.fetch_args_kwargs_from_env(n)[0]
            return self.call_function(n.target, (x, sizes_of(sizes, self._batch), *rest), dict(n.kwargs))
        if self._training and is_call(n, aten.batch_norm.default):
            return self._batch_norm(n)
        return super().run_node(n)

    def _batch_norm(self, n: Node) -> Tensor:
        momentum = self._module.momentum
        values = {name: self.env[x] if isinstance(x, Node) else x for name, x in arguments(n).items()}
        return F.batch_norm(
            values["input"], values["running_mean"], values["running_var"], values["weight"], values["bias"],
            training=True, eps=values["eps"],
            momentum=values["momentum"] or MOMENTUM if momentum is None else momentum,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class WriteTrainedFloats(Pass):
    """weights of a Program  ->  those that training arrived at, batch norms' statistics too"""

    name: ClassVar[str] = "write-trained-floats"
    accuracy: ClassVar[Accuracy] = "lossy"
    module: TrainableFloats

    def __str__(self) -> str:
        return self.name

    def run(self, program: Program, rw: Rewriter) -> None:
        rw.recipe = {"pass": self.name}
        written = set()
        for node in program.nodes:
            if node.op != "get_attr" or node.target in written:
                continue
            written.add(node.target)
            trained = self.module.value(str(node.target)).detach().to("cpu")
            if not torch.equal(trained, program.constant(node)):
                rw.set_constant(node, trained.clone())


def _trained(program: Program) -> Iterable[str]:
    """The names of float constants that were parameters or are read as weights, in graph order."""
    read = set(_read_as(program, WEIGHTS))
    for node in program.nodes:
        if is_constant(node) and node.meta["val"].is_floating_point():
            if node.meta.get("parameter") or str(node.target) in read:
                yield str(node.target)


def _read_as(program: Program, names: Sequence[str]) -> Iterable[str]:
    """The constants that ops read as arguments with one of these names."""
    for node in program.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        for name, value in arguments(node).items():
            if name in names:
                yield from (str(x.target) for x in (value if isinstance(value, list | tuple) else [value])
                            if is_constant(x))  # fmt: skip
