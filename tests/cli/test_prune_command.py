"""`fxpress prune`: programs and artifacts, what it prints, what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import fxpress
from fxpress.cli.models import load_model
from typer.testing import Result

Command = Callable[..., Result]


def test_a_program_is_written(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.program"
    result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", path, "--config", "0.25")
    assert result.exit_code == 0, result.output
    assert re.search(r"m\.program  [\d.]+ KiB, constants [\d.]+ K?i?B -> [\d.]+ K?i?B", result.output)
    assert "linear: 12 of 16 units left" in result.output
    assert re.search(r"%\w+: dim 1 stays whole: %\w+: an input of the model", result.output)
    program = load_model(str(path), []).model
    assert isinstance(program, fxpress.Program)
    assert sorted(tuple(x.shape) for x in program.constants.values()) == [(4,), (4, 12), (12,), (12, 8)]


def test_an_artifact_is_written(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.fxp"
    options = ("--config", "uniform", "--importance", "l1", "--multiple", 4)
    result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", path, *options)
    assert result.exit_code == 0, result.output
    assert "linear: 8 of 16 units left" in result.output
    (record,) = [x for x in fxpress.runtime.load(path).report()["passes"] if x["name"] == "remove-units"]
    assert any("a softmax is over all of it" in reason for reason in record["skipped"])
    result = fxpress_command("explain", path, "--seconds", 0.05)
    assert "what pruning left\n  linear: 8 of 16 units left" in result.output


def test_sensitivity_is_written(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("-o", tmp_path / "m.program", "--sensitivity", page)
    result = fxpress_command("prune", f"{model_file}:with_inputs", *options)
    assert result.exit_code == 0, result.output
    assert re.search(r"group +0\.1 +0\.25 +0\.5 +0\.75\nlinear +\S+ +\S+ +\S+ +\S+\nwrote ", result.output)
    assert "25% removed" in page.read_text()


def test_what_does_not_fit_is_refused(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--config", "1.5"), "ratio must be a number from 0 up to but not 1, not 1.5"),
        (("--config", "half"), "config must be a ratio, a PruneConfig or one of"),
        (("--ignore", "nowhere"), "ignore must match something that can be pruned, but 'nowhere' does not"),
    ):
        result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", tmp_path / "m.program", *options)
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())
    assert not list(tmp_path.glob("*.program"))


def test_a_recipe_is_written_and_replayed(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    first, second, recipe = tmp_path / "first.program", tmp_path / "second.program", tmp_path / "recipe.json"
    result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", first, "--save-recipe", recipe)
    assert result.exit_code == 0, result.output
    result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", second, "--recipe", recipe)
    assert result.exit_code == 0, result.output
    assert "linear: 8 of 16 units left" in result.output
    assert fxpress.Program.load(first).text() == fxpress.Program.load(second).text()
    options = ("--recipe", recipe, "--importance", "l1")
    result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", second, *options)
    assert result.exit_code == 1
    assert "importance must be left out with recipe, which says all that is chosen" in result.output


def test_zeros_in_a_pattern(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    model_file.write_text(model_file.read_text() + "\ndata = [torch.randn(3, 8) for _ in range(4)]\n")
    path, page = tmp_path / "m.fxp", tmp_path / "page.html"
    options = ("--pattern", "2:4", "--reconstruct", "--calibration", f"{model_file}:data", "--sensitivity", page)
    result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", path, *options)
    assert result.exit_code == 0, result.output
    table = [
        r"layer +weight +left +of +zeros",
        r"linear +16 x 8 +64 +128 +50\.0%",
        r"linear_1 +4 x 16 +32 +64 +50\.0%",
    ]
    assert re.search("\n".join(table), result.output)
    assert re.search(r"layer +0\.5\nlinear +\S+\nlinear_1 +\S+\nwrote ", result.output)
    assert "when one layer is pruned" in page.read_text()
    result = fxpress_command("explain", path, "--seconds", 0.05)
    assert re.search("zeros that pruning put into weights\n" + "\n".join(table), result.output)
    result = fxpress_command("report", path, "-o", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert "<code>linear_1</code></td><td>4 x 16</td>" in (tmp_path / "report.html").read_text()


def test_presets_of_patterns(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    for options, lines in (
        (("--config", "2:4", "--only", "2"), (r"linear_1 +4 x 16 +32 +64 +50\.0%", "%linear: not named in only")),
        (("--config", "blocks-75", "--target", "cpu{isa=avx2}"), (r"linear +16 x 8 +32 +128 +75\.0%",)),
        (("--config", "0.75", "--pattern", "elements"), (r"linear_1 +4 x 16 +16 +64 +75\.0%",)),
    ):
        result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", tmp_path / "m.program", *options)
        assert result.exit_code == 0, result.output
        assert all(re.search(line, result.output) for line in lines), result.output


def test_patterns_that_do_not_fit_are_refused(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--pattern", "5:4"), "pattern N:M must keep fewer than all, N < M, not '5:4'"),
        (("--pattern", "2:0"), "pattern must be 'units', 'elements', 'blocks', N:M such as '2:4' or RxC"),
        (("--config", "0.6", "--pattern", "2:4"), "ratio must be 0.5 with pattern='2:4', or left out, not 0.6"),
        (("--pattern", "2:4", "--reconstruct"), "calibration must be given with reconstruct=True"),
        (("--reconstruct",), "reconstruct must be False with pattern='units'"),
        (("--pattern", "2:4", "--only", "nowhere"), "only must match something that can be pruned, but 'nowhere'"),
    ):
        result = fxpress_command("prune", f"{model_file}:with_inputs", "-o", tmp_path / "m.program", *options)
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())
    assert not list(tmp_path.glob("*.program"))
