"""`run`, `bench`, `inspect`, `explain`, `report` and `passes`: on an artifact, without PyTorch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fxpress.registry import entries
from fxpress.runtime import load
from typer.testing import Result

Command = Callable[..., Result]

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it raises ImportError
sys.argv = ["fxpress", *sys.argv[1:]]
from fxpress.cli import main
main()
"""


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['fxpress', '--help']\n"
        "from fxpress.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'tvm', 'tvm_ffi', 'numpy', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in ("compile", "run", "bench", "explain", "report", "inspect", "passes"):
        assert re.search(rf"^\W*{command} ", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["bench", "--seconds", "0.02"], ["inspect"], ["explain", "--seconds", "0.02"]],
    ids=lambda arguments: arguments[0],
)
def test_commands_need_no_torch(artifact_file: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, arguments[0], str(artifact_file), *arguments[1:]]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_run_by_name_writes_named_outputs(
    fxpress_command: Command, artifact_file: Path, tmp_path: Path, two_parts: torch.nn.Module
) -> None:
    image = np.random.default_rng(1).standard_normal((1, 3, 12, 12), np.float32)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "scale.npy", np.full(1, 2, np.float32))
    given = ("--input", f"scale={tmp_path / 'scale.npy'}", "--input", f"image={tmp_path / 'image.npy'}")
    result = fxpress_command("run", artifact_file, *given, "-o", tmp_path / "y.npz")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "y.npz") as file:
        found = dict(file)
    with torch.no_grad():
        expected = two_parts(torch.from_numpy(image), torch.full((1,), 2.0))
    assert sorted(found) == ["output['features']", "output['scores']"]
    np.testing.assert_allclose(found["output['scores']"], expected["scores"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["x.npy"], r"^error: every input must be given; missing: scale$"),
        (["x.npy", "x.npy", "x.npy"], r"^error: inputs must be at most 2, not 3$"),
        (["picture=x.npy"], r"^error: input must be one of \['image', 'scale'\], not 'picture'$"),
        (["image=x.npy", "image=x.npy"], r"^error: input 'image' must be given once, not several times$"),
        (["nowhere.npy"], r"^error: input must be a .npy file, not 'nowhere.npy'"),
        (["x.npy", "x.npy"], r"^error: .*image.*float32\[1, 3, 12, 12\]"),
    ],
)
def test_wrong_inputs_of_run(
    fxpress_command: Command,
    artifact_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros(3, np.float32))
    result = fxpress_command("run", artifact_file, *(x for text in inputs for x in ("--input", text)))
    assert result.exit_code == 1
    assert re.search(message, result.stderr.strip()), result.stderr


def test_bench_counts_calls(fxpress_command: Command, artifact_file: Path) -> None:
    result = fxpress_command("bench", artifact_file, "--seconds", 0.02, "--threads", 1, "--json")
    found = json.loads(result.stdout)
    assert found["threads"] == 1
    assert found["calls"] >= 1
    assert 0 < found["p10_s"] <= found["median_s"] <= found["p90_s"]
    assert found["spread"] == pytest.approx((found["p90_s"] - found["p10_s"]) / found["median_s"])
    assert "median of" in fxpress_command("bench", artifact_file, "--seconds", 0.02).stdout


def test_inspect_shows_the_metadata(fxpress_command: Command, artifact_file: Path) -> None:
    artifact = load(artifact_file)
    result = fxpress_command("inspect", artifact_file)
    assert result.exit_code == 0, result.output
    for text in (artifact.digest, "image: float32[1, 3, 12, 12]", "library.so", "fold-constants", "avx2"):
        assert text in result.output
    assert json.loads(fxpress_command("inspect", artifact_file, "--json").stdout) == artifact.manifest


@pytest.mark.parametrize("command", ["run", "bench", "explain", "inspect", "report"])
def test_a_file_that_is_no_artifact(fxpress_command: Command, tmp_path: Path, command: str) -> None:
    (tmp_path / "junk.fxp").write_text("junk")
    result = fxpress_command(command, tmp_path / "junk.fxp")
    assert result.exit_code == 1
    assert re.match(r"error: artifact must be a whole .fxp file, not '.*junk.fxp'", result.stderr)


def test_explain_prints_every_layer(fxpress_command: Command, artifact_file: Path) -> None:
    result = fxpress_command("explain", artifact_file, "--seconds", 0.02)
    assert result.exit_code == 0, result.output
    for layer in load(artifact_file).manifest["layers"]:
        assert layer["kernel"] in result.output
        assert layer["source"] in result.output
    assert re.search(r"^total +\d+ .*100.0%", result.output, re.MULTILINE)
    assert re.search(r"^peak: \d+ GFLOP/s", result.output, re.MULTILINE)


def test_passes_lists_all_with_what_they_do(fxpress_command: Command) -> None:
    result = fxpress_command("passes")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    for kind in ("passes", "pipelines"):
        for entry in entries(kind).values():
            assert entry.owner in lines[entry.name]
    assert re.search(r"^drop-single-cat +exact +fxpress +cat\(\[x\]\)  ->  x", lines["drop-single-cat"])
