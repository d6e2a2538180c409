"""weight  ->  integers whose rounding errors cancel in the layer's results

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv:2210.17323,
algorithm 1: columns are rounded one after the other, and what rounding one of them makes wrong the columns after it
make good, as the inverse of the inputs' second moments says (equation 2). Columns with large inputs come first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .algorithms import Algorithm
from .bias_correction import correct_bias, has_padding
from .calibration import Calibration
from .layer_rows import input_moment, matrix_of, second_moment
from .plan import LayerPlan, Plan, StoredPlan
from .walking import LayerSight, sample, walk
from .weights import LARGEST, pack_halves

ITEMS = 64
MOST_ELEMENTS = 2**27
"""Of second moments that are in memory at once."""
BLOCK = 128
DAMPING = 0.01
"""What is added to the diagonal of the second moments, as a part of its mean."""


def round_columns(
    weight: Tensor, moment: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, *, damping: float = DAMPING
) -> Tensor:
    """Integers [g, n, k] with small sum(((integers - zero) * scale - weight) @ moment * (the same)), float64.

    `weight` [g, n, k]; `moment` [g, k, k] is x.T x of the layer's inputs, symmetric and positive semidefinite, of any
    scale; `scale` and `zero` broadcast to `weight`. Integers are within low..high. Weights that are 0 stay 0, so that
    pruned ones stay pruned.
    """
    order = moment.diagonal(dim1=1, dim2=2).argsort(descending=True)
    groups = torch.arange(len(weight)).unsqueeze(1)
    columns = groups.unsqueeze(1), torch.arange(weight.shape[1])[None, :, None], order.unsqueeze(1)
    left, steps, zeros = (each.expand_as(weight).double()[columns] for each in (weight, scale, zero))
    factor = inverse_factor(moment.double()[groups.unsqueeze(1), order.unsqueeze(2), order.unsqueeze(1)], damping)
    held = left == 0
    integers = torch.empty_like(left)

    def rounded(column: int, current: Tensor) -> Tensor:
        step, shift = steps[:, :, column], zeros[:, :, column]
        nearest = ((current[:, :, column] / step).round() + shift).clamp(low, high)
        integers[:, :, column] = torch.where(held[:, :, column], shift, nearest)
        return (integers[:, :, column] - shift) * step

    replace_columns(left, factor, rounded)
    result = torch.empty_like(integers)
    result[columns] = integers
    return result


def replace_columns(
    weight: Tensor, factor: Tensor, replacement: Callable[[int, Tensor], Tensor], block: int = BLOCK
) -> None:
    """Change the columns of `weight` [g, n, k], one after the other; those after each make good the error it makes.

    `factor` [g, k, k] is `inverse_factor`'s. `replacement(column, weight)` gives the new column [g, n], on seeing the
    weight as it is by then: up to date to the end of the block of `block` columns that `column` is in.
    """
    for start in range(0, weight.shape[2], block):
        end = min(start + block, weight.shape[2])
        errors = torch.empty_like(weight[:, :, start:end])
        for column in range(start, end):
            new = replacement(column, weight)
            error = (weight[:, :, column] - new) / factor[:, column, column].unsqueeze(1)
            errors[:, :, column - start] = error
            weight[:, :, column:end] -= error.unsqueeze(2) * factor[:, column, column:end].unsqueeze(1)
            weight[:, :, column] = new
        weight[:, :, end:] -= errors @ factor[:, start:end, end:]


def inverse_factor(moment: Tensor, damping: float = DAMPING) -> Tensor:
    """The upper Cholesky factor of the inverse of the `damped` moment [g, k, k]."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(moment, damping)))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def damped(moment: Tensor, damping: float = DAMPING) -> Tensor:
    """The moment [g, k, k], its diagonal raised by the part `damping` of its mean."""
    diagonal = moment.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    return moment + torch.diag_embed((damping * mean + (mean == 0)).expand_as(diagonal))


def round_error(weight: Tensor, moment: Tensor, integers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """What `round_columns` makes small, for each group [g]."""
    error = (integers.double() - zero) * scale.double() - weight.double()
    return ((error @ moment.double()) * error).sum((1, 2))


def reconstruct(sight: LayerSight, round_weight: Callable[..., Tensor] = round_columns) -> LayerPlan:
    """The layer with integers whose errors cancel on its rounded inputs, and a bias that takes up their mean."""
    layer, weight = sight.layer, matrix_of(sight.node, sight.layer.weight)
    moment = input_moment(sight, centred=not has_padding(sight))
    scale = layer.weight_scale.reshape(len(weight), -1, 1)
    integers = round_weight(weight, moment, scale, torch.zeros(1), -LARGEST, LARGEST)
    better = replace(layer, integers=integers.reshape(layer.weight.shape).to(torch.int8))
    return correct_bias(replace(sight, layer=better))


def restore(stored: StoredPlan, moment: Tensor) -> StoredPlan:
    """The layer, of which only the weight is integer, with integers whose errors cancel on inputs of that `moment`."""
    n, k = stored.weight.shape
    scale = stored.scale.reshape(n, -1).repeat_interleave(stored.group, 1)[:, :k]
    if stored.bits == 8:
        low, high, zero = -LARGEST, LARGEST, torch.zeros(1)
    elif stored.zero is None:
        low, high, zero = 1, 15, torch.full((1,), 8.0)
    else:
        low, high, zero = 0, 15, stored.zero.float().repeat_interleave(stored.group, 1)[:, :k]
    integers = round_columns(stored.weight[None], moment, scale[None], zero, low, high)[0]
    return replace(stored, stored=integers.to(torch.int8) if stored.bits == 8 else pack_halves(integers))


class Gptq(Algorithm):
    """Round weights so that errors cancel in the layers' results on calibration data."""

    def refine(self, plan: Plan, calibration: Calibration) -> None:
        if plan.layers:
            walk(plan, sample(calibration, ITEMS), reconstruct)
        if calibration.generated:  # tells nothing about which weights of the stored ones matter
            return
        for names in _portions(plan):
            for name, moment in _moments(plan, names, calibration).items():
                plan.stored[name] = restore(plan.stored[name], moment)


def _portions(plan: Plan) -> list[list[str]]:
    """The stored layers, as many at once as their moments fit in memory."""
    portions: list[list[str]] = []
    room = 0
    for name, layer in plan.stored.items():
        size = layer.weight.shape[1] ** 2
        if size > room:
            portions.append([])
            room = MOST_ELEMENTS
        portions[-1].append(name)
        room -= size
    return portions


def _moments(plan: Plan, names: list[str], calibration: Calibration) -> dict[str, Tensor]:
    """x.T x [1, k, k] of each layer's inputs in the float32 model, from some rows of each item."""
    found: dict[str, Tensor] = {}
    for item in calibration.replay(plan.program, names, "gptq"):
        for name, ((x, *_), _) in item.items():
            found[name] = found.get(name, torch.zeros(1)) + second_moment(x)
    return found
