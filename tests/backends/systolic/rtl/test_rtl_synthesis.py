"""Synthesis: the frame around a machine, what is missing, and a small machine placed."""

from __future__ import annotations

import importlib.util

import pytest
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.rtl.build import LANGUAGE, WAIVERS, verilator
from fxpress.backends.systolic.rtl.synthesis import FRAME, frame, synthesize
from fxpress.errors import BackendUnavailable

TINY = Architecture(
    rows=2, columns=2, dram_bytes=2, activation_kib=2, weight_kib=2, accumulator_kib=2, parameter_kib=2, tables=1,
    activation_banks=2, dram_latency=8, queue_depth=2,
)  # fmt: skip


def test_the_frame_has_few_pins(tmp_path) -> None:
    module = frame(TINY)
    assert [port.text for port in module.ports("input") + module.ports("output")] == [
        "clock",
        "reset",
        "pin_in",
        "pin_out",
    ]
    for name, text in module.design().items():
        (tmp_path / name).write_text(text)
    files = sorted(tmp_path.glob("*.v"))
    options = ["--lint-only", "-Wall", *WAIVERS, "--language", LANGUAGE, "--top-module", FRAME]
    assert verilator([*options, *files]) == ""


def test_without_the_tools_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"^pyosys is not installed: pip install 'fxpress\[synth\]'$"):
        synthesize(TINY)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_small_machine_is_placed() -> None:
    pytest.importorskip("pyosys", reason="the extra `synth` is not installed")
    found = synthesize(TINY)
    assert found.multipliers >= 4  # a cell has one, a lane at least three
    assert found.block_rams > 0
    assert found.luts > 0
    assert found.flip_flops > found.frame_flip_flops
    assert found.fmax_mhz > 0
