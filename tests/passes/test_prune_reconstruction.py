"""Weights that stay make up for zeros: exactly where they can, better than magnitude where inputs are correlated."""

from __future__ import annotations

import fxpress
import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.patterns import Blocks, NofM, Pattern
from fxpress.passes.pruning.reconstruction import reconstruct
from fxpress.passes.pruning.weight_layers import find_layers, input_of, rows_of
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.gptq import DAMPING
from fxpress.testing import trace
from torch import Tensor, nn

PATTERNS = [Blocks(), NofM(2, 4), NofM(1, 4), Blocks(4, 1), Blocks(2, 3)]


def problem(n: int, k: int) -> tuple[Tensor, Tensor]:
    """A matrix, and the second moments of inputs that are correlated and of unequal size."""
    x = torch.randn(4 * k, k, dtype=torch.float64) @ torch.randn(k, k, dtype=torch.float64)
    return torch.randn(n, k, dtype=torch.float64), x.T @ x


def magnitude(matrix: Tensor, pattern: Pattern, count: int) -> Tensor:
    gone = pattern.choose(pattern.total(matrix.square()), count, 1.0)
    return matrix.masked_fill(pattern.spread(gone, *matrix.shape), 0)


def least_squares(matrix: Tensor, moment: Tensor, gone: Tensor) -> Tensor:
    found = torch.zeros_like(matrix)
    for row, weights, mask in zip(found, matrix, gone, strict=True):
        left = (~mask).nonzero().flatten()
        row[left] = torch.linalg.solve(moment[left][:, left], moment[left] @ weights)
    return found


def squared_error(found: Tensor, matrix: Tensor, moment: Tensor) -> float:
    error = found - matrix
    return float((error @ moment * error).sum())


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize(("n", "k"), [(8, 60), (6, 301)])
def test_beats_magnitude_on_correlated_inputs(pattern, n, k):
    matrix, moment = problem(n, k)
    count = pattern.total(matrix).numel() // 2
    before = magnitude(matrix, pattern, count)
    after = reconstruct(matrix, moment, pattern, count, 1.0)
    gone = before == 0
    same = reconstruct(matrix, moment, pattern, count, 1.0, gone)
    assert torch.equal(same == 0, gone)
    assert int((pattern.total((after != 0).double()) == 0).sum()) == int((pattern.total((~gone).double()) == 0).sum())
    errors = [squared_error(x, matrix, moment) for x in (before, same, after)]
    assert max(errors[1:]) < 0.75 * errors[0]
    assert errors[1] < 1.02 * squared_error(least_squares(matrix, moment, gone), matrix, moment)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_independent_inputs_of_one_size_leave_the_rest_as_it_was(pattern):
    matrix = torch.randn(6, 24, dtype=torch.float64)
    count = pattern.total(matrix).numel() // 2
    found = reconstruct(matrix, 3 * torch.eye(24), pattern, count, 1.0)
    assert torch.equal(found, matrix.masked_fill(found == 0, 0))
    if isinstance(pattern, NofM):
        assert torch.equal(found, magnitude(matrix, pattern, count))


def test_copies_of_an_input_are_made_up_for():
    """Of inputs that come twice one weight is enough: all that is left is the damping's part."""
    half = torch.randn(200, 10, dtype=torch.float64)
    x = half.repeat_interleave(2, 1)
    matrix = torch.rand(5, 20, dtype=torch.float64) + 0.5
    found = reconstruct(matrix, x.T @ x, NofM(1, 2), 0, 1.0)
    assert (found != 0).reshape(5, 10, 2).sum(2).tolist() == [[1] * 10] * 5
    kept = found.reshape(5, 10, 2).sum(2)
    later = (found != 0).reshape(5, 10, 2)[:, :, 1]  # the others were passed when it was decided
    wanted = matrix.reshape(5, 10, 2).sum(2)
    assert later.any()
    torch.testing.assert_close(kept[later], wanted[later], rtol=2 * DAMPING, atol=0)


def test_removing_one_weight_is_the_brain_surgeons_step():
    """delta = -w_q / [H^-1]_qq H^-1_q, the one that changes the results least, over the weights after it."""
    matrix, moment = problem(3, 6)
    raised = moment + DAMPING * moment.diagonal().mean() * torch.eye(6)
    gone = torch.zeros(3, 6, dtype=torch.bool)
    gone[:, 0] = True
    found = reconstruct(matrix, moment, Blocks(), 3, 1.0, gone)
    inverse = torch.linalg.inv(raised)
    wanted = matrix - matrix[:, :1] / inverse[0, 0] * inverse[0]
    torch.testing.assert_close(found, wanted)
    assert bool((found[:, 0] == 0).all())


