"""Ops that a user registered with torch.library, from capture to artifact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fxpress
import numpy as np
import pytest
import torch
from fxpress.errors import CaptureError, InvalidInput, InvalidProgram, Unsupported
from fxpress.program import Program
from fxpress.testing import op_counts
from fxpress.verifier import verify

shop = torch.ops.shop_of_tests


@torch.library.custom_op("shop_of_tests::scale", mutates_args=())
def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    assert x.dtype == torch.float32  # as kernels of other libraries do
    return x * factor + 1


@scale.register_fake
def _scale_type(x: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("shop_of_tests::both", mutates_args=())
def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x * 2, x.sum(0)


@both.register_fake
def _both_types(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[1:])


@torch.library.custom_op("shop_of_tests::fill", mutates_args={"x"})
def fill(x: torch.Tensor) -> None:
    x.fill_(1)


LIBRARY = torch.library.Library("shop_of_tests", "FRAGMENT")
LIBRARY.define("twice(Tensor x) -> Tensor")
LIBRARY.impl("twice", lambda x: x * 2, "CompositeImplicitAutograd")
LIBRARY.define("mute(Tensor x) -> Tensor")
LIBRARY.impl("mute", lambda x: x * 0, "CPU")


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = shop.scale(x.relu(), 2.0)
        doubled, total = shop.both(y)
        return shop.twice(doubled) + total


X = torch.randn(4, 3)


def test_an_op_with_a_decomposition_is_decomposed() -> None:
    counts = op_counts(fxpress.capture(Model(), (X,)))
    assert counts == {"relu": 1, "scale": 1, "both": 1, "getitem": 2, "mul": 1, "add": 1}


def test_without_fallback_the_lines_are_named() -> None:
    with pytest.raises(Unsupported, match=r"fallback='torch'") as error:
        fxpress.compile(Model(), (X,))
    assert "shop_of_tests.scale.default: no kernel and no TVM operator computes this op (at test_" in str(error.value)
    assert "shop_of_tests.both.default" in str(error.value)


def test_with_fallback_pytorch_computes_them() -> None:
    artifact = fxpress.compile(Model(), (X,), fallback="torch")
    assert artifact.self_test().passed
    np.testing.assert_allclose(artifact(X), Model()(X), rtol=1e-6)


def test_an_artifact_asks_for_the_library_that_defines_them(tmp_path: Path) -> None:
    path = tmp_path / "model.fxp"
    fxpress.compile(Model(), (X,), fallback="torch").save(path)
    code = "import sys, torch, fxpress.runtime as r; r.load(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "import the package that registers it before loading the artifact" in result.stderr


def test_a_program_with_them_is_saved_and_loaded(tmp_path: Path) -> None:
    program, path = fxpress.capture(Model(), (X,)), tmp_path / "program"
    program.save(path)
    assert Program.load(path).text() == program.text()
    code = "import sys, fxpress; fxpress.Program.load(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert InvalidInput.__name__ in result.stderr
    assert "import the library that defines it first" in result.stderr


def test_an_op_without_a_type_is_refused() -> None:
    with pytest.raises(CaptureError, match=r'@torch.library.register_fake\("shop_of_tests::mute"\)'):
        fxpress.capture(lambda x: shop.mute(x), (X,))
    program = fxpress.capture(lambda x: x.relu(), (X,))
    program.results[0].target = shop.mute.default
    with pytest.raises(InvalidProgram, match=r'@torch.library.register_fake\("shop_of_tests::mute"\)'):
        verify(program)


def test_an_op_that_writes_to_its_input_is_refused() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        shop.fill(y)
        return y

    with pytest.raises(CaptureError, match=r"the custom op shop_of_tests::fill writes to its inputs"):
        fxpress.capture(model, (X,))
