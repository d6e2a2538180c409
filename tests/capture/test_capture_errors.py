"""Each common reason why a model cannot be captured is named, with the user's line and the remedy."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from fxpress.capturing import capture
from fxpress.errors import CaptureError
from torch import nn
from torch.nn import functional as F

COUNTER = 0


class ControlFlow(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Assertion(nn.Module):
    def forward(self, x):
        assert (x >= 0).all()
        return x


class Item(nn.Module):
    def forward(self, x):
        return x * x.sum().item()


class IntOfTensor(nn.Module):
    def forward(self, x):
        return x[:, : int(x[0, 0])]


class RangeOfTensor(nn.Module):
    def forward(self, x):
        for _ in range(x.max().int()):
            x = x + 1
        return x


class Nonzero(nn.Module):
    def forward(self, x):
        return torch.nonzero(x)


class BooleanMask(nn.Module):
    def forward(self, x):
        return x[x > 0].sum()


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class GlobalCounter(nn.Module):
    def forward(self, x):
        global COUNTER
        COUNTER += 1
        return x * COUNTER


class GrowingList(nn.Module):
    def __init__(self):
        super().__init__()
        self.history = []

    def forward(self, x):
        self.history.append(x)
        return torch.stack(self.history).sum(0)


class BufferWrite(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.total += 1
        return x * self.total


class BufferReplaced(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.total = self.total + 1
        return x * self.total


class TrainingBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)


class InPlaceOnInput(nn.Module):
    def forward(self, x):
        x += 1
        return x * 2


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() * 2)


class Dropout(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5)


class Branches(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))


class WrongShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        return self.linear(x)


class WrongKey(nn.Module):
    def forward(self, x):
        return x["b"]


CUSTOM = torch.library.Library("capture_test", "DEF")
CUSTOM.define("twice(Tensor x) -> Tensor")
CUSTOM.impl("twice", lambda x: x * 2, "CPU")


class CustomOp(nn.Module):
    def forward(self, x):
        return torch.ops.capture_test.twice(x)


NUMBER = r"a Python number is taken out of a tensor"
SHAPE = r"a shape depends on the values of a tensor"
MEMORY = "which a later call may read; a captured model remembers nothing"
RETURN_IT = "return the new value as an output and pass it in as an argument of the next call"

CASES = [
    (ControlFlow, "control flow depends on the values of a tensor", "if x.sum() > 0:", "choose with torch.where"),
    (Assertion, "control flow depends on the values of a tensor", "assert (x >= 0).all()", "choose with torch.where"),
    (Item, NUMBER, "return x * x.sum().item()", "keep the value in a tensor"),
    (IntOfTensor, NUMBER, "return x[:, : int(x[0, 0])]", "keep the value in a tensor"),
    (RangeOfTensor, NUMBER, "for _ in range(x.max().int()):", "keep the value in a tensor"),
    (Nonzero, SHAPE, "return torch.nonzero(x)", "keep the shape fixed"),
    (BooleanMask, SHAPE, "return x[x > 0].sum()", "keep the shape fixed"),
    (Counter, f"forward changes self.calls, {MEMORY}", "self.calls += 1", RETURN_IT),
    (GlobalCounter, f"forward changes global COUNTER, {MEMORY}", "COUNTER += 1", RETURN_IT),
    (GrowingList, f"forward changes self.history, {MEMORY}", "self.history.append(x)", RETURN_IT),
    (BufferWrite, f"forward changes self.total, {MEMORY}", "self.total += 1", RETURN_IT),
    (BufferReplaced, f"forward changes self.total, {MEMORY}", "self.total = self.total + 1", RETURN_IT),
    (
        TrainingBatchNorm,
        "batch norm runs in training mode and updates norm.running_mean",
        "return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)",
        "call batch norm with training=self.training",
    ),
    (InPlaceOnInput, "forward changes its input x in place", "x += 1", "work on a copy: x = x.clone()"),
    (Numpy, "a tensor leaves PyTorch", "return torch.from_numpy(x.numpy() * 2)", "use the torch function"),
    (Dropout, "it draws random numbers", "return F.dropout(x, 0.5)", "pass the noise in as an argument"),
    (
        Branches,
        "it holds a branch or a loop over tensors",
        "return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))",
        "choose with torch.where",
    ),
    (
        CustomOp,
        "the custom op capture_test::twice does not say what shape and dtype it returns",
        "return torch.ops.capture_test.twice(x)",
        'describe its result with @torch.library.register_fake("capture_test::twice")',
    ),
    (
        WrongShape,
        "it fails on these arguments by itself: RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x4 and 5x3)",
        "return self.linear(x)",
        "pass the arguments that forward expects; it was called with x: float32[4, 4]",
    ),
]


@pytest.mark.parametrize(("model", "cause", "code", "remedy"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_names_line_cause_and_remedy(model, cause, code, remedy):
    with pytest.raises(CaptureError) as caught:
        capture(model(), (torch.rand(4, 4) + 1,))
    source, first = inspect.getsourcelines(model.forward)
    line = first + next(i for i, text in enumerate(source) if text.strip() == code)
    expected = (
        rf"^the model cannot be captured: {re.escape(cause)}.*\n"
        rf"  at test_capture_errors\.py:{line} in forward: {re.escape(code)}\n"
        rf"  remedy: {re.escape(remedy)}"
    )
    assert re.match(expected, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("model", [ControlFlow, IntOfTensor, CustomOp, WrongShape])
def test_keeps_the_original_error(model):
    with pytest.raises(CaptureError) as caught:
        capture(model(), (torch.rand(4, 4) + 1,))
    assert isinstance(caught.value.__cause__, Exception)


def test_says_nothing_else(capfd):
    with pytest.raises(CaptureError):
        capture(ControlFlow(), (torch.rand(4, 4),))
    assert capfd.readouterr() == ("", "")


def test_missing_argument():
    message = (
        r"^the model cannot be captured: it does not take these arguments: missing a required argument: 'y'\n"
        r"  remedy: pass in args and kwargs what forward\(x, y\) expects$"
    )
    with pytest.raises(CaptureError, match=message):
        capture(lambda x, y: x + y, (torch.ones(2),))


def test_wrong_structure():
    message = (
        r"it fails on these arguments by itself: KeyError: 'b'\n  at .*\n.*it was called with x\['a'\]: float32\[2\]$"
    )
    with pytest.raises(CaptureError, match=message):
        capture(WrongKey(), ({"a": torch.ones(2)},))


def test_output_without_description():
    message = (
        r"^the model cannot be captured: output\['a'\] must be a tensor, .*, not object\n  remedy: return tensors only"
    )
    with pytest.raises(CaptureError, match=message):
        capture(lambda x: {"a": object()}, (torch.ones(2),))


def test_example_of_size_one():
    message = "lets 'batch' vary, but its example has size 1, .*\n  remedy: capture with an example of size 2 or more$"
    with pytest.raises(CaptureError, match=message):
        capture(lambda x: x + torch.ones(3), (torch.ones(1, 3),), None, ({0: torch.export.Dim("batch")},))


def test_size_that_the_model_fixes():
    message = "lets 'batch' vary, but the model works only when it is 4\n  remedy: remove 'batch' from dynamic_shapes"
    with pytest.raises(CaptureError, match=message):
        capture(lambda x: x.reshape(4, 4) + 1, (torch.ones(4, 4),), None, ({0: torch.export.Dim("batch")},))