def test_blocks_are_chosen_by_what_is_left_without_all_of_their_inputs():
    matrix, moment = problem(4, 6)
    raised = moment + DAMPING * moment.diagonal().mean() * torch.eye(6)
    pattern = Blocks(4, 3)
    found = reconstruct(matrix, moment, pattern, 1, 1.0)
    left = []
    for columns in (slice(0, 3), slice(3, 6)):
        later = torch.linalg.inv(raised[columns.start :, columns.start :])[:3, :3]  # those before were passed
        weights = matrix[:, columns]
        left.append(float((weights @ torch.linalg.inv(later) * weights).sum()))
    assert torch.equal(found[0] == 0, torch.arange(6) // 3 == left.index(min(left)))


def test_zeros_stay_and_count():
    matrix, moment = problem(4, 300)
    matrix[:, :100] = 0
    found = reconstruct(matrix, moment, Blocks(), 600, 1.0)
    assert bool((found[:, :100] == 0).all())
    assert int((found == 0).sum()) == 600
    assert int((found[:, 200:] == 0).sum()) > 60  # spread over what was alive


def test_inputs_of_zeros_are_no_failure():
    matrix, moment = problem(4, 12)
    moment[3] = moment[:, 3] = 0
    found = reconstruct(matrix, moment, NofM(2, 4), 0, 1.0)
    assert bool(found.isfinite().all())
    assert bool((found[:, 3] == 0).all())
    assert bool(reconstruct(matrix, torch.zeros(12, 12), NofM(2, 4), 0, 1.0).isfinite().all())


LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 5, 6)),
    "conv": (nn.Conv2d(6, 4, 3, stride=2, padding=(1, 2)), (2, 6, 9, 8)),
    "same": (nn.Conv2d(6, 4, (2, 3), padding="same", dilation=2), (2, 6, 9, 8)),
    "one dim": (nn.Conv1d(6, 4, 3, padding=1), (2, 6, 9)),
    "no batch": (nn.Conv2d(6, 4, 3), (6, 9, 8)),
    "three dims": (nn.Conv3d(3, 4, 2, stride=2), (2, 3, 4, 5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layout", ["", "normalize-conv,normalize-linear,assign-layouts"])
def test_rows_times_matrix_are_the_layer(name, layout):
    module, shape = LAYERS[name]
    x = torch.randn(shape)
    program = trace(module.eval(), x)
    program = fxpress.PassManager(layout).run(program) if layout and name != "three dims" else program
    (layer,), _ = find_layers(program)
    (call,) = layer.calls
    calls = [input_of(call).name, call.name]
    item = next(iter(Calibration([(x,)], program).replay(program, calls)))
    rows = rows_of(call, item[calls[0]][1])
    found = rows @ layer.matrix(program.constant(layer.weight)).T + module.bias.detach()
    y = module(x).detach()
    wanted = y if "linear" in call.name else y.movedim(-len(module.kernel_size) - 1, -1)
    torch.testing.assert_close(found, wanted.flatten(0, -2))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16, bias=False), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.first(x).tanh()))


MODELS = {
    "shared": Shared,
    "conv": lambda: nn.Sequential(nn.Conv2d(4, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3), nn.Flatten()),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("text", ["elements", "2:4", "4x2"])
def test_models_come_closer(name, text):
    model = MODELS[name]()
    mix = torch.randn(6, 16)
    if name == "shared":
        items = [torch.randn(40, 6) @ mix + 0.1 * torch.randn(40, 16) for _ in range(6)]
    else:
        items = [F.interpolate(torch.randn(3, 4, 4, 4), (9, 9), mode="bilinear") for _ in range(6)]
    program = trace(model.eval(), items[0])
    wanted = [program.run(x) for x in items]
    errors = []
    for is_reconstructed in (False, True):
        config = PruneConfig(pattern=text, reconstruct=is_reconstructed)
        found = fxpress.prune(program, config, calibration=items[:4])
        errors.append(sum(float((found.run(x) - y).square().sum()) for x, y in zip(items, wanted, strict=True)))
    assert errors[1] < 0.7 * errors[0]


def test_inputs_that_are_not_finite_are_refused():
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.log())

    x, config = torch.ones(2, 8), PruneConfig(pattern="2:4", reconstruct=True)
    with pytest.raises(InvalidInput, match=r"^inputs of layer linear must be finite on the calibration data for its"):
        fxpress.prune(Logarithm().eval(), config, args=(x,), calibration=[x, 0 * x])
