"""What capture promises about the Program: ops, constants, structure, provenance, mode."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from fxpress.capturing import capture, from_exported
from fxpress.errors import CaptureError, InvalidInput
from fxpress.testing import op_counts
from fxpress.verifier import verify
from torch import nn
from torch.nn import functional as F


def check(model, *args, **kwargs):
    """Capture, verify, compare with the model; return the Program."""
    program = capture(model, args, kwargs)
    verify(program)
    module = model.eval() if isinstance(model, nn.Module) else model
    with torch.no_grad():
        expected = module(*args, **kwargs)
    actual = program.run(*args, **kwargs)
    pairs = zip(program.outputs.flatten(actual), program.outputs.flatten(expected), strict=True)
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)
    return program


def names(program):
    return set(op_counts(program, full_names=True))


@pytest.mark.parametrize(
    ("function", "shape", "op"),
    [
        (nn.Linear(4, 3), (2, 4), "aten.linear.default"),
        (nn.Conv1d(4, 4, 3, padding="same"), (1, 4, 9), "aten.conv1d.default"),
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), (1, 4, 5, 5), "aten.conv2d.default"),
        (nn.Conv2d(4, 4, 3, padding="valid"), (1, 4, 5, 5), "aten.conv2d.default"),
        (nn.ConvTranspose2d(4, 4, 3, stride=2), (1, 4, 5, 5), "aten.conv_transpose2d.input"),
        (nn.BatchNorm2d(4), (1, 4, 5, 5), "aten.batch_norm.default"),
        (nn.LayerNorm(4), (2, 4), "aten.layer_norm.default"),
        (nn.GroupNorm(2, 4), (1, 4, 5), "aten.group_norm.default"),
        (nn.InstanceNorm2d(4, affine=True), (2, 4, 5, 5), "aten.group_norm.default"),
        (nn.RMSNorm(4), (2, 4), "aten.rms_norm.default"),
        (nn.GELU(), (4,), "aten.gelu.default"),
        (nn.SiLU(), (4,), "aten.silu.default"),
        (nn.Hardswish(), (4,), "aten.hardswish.default"),
        (nn.Hardsigmoid(), (4,), "aten.hardsigmoid.default"),
        (nn.Softmax(-1), (2, 4), "aten.softmax.int"),
        (nn.LogSoftmax(-1), (2, 4), "aten.log_softmax.int"),
        (lambda x: F.scaled_dot_product_attention(x, x, x), (1, 2, 3, 4), "aten.scaled_dot_product_attention.default"),
        (nn.MaxPool2d(2), (1, 4, 6, 6), "aten.max_pool2d.default"),
        (nn.AvgPool2d(2), (1, 4, 6, 6), "aten.avg_pool2d.default"),
        (nn.AdaptiveAvgPool2d(2), (1, 4, 6, 6), "aten.adaptive_avg_pool2d.default"),
        (nn.GRU(4, 3, batch_first=True), (2, 5, 4), "aten.gru.input"),
        (nn.LSTM(4, 3, num_layers=2), (2, 5, 4), "aten.lstm.input"),
        (nn.Upsample(scale_factor=2), (1, 4, 3, 3), "aten.upsample_nearest2d.vec"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 4, 3, 3), "aten.upsample_bilinear2d.vec"),
        (nn.PixelShuffle(2), (1, 4, 3, 3), "aten.pixel_shuffle.default"),
        (lambda x: x @ x.mT, (2, 3, 4), "aten.matmul.default"),
        (nn.ReflectionPad2d(1), (1, 4, 6, 6), "aten.reflection_pad2d.default"),
    ],
)
def test_keeps_whole(function, shape, op):
    assert op in names(check(function, torch.randn(shape)))


@pytest.mark.parametrize(
    ("function", "ops"),
    [
        (lambda x: x.view(-1).reshape(6, 2).flatten(), {"aten.reshape.default"}),
        (lambda x: x.transpose(0, 1).t().contiguous().clone(), {"aten.permute.default"}),
        (lambda x: (x + 1) * 2 / 3 - 4, {f"aten.{op}.Tensor" for op in ("add", "mul", "div", "sub")}),
        (lambda x: F.dropout(x, 0.5, training=False).detach().neg(), {"aten.neg.default"}),
        (lambda x: x.neg().to(x.dtype).exp_(), {"aten.neg.default", "aten.exp.default"}),
        (lambda x: x.double().sum(), {"aten._to_copy.default", "aten.sum.dim_IntList"}),
        (lambda x: torch.roll(x, 1, 0), {"aten.slice.Tensor", "aten.cat.default"}),
        (lambda x: torch.lerp(x, x * x, 0.25), {"aten.sub.Tensor", "aten.mul.Tensor", "aten.add.Tensor"}),
    ],
)  # fmt: skip
def test_one_spelling(function, ops):
    assert names(check(function, torch.randn(3, 4))) == ops


@pytest.mark.parametrize(("shifts", "dims"), [(1, 0), (-2, 1), ((1, 3), (0, 1)), (5, None), (0, 0), (7, 1)])
def test_roll(shifts, dims):
    check(lambda x: torch.roll(x, shifts, dims), torch.randn(3, 4))


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 3, 4), (2, 3, 4, 5)])
def test_batch_norm_without_statistics(shape):
    check(lambda x: F.batch_norm(x, None, None, training=True), torch.randn(shape))


def test_writes_inside_the_model_become_functional():
    def function(x):
        y = torch.zeros_like(x)
        y[:, 1:] = x[:, 1:]
        y[0].fill_(3)
        return y.relu_()

    check(function, torch.randn(3, 4))


Point = namedtuple("Point", ["x", "y"])


@dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor | None = None


def test_arguments_and_results_keep_their_structure():
    def function(pair, items, scale, *, options):
        total = pair.first + items[0]["a"] * scale + options["extra"][0]
        return {"total": total, "point": Point(total, None), "rest": [total * 2, (1, "text")], "input": items[1]}

    x = torch.ones(2)
    program = check(function, Pair(x), [{"a": x}, x], 3, options={"extra": (x,)})
    result = program.run(Pair(x), [{"a": x}, x], 3, options={"extra": (x,)})
    assert result["point"] == Point(result["total"], None)
    assert result["rest"][1] == (1, "text")
    assert torch.equal(result["total"], torch.full((2,), 5.0))
    assert [node.name for node in program.placeholders] == ["pair_first", "items_0_a", "items_1", "options_extra_0"]


def test_results_of_torch_functions_stay_named():
    x = torch.randn(3, 4)
    program = check(lambda x: (x.sort(), {"largest": x.max(1)}, x.max(0).indices), x)
    ordered, others, _ = program.run(x)
    assert type(ordered) is torch.return_types.sort
    assert type(others["largest"]) is torch.return_types.max
    assert torch.equal(ordered.values, x.sort().values)
    assert program.outputs.paths("y") == [
        "y[0].values", "y[0].indices", "y[1]['largest'].values", "y[1]['largest'].indices", "y[2]"
    ]  # fmt: skip


def test_numbers_and_strings_are_baked_in():
    program = capture(lambda x, mode: x * 2 if mode == "double" else x, (torch.ones(2), "double"))
    assert torch.equal(program.run(torch.ones(2)), torch.full((2,), 2.0))
    with pytest.raises(InvalidInput, match="'double'"):
        program.run(torch.ones(2), "single")


def test_one_tensor_may_be_given_bare():
    assert len(capture(nn.ReLU(), torch.ones(2)).placeholders) == 1


def test_constants_are_named_after_their_parameters_and_shared():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    program = check(model, torch.randn(4, 2))
    assert set(program.constants) == {f"constant_{i}_{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert program.constants["constant_0_weight"].data_ptr() == model[0].weight.data_ptr()


def test_tied_parameters_are_one_constant():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert len(check(model, torch.randn(2, 3)).constants) == 3


def test_every_op_says_where_it_comes_from():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

        def forward(self, x):
            return self.inner(x) + 1

    program = check(nn.Sequential(Block()), torch.randn(2, 3))
    line = Block.forward.__code__.co_firstlineno + 1
    sources = {node.name: node.meta["source"] for node in program.nodes if node.op == "call_function"}
    assert sources["add"] == f"test_capture.py:{line} in forward (0)"
    assert sources["linear"] == f"test_capture.py:{line} in forward (0.inner.0)"
    assert all("val" in node.meta for node in program.nodes if node.op != "output")


def test_mode_of_each_module_is_restored():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)).train()
    model[0].eval()
    assert names(capture(model, (torch.randn(2, 3),))) == {"aten.batch_norm.default"}
    assert [module.training for module in model.modules()] == [True, False, True]


def test_mode_is_restored_after_a_failure():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = Branch().train()
    with pytest.raises(CaptureError):
        capture(model, (torch.ones(2),))
    assert model.training


def test_outputs_may_alias_inputs_and_each_other():
    program = check(lambda x: (x, x.view(-1), x), torch.randn(2, 2))
    assert len(program.results) == 3


def test_sizes_that_vary():
    batch = torch.export.Dim("batch")
    program = capture(lambda x: {"y": x["a"] * 2}, ({"a": torch.randn(3, 4)},), None, {"x": {"a": {0: batch}}})
    verify(program)
    assert program.is_dynamic
    assert program.run({"a": torch.ones(7, 4)})["y"].shape == (7, 4)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": None}, r"^dynamic_shapes must name arguments out of \['x'\], not 'y'$"),
        ({"x": {2: torch.export.Dim("n")}}, "^dynamic_shapes of x must name dimensions below 2, not 2$"),
        ((None, None), r"^dynamic_shapes must be a dict by name or a tuple of 1, not \(None, None\)$"),
    ],
)
def test_dynamic_shapes_must_fit_the_arguments(shapes, message):
    with pytest.raises(InvalidInput, match=message):
        capture(lambda x: x + 1, (torch.ones(2, 2),), None, shapes)


def test_from_exported_gives_the_same_program():
    model = nn.Sequential(OrderedDict(layer=nn.Linear(3, 3), act=nn.GELU())).eval()
    x = torch.randn(2, 3)
    program = from_exported(torch.export.export(model, (x,)))
    assert program.text() == capture(model, (x,)).text()
    torch.testing.assert_close(program.run(x), model(x))


def test_from_exported_keeps_structure():
    class Nested(nn.Module):
        def forward(self, items, *, mask=None):
            return {"sum": items[0] + items[1]["b"], "mask": mask, "none": None}

    x = torch.ones(2)
    program = from_exported(torch.export.export(Nested(), ((x, {"b": x}),), {"mask": x}))
    result = program.run((x, {"b": x}), mask=x)
    assert torch.equal(result["sum"], x + x)
    assert result["none"] is None


def test_from_exported_keeps_results_of_torch_functions():
    class Sort(nn.Module):
        def forward(self, x):
            return x.sort()

    x = torch.randn(2, 3)
    assert type(from_exported(torch.export.export(Sort(), (x,))).run(x)) is torch.return_types.sort
