"""Quantised linear layers, compiled: equal to their definition in every bit."""

import fxpress
import pytest
from fxpress.errors import Unsupported
from hypothesis import given
from hypothesis import strategies as st
from integer_cases import TARGETS, VALUES, linear_case
from single_op import check_all, check_equal, single_op

CASES = [
    linear_case((1, 64), 48),
    linear_case((5, 130), 33, mode="I", residual=(5, 33)),
    linear_case((2, 3, 19), 70, residual=(2, 3, 70), low=-100, high=101),
    linear_case((16, 96), 40, mode="float", activation="relu6"),
    linear_case((2, 7, 48), 20, mode="float", residual=(20,), activation="none"),
    linear_case((3, 5), 1, mode="I"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_cases(target):
    artifact = check_all(CASES, target)
    assert artifact.text().count("integer-conv") == len(CASES)


@st.composite
def cases(draw):
    """Linear layers of small, awkward sizes."""
    rows = draw(st.sampled_from([(1,), (2,), (17,), (2, 3), (1, 2, 5)]))
    n, mode = draw(st.sampled_from([1, 3, 16, 37, 130])), draw(st.sampled_from(["F", "F", "I", "float"]))
    return linear_case(
        (*rows, draw(st.sampled_from([1, 3, 4, 29, 64]))),
        n,
        mode=mode,
        residual=(*rows, n) if draw(st.booleans()) else None,
        x_values=draw(st.sampled_from(VALUES)),
        weight_values=draw(st.sampled_from(VALUES)),
    )


@given(case=cases(), target=st.sampled_from(TARGETS))
def test_any_linear_layer(case, target):
    check_equal(*case, target=target)


def test_sums_beyond_32_bits_are_refused():
    op, arguments = linear_case((1, 132_200), 1, weight_values="highest")
    with pytest.raises(Unsupported, match=r"its sums may reach 21490\d{5}, more"):
        fxpress.compile(single_op(op, arguments), pipeline="")
