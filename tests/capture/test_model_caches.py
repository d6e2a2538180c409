"""What the first call changes and no later result depends on is no memory; other changes are."""

import pytest
import torch
from fxpress.capturing import capture
from fxpress.errors import CaptureError


class Memo(torch.nn.Module):
    """Keeps a bias that depends on nothing but its weights."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(3.0))
        self.cache = {}

    def forward(self, x):
        if "bias" not in self.cache:
            self.cache["bias"] = self.weight * 2
        return x + self.cache["bias"]


class Memory(torch.nn.Module):
    """Remembers the first input it saw."""

    def __init__(self):
        super().__init__()
        self.first = {}

    def forward(self, x):
        return x + self.first.setdefault("x", x)


class MemoAndCounter(Memo):
    """Does both what is fine and what is not."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if "bias" not in self.cache:
            self.cache["bias"] = self.weight * 2
        return x + self.cache["bias"]


class Adapts(torch.nn.Module):
    """Fits a setting to the size of its input, as shifted windows do."""

    def __init__(self):
        super().__init__()
        self.shift = 3

    def forward(self, x):
        if x.shape[-1] <= self.shift:
            self.shift = 0
        return x.roll(self.shift, -1)


class FirstCall(torch.nn.Module):
    """Settles after one call, but the first call returned something else."""

    def __init__(self):
        super().__init__()
        self.called = False

    def forward(self, x):
        y = x if self.called else x * 2
        self.called = True
        return y


def test_a_setting_fitted_to_the_input_is_captured_and_restored():
    model, x = Adapts(), torch.randn(2, 3)
    program = capture(model, (x,))
    assert model.shift == 3
    assert torch.equal(program.run(x), model(x))


def test_memo_is_captured_and_left_empty():
    model, x = Memo(), torch.randn(2, 3)
    program = capture(model, (x,))
    assert model.cache == {}
    assert torch.equal(program.run(x), model(x))
    assert torch.equal(capture(model, (x,)).run(x), model(x))


@pytest.mark.parametrize(("model", "name"), [(Memory(), "first"), (MemoAndCounter(), "calls"), (FirstCall(), "called")])
def test_memory_is_refused(model, name):
    with pytest.raises(CaptureError, match=rf"forward changes self\.{name}, which a later call may read"):
        capture(model, (torch.randn(2, 3),))
