"""`fxpress prune --budget`: what was promised is printed, kept in the artifact and explained."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import fxpress
from typer.testing import Result

Command = Callable[..., Result]
PROMISE = r"size: at most [\d.]+ K?i?B promised, [\d.]+ K?i?B measured, [\d.]+ K?i?B predicted, [\d.]+ K?i?B unpruned"


def test_the_promise_is_printed_and_explained(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.fxp"
    options = ("--budget", "size=60%", "--cache", tmp_path / "cache", "--multiple", "2")
    result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", path, *options)
    assert result.exit_code == 0, result.output
    assert re.search(PROMISE, " ".join(result.output.split()))
    whole = fxpress.compile(fxpress.Program.load(saved(fxpress_command, model_file, tmp_path)))
    pruned = fxpress.runtime.load(path)
    assert pruned.manifest["memory"]["constants"] <= 0.6 * whole.manifest["memory"]["constants"]
    result = fxpress_command("explain", path, "--seconds", 0.05)
    assert re.search(PROMISE, " ".join(result.output.split()))


def saved(fxpress_command: Command, model_file: Path, folder: Path) -> Path:
    """The unpruned model as a Program."""
    path = folder / "whole.program"
    result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", path, "--config", "0")
    assert result.exit_code == 0, result.output
    return path


def test_budgets_that_make_no_sense_are_refused(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--budget", "speed=3"), "budget must be of one of ['latency', 'size', 'ram'], not of 'speed'"),
        (("--budget", "size=50%", "--config", "0.3"), "ratio must be None with budget='size=50%'"),
        (("--budget", "size=1B"), "budget must be at least size="),
        (("--multiple", "wide"), "multiple must be 'auto' or an integer of at least 1, not 'wide'"),
    ):
        result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", tmp_path / "m.program", *options)
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())
    assert not list(tmp_path.glob("*.program"))
