"""Depthwise convolutions of 8-bit integers, compiled: equal to their definition in every bit."""

import pytest
from fxpress.backends.tvm.kernels.channel_vectors import Channels
from fxpress.backends.tvm.kernels.conv_shape import ConvShape
from fxpress.backends.tvm.kernels.integer_depthwise import IntegerDepthwise
from fxpress.backends.tvm.kernels.requantization import Requantization
from fxpress.target import Target
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_cases import TARGETS, VALUES, conv_case
from single_op import check_all, check_equal


def depthwise(channels, size, kernel, batch=1, **others):
    return conv_case((batch, channels, *size), channels, kernel, groups=channels, **others)


def around(kernel, dilation=1):
    """The padding that keeps the size."""
    return [dilation * (k - 1) // 2 for k in kernel for _ in range(2)]


CASES = [
    depthwise(64, (6, 8), (3, 3), padding=around((3, 3))),
    depthwise(80, (7, 7), (3, 3), padding=(0, 1, 0, 1), stride=2, batch=2, low=-100, high=90),
    depthwise(24, (5, 7), (5, 5), padding=around((5, 5)), mode="I"),
    depthwise(3, (9, 9), (7, 7), padding=around((7, 7)), mode="float"),
    depthwise(40, (9, 8), (3, 3), padding=around((3, 3), 2), dilation=2, residual=True),
    depthwise(17, (6, 5), (3, 3), residual=True, mode="I", stride=2),
    depthwise(100, (4, 5), (3, 3), residual=True, mode="float", activation="relu6"),
    depthwise(33, (21,), (17,), padding=(8, 8)),
    depthwise(16, (12, 11), (9, 9), padding=around((9, 9))),  # more taps than are written out
    depthwise(1, (5, 6), (3, 1), channels_last=False),
    depthwise(64, (5, 4), (4, 2), x_values="lowest", weight_values="highest"),
    depthwise(64, (5, 4), (3, 3), x_values="highest", weight_values="lowest", mode="float"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_cases(target):
    artifact = check_all(CASES, target)
    assert artifact.text().count("integer-depthwise-conv") == len(CASES)


@st.composite
def cases(draw):
    """Depthwise convolutions of small, awkward sizes."""
    rank = draw(st.sampled_from([1, 2, 2]))
    kernel = draw(st.lists(st.integers(1, 6), min_size=rank, max_size=rank))
    dilation = draw(st.integers(1, 2))
    size = [(k - 1) * dilation + draw(st.integers(1, 9)) for k in kernel]
    return depthwise(
        draw(st.sampled_from([1, 5, 16, 23, 64, 129])),
        size,
        kernel,
        batch=draw(st.integers(1, 2)),
        padding=draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank)),
        stride=draw(st.integers(1, 3)),
        dilation=dilation,
        mode=draw(st.sampled_from(["F", "I", "float"])),
        residual=draw(st.booleans()),
        x_values=draw(st.sampled_from(VALUES)),
        weight_values=draw(st.sampled_from(VALUES)),
        high=draw(st.sampled_from([127, 40])),
    )


@given(case=cases(), target=st.sampled_from(TARGETS))
@settings(max_examples=6)
def test_property(case, target):
    check_equal(*case, target)


@pytest.mark.parametrize("channels", [1, 15, 16, 31, 32, 40, 64, 100, 144, 960])
@pytest.mark.parametrize("widest", [32, 64])
def test_every_channel_is_in_a_vector(channels, widest):
    cut = Channels.cut(channels, widest)
    found = {i * cut.width + c for i in range(cut.full) for c in range(cut.width)}
    last = range(cut.last_start, cut.last_start + (cut.count if cut.last else 0))
    assert found | set(last) == set(range(channels))
    assert cut.places == cut.full * cut.width + cut.last


def test_other_groups_are_an_error():
    shape = ConvShape(
        batch=1, height=4, width=4, ic=8, oc=8, kernel=(3, 3), groups=4, x_strides=(0, 0, 0), y_strides=(0, 0, 0)
    )
    with pytest.raises(ValueError, match=r"^shape must have groups == ic == oc, not .*$"):
        IntegerDepthwise.choose(shape, Requantization(mode="F", channels=8), Target.parse("cpu"))
