"""Zeros in weights: in every kind of layer, by pattern, importance, ranking and schedule, and what gets none."""

from __future__ import annotations

import functools

import fxpress
import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.ops.sparse import weight_matrix
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.patterns import parse_pattern
from fxpress.passes.pruning.weight_layers import find_layers
from fxpress.passes.pruning.zero_steps import layers_to_zero, zero_step
from fxpress.passes.pruning.zero_weights import ZeroWeights
from fxpress.target import Target
from fxpress.testing import check_pass, trace
from torch import Tensor, nn

TARGET = Target.parse("cpu{isa=avx512}")
IMAGE = torch.randn(2, 3, 8, 8)
PATTERNS = {"elements": 0.6, "2:4": 0.5, "4:8": 0.5, "1:4": 0.75, "4x2": 0.5, "blocks": 0.5}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 20, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 10),
    ).eval()  # fmt: skip


@functools.cache
def captured() -> fxpress.Program:
    return fxpress.capture(network(), (IMAGE,))


def pruned(model: nn.Module | fxpress.Program, x: Tensor, **config) -> fxpress.Program:
    return fxpress.prune(model, PruneConfig(**config), args=(x,), calibration=[x], target=TARGET)


def matrices(program: fxpress.Program) -> dict[str, Tensor]:
    layers, _ = find_layers(program)
    return {layer.name: layer.matrix(program.constant(layer.weight)) for layer in layers}


def assert_pattern(matrix: Tensor, text: str, ratio: float) -> None:
    """The zeros of a dense matrix are where a pattern may have them, and as many as the ratio says."""
    n, k = matrix.shape
    zeros = matrix == 0
    if ":" in text:
        keep, of = map(int, text.split(":"))
        for start in range(0, k, of):
            size = min(of, k - start)
            assert zeros[:, start : start + size].sum(1).tolist() == [size - -(-size * keep // of)] * n
        return
    pattern = parse_pattern(text, TARGET)
    totals = pattern.total((~zeros).double())
    assert int((totals == 0).sum()) == int(ratio * totals.numel() + 1e-9)
    assert torch.equal(totals[totals > 0], pattern.total(torch.ones(n, k).double())[totals > 0])


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize("text", PATTERNS)
def test_zeros_are_where_the_pattern_has_them(text, reconstruct):
    ratio = PATTERNS[text]
    program = pruned(captured(), IMAGE, pattern=text, ratio=ratio, reconstruct=reconstruct)
    found = matrices(program)
    assert list(found) == ["conv2d", "conv2d_1", "linear"]
    for matrix in found.values():
        assert_pattern(matrix, text, ratio)


def test_the_graph_stays_and_the_weights_that_stay_are_the_same():
    before = captured()
    text, constants = before.text(), before.constants
    after = pruned(before, IMAGE, pattern="2:4")
    assert after.text() == text == before.text()
    assert all(torch.equal(x, constants[name]) for name, x in before.constants.items())
    for name, x in after.constants.items():
        kept = x != 0
        assert torch.equal(x[kept], constants[name][kept])
    for name, matrix in matrices(before).items():
        gone = matrices(after)[name] == 0
        kept_least = matrix.abs().masked_fill(gone, torch.inf)
        for start in range(0, matrix.shape[1] - 3, 4):
            each = slice(start, start + 4)
            assert bool(
                (matrix.abs()[:, each].masked_fill(~gone[:, each], 0).amax(1) <= kept_least[:, each].amin(1)).all()
            )


def test_the_pass_fires_once():
    before = captured()
    layers = layers_to_zero(before)
    step = zero_step(before, layers, PruneConfig(pattern="2:4"), [], TARGET)
    after = PassManager([step]).run(before)
    assert after.history[-1].name == "zero-weights"
    assert [x for x in after.history[-1].rewrites if not x.startswith("%")] == [
        "conv2d: 224 of 432 weights left", "conv2d_1: 1440 of 2880 weights left", "linear: 100 of 200 weights left",
    ]  # fmt: skip
    again = PassManager([step]).run(after)
    assert not again.history[-1].changed
    assert not pruned(after, IMAGE, pattern="2:4").history[-1].changed
    with pytest.raises(InvalidInput, match=r"^zero-weights must be given weights, which fxpress\.prune chooses"):
        check_pass(ZeroWeights(), before)


class Forms(nn.Module):
    """Products in every spelling that is a layer, and what looks like one."""

    def __init__(self) -> None:
        super().__init__()
        self.tied, self.right = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 12))
        self.bias, self.both = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(8, 8))
        self.table, self.recurrent = nn.Embedding(5, 8), nn.GRU(8, 8)
        self.last = nn.Linear(8, 5, bias=False)
        self.last.weight = self.table.weight

    def forward(self, x: Tensor, i: Tensor) -> tuple[Tensor, ...]:
        product = x @ self.tied.T + F.linear(x, self.tied)
        return (
            product, torch.addmm(self.bias, x, self.right), x @ self.both + F.linear(x, self.both), x @ x.T,
            self.last(x), self.table(i), self.recurrent(x)[0],
        )  # fmt: skip


