"""Constants that are added become tables with int8 rows, or what they were."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.pass_manager import PassManager
from fxpress.testing import op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


class Places(nn.Module):
    """A constant for each place, added to each item of a sequence, before a layer."""

    def __init__(self, *sizes):
        super().__init__()
        # rows of very different size, as classification tokens have them
        self.register_buffer("places", torch.randn(sizes) * torch.logspace(-2, 2, sizes[-2])[:, None])
        self.fc = nn.Linear(sizes[-1], 8)

    def forward(self, x):
        return self.fc(x + self.places)


X, TABLE = torch.randn(2, 64, 256), torch.randn(8, 32)


def looked_up(function, *inputs, smallest=16384):
    return PassManager(f"look-up-addends{{smallest={smallest}}}").run(trace(function, *inputs))


def test_text(golden):
    golden(looked_up(lambda x: (x + TABLE) * 2, torch.zeros(8, 32), smallest=256).text())


def test_one_table_for_all_its_sums():
    places = torch.randn(64, 256)
    program = looked_up(lambda x: (x + places) * (places + x.relu()), X)
    assert op_counts(program)["embedding"] == 1
    assert torch.equal(program.run(X), (X + places) * (places + X.relu()))


@pytest.mark.parametrize(
    "addend",
    [torch.randn(64, 255)[:, :1].expand(64, 256), torch.randn(256), torch.randn(1, 1, 256)],
    ids=["few elements", "one row", "one row of a batch"],
)
def test_small_constants_stay(addend):
    held = addend.clone() if addend.stride(-1) else addend[:, :1].clone()
    assert "embedding" not in op_counts(looked_up(lambda x: x + held, X))


@pytest.mark.parametrize(
    "addend", [torch.randn(1024, 16), torch.randn(64, 256).double(), torch.randint(9, (64, 256))],
    ids=["short rows", "float64", "integers"],
)  # fmt: skip
def test_other_constants_stay(addend):
    x = X if addend.shape[-1] == 256 else torch.randn(1024, 16)
    assert "embedding" not in op_counts(looked_up(lambda x: x + addend, x))


def test_fold_constants_takes_it_back():
    program = PassManager("look-up-addends,fold-constants,drop-dead-code").run(trace(Places(64, 256), X))
    assert "embedding" not in op_counts(program)


@given(rows=st.integers(1, 70), width=st.sampled_from([32, 37, 256]), batch=st.booleans())
def test_any_shape(rows, width, batch):
    places = torch.randn((1, rows, width) if batch else (rows, width))
    x = torch.randn(2, rows, width)
    assert torch.equal(looked_up(lambda x: x + places, x, smallest=64).run(x), x + places)


def test_quantised_rows_are_a_quarter_and_near():
    model, x = Places(1, 128, 256).eval(), torch.randn(2, 128, 256)
    program = fxpress.quantize(model, args=(x,), calibration=[x, x + 1])
    assert op_counts(program)["quantized_embedding"] == 1
    assert {c.dtype for c in program.constants.values() if c.numel() >= 16384} == {torch.int8}
    (table,) = (n for n in program.nodes if "quantized_embedding" in str(n.target))
    rows = table.target(*(program.constant(x) for x in table.args))
    scales = model.places.abs().amax(-1, keepdim=True) / 127
    assert bool(((rows - model.places).abs() <= scales * 0.5001).all())
    compiled = fxpress.compile(program, self_test=False)
    (found,) = compiled.run_flat(x.numpy())
    assert torch.allclose(torch.as_tensor(found), program.run(x), atol=1e-3)


def test_ignored_tables_stay_constants():
    program = fxpress.quantize(Places(64, 256).eval(), args=(X,), calibration=[X], ignore=["embedding"])
    counts = op_counts(program)
    assert "embedding" not in counts
    assert "quantized_embedding" not in counts
