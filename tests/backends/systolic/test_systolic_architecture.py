from __future__ import annotations

import re

import pytest
from fxpress.backends.systolic.architecture import PRESETS, Architecture, Memory
from fxpress.errors import InvalidInput


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_print_and_parse(preset: str) -> None:
    architecture = Architecture.parse(f"preset={preset}")
    assert Architecture.parse(str(architecture)) == architecture


def test_the_default_has_a_quarter_of_a_mebibyte() -> None:
    assert Architecture.parse("") == Architecture()
    assert Architecture().scratchpad_bytes == 256 * 1024


def test_later_options_override_a_preset() -> None:
    architecture = Architecture.parse("preset=edge, rows=4, cols=16, vector_lanes=2")
    assert (architecture.rows, architecture.columns, architecture.vector_lanes) == (4, 16, 2)
    assert architecture.weight_kib == Architecture.parse("preset=edge").weight_kib


def test_words_beats_and_banks() -> None:
    architecture = Architecture(rows=8, columns=32, dram_bytes=8, activation_kib=64, activation_banks=4, tables=2)
    assert architecture.beats == 4
    assert architecture.words(Memory.ACTIVATIONS) == 2048
    assert architecture.words(Memory.ACCUMULATORS) == 64 * 1024 // 128
    assert architecture.words(Memory.TABLES) == 16
    assert architecture.bank_words(Memory.ACTIVATIONS) == 512
    assert architecture.bank_words(Memory.WEIGHTS) == architecture.words(Memory.WEIGHTS)
    assert Architecture(columns=4, rows=4, dram_bytes=16).beats == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows=3", "systolic option rows must be a power of two, not 3"),
        ("rows=1", "systolic option rows must be in 2..16, not 1"),
        ("rows=32", "systolic option rows must be in 2..16, not 32"),
        ("cols=256", "systolic option columns must be in 2..128, not 256"),
        ("rows=0", "systolic option rows must be a positive integer, not 0"),
        ("rows=-4", "systolic option rows must be a positive integer, not '-4'"),
        ("rows=four", "systolic option rows must be a positive integer, not 'four'"),
        ("rows", "systolic option rows must be a positive integer, not ''"),
        ("activation_kib=48", "systolic option activation_kib must be a power of two, not 48"),
        ("activation_banks=16", "systolic option activation_banks must be in 1..8, not 16"),
        ("accumulator_banks=8", "systolic option accumulator_banks must be in 1..4, not 8"),
        ("vector_lanes=32", "systolic option vector_lanes must be in 1..16, not 32"),
        ("dram_bytes=256", "systolic option dram_bytes must be in 1..128, not 256"),
        ("dataflow=rs", "systolic option dataflow must be one of ['os', 'ws', 'both'], not 'rs'"),
        ("preset=big", "systolic option preset must be one of ['default', 'edge', 'tpu'], not 'big'"),
        ("weight_kib=1000000000", "the weights memory must have fewer than 2^24 words of 16 channels, not"),
        (
            "rows=2,cols=128,accumulator_kib=1,accumulator_banks=4",
            "the accumulators memory must have a word of 128 channels for each of its 4 banks, not 2: make it larger",
        ),
    ],
)
def test_what_no_machine_has_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}"):
        Architecture.parse(text)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^systolic option must be one of .*'rows'.*, not 'height'$"):
        Architecture.parse("height=4")


def test_dram_has_no_size_of_its_own() -> None:
    with pytest.raises(InvalidInput, match=r"^memory must be one on the chip, not dram"):
        Architecture().words(Memory.DRAM)
