"""Searches for machines of which a model says what calls cost: seconds and joules from cycles, not from a clock."""

from __future__ import annotations

from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.report.quantities import energy_text
from fxpress.search.frontier import Frontier
from fxpress.search.strategies import PRUNE, QUANTIZE, Strategy
from torch import nn

pytest.importorskip("optuna", reason="needs optuna")

TARGET = "systolic{rows=4,cols=4}"
INPUTS = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def search(folder: Path, **changed: object) -> Frontier:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    given = {
        "target": TARGET,
        "calibration": [INPUTS[:4], INPUTS[4:]],
        "objectives": ("quality", "latency", "size", "energy"),
        "strategy": Strategy("small", (PRUNE, QUANTIZE), ({}, {"prune.ratio": 0.5})),
        "max_trials": 2,
        "storage": folder,
        "progress": lambda stage: None,
    }
    return fxpress.optimize(model, (INPUTS[:4],), **(given | changed))  # type: ignore[arg-type]


def test_a_model_of_the_machine_says_what_points_cost(tmp_path: Path) -> None:
    found = search(tmp_path)
    original, pruned = found.original, found.tried[1]
    assert pruned.is_whole, pruned.refused
    assert original.footprint is not None
    assert pruned.footprint is not None
    with found.load(original) as artifact:  # the original is quantised: the array computes nothing else
        cost = artifact.performance()  # type: ignore[attr-defined]
        cycles = cost.total.cycles + cost.transfer_cycles
        assert original.footprint.latency == cycles / (cost.architecture.clock_mhz * 1e6)
        assert original.footprint.energy == cost.total.joules
        assert original.footprint.macs == cost.total.facts.macs == 4 * (16 * 32 + 32 * 4)
    assert original.footprint.ram is None
    assert original.footprint.energy is not None
    assert pruned.footprint.energy is not None
    assert pruned.footprint.energy < original.footprint.energy
    assert pruned.footprint.latency < original.footprint.latency
    assert found.best(max_size=pruned.footprint.size) is pruned
    with pytest.raises(InvalidInput, match=r"^max_ram must be None where nothing tells the ram of models, not 5$"):
        found.best(max_ram=5)
    found.save(tmp_path / "saved")
    loaded = Frontier.load_from(tmp_path / "saved")
    assert loaded.original.footprint == original.footprint
    loaded.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert 'aria-label="quality against energy"' in page
    assert energy_text(original.footprint.energy) in page


@pytest.mark.parametrize(
    ("target", "objectives", "message"),
    [
        ("cpu", ("quality", "energy"), r"objectives must be among .* for a cpu target, .*, not \['energy'\]"),
        (
            TARGET,
            ("quality", "ram", "p99"),
            r"objectives must be among .* for a systolic target, .*, not \['ram', 'p99'\]",
        ),
    ],
)
def test_objectives_that_a_target_lacks(tmp_path: Path, target: str, objectives: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        search(tmp_path, target=target, objectives=objectives)


def test_energies_are_written_with_units() -> None:
    assert [energy_text(x) for x in (3.2e-9, 5.3e-7, 1.2e-3, 3.0)] == ["3.20 nJ", "530.00 nJ", "1.20 mJ", "3.00 J"]
