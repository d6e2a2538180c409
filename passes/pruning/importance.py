"""What a unit is worth: from its weights, from gradients, from what its consumers receive, or by lot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Interpreter, Node

from ...errors import InvalidInput
from ...program import Program
from ..match import arguments, is_constant
from .config import PruneConfig
from .groups import Group, Groups
from .ties import FACTOR, Axis

aten = torch.ops.aten
Scores = NDArray[np.float64]
Inputs = Iterable[Sequence[Tensor]]


def score(program: Program, groups: Groups, config: PruneConfig, data: Inputs) -> dict[Group, Scores]:
    """The importance of each unit of each removable group, with a mean of 1 in every group that has any.

    `data` yields flat inputs, read only where `config.needs_data`. Raises InvalidInput for scores that are not finite.
    """
    found = {group: _IMPORTANCES[config.importance](program, group, config) for group in groups.removable} \
        if config.importance in _IMPORTANCES else _measured(program, groups, config, data)  # fmt: skip
    for group, scores in found.items():
        if not np.isfinite(scores).all():
            raise InvalidInput(
                f"weights and activations must be finite, but the {config.importance} importance of group "
                f"{group.name} is not"
            )
    return {group: scores / (scores.mean() or 1.0) for group, scores in found.items()}


def _measured(program: Program, groups: Groups, config: PruneConfig, data: Inputs) -> dict[Group, Scores]:
    if config.importance == "activation":
        return _activation(program, groups, data)
    return _gradient(program, groups, config, data)


def _per_index(tensor: Tensor, dim: int) -> Scores:
    """The sum of each slice, in float64."""
    total = tensor.double().sum([d for d in range(tensor.dim()) if d != dim]) if tensor.dim() > 1 else tensor.double()
    return np.asarray(total.numpy(), dtype=np.float64)


def _per_unit(group: Group, axis: Axis, values: Scores) -> Scores:
    units = group.units[axis]
    mine = units >= 0
    return np.bincount(units[mine], values[mine], group.size).astype(np.float64)


def _weights(group: Group) -> list[Axis]:
    """The axes that norms are taken along: those of weights, or of vectors where there are no others."""
    return [axis for axis in group.constants if axis.node.meta["val"].dim() > 1] or group.constants


def _norm(power: int) -> Callable[[Program, Group, PruneConfig], Scores]:
    def of(program: Program, group: Group, config: PruneConfig) -> Scores:
        total = np.zeros(group.size)
        for axis in _weights(group):
            each = _per_unit(group, axis, _per_index(program.constant(axis.node).double().abs() ** power, axis.dim))
            each = each ** (1 / power)
            total += each / (each.mean() or 1.0)  # a layer counts the same, whatever the scale of its weights
        return total

    return of


def _batch_norm(program: Program, group: Group, config: PruneConfig) -> Scores:
    scales = [
        axis
        for axis in group.constants
        if any(
            user.target is aten.batch_norm.default and arguments(user)["weight"] is axis.node
            for user in axis.node.users
        )
    ]
    if not scales:
        return _norm(2)(program, group, config)
    return sum(
        (_per_unit(group, axis, program.constant(axis.node).double().abs().numpy()) for axis in scales),
        np.zeros(group.size),
    )


def _scales(user: Node, weight: Node) -> bool:
    return user.target is aten.batch_norm.default and arguments(user)["weight"] is weight


def _random(program: Program, group: Group, config: PruneConfig) -> Scores:
    return np.random.default_rng([config.seed, *group.name.encode()]).random(group.size)


_IMPORTANCES: dict[str, Callable[[Program, Group, PruneConfig], Scores]] = {
    "l1": _norm(1),
    "l2": _norm(2),
    "batch-norm": _batch_norm,
    "random": _random,
}


def _gradient(program: Program, groups: Groups, config: PruneConfig, data: Inputs) -> dict[Group, Scores]:
    """taylor: E[(sum of w g)^2] of a unit's weights w and their gradients g; hessian: E[sum of w^2 g^2].

    Without a loss g is of the outputs, times a sign each by lot: the expectation is then the change of the outputs.
    """
    totals = {group: np.zeros(group.size) for group in groups.removable}
    for found in gradients(program, config, data):
        for group, total in totals.items():
            change = np.zeros(group.size)
            for axis in group.constants:
                weight, gradient = program.constant(axis.node), found.get(str(axis.node.target))
                if gradient is None:
                    continue
                product = weight.double() * gradient.double()
                product = product if config.importance == "taylor" else product.square()
                change += _per_unit(group, axis, _per_index(product, axis.dim))
            total += change**2 if config.importance == "taylor" else change
    return totals


def gradients(program: Program, config: PruneConfig, data: Inputs) -> Iterator[dict[str, Tensor]]:
    """For each item the gradients of all float constants that have one, by their names."""
    generator = torch.Generator().manual_seed(config.seed)
    statistics = {
        str(arguments(node)[name].target)
        for node in program.nodes
        if node.target is aten.batch_norm.default
        for name in ("running_mean", "running_var")
    }
    constants = program.constants
    names = [name for name, x in constants.items() if x.is_floating_point() and name not in statistics]
    for inputs in data:
        leaves = {name: constants[name].clone().requires_grad_() for name in names}
        with torch.enable_grad():
            outputs = _Differentiable(program, leaves).run(*inputs)
            loss = _loss(program, config, outputs, generator)
            found = torch.autograd.grad(loss, [leaves[name] for name in names], allow_unused=True)
        yield {name: g for name, g in zip(names, found, strict=True) if g is not None}


def _loss(program: Program, config: PruneConfig, outputs: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    if config.loss is not None:
        loss = config.loss(program.outputs.unflatten(list(outputs)))
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InvalidInput(f"loss must give one number computed from the model's outputs, not {loss!r}")
        return loss.reshape(())
    total: Any = 0
    for y in outputs:
        if y.requires_grad:
            total = total + (y * (torch.randint(0, 2, y.shape, generator=generator) * 2 - 1).to(y.dtype)).sum()
    if not isinstance(total, Tensor):
        raise InvalidInput("importance by gradients must have an output of floats that depends on weights, not none")
    return total


class _Differentiable(Interpreter):
    def __init__(self, program: Program, leaves: dict[str, Tensor]) -> None:
        super().__init__(program.graph_module)
        self._leaves = leaves

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._leaves.get(str(target), super().get_attr(target, args, kwargs))


def _activation(program: Program, groups: Groups, data: Inputs) -> dict[Group, Scores]:
    """The mean square of a unit's values, times the squared weights that consumers multiply them with."""
    consumed = [
        (x, weight)
        for x, weight in groups.contracted
        if is_constant(weight.node) and not is_constant(x.node) and x.part != FACTOR
    ]
    energies: dict[Axis, Scores] = {}
    for inputs in data:
        for axis, energy in _Energies(program, {x for x, _ in consumed}).measure(inputs).items():
            energies[axis] = energies.get(axis, 0.0) + energy
    totals = {}
    for group in groups.removable:
        total, seen = np.zeros(group.size), False
        for x, weight in consumed:
            if x in group.units and weight in group.units:
                norms = _per_index(program.constant(weight.node).double().square(), weight.dim)
                total, seen = total + _per_unit(group, x, energies[x] * norms), True
        totals[group] = total if seen else _norm(2)(program, group, PruneConfig())
    return totals


class _Energies(Interpreter):
    """Runs a Program and keeps the mean square of some axes of computed values, index by index."""

    def __init__(self, program: Program, axes: Iterable[Axis]) -> None:
        super().__init__(program.graph_module)
        self._axes: dict[str, list[Axis]] = {}
        for axis in axes:
            self._axes.setdefault(axis.node.name, []).append(axis)
        self._found: dict[Axis, Scores] = {}

    def measure(self, inputs: Sequence[Tensor]) -> dict[Axis, Scores]:
        with torch.no_grad():
            self.run(*inputs)
        return self._found

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for axis in self._axes.get(n.name, ()):
            self._found[axis] = _per_index(value.double().square(), axis.dim) * value.shape[axis.dim] / value.numel()
        return value
