"""Linear layers with float32 inputs and weights in 4 or 8 bits, against the reference op in float64."""

from __future__ import annotations

import re
from typing import Any

import fxpress
import pytest
import torch
from fxpress.backends.tvm.kernels.linear_shape import LinearShape
from fxpress.backends.tvm.kernels.stored_weights import StoredWeight
from fxpress.backends.tvm.kernels.weight_only import ExpandedLinear, PackedLinear, stored_linear
from fxpress.ops import expand_weight
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st
from low_precision import FEW, SIZES, TARGETS, array, assert_close, check_close, check_refused, model, run, run_all

OP = torch.ops.fxpress.weight_only_linear.default
aten = torch.ops.aten


def layer(
    rows: tuple[int, ...],
    n: int,
    k: int,
    bits: int,
    group: int,
    *,
    zero: bool = False,
    bias: bool = False,
    residual: bool = False,
    activation: str = "none",
) -> dict[str, Any]:
    """The op's arguments."""
    groups = -(-k // group)
    weight = torch.randint(-128, 128, (n, k), dtype=torch.int8)
    if bits == 4:
        weight = torch.randint(0, 256, (n, -(-k // 2)), dtype=torch.uint8)
    zeros = torch.randint(0, 256 if bits == 8 else 16, (n, groups), dtype=torch.uint8)
    return {
        "x": torch.randn(*rows, k),
        "weight": weight,
        "bias": torch.randn(n) if bias else None,
        "residual": torch.randn(*rows, n) if residual else None,
        "weight_scale": torch.rand(n, groups) + 0.1,
        "weight_zero": zeros if zero else None,
        "bits": bits,
        "group": group,
        "activation": activation,
    }


@st.composite
def layers(draw: Any) -> dict[str, Any]:
    k = draw(SIZES)
    return layer(
        draw(st.sampled_from([(1,), (5,), (2, 3), (16,), (17,), (2, 23)])),
        draw(SIZES),
        k,
        draw(st.sampled_from([4, 8])),
        draw(st.sampled_from([1, 3, 8, 16, 32, k, 2 * k])),
        zero=draw(st.booleans()),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        activation=draw(st.sampled_from(["none", "relu", "gelu"])),
    )


@pytest.mark.parametrize("target", TARGETS)
@given(st.lists(layers(), min_size=5, max_size=5))
@FEW
def test_any_shape(target: str, cases: list[dict[str, Any]]) -> None:
    check_close(OP, cases, target)


@pytest.mark.parametrize("target", TARGETS)
def test_long_groups_and_sums(target: str) -> None:
    cases = [(4, 1, 1100, True), (8, 3, 100, False), (4, 40, 600, True)]
    layers = [
        layer((rows,), 70, 1100, bits, group, zero=zero, bias=True, residual=True) for bits, rows, group, zero in cases
    ]
    check_close(OP, layers, target)


@pytest.mark.parametrize("target", TARGETS)
def test_every_integer_is_exact(target: str) -> None:
    """With an identity for x the result is the weight that the op defines, to the bit."""
    cases = []
    for bits in (4, 8):
        arguments = layer((40,), 33, 40, bits, 8, zero=True) | {"x": torch.eye(40)}
        arguments["weight"].view(torch.uint8).reshape(-1)[:256] = torch.arange(256).to(torch.uint8)
        cases.append(arguments)
    for arguments, found in zip(cases, run_all(OP, cases, target), strict=True):
        stored = (arguments[name] for name in ("weight", "weight_scale", "weight_zero"))
        assert torch.equal(found, expand_weight(*stored, arguments["bits"], 8, 40).T)


def test_nan_and_infinity_flow() -> None:
    arguments = layer((3,), 20, 24, 4, 8, zero=True, activation="relu")
    arguments["x"][0, 2], arguments["x"][1, 5] = torch.nan, torch.inf
    found, expected = run(OP, arguments), OP(**arguments)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())


@pytest.mark.parametrize(("slices", "group"), [(2, 8), (4, 64)])
def test_depth_in_slices(slices: int, group: int) -> None:
    """A panel that does not fit L2 is unpacked in slices of the depth."""
    target = Target.parse(f"cpu{{isa=avx512,cores=2,l2={2 * 64 * 4 * 48 // slices}}}")
    kernel = stored_linear(LinearShape.dense(48, 70, 64), StoredWeight(dtype="int4", k=64, group=group), target)
    assert isinstance(kernel, ExpandedLinear)
    assert kernel.slices >= slices
    arguments = layer((48,), 70, 64, 4, group, zero=True, bias=True, residual=True, activation="relu")
    check_close(OP, [arguments], str(target))


def test_choice_of_kernel() -> None:
    target = Target.parse("cpu{isa=avx512,cores=2,l2=2097152}")
    stored = StoredWeight(dtype="int4", k=4096, group=128)
    decode = stored_linear(LinearShape.dense(1, 4096, 4096), stored, target)
    assert isinstance(decode, PackedLinear)
    assert decode.describe() == "packed-linear int4 1x4"
    assert isinstance(stored_linear(LinearShape.dense(16, 4096, 4096), stored, target), PackedLinear)
    many = stored_linear(LinearShape.dense(17, 4096, 4096), stored, target)
    assert isinstance(many, ExpandedLinear)
    assert re.fullmatch(r"expanded-linear int4 \d+x\d+ nm block=\d+", many.describe())


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_constants_stay_small(bits: int, rows: int) -> None:
    scale = torch.rand(256, 8)
    stored = StoredWeight(dtype=f"int{bits}", k=512, group=64)
    kernel = stored_linear(LinearShape.dense(rows, 256, 512), stored, Target.parse("cpu{isa=avx2}"))
    parts = kernel.pack(torch.zeros(256, 512, dtype=torch.int8), scale)
    padding = -(-256 // kernel.width) * kernel.width / 256
    size = sum(part.numel() * part.element_size() for part in parts)
    assert size == (256 * 512 * bits // 8 + 4 * scale.numel()) * padding
    assert size == stored.bytes_per_column * 256 * padding


def test_a_small_model() -> None:
    x = torch.randn(32, 5)
    first = layer((5,), 64, 32, 4, 16, zero=True, activation="gelu")
    second = layer((5,), 10, 64, 8, 64)

    def build(rw: Any, call: Any, x: Any) -> Any:
        rows = call(aten.permute.default, x, [1, 0])
        hidden = call(OP, rows, *list(first.values())[1:])
        result = call(OP, hidden, *list(second.values())[1:])
        return [call(aten.cat.default, [result, call(aten.slice.Tensor, rows, 1, 0, 3)], -1)]

    program = model([x], build)
    artifact = fxpress.compile(program)
    assert artifact.text().count("packed-linear") == 2
    hidden = OP(**first | {"x": x.T})
    wide = OP(**first | {"x": x.T.double()})
    expected = torch.cat([OP(**second | {"x": hidden}), x.T[:, :3]], -1)
    exact = torch.cat([OP(**second | {"x": wide}), x.T[:, :3].double()], -1)
    assert_close(array(artifact(x)[0]), expected, exact)


def test_refusals() -> None:
    good = layer((2,), 6, 8, 8, 8)
    check_refused(OP, good, "its weight must be a constant", ("x", "weight"))
    check_refused(OP, good | {"weight": good["weight"].view(torch.uint8)}, "its weight must be torch.int8, not torch.u")
    zeros = torch.zeros(6, 1, dtype=torch.int32)
    check_refused(OP, good | {"weight_zero": zeros}, "its weight_zero must be torch.uint8, not torch.int32")
    check_refused(OP, good | {"x": good["x"].double()}, "its x must be torch.float32, not torch.float64")
    check_refused(OP, good | {"residual": torch.ones(2, 6).double()}, "its residual must be torch.float32")
    check_refused(OP, good | {"x": good["x"][:0]}, r"its input must have elements, not shape \(0, 8\)")
