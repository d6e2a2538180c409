"""y = f(x)  ->  (exit, y), with a classifier behind a value inside of f

Teerapittayanon et al., "BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks", arXiv:1709.01686:
where the first classifier is confident the rest need not run. The head is the mean over places and a linear layer. With
inputs it starts as the least squares of what the whole model says of them, without labels; without, at zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ...errors import InvalidInput
from ...program import Program
from ...report.replaced import LayerReplacement
from ...rewriter import Accuracy, Pass, Rewriter
from ...runtime.structure import LEAF, Structure
from ...search.ranges import not_searched
from ..match import dtype, shape
from ..pruning.least_squares import LeastSquares
from ..quantization.scopes import module_path
from .replacing import relative

aten = torch.ops.aten
FACT = "early-exit"


@dataclass(frozen=True, eq=False)
class AddEarlyExit(Pass):
    """y = f(x)  ->  (exit, y), with a classifier behind the value `after`

    `after` is a node's name, or the path of a module, whose last node it then is: images [batch, channels, ...] or
    tokens [batch, tokens, features] of floats. The model must have one result [batch, classes]. `data` yields flat
    inputs. An artifact of the Program computes both; `exits.split_at_exit` cuts it in two that run one after the other.
    Raises InvalidInput for another model or value.
    """

    name: ClassVar[str] = "add-early-exit"
    accuracy: ClassVar[Accuracy] = "lossy"
    establishes: ClassVar[tuple[str, ...]] = (FACT,)
    after: str = field(default="", metadata=not_searched("it is named by the user"))
    data: Iterable[Sequence[Tensor]] | None = None

    def options(self) -> dict[str, Any]:
        return {"after": self.after}

    def run(self, program: Program, rw: Rewriter) -> None:
        if FACT in program.facts:
            return rw.skip(program.output_node, "the model has an early exit already")
        value = self._value(program)
        (result,) = program.results
        classes = shape(result)[1]
        at = program.output_node
        pooled = value
        places = list(range(2, len(shape(value))))
        is_image = len(shape(value)) != 3
        if places:
            pooled = rw.call(aten.mean.dim, value, places if is_image else [1], at=at)
        weight = torch.zeros(classes, shape(pooled)[1], dtype=dtype(value))
        bias, error = torch.zeros(classes, dtype=dtype(value)), None
        if self.data is not None:
            weight, bias, error = _fit(program, pooled, result, self.data, weight)
        constants = rw.constant("exit_weight", weight), rw.constant("exit_bias", bias)
        rw.burn()
        head = rw.call(aten.linear.default, pooled, *constants, at=at)
        rw.output(head, result)
        program.outputs = Structure("tuple", (LEAF, program.outputs))
        row = LayerReplacement(value.name, "itself", f"itself and an exit {shape(pooled)[1]} -> {classes}", 0.0, error)
        rw.decisions.append(row.to_json())
        rw.log.append(row.text())
        rw.recipe["exit"] = head.name

    def _value(self, program: Program) -> Node:
        if len(program.results) != 1 or len(shape(program.results[0])) != 2:
            raise InvalidInput("a model with an early exit must have one result [batch, classes]")
        calls = [node for node in program.nodes if node.op == "call_function"]
        inside = [x for x in calls if module_path(x) == self.after or module_path(x).startswith(f"{self.after}.")]
        named = [node for node in calls if node.name == self.after] or (inside[-1:] if self.after else [])
        if not named:
            raise InvalidInput(
                f"after must be a node or a module of the model, not {self.after!r}; the last nodes are "
                f"{[node.name for node in calls[-5:]]}"
            )
        value = named[0].meta["val"]
        if not isinstance(value, Tensor) or value.dim() < 2 or not value.is_floating_point():
            raise InvalidInput(f"after must be a value [batch, channels, ...] of floats, not %{named[0].name}")
        return named[0]


def _fit(
    program: Program, pooled: Node, result: Node, data: Iterable[Sequence[Tensor]], weight: Tensor
) -> tuple[Tensor, Tensor, float]:
    """The weight and bias that are nearest to the model's own results, and how far those are off, relative."""
    seen = [_Values(program, (pooled, result)).of(inputs) for inputs in data]
    if not seen:
        raise InvalidInput("data must hold at least one item of inputs, but it is empty; leave it out for none")
    x, y = (torch.cat([item[i] for item in seen]).double() for i in (0, 1))
    fit = LeastSquares(weight.unsqueeze(0), ridge=1e-3)
    fit.add(x.unsqueeze(0), y.unsqueeze(0))
    step, shift = fit.solve()
    found, bias = step.reshape(weight.shape), shift.flatten()
    error = relative(x @ found.double().T + bias.double() - y, y)
    return found.to(weight.dtype), bias.to(weight.dtype), error


class _Values(Interpreter):
    """Runs a Program for two of its values."""

    def __init__(self, program: Program, nodes: Sequence[Node]) -> None:
        super().__init__(program.graph_module, garbage_collect_values=False)
        self._nodes = nodes

    def of(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The values of the nodes."""
        with torch.no_grad():
            self.run(*inputs)
        return [self.env[node] for node in self._nodes]
