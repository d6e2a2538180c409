"""`fxpress optimize` and `fxpress report`: from a file to a folder of artifacts with a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fxpress
import pytest
from fxpress.search.frontier import Frontier
from typer.testing import Result

pytest.importorskip("optuna", reason="needs optuna")
Command = Callable[..., Result]

DATA = """
import torch
from fxpress.search.strategies import PRUNE, QUANTIZE, Strategy

small = Strategy("small", (PRUNE, QUANTIZE), ({}, {"prune.ratio": 0.5}))

def calibration():
    return [torch.linspace(-1, 1, 24).reshape(3, 8), torch.linspace(2, -2, 24).reshape(3, 8)]

def quality(f):
    return float(len(f(torch.zeros(2, 8))))
"""


def described(folder: Path, text: str) -> Path:
    (folder / "data_of_search.py").write_text(DATA)
    path = folder / "search.toml"
    path.write_text(text)
    return path


def test_a_search_writes_a_folder_and_goes_on_there(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    text = (
        f'strategy = "{tmp_path}/data_of_search.py:small"\nobjectives = ["quality", "size"]\n'
        f'model = "{model_file}:with_inputs"\ncalibration = "{tmp_path}/data_of_search.py:calibration"\n'
        f'evaluate = "{tmp_path}/data_of_search.py:quality"\nmax_trials = 2\n[peers.other]\nquality = 2\nsize = 9000\n'
    )
    result = fxpress_command("optimize", described(tmp_path, text), "-o", tmp_path / "found")
    assert result.exit_code == 0, result.output
    assert "what was done" in result.output
    frontier = Frontier.load_from(tmp_path / "found")
    assert [point.describe().split("(")[0] for point in frontier.tried] == ["original", "prune"]
    assert frontier.peers == {"other": {"quality": 2.0, "size": 9000.0}}
    assert frontier.environment["executor"] == "local"
    assert frontier.original.quality.value == 2
    best = next(point for point in frontier.points if point.number)
    assert fxpress.runtime.load(best.artifact).outputs
    assert "<svg" in (tmp_path / "found" / "report.html").read_text()
    (tmp_path / "found" / "report.html").unlink()
    result = fxpress_command("report", tmp_path / "found", "-o", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert 'class="point peer"' in (tmp_path / "page.html").read_text()
    number = best.number
    found, again = tmp_path / "found", tmp_path / "again.fxp"
    result = fxpress_command("replay", tmp_path / "search.toml", found, "--point", number, "-o", again)
    assert result.exit_code == 0, result.output
    assert "members are equal to those that the search made" in " ".join(result.output.split())
    assert fxpress.runtime.load(again).manifest["members"] == fxpress.runtime.load(best.artifact).manifest["members"]
    recipe = {**best.recipe, "members": {**best.recipe["members"], "constants.bin": "other"}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    result = fxpress_command("replay", tmp_path / "search.toml", tmp_path / "recipe.json", "-o", tmp_path / "other.fxp")
    assert result.exit_code == 1
    assert "these members of the artifact are other: constants.bin" in " ".join(result.output.split())
    assert not (tmp_path / "other.fxp").exists()
    result = fxpress_command("replay", tmp_path / "search.toml", found, "-p", 9, "-o", again)
    assert "--point must be a number of 0 to 2 that was tried, not 9" in " ".join(result.output.split())
    result = fxpress_command("report", tmp_path / "found", "-o", tmp_path / "page.txt")
    assert result.exit_code == 1
    assert "output must end in one of ['.html'" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 3", "option model of"),
        ("speed = 3", "must hold options among"),
        ("model =", "config must be a TOML file"),
        ("max_trials = 3", "must say which model"),
        ('model = "a.py:b"\nmax_trials = true', "must be int, not True"),
        ('model = "a.py:b"\nevaluate = "quality"', "evaluate must be file.py:name"),
        ('model = "a.py:b"\ntrain = "quality"', "train must be file.py:name"),
        ('model = "a.py:b"\nevaluate = "none.py:quality"', "evaluate must be in a file that exists, not 'none.py'"),
        ('model = "a.py:b"\nevaluate = "math:pi"', "evaluate must be a function, not float"),
        ('model = "a.py:b"\nstrategy = "nowhere:mine"', "strategy must be in a module that can be imported"),
        ('model = "a.py:b"\nlearning = { augment = ["noise"] }', "learning must be like what TrainConfig.to_json"),
        ('model = "a.py:b"\nlearning = { speed = 1 }', "must have fields of TrainConfig, not speed"),
        ('model = "a.py:b"\n[peers.other]\nbeauty = 1', "peer 'other' must have objectives among"),
    ],
)
def test_bad_files(fxpress_command: Command, tmp_path: Path, text: str, message: str) -> None:
    result = fxpress_command("optimize", described(tmp_path, text))
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_a_missing_frontier(fxpress_command: Command, tmp_path: Path) -> None:
    result = fxpress_command("report", tmp_path)
    assert result.exit_code == 1
    assert "folder must hold a saved Frontier" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("text", "message"), [("{", "folder must hold a saved Frontier"), ('{"format": 9}', "must be of format 1, not 9")]
)
def test_a_damaged_frontier(fxpress_command: Command, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "frontier.json").write_text(text)
    result = fxpress_command("report", tmp_path)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