def test_products_in_every_spelling():
    program = trace(Forms().eval(), torch.randn(3, 8), torch.tensor([1]))
    layers, left = find_layers(program)
    assert [(layer.name, len(layer.calls), layer.is_transposed) for layer in layers] == [
        ("matmul", 2, False), ("addmm", 1, True)
    ]  # fmt: skip
    assert {reason for _, reason in left} == {
        "its weight is read both as it is and transposed",
        "%embedding reads its weight too",
        "an embedding looks rows up and multiplies nothing",
        "no kernel of a recurrent layer skips zeros",
    }
    after = PassManager([zero_step(program, layers_to_zero(program), PruneConfig(pattern="2:4"), [], TARGET)]).run(
        program
    )
    assert [line for line in after.history[-1].rewrites if not line.startswith("%")] == [
        "matmul: 24 of 48 weights left", "addmm: 48 of 96 weights left"
    ]  # fmt: skip
    assert "%embedding: an embedding looks rows up and multiplies nothing" in after.history[-1].skipped
    for matrix in matrices(after).values():
        assert_pattern(matrix, "2:4", 0.5)


CONVOLUTIONS = {
    "one dim": (nn.Conv1d(4, 6, 3, padding="same"), (2, 4, 9), 1),
    "three dims": (nn.Conv3d(2, 4, 2), (1, 2, 4, 4, 4), 1),
    "no batch": (nn.Conv2d(4, 6, (1, 3), stride=2, dilation=(1, 2), padding=(0, 1)), (4, 5, 9), 1),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 5, 5), 0),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 5, 5), 0),
    "transposed": (nn.ConvTranspose2d(4, 8, 2), (1, 4, 5, 5), 0),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    module, shape, count = CONVOLUTIONS[name]
    model = nn.Sequential(module.eval(), nn.Flatten(0), nn.Unflatten(0, (1, -1)))
    x = torch.randn(shape)
    model.append(nn.Linear(model(x).shape[-1], 4).eval())
    program = trace(model, x)
    layers, left = find_layers(program)
    assert (len(layers), len(left)) == (count + 1, 1 - count)
    after = pruned(program, x, pattern="2:4", reconstruct=True)
    for matrix in matrices(after).values():
        assert_pattern(matrix, "2:4", 0.5)
    reasons = ("a depthwise convolution has no", "no kernel of a grouped", "no kernel of a transposed")
    assert all(reason.startswith(reasons) for _, reason in left)


@pytest.mark.parametrize("pipeline", ["normalize-conv,normalize-linear", "default"])
def test_programs_of_our_own_ops(pipeline):
    program = PassManager(pipeline, target=TARGET).run(captured())
    after = pruned(program, IMAGE, pattern="2:4", reconstruct=True)
    assert len(matrices(after)) == 3
    for matrix in matrices(after).values():
        assert_pattern(matrix, "2:4", 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_of_floats(dtype):
    model, x = (
        nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype).eval(),
        torch.randn(6, 16).to(dtype),
    )
    for reconstruct in (False, True):
        program = pruned(model, x, pattern="2:4", reconstruct=reconstruct)
        for name, matrix in matrices(program).items():
            assert matrix.dtype == dtype
            assert_pattern(matrix, "2:4", 0.5), name


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor", "hessian", "activation"])
@pytest.mark.parametrize("text", ["elements", "2x2"])
def test_weights_that_do_nothing_go_first(importance, text):
    torch.manual_seed(0)
    model, x = nn.Linear(8, 6, bias=False).eval(), torch.randn(12, 8)
    with torch.no_grad():
        if importance in ("l1", "l2"):
            model.weight[:, 2:4] *= 1e-4
        else:  # what they multiply is small
            x[:, 2:4] *= 1e-4
            model.weight[:, 2:4] *= 10
    program = pruned(model, x, pattern=text, ratio=0.25, importance=importance)
    (matrix,) = matrices(program).values()
    assert (matrix == 0).int().tolist() == [[0, 0, 1, 1, 0, 0, 0, 0]] * 6


