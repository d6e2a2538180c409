"""`fxpress.prune`: configs, scopes, schedules, data, what it refuses, and what can be done with its result."""

from __future__ import annotations

import re
from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.pruning.config import PruneConfig
from torch import Tensor, nn

IMAGE = torch.randn(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def widths(program: fxpress.Program) -> list[int]:
    return [x.shape[0] for name, x in program.constants.items() if name.endswith("weight") and x.dim() > 1]


@pytest.mark.parametrize(
    ("ratio", "left"), [(0.0, [16, 8, 5]), (0.25, [12, 6, 5]), (0.5, [8, 4, 5]), (0.99, [1, 1, 5])]
)
def test_a_ratio_is_a_share_of_every_group(ratio, left):
    assert widths(fxpress.prune(network(), ratio, args=(IMAGE,))) == left


def test_programs_are_not_changed():
    program = fxpress.capture(network(), (IMAGE,))
    text = program.text()
    fxpress.prune(program, 0.5)
    assert program.text() == text
    assert widths(program) == [16, 8, 5]


def test_scopes_choose_layers():
    assert widths(fxpress.prune(network(), 0.5, args=(IMAGE,), ignore="0")) == [16, 4, 5]
    assert widths(fxpress.prune(network(), 0.5, args=(IMAGE,), only=[re.compile("^0$")])) == [8, 8, 5]
    assert widths(fxpress.prune(network(), PruneConfig(ratios={"3": 0.75}), args=(IMAGE,))) == [8, 2, 5]
    ignored = fxpress.prune(network(), 0.5, args=(IMAGE,), ignore="0")
    assert any("named in ignore" in reason for record in ignored.history for reason in record.skipped)


@pytest.mark.parametrize("option", ["ignore", "only"])
def test_scopes_that_match_nothing_are_refused(option):
    with pytest.raises(
        InvalidInput, match=rf"^{option} must match something that can be pruned, but 'nowhere' does not"
    ):
        fxpress.prune(network(), 0.5, args=(IMAGE,), **{option: "nowhere"})
    with pytest.raises(InvalidInput, match=r"^ratios must match something that can be pruned, but 'nowhere' does not"):
        fxpress.prune(network(), PruneConfig(ratios={"nowhere": 0.5}), args=(IMAGE,))


def test_a_model_that_must_stay_whole_is_refused_with_the_reason():
    with pytest.raises(
        InvalidInput, match=r"^model must have channels, heads or hidden units that can be removed"
    ) as e:
        fxpress.prune(nn.Linear(4, 5), 0.5, args=(torch.randn(2, 4),))
    assert "%weight dim 0 stays whole: %output (output): an output of the model" in str(e.value)


@pytest.mark.parametrize("schedule", ["iterative", "cubic"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_schedules_arrive_where_one_shot_does(schedule, ranking):
    config = PruneConfig(ratio=0.5, schedule=schedule, steps=3, ranking=ranking, importance="activation", multiple=1)
    seen = []

    def recover(program: fxpress.Program, step: int) -> fxpress.Program:
        seen.append((step, sum(widths(program)[:2])))
        return program

    program = fxpress.prune(network(), config, args=(IMAGE,), calibration=[IMAGE], recover=recover)
    assert [step for step, _ in seen] == [1, 2, 3]
    assert 24 > seen[0][1] > seen[-1][1] == sum(widths(program)[:2]) == 12
    if ranking == "local":
        assert widths(program) == [8, 4, 5]


def test_calibration_is_checked():
    config = PruneConfig(importance="hessian")
    with pytest.raises(InvalidInput, match=r"^calibration item 1: "):
        fxpress.prune(network(), config, args=(IMAGE,), calibration=[IMAGE, torch.randn(1, 3, 9, 9)])


def test_generated_inputs_are_logged(caplog):
    fxpress.prune(network(), "taylor", args=(IMAGE,))
    assert "no calibration data: importance is measured on generated inputs" in caplog.text


def test_a_pruned_program_saves_quantises_and_compiles(tmp_path: Path):
    program = fxpress.prune(network(), 0.5, args=(IMAGE,))
    program.save(tmp_path / "small.program")
    loaded = fxpress.Program.load(tmp_path / "small.program")
    assert loaded.text() == program.text()
    integers = fxpress.quantize(loaded, calibration=[IMAGE], profitable="off")
    artifact = fxpress.compile(integers)
    found = torch.as_tensor(artifact(IMAGE))
    assert found.shape == (1, 5)
    error = (found - program.run(IMAGE)).norm() / program.run(IMAGE).norm()
    assert error < 0.2


class Shared(nn.Module):
    """Two branches that share a layer, and a result for each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.last(self.first(x)), self.last(self.second(x).relu())


def test_branches_that_share_weights_lose_the_same_units():
    torch.manual_seed(0)
    model, x = Shared().eval(), torch.randn(3, 4)
    program = fxpress.prune(model, PruneConfig(multiple=1), args=(x,))
    assert {name: tuple(t.shape) for name, t in program.constants.items() if "weight" in name} == {
        "first_weight": (3, 4), "second_weight": (3, 4), "last_weight": (2, 3)
    }  # fmt: skip
    assert [y.shape for y in program.run(x)] == [y.shape for y in model(x)]
