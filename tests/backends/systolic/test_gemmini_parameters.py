"""The array's parameters: from its header, and what cannot be one."""

from __future__ import annotations

from typing import Any

import pytest
from fxpress.backends.systolic.gemmini import Parameters, emit
from fxpress.errors import InvalidInput
from gemmini_host import conv_of, program_of

LARGE = Parameters(dim=32, bank_num=2, bank_rows=8192, acc_rows=4096, mvin_scale=False)


@pytest.mark.parametrize("parameters", [Parameters(), LARGE])
def test_headers_are_read_as_they_are_written(parameters: Parameters) -> None:
    assert Parameters.of_header(parameters.header()) == parameters


def test_text() -> None:
    assert str(LARGE) == "DIM 32, BANK_NUM 2, BANK_ROWS 8192, ACC_ROWS 4096"


def test_code_says_which_array_it_is_for() -> None:
    text = emit(program_of(conv_of(2, 2), (1, 4, 4, 2)), parameters=LARGE)["model.c"]
    assert "#if DIM != 32 || BANK_NUM * BANK_ROWS != 16384 || ACC_ROWS != 4096\n#error" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 12}, r"^dim must be a positive power of two, not 12$"),
        ({"bank_num": 0}, r"^bank_num must be a positive power of two, not 0$"),
        ({"bank_rows": 16.0}, r"^bank_rows must be a positive power of two, not 16\.0$"),
        ({"acc_rows": True}, r"^acc_rows must be a positive power of two, not True$"),
        ({"bank_rows": 8}, r"^bank_num \* bank_rows must be at least 64 rows, .*, not 32$"),
        ({"acc_rows": 16}, r"^acc_rows must be at least 32, so that each half holds a tile, not 16$"),
    ],
)
def test_wrong_values(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Parameters(**changed)


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        ("#define DIM 16", "", r"^gemmini_params\.h must define DIM as a number, and does not$"),
        ("#define ACC_ROWS 1024", "#define ACC_ROWS (2 * DIM)", r"must define ACC_ROWS as a number, and does not$"),
        (
            "typedef int8_t elem_t;",
            "typedef float elem_t;",
            r"^elem_t must be int8_t in gemmini_params\.h, not 'float'$",
        ),
        ("typedef float acc_scale_t;", "", r"^acc_scale_t must be float in gemmini_params\.h, not None$"),
    ],
)
def test_headers_of_other_arrays(line: str, instead: str, message: str) -> None:
    text = Parameters().header()
    assert line in text
    with pytest.raises(InvalidInput, match=message):
        Parameters.of_header(text.replace(line, instead))