def test_random_weights_follow_the_seed():
    first, again, other = (
        torch.cat(
            [
                m.flatten()
                for m in matrices(pruned(captured(), IMAGE, pattern="elements", importance="random", seed=n)).values()
            ]
        )
        for n in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_global_ranking_counts_weights_relative_to_their_layer():
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.linspace(1, 2, 100).reshape(10, 10))
        model[2].weight.copy_(100 * torch.linspace(0, 1, 100).square().reshape(10, 10))  # more of them near zero
    program = trace(model, torch.randn(2, 10))
    config = {"pattern": "elements", "ratio": 0.4, "ranking": "global"}
    left = [
        [int((m != 0).sum()) for m in matrices(pruned(program, IMAGE, most=most, **config)).values()]
        for most in (0.9, 0.5)
    ]
    assert left == [[73, 47], [70, 50]]


def test_ratios_and_scopes_choose_layers():
    def zeros(program):
        return [round(float((m == 0).float().mean()), 2) for m in matrices(program).values()]

    model = captured()
    assert zeros(pruned(model, IMAGE, pattern="elements", ratios={"3": 0.75})) == [0.5, 0.75, 0.5]
    ignored = fxpress.prune(model, "2:4", ignore=["0", "7"])
    assert zeros(ignored) == [0, 0.5, 0]
    assert "%conv2d: named in ignore" in ignored.history[-1].skipped
    assert zeros(fxpress.prune(model, "2:4", only="linear")) == [0, 0, 0.5]
    for option in ("ignore", "only"):
        with pytest.raises(InvalidInput, match=rf"^{option} must match something that can be pruned, but 'x' does not"):
            fxpress.prune(model, "2:4", **{option: "x"})
    with pytest.raises(InvalidInput, match=r"^ratios must match something that can be pruned, but 'x' does not"):
        pruned(model, IMAGE, pattern="elements", ratios={"x": 0.75})


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize("text", ["elements", "2:4", "2x2"])
def test_schedules_arrive_at_the_pattern_and_zeros_stay(text, reconstruct):
    seen = []

    def recover(program: fxpress.Program, step: int) -> fxpress.Program:
        seen.append(matrices(program))
        return program

    config = PruneConfig(pattern=text, schedule="iterative", steps=2, reconstruct=reconstruct)
    program = fxpress.prune(captured(), config, calibration=[IMAGE], recover=recover)
    first, last = ([m == 0 for m in found.values()] for found in seen)
    for one, other in zip(first, last, strict=True):
        assert 0.2 < float(one.double().mean()) < 0.3
        assert bool((one <= other).all())
    for matrix in matrices(program).values():
        assert_pattern(matrix, text, 0.5)


def test_a_model_without_such_layers_is_refused_with_the_reasons():
    with pytest.raises(
        InvalidInput, match=r"^model must have linear layers or convolutions of floats for a pattern"
    ) as e:
        fxpress.prune(nn.Conv2d(4, 4, 3, groups=4).eval(), "2:4", args=(torch.randn(1, 4, 5, 5),))
    assert "%conv2d: a depthwise convolution has no inner products worth skipping" in str(e.value)
    with pytest.raises(InvalidInput, match=r"^model must have linear layers or convolutions of floats .* has none$"):
        fxpress.prune(nn.ReLU(), "2:4", args=(torch.randn(2),))


def test_quantised_programs_are_refused_with_the_reason():
    program = fxpress.quantize(network(), args=(IMAGE,), calibration=[IMAGE], profitable="off")
    with pytest.raises(InvalidInput, match=r"^model must be of floats, not quantised already"):
        fxpress.prune(program, "2:4")


def test_weights_that_are_not_finite_are_refused():
    model = network()
    with torch.no_grad():
        model[3].weight[2, 1] = torch.nan
    with pytest.raises(InvalidInput, match=r"^weights and activations must be finite, but the l2 importance of layer "):
        fxpress.prune(model, "2:4", args=(IMAGE,))


def test_reconstruction_needs_data():
    with pytest.raises(
        InvalidInput, match=r"^calibration must be given with reconstruct=True, which fits weights to it"
    ):
        fxpress.prune(network(), PruneConfig(pattern="2:4", reconstruct=True), args=(IMAGE,))


def test_matrices_are_those_of_sparse_storage():
    program = captured()
    for layer in find_layers(program)[0]:
        weight = program.constant(layer.weight)
        assert torch.equal(layer.matrix(weight), weight_matrix(weight))
        assert torch.equal(layer.weight_of(layer.matrix(weight)), weight)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x).relu()
        return x


def test_branches_that_go_as_a_whole_go_before_zeros():
    x = torch.randn(4, 8)
    program = pruned(Residual().eval(), x, pattern="2:4", blocks=0.5)
    assert [record.name for record in program.history][-2:] == ["remove-blocks", "zero-weights"]
    assert len(matrices(program)) == 2
    for matrix in matrices(program).values():
        assert_pattern(matrix, "2:4", 0.5)
