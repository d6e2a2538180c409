"""The table of pruned models: what is measured, and the ratios taken round by round."""

from __future__ import annotations

import json
from pathlib import Path

import pruning
import pytest
from rich.console import Console


def entry(*rounds: float, **more: object) -> dict[str, object]:
    return {"rounds": rounds, "median": sorted(rounds)[len(rounds) // 2], "spread": 0.0, "flops": 2e9, **more}


MODEL = {
    "rounds": 3,
    "rejected": 0,
    "noisy": [],
    "variants": {
        "unpruned": entry(2.0, 4.0, 6.0),
        "ratio=0.5": entry(1.0, 1.0, 3.0, left=0.5),
        "ratio=0.05": entry(2.5, 5.0, 6.0, left=0.97),
        "latency=50%": {"failed": "no"},
    },
}


def test_speedups_are_of_rounds_measured_together() -> None:
    assert pruning.speedup(MODEL, "ratio=0.5") == pytest.approx(2.0)
    assert pruning.speedup(MODEL, "ratio=0.05") == pytest.approx(0.8)
    assert pruning.speedup(MODEL, "latency=50%") is None
    assert pruning.speedup(MODEL, "unheard of") is None


def test_models_have_the_variants_that_they_are_judged_by() -> None:
    assert list(pruning.variants("vit-base", [0.05, 0.5], ["latency=50%"], everywhere=False)) == [
        "ratio=0.05",
        "ratio=0.5",
    ]
    assert pruning.variants("efficientnet-lite0", [0.5], ["latency=50%"], everywhere=False) == {
        "latency=50%": {"budget": "latency=50%"}
    }
    assert len(pruning.variants("lenet", [0.5], ["latency=50%"], everywhere=True)) == 2


def test_the_table_and_the_file(tmp_path: Path) -> None:
    found = {"settings": {"threads": 2}, "machine": {"cpu": "a CPU"}, "models": {"net": MODEL}}
    console = Console(width=160)
    with console.capture() as printed:
        console.print(pruning.table(found))
    text = printed.get()
    assert "2.00x" in text
    assert "0.80x" in text
    assert "97%" in text
    pruning.write(found, tmp_path / "results" / "pruning.json")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["pruning.json"]
    assert json.loads((tmp_path / "results" / "pruning.json").read_text()) == json.loads(json.dumps(found))
