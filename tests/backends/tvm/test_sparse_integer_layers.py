"""Quantised layers whose weights are stored without their zeros: equal to their definition in every bit."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.errors import Unsupported
from fxpress.ops import fxpress as ops
from fxpress.ops.sparse import from_matrix, pack_blocks, pack_masked, weight_matrix
from fxpress.passes.pruning.config import PruneConfig
from fxpress.target import Target
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_cases import TARGETS, VALUES, conv_case, linear_case
from single_op import Computed, check_all, check_equal, single_op
from torch import nn


def keep_blocks(weight, r, c, share):
    """`weight` with that share of the r x c blocks of its matrix."""
    matrix = weight_matrix(weight)
    n, k = matrix.shape
    kept = torch.rand(-(-n // r), -(-k // c), generator=torch.Generator().manual_seed(n + k)) < share
    return from_matrix(matrix * kept.repeat_interleave(r, 0)[:n].repeat_interleave(c, 1)[:, :k], weight.shape)


def keep_some(weight, n, m):
    """`weight` with at most n of each m consecutive weights of its matrix, where those of an output begin anew."""
    matrix = weight_matrix(weight)
    padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % m)).unflatten(1, (-1, m))
    order = torch.rand(padded.shape, generator=torch.Generator().manual_seed(n)).argsort(-1)
    return from_matrix((padded * (order < n)).flatten(1)[:, : matrix.shape[1]], weight.shape)


def blocks(case, share=0.3, r=16, c=4):
    """The case with the weight in blocks."""
    op, arguments = case
    weight = keep_blocks(arguments["weight"], r, c, share)
    parts = (*pack_blocks(weight, r, c), list(weight.shape))
    return op, {**arguments, "weight": Computed(ops.unpack_blocks.default, parts)}


def masked(case, n=2, m=4):
    """The case with n of m weights."""
    op, arguments = case
    weight = keep_some(arguments["weight"], n, m)
    parts = (*pack_masked(weight), list(weight.shape))
    return op, {**arguments, "weight": Computed(ops.unpack_masked.default, parts)}


LAYERS = [
    linear_case((1, 96), 80),
    linear_case((1, 64), 17, mode="float", activation="relu6", residual=(1, 17)),
    linear_case((5, 130), 33, mode="I", residual=(5, 33)),
    linear_case((2, 3, 20), 70, residual=(2, 3, 70), low=-100, high=101),
    linear_case((37, 128), 40, mode="float"),
    conv_case((1, 16, 7, 9), 33, (3, 3), padding=(1, 1, 1, 1)),
    conv_case((2, 6, 5, 5), 40, (1, 1), residual=True, low=-90, high=100),
    conv_case((1, 3, 15, 15), 32, (3, 3), stride=2, padding=(0, 1, 0, 1)),
    conv_case((1, 8, 11), 5, (3,), dilation=2, padding=(2, 1), mode="I", residual=True),
    conv_case((1, 24, 6, 5), 20, (3, 3), mode="float", activation="relu6"),
    conv_case((2, 10, 4, 4), 20, (1, 1), mode="float", residual=True, channels_last=False),
    conv_case((1, 64, 2, 2), 48, (1, 1), x_values="highest", weight_values="lowest"),
]
GROUPED = [
    conv_case((2, 12, 6, 6), 18, (3, 3), groups=3, padding=(1, 1, 1, 1), mode="I"),
    conv_case((1, 6, 6, 6), 6, (3, 3), padding=(1, 1, 1, 1), groups=6, residual=True),
]


WINDOWS = [
    masked(LAYERS[0], 2, 4),
    masked(LAYERS[1], 4, 8),
    masked(LAYERS[3], 1, 4),
    masked(LAYERS[4], 4, 16),
    masked(LAYERS[5], 1, 4),
    masked(LAYERS[6], 1, 6),
    masked(LAYERS[8], 1, 4),
    masked(LAYERS[10], 1, 16),
    masked(LAYERS[11], 2, 4),
    masked(conv_case((1, 20, 4, 4), 24, (3, 3), mode="I", residual=True), 2, 4),
]


@pytest.mark.parametrize("target", TARGETS)
def test_blocks(target):
    chosen = LAYERS[::2] if target == "cpu" else LAYERS[1::6]
    artifact = check_all([blocks(case) for case in chosen], target)
    assert artifact.text().count("integer-sparse-conv") == len(chosen)


@pytest.mark.parametrize("target", TARGETS)
def test_some_of_a_few(target):
    chosen = WINDOWS[1:] if target == "cpu" else WINDOWS[::5]
    artifact = check_all(chosen, target)
    assert artifact.text().count("integer-window-conv") == len(chosen)


@pytest.mark.skipif(not Target.parse("cpu").has("vbmi2"), reason="the CPU cannot expand bytes")
def test_weights_anywhere_that_come_from_memory():
    chosen = [masked(case, 4, 7) for case in (*LAYERS[:2], LAYERS[3], LAYERS[11])]
    artifact = check_all([*chosen, masked(conv_case((1, 7, 3, 4), 70, (3, 3), mode="I"), 4, 7)], "cpu{l2=1024,cores=1}")
    assert artifact.text().count("integer-masked-conv") == len(chosen) + 1
    assert "masked" not in check_all(chosen[:1], "cpu{l2=9999999}").text()


def test_many_rows_are_multiplied_whole_where_that_is_one_instruction():
    case = masked(linear_case((64, 32), 16), 2, 4)
    assert "window" in check_all([case], "cpu{isa=avx512}").text()
    assert "window" not in check_all([case], "cpu{isa=avx512,extensions=vnni}").text()


def test_what_dense_kernels_compute_is_expanded_at_load():
    cases = [*map(blocks, GROUPED), *map(masked, GROUPED), masked(LAYERS[2], 7, 8)]
    artifact = check_all(cases)
    assert "sparse" not in artifact.text()
    assert "window" not in artifact.text()
    assert artifact.manifest["prepare_calls"] == len(cases)


@pytest.mark.parametrize("target", ["cpu", "cpu{isa=avx2}"])
def test_no_block_and_every_block(target):
    check_all([blocks(linear_case((m, 40), 37), share) for m, share in ((1, 0.0), (20, 1.0))], target)


def test_panels_without_a_block():
    op, arguments = linear_case((9, 64), 112)
    arguments["weight"][:48] = 0
    arguments["weight"][80:] = 0
    parts = (*pack_blocks(arguments["weight"], 16, 4), [112, 64])
    check_equal(op, {**arguments, "weight": Computed(ops.unpack_blocks.default, parts)})


@st.composite
def cases(draw):
    """Layers of small, awkward sizes."""
    mode = draw(st.sampled_from(["F", "F", "I", "float"]))
    values = {"x_values": draw(st.sampled_from(VALUES)), "weight_values": draw(st.sampled_from(VALUES))}
    oc, ic = draw(st.sampled_from([1, 7, 16, 37, 130])), draw(st.sampled_from([1, 4, 7, 16, 29, 64]))
    if draw(st.booleans()):
        rows = draw(st.sampled_from([(1,), (2, 3), (17,), (64,)]))
        case = linear_case((*rows, ic), oc, mode=mode, residual=(*rows, oc) if draw(st.booleans()) else None, **values)
    else:
        pad = st.integers(0, 2)
        case = conv_case(
            (draw(st.integers(1, 2)), ic, draw(st.sampled_from([5, 8])), draw(st.sampled_from([5, 13]))),
            oc,
            [draw(st.sampled_from([1, 3])) for _ in range(2)],
            mode=mode,
            residual=draw(st.booleans()),
            channels_last=draw(st.sampled_from([True, True, False])),
            stride=draw(st.sampled_from([1, 1, 2])),
            padding=[draw(pad) for _ in range(4)],
            dilation=draw(st.sampled_from([1, 1, 2])),
            low=draw(st.sampled_from([-128, 0])),
            **values,
        )
    if draw(st.booleans()):
        return masked(case, *draw(st.sampled_from([(2, 4), (1, 4), (4, 8), (4, 16), (1, 2), (2, 3)])))
    return blocks(case, draw(st.sampled_from([0.1, 0.5])), *draw(st.sampled_from([(16, 4), (8, 1), (64, 8), (3, 5)])))


@settings(max_examples=5)
@given(case=cases(), target=st.sampled_from(TARGETS))
def test_any_layer(case, target):
    check_equal(*case, target=target)


def test_what_is_unpacked_must_be_constant():
    _, arguments = masked(linear_case((1, 16), 8))
    values, mask, shape = arguments["weight"].arguments
    program = single_op(ops.unpack_masked.default, {"values": values, "mask": mask, "shape": shape}, ("values",))
    with pytest.raises(Unsupported, match="what it unpacks must be constants"):
        fxpress.compile(program, pipeline="")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
def test_results_that_no_layer_reads(dtype):
    weight = keep_some(torch.arange(-60, 60).reshape(4, 5, 2, 3), 2, 4).to(dtype)
    shape = list(weight.shape)
    for op, parts in (("unpack_masked", pack_masked(weight)), ("unpack_blocks", pack_blocks(weight, 2, 3))):
        call = Computed(getattr(ops, op).default, (*parts, shape))
        program = single_op(torch.ops.aten.mul.Tensor, {"self": call, "other": torch.ones(shape)}, ("other",))
        artifact = fxpress.compile(program, pipeline="")
        assert torch.equal(torch.as_tensor(artifact(torch.full(shape, 2.0))[0]), 2 * weight.float())


@pytest.mark.parametrize(
    ("pattern", "target", "kernel"),
    [("2:4", "cpu", "integer-window-conv"), ("16x4", "cpu{isa=avx2}", "integer-sparse-conv")],
)
def test_pruned_then_quantised_then_compiled(pattern, target, kernel):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64),
    ).eval()  # fmt: skip
    images = [torch.randn(1, 32, 8, 8) for _ in range(3)]
    config = PruneConfig(pattern=pattern, ratio=None if ":" in pattern else 0.75)
    program = fxpress.quantize(fxpress.prune(model, config, args=(images[0],)), calibration=images)
    sparse = fxpress.compile(program, target=target, self_test=False)
    dense = fxpress.compile(program, target=target, pipeline="default{pack=false}", self_test=False)
    assert kernel in sparse.text()
    assert "sparse" not in dense.text()
    for image in images:
        result = torch.as_tensor(sparse(image))
        assert torch.equal(result, program.run(image))
        assert torch.equal(result, torch.as_tensor(dense(image)))


def test_two_of_four_are_stored_in_five_eighths_of_the_bytes():
    op, arguments = linear_case((1, 1024), 1024)
    weight = keep_some(arguments["weight"], 2, 4)
    sizes = [
        fxpress.compile(single_op(op, {**arguments, "weight": weight}), pipeline=pipeline).manifest["memory"][
            "constants"
        ]
        for pipeline in ("pack-sparse", "")
    ]
    assert sizes[0] <= 0.63 * sizes[1]
