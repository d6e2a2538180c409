"""The ops of sparse storage against their formulas, and what packs a weight for them."""

from __future__ import annotations

import pytest
import torch
from fxpress.ops import fxpress
from fxpress.ops.sparse import pack_blocks, pack_masked, weight_matrix
from hypothesis import given
from hypothesis import strategies as st
from op_cases import Case, check_fake, every, made
from sparse_formulas import SPARSE_FORMULAS
from torch import Tensor

INT8, FLOAT32 = torch.int8, torch.float32


def int32(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def values(*shape: int, dtype: torch.dtype = FLOAT32) -> Tensor:
    return torch.randint(-100, 100, shape).to(dtype)


CASES: dict[str, Case] = {
    "blocks": ("unpack_blocks", lambda: (values(3, 4, 2), int32(0, 2, 1), int32(0, 2, 3), [8, 6])),
    "blocks-int8-beyond": (
        "unpack_blocks",
        lambda: (values(3, 4, 2, dtype=INT8), int32(0, 2, 1), int32(0, 2, 2, 3), [9, 5]),
    ),
    "blocks-conv": ("unpack_blocks", lambda: (values(3, 2, 3), int32(1, 0, 5), int32(0, 1, 3), [3, 2, 3, 3])),
    "blocks-none": ("unpack_blocks", lambda: (values(0, 4, 2), int32(), int32(0, 0), [4, 6])),
    "masked": (
        "unpack_masked",
        lambda: (values(5), torch.tensor([0b10010000, 0b1010001], dtype=torch.uint8), [3, 5]),
    ),
    "masked-int8": ("unpack_masked", lambda: (values(3, dtype=INT8), torch.tensor([7], dtype=torch.uint8), [1, 3])),
    "masked-conv1d": (
        "unpack_masked",
        lambda: (values(6), torch.tensor([0b10010000, 0b1010011], dtype=torch.uint8), [2, 2, 4]),
    ),
    "masked-none": ("unpack_masked", lambda: (values(0), torch.zeros(2, dtype=torch.uint8), [3, 4])),
}


def test_every_formula_has_a_case() -> None:
    assert set(SPARSE_FORMULAS) == {op for op, _ in CASES.values()}


@pytest.mark.parametrize(("name", "channels_last"), every(CASES))
def test_op_is_its_formula(name: str, channels_last: bool) -> None:
    op, arguments, expected = made(CASES[name], SPARSE_FORMULAS, channels_last)
    result = op(*arguments)
    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)
    check_fake(op, arguments)
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


SHAPES = st.one_of(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
)


@given(SHAPES, st.integers(1, 5), st.integers(1, 5), st.sampled_from([INT8, FLOAT32]), st.floats(0, 1))
def test_what_is_packed_unpacks(shape: tuple[int, ...], r: int, c: int, dtype: torch.dtype, density: float) -> None:
    weight = torch.where(torch.rand(shape) < density, values(*shape, dtype=dtype), 0).to(dtype)
    blocks = pack_blocks(weight, r, c)
    assert torch.equal(fxpress.unpack_blocks(*blocks, shape), weight)
    assert (blocks[0] != 0).flatten(1).any(1).all()
    held, mask = pack_masked(weight)
    assert len(held) == int((weight != 0).sum())
    assert len(mask) == -(-weight.numel() // 8)
    assert torch.equal(fxpress.unpack_masked(held, mask, shape), weight)


def test_inputs_run_fastest_in_the_matrix() -> None:
    weight = torch.arange(24).reshape(1, 4, 2, 3)
    assert weight_matrix(weight)[0, :4].tolist() == [0, 6, 12, 18]


def test_a_negative_zero_is_a_zero() -> None:
    held, _ = pack_masked(torch.tensor([[-0.0, 1.0]]))
    assert held.tolist() == [1.0]


def test_a_column_beyond_the_matrix_is_refused() -> None:
    with pytest.raises(IndexError):
        fxpress.unpack_blocks(values(1, 2, 2), int32(2), int32(0, 1), [2, 4])
