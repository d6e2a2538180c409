"""Linear layers whose rows are quantised at run time: the bits of the reference op."""

from __future__ import annotations

from typing import Any

import fxpress
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from low_precision import FEW, SIZES, array, assert_close, check_refused, model, run
from single_op import check_all, single_op

OP = torch.ops.fxpress.dynamic_linear.default
TARGETS = ["cpu", "cpu{isa=avx512}", "cpu{isa=avx2}", "cpu{isa=avx2,extensions=avxvnni}"]
aten = torch.ops.aten


def layer(
    rows: tuple[int, ...], n: int, k: int, *, bias: bool = True, residual: bool = False, activation: str = "none"
) -> dict[str, Any]:
    """The op's arguments."""
    return {
        "x": torch.randn(*rows, k) * torch.rand(*rows, 1) * 100,
        "weight": torch.randint(-127, 128, (n, k), dtype=torch.int8),
        "bias": torch.randn(n) if bias else None,
        "residual": torch.randn(*rows, n) if residual else None,
        "weight_scale": torch.rand(n) * 0.1,
        "activation": activation,
    }


@st.composite
def layers(draw: Any) -> dict[str, Any]:
    rows = draw(st.sampled_from([(1,), (5,), (2, 3), (17,), (2, 23)]))
    return layer(rows, draw(SIZES), draw(SIZES), bias=draw(st.booleans()), residual=draw(st.booleans()))


@pytest.mark.parametrize("target", TARGETS)
@given(st.lists(layers(), min_size=5, max_size=5))
@FEW
def test_the_same_bits(target: str, cases: list[dict[str, Any]]) -> None:
    check_all([(OP, arguments) for arguments in cases], target)


@pytest.mark.parametrize("target", TARGETS)
def test_extreme_rows(target: str) -> None:
    """Rows of zeros, of numbers too small to be quantised, of one value; weights and rows that give the most."""
    arguments = layer((9,), 21, 300)
    x, weight = arguments["x"], arguments["weight"]
    weight[0], weight[1], weight[2] = 127, -127, 0
    x[0], x[1], x[2], x[3] = 0, 1e-40, 3.0, -3.0
    x[4] *= 1e-36
    x[5] *= 1e36
    x[6, 7] = torch.nan
    x[7, 8] = torch.inf
    x[8] = torch.arange(300) - 150 + 0.5  # ties
    found, expected = run(OP, arguments, target), OP(**arguments)
    assert expected[6:8].isnan().all()
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_activation(activation: str) -> None:
    arguments = layer((7,), 33, 40, residual=True, activation=activation)
    before = OP(**arguments | {"activation": "none"}).double()
    exact = torch.ops.fxpress.linear(before, torch.eye(33).double(), None, None, activation)
    assert_close(run(OP, arguments), OP(**arguments), exact)


def test_a_small_model() -> None:
    x = torch.randn(2, 32, 5)
    first, second = layer((2, 5), 64, 32, activation="relu"), layer((2, 5), 10, 64)

    def build(rw: Any, call: Any, x: Any) -> Any:
        hidden = call(OP, call(aten.permute.default, x, [0, 2, 1]), *list(first.values())[1:])
        result = call(OP, hidden, *list(second.values())[1:])
        return [call(aten.cat.default, [result, call(aten.slice.Tensor, hidden, 2, 0, 3)], -1)]

    artifact = fxpress.compile(model([x], build))
    hidden = OP(**first | {"x": x.transpose(1, 2)})
    expected = torch.cat([OP(**second | {"x": hidden}), hidden[..., :3]], -1)
    assert torch.equal(array(artifact(x)[0]), expected)
    assert artifact.text().count("quantize-rows 10x") == 2


@pytest.mark.parametrize(("extensions", "wanted"), [("vnni+vbmi", {"avx512_vnni"}), ("none", set())])
def test_only_the_extensions_that_are_used_are_required(extensions: str, wanted: set[str]) -> None:
    program, target = single_op(OP, layer((2,), 16, 16)), f"cpu{{isa=avx512,extensions={extensions}}}"
    artifact = fxpress.compile(program, pipeline="", target=target, self_test=False)
    assert set(artifact.manifest["features"]) & {"avx512_vnni", "avx512vbmi"} == wanted


def test_refusals() -> None:
    good = layer((2,), 3, 8)
    check_refused(OP, good, "its weight must be a constant", ("x", "weight"))
    check_refused(
        OP, good | {"weight": good["weight"].to(torch.int16)}, "its weight must be torch.int8, not torch.int16"
    )
    check_refused(OP, good | {"x": good["x"].double()}, "its x must be torch.float32, not torch.float64")
    check_refused(OP, good | {"residual": torch.ones(2, 3).double()}, "its residual must be torch.float32")
    check_refused(OP, good | {"x": good["x"][:0]}, r"its input must have elements, not shape \(0, 8\)")
    long = {"x": torch.randn(1, 131072), "weight": torch.ones(3, 131072, dtype=torch.int8)}
    check_refused(OP, good | long, "its rows must have at most 131071 elements, not 131072")
