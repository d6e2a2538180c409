"""`fxpress systolic`: report, disassemble, verilog, export and sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.report.energy import EnergyTable
from fxpress.backends.systolic.report.sweep import shapes
from fxpress.cli.commands import app
from fxpress.errors import InvalidInput
from typer.testing import CliRunner, Result

TARGET = "systolic{rows=4,cols=4}"
MODEL = """
import torch

def small():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(5 * 36, 4)
    return torch.nn.Sequential(*layers).eval(), (torch.randn(1, 3, 8, 8),)
"""


def fxpress_command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("systolic")
    (made / "small.py").write_text(MODEL)
    source, options = f"{made / 'small.py'}:small", ("--target", TARGET)
    for output in ("small.program", "small.fxp"):
        result = fxpress_command("quantize", source, *options, "-o", made / output)
        assert result.exit_code == 0, result.output
    cpu = fxpress.compile(torch.nn.ReLU(), (torch.zeros(4),), self_test=False)
    cpu.save(made / "cpu.fxp")
    return made


def test_quantize_takes_what_suits_the_target(folder: Path) -> None:
    program = fxpress.Program.load(folder / "small.program")
    assert "'I'" in program.text()
    assert "'F'" not in program.text()


def test_report(folder: Path, tmp_path: Path) -> None:
    files = {"--html": tmp_path / "page.html", "--trace": tmp_path / "trace.json"}
    result = fxpress_command("systolic", "report", folder / "small.fxp", *(x for pair in files.items() for x in pair))
    assert result.exit_code == 0, result.output
    total = fxpress.runtime.load(folder / "small.fxp").report()["systolic"]["total"]
    assert f"{total['cycles']:,} cycles" in result.output
    assert re.search(r"quantized_conv .* \(0\)", result.output)
    assert "%quantize" in result.output
    assert "quantized_conv" in files["--html"].read_text()
    assert json.loads(files["--trace"].read_text())


def test_report_with_a_table_of_ones_own(folder: Path, tmp_path: Path) -> None:
    free = {**EnergyTable.load().to_json(), "dram_pj_for_64_bits": 0}
    (tmp_path / "free.json").write_text(json.dumps(free))
    result = fxpress_command("systolic", "report", folder / "small.fxp", "--energy", tmp_path / "free.json")
    assert "dram 0.00 nJ" in result.output


def test_disassemble(folder: Path, tmp_path: Path) -> None:
    printed = fxpress_command("systolic", "disassemble", folder / "small.fxp").output
    assert printed.rstrip() == fxpress.runtime.load(folder / "small.fxp").disassemble().rstrip()
    assert fxpress_command("systolic", "disassemble", folder / "small.fxp", "-o", tmp_path / "code.txt").exit_code == 0
    assert (tmp_path / "code.txt").read_text().rstrip() == printed.rstrip()


def test_verilog_of_a_target_and_of_a_model(folder: Path, tmp_path: Path) -> None:
    for number, machine in enumerate((TARGET, folder / "small.fxp")):
        result = fxpress_command("systolic", "verilog", machine, "-o", tmp_path / str(number))
        assert result.exit_code == 0, result.output
    first, second = ({p.name: p.read_text() for p in (tmp_path / n).iterdir()} for n in ("0", "1"))
    assert first == second
    assert "systolic.v" in first


def test_export(folder: Path, tmp_path: Path) -> None:
    assert fxpress_command("systolic", "export", folder / "small.fxp", "-o", tmp_path).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model.h", "program_0.code.bin", "program_0.dram.bin"}


@pytest.mark.parametrize("model", ["small.program", "small.py:small"])
def test_sweep(folder: Path, tmp_path: Path, model: str) -> None:
    files = ("--html", tmp_path / "sweep.html", "--json", tmp_path / "sweep.json")
    options = ("--rows", "2,4,8", "--cols", "4,8", "--dataflow", "os,both")
    result = fxpress_command("systolic", "sweep", folder / model, *options, *files)
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "sweep.json").read_text())
    assert len(points) == 2 * (2 + 3)
    assert len(result.output.splitlines()) >= 11
    cycles = {point["architecture"]: point["total"]["cycles"] for point in points}
    wide, narrow = (
        next(n for a, n in cycles.items() if f"rows={r},columns={c},dataflow=both" in a) for r, c in ((8, 8), (2, 4))
    )
    assert wide < narrow
    assert "plotly" in (tmp_path / "sweep.html").read_text()


def test_a_sweep_says_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    base = "systolic{weight_kib=1,activation_kib=1,accumulator_kib=1,parameter_kib=1}"
    options = ("--rows", "4", "--cols", "64", "--base", base, "--json", tmp_path / "sweep.json")
    assert fxpress_command("systolic", "sweep", folder / "small.program", *options).exit_code == 0
    (point,) = json.loads((tmp_path / "sweep.json").read_text())
    assert point["total"] is None
    assert point["reason"]


def test_shapes() -> None:
    found = shapes(Architecture(dram_latency=3), [4, 8], [4, 8], ["os", "ws"])
    assert [(a.rows, a.columns, a.dataflow) for a in found[:3]] == [(4, 4, "os"), (4, 4, "ws"), (4, 8, "os")]
    assert len(found) == 6
    assert {a.dram_latency for a in found} == {3}
    assert {a.vector_lanes == a.columns for a in found} == {True}
    with pytest.raises(InvalidInput, match=r"^rows must not exceed columns, but all of \[8\] exceed all of \[4\]$"):
        shapes(Architecture(), [8], [4], ["os"])


def test_shapes_keep_the_lanes_that_were_asked_for() -> None:
    for lanes, expected in ((0, [8, 32]), (4, [4, 4])):
        found = shapes(Architecture(vector_lanes=lanes), [8], [8, 32], ["os"])
        assert [architecture.vector_lanes for architecture in found] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "cpu.fxp"), r"artifact must be compiled for a systolic target, not for cpu\{"),
        (("report", "small.fxp", "--trace", "x.json", "--program", "3"), r"program must be below 1, not 3"),
        (("report", "small.fxp", "--energy", "small.py"), r"energy table must be a JSON file like energy\.json"),
        (("disassemble", "none.fxp"), r"artifact must be a readable file"),
        (("disassemble", "small.fxp", "-o", "no/such/folder"), r"output must be a file that can be written"),
        (("verilog", "cpu", "-o", "x"), r"target must be a systolic array, such as .*, not 'cpu'"),
        (("sweep", "small.program", "--base", "cpu"), r"must be a systolic target, not 'cpu'"),
        (("sweep", "small.program", "--rows", "4,x"), r"must be numbers with commas, not '4,x'"),
    ],
)
def test_wrong_arguments(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    result = fxpress_command("systolic", *arguments)
    assert result.exit_code in (1, 2)
    assert re.search(message, re.sub(r"[\s│]+", " ", result.output)), result.output


def test_explain_shows_the_array_beside_the_kernels(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = fxpress_command("explain", folder / "small.fxp", "--html", page, "--seconds", "0.02")
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "<h2>On the array</h2>" in text
    assert "<h2>Where the time goes</h2>" in text
    assert "what the units do over time" in text


def test_explain_sums_up_what_the_array_does(folder: Path) -> None:
    result = fxpress_command("explain", folder / "small.fxp", "--seconds", "0.02")
    assert result.exit_code == 0, result.output
    assert re.search(r"^device: 4x4 cells, ", result.output, re.MULTILINE)
    assert re.search(r"^device: [\d,]+ cycles, ", result.output, re.MULTILINE)


def test_inspect_lists_the_programs(folder: Path) -> None:
    text = fxpress_command("inspect", folder / "small.fxp").output
    assert "1 between kernels" in text
    assert "programs/0.fxs" in text
