"""What reports say of passes: which rows mean what, and that every kind of pass can be explained."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.program import PassRecord
from fxpress.report.explanation import explain
from fxpress.report.outcomes import TRAINING, PassOutcome
from fxpress.report.page import render_page
from torch import nn


def test_rows_are_read_by_the_pass_that_wrote_them() -> None:
    epochs = [{"epoch": 1, "loss": 2.0, "quality": None}]
    outcome = PassOutcome.of(
        {"name": TRAINING, "rewrites": ["train: 3 steps"], "skipped": ["a", "a"], "decisions": epochs}
    )
    assert outcome.curve == tuple(epochs)
    assert outcome.skipped == (("a", 2),)
    assert not outcome.replaced
    assert not outcome.decisions.layers


@pytest.fixture(scope="module")
def page() -> str:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)).eval()
    program = fxpress.capture(model, (torch.randn(4, 16),))
    program = fxpress.PassManager("factor-linear{ratio=0.25}").run(program)
    program.history.append(
        PassRecord(
            TRAINING, ("train: 3 steps",), (), 0.0, program.text(), ({"epoch": 1, "loss": 2.0, "quality": None},)
        )
    )
    return render_page(explain(fxpress.compile(program), "one", 0.01))


def test_the_page_shows_what_took_the_place_of_layers(page: str) -> None:
    assert "What took the place of layers" in page
    assert "16 -&gt; 3 -&gt; 64" in page


def test_trainings_are_among_what_was_done(page: str) -> None:
    assert "train: 3 steps" in page
