"""docs/systolic.md lists the options that the target has: `pytest tests/docs --update-golden` writes them anew."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from fxpress.backends.systolic.architecture import PRESETS, Architecture

PAGE = Path(__file__).parents[2] / "docs" / "systolic.md"
DOCS = {
    "rows": "cells from top to bottom, a power of two",
    "columns": "cells from left to right, and bytes of a word; a power of two, not less than rows",
    "dataflow": "`os` output stationary, `ws` weight stationary, `both` the better one a layer",
    "activation_kib": "KiB of int8 activations on the chip, a power of two",
    "weight_kib": "KiB of int8 weights on the chip",
    "accumulator_kib": "KiB of int32 sums, a power of two",
    "parameter_kib": "KiB of biases and multipliers",
    "tables": "how many activation tables of 256 bytes",
    "activation_banks": "banks of the activations: 1, 2, 4 or 8",
    "accumulator_banks": "banks of the accumulators: 1, 2 or 4",
    "dram_latency": "cycles until DRAM answers",
    "dram_bytes": "bytes a cycle from DRAM, and as many to it; a power of two, at most 128",
    "clock_mhz": "turns cycles into seconds in reports",
    "vector_lanes": "elements that the vector unit takes a cycle; 0 stands for `columns`",
    "queue_depth": "instructions that wait in each unit's queue",
}


def table() -> str:
    lines = ["| option | default | edge | tpu | |", "|---|---|---|---|---|"]
    for field in fields(Architecture):
        values = [field.default, *(PRESETS[name].get(field.name, field.default) for name in ("edge", "tpu"))]
        lines.append(f"| `{field.name}` | {' | '.join(map(str, values))} | {DOCS[field.name]} |")
    return "\n".join(lines)


def test_options_are_up_to_date(request: pytest.FixtureRequest) -> None:
    parts = r"(<!-- architecture: begin -->\n).*?(<!-- architecture: end -->)"
    wanted = re.sub(parts, lambda m: f"{m[1]}{table()}\n{m[2]}", PAGE.read_text(), flags=re.DOTALL)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(wanted)
    assert PAGE.read_text() == wanted, "run pytest tests/docs --update-golden"


def test_every_option_is_described() -> None:
    assert list(DOCS) == [field.name for field in fields(Architecture)]
