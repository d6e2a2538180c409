"""`fxpress quantize`: data from files and functions, programs and artifacts, what it prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import fxpress
import numpy as np
import pytest
import torch
from fxpress.cli.models import load_model
from fxpress.cli.quantizing import load_calibration
from fxpress.errors import InvalidInput
from fxpress.testing import op_counts
from typer.testing import Result

Command = Callable[..., Result]

DATA = """
import torch

def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 8, generator=generator) for _ in range(5)]

ready = batches()
number = 3
"""


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "some_data.py"
    path.write_text(DATA)
    return path


def test_a_program_is_written(fxpress_command: Command, model_file: Path, data_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.program"
    source = f"{model_file}:with_inputs"
    arguments = ("--calibration", f"{data_file}:batches", "--items", 4, "--cache", tmp_path / "cache")
    result = fxpress_command("quantize", "--profitable", "off", source, "-o", path, *arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"m\.program  [\d.]+ KiB, constants ", result.output)
    assert "quantised ops: 1 quantized_linear, 1 quantized_linear_float" in result.output
    assert "dB signal to noise on the example inputs" in result.output
    program = load_model(str(path), []).model
    assert isinstance(program, fxpress.Program)
    assert op_counts(program)["quantized_linear"] == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_scopes_and_generated_inputs_are_reported(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.program"
    result = fxpress_command(
        "quantize", "--profitable", "off", f"{model_file}:with_inputs", "-o", path, "--ignore", "/^2$/"
    )
    assert result.exit_code == 0, result.output
    assert "stays float32: named in ignore" in result.output
    assert "no calibration data was given: ranges are those of generated inputs" in result.output
    result = fxpress_command(
        "quantize", "--profitable", "off", f"{model_file}:with_inputs", "-o", path, "--only", "nothing.like.it"
    )
    assert result.exit_code == 1
    assert "only must match something that can be quantised, but 'nothing.like.it' does not" in result.output


def test_arrays_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=np.zeros((4, 3, 8), np.float32), mask=np.ones((4, 3)))
    items = list(load_calibration(str(tmp_path / "x.npz")))
    assert [{name: tuple(x.shape) for name, x in item.items()} for item in items] == [
        {"input": (3, 8), "mask": (3,)}
    ] * 4


def test_an_object_or_a_function(data_file: Path) -> None:
    first, second = (list(load_calibration(f"{data_file}:{name}")) for name in ("batches", "ready"))
    assert all(map(torch.equal, first, second))


def test_bad_data(data_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"^calibration must be file\.py:name, package\.module:name or a \.npz file,"
    ):
        load_calibration("images")
    with pytest.raises(InvalidInput, match=r"some_data\.py:number must give an iterable of inputs, not int$"):
        load_calibration(f"{data_file}:number")
    np.savez(tmp_path / "uneven.npz", a=np.zeros((4, 3)), b=np.zeros((5, 3)))
    with pytest.raises(InvalidInput, match=r"must have equally many items, not {'a': 4, 'b': 5}$"):
        load_calibration(str(tmp_path / "uneven.npz"))
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(InvalidInput, match=r"text\.npz must be an \.npz file of arrays of numbers: "):
        load_calibration(str(tmp_path / "text.npz"))


def test_a_program_file_has_its_inputs(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"m\.program was captured with its inputs: --input must not be given$"):
        load_model(str(tmp_path / "m.program"), ["1x8"])
    with pytest.raises(InvalidInput, match=r"^model must be a file that exists, not '.*m\.program'$"):
        load_model(str(tmp_path / "m.program"), [])


def test_a_budget_of_quality(fxpress_command: Command, model_file: Path, data_file: Path, tmp_path: Path) -> None:
    data = ("--calibration", f"{data_file}:batches", "-o", tmp_path / "m.program")
    common = ("quantize", f"{model_file}:with_inputs", *data, "--profitable")
    result = fxpress_command(*common, "off", "--min-sqnr", 300)
    assert result.exit_code == 0, result.output
    assert "quantised ops: none" in result.output
    assert "mixed precision: int8 alone would leave" in result.output
    result = fxpress_command(*common, "maybe")
    assert result.exit_code == 1
    assert "profitable must be 'measure', 'predict' or 'off', not 'maybe'" in result.output


def test_a_broken_regular_expression(fxpress_command: Command, model_file: Path, tmp_path: Path) -> None:
    source = f"{model_file}:with_inputs"
    result = fxpress_command("quantize", source, "-o", tmp_path / "m.program", "--ignore", "/lin(/")
    assert result.exit_code == 1
    assert "what stands between slashes must be a regular expression, not 'lin(': missing )" in result.output
