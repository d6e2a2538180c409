"""Vector math against float64: every function, both instruction sets, special values, accuracy in ulp."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fxpress.backends.tvm.kernels import vmath
from fxpress.backends.tvm.kernels.base import Access, B, Kernel, Operand
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.errors import InvalidInput
from fxpress.target import Target

TARGETS = {isa: Target.parse(f"cpu{{isa={isa}}}") for isa in ("avx2", "avx512")}

# function -> (reference in PyTorch, where to sample, largest error in float32 ulp)
FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], tuple[float, float], float]] = {
    "exp": (torch.exp, (-110.0, 92.0), 1.5),
    "expm1": (torch.expm1, (-20.0, 90.0), 2.0),
    "log": (torch.log, (0.0, 1e6), 1.5),
    "log1p": (torch.log1p, (-1.0, 1e6), 2.0),
    "tanh": (torch.tanh, (-12.0, 12.0), 2.5),
    "sigmoid": (torch.sigmoid, (-87.0, 100.0), 3.0),
    "erf": (torch.erf, (-5.0, 5.0), 1.5),
    "erfc": (torch.erfc, (-5.0, 8.0), 4.0),
    "sin": (torch.sin, (-1e5, 1e5), 2.0),
    "cos": (torch.cos, (-1e5, 1e5), 2.0),
    "rsqrt": (torch.rsqrt, (0.0, 1e9), 1.5),
}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "clamp(-1.5,2.5)": lambda x: x.clamp(-1.5, 2.5),
    "leaky_relu(0.2)": lambda x: F.leaky_relu(x, 0.2),
    "elu(1.5)": lambda x: F.elu(x, 1.5),
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "log_sigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "softplus": F.softplus,
    "mish": F.mish,
    "relu_squared": lambda x: F.relu(x) ** 2,
}
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40, 1e-20, -1e-20, 1.0, -1.0, 3e38, -3e38]


NAMES = [*FUNCTIONS, *ACTIVATIONS]


@dataclass(frozen=True)
class MapAll(Kernel):
    """Apply every function to a row of `count` elements each: one compilation serves all tests of a lane
    count."""

    name: ClassVar[str] = "map-all"
    count: int
    lanes: int
    dtype: str

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", self.dtype), Operand("y", self.dtype, write=True)

    def emit(self, x: Access, y: Access) -> None:
        for row, name in enumerate(NAMES):
            with B.serial(self.count // self.lanes) as i:
                where = row * self.count + i * self.lanes
                value = B.bind(x.load(where, self.lanes))
                if name in FUNCTIONS:
                    result = getattr(vmath, name)(value)
                else:
                    result = vmath.activate(name, value, self.lanes)
                y.store(where, result, self.lanes)


@functools.cache
def compiled(isa: str, lanes: int, dtype: str, count: int) -> CompiledKernel:
    return CompiledKernel(MapAll(count, lanes, dtype), TARGETS[isa])


def apply(function: str, x: np.ndarray, isa: str, lanes: int) -> np.ndarray:
    count = 65536 if x.dtype == np.float32 else 128
    rows = np.zeros((len(NAMES), count), x.dtype)
    rows[NAMES.index(function), : len(x)] = x
    y = np.empty_like(rows)
    compiled(isa, lanes, str(x.dtype), count)(rows, y)
    return y[NAMES.index(function), : len(x)]


def samples(low: float, high: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    near_zero = np.exp(rng.uniform(-40, 2, 20000)) * rng.choice([-1, 1], 20000)
    spread = rng.uniform(low, high, 40000)
    return np.clip(np.concatenate([spread, near_zero]), low, high).astype(np.float32)


@pytest.mark.parametrize(("isa", "lanes"), [("avx2", 8), ("avx512", 16), ("avx512", 1)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_are_accurate_in_ulp(function: str, isa: str, lanes: int) -> None:
    reference, (low, high), ulp = FUNCTIONS[function]
    x = samples(low, high)
    y = apply(function, x, isa, lanes)
    exact = reference(torch.from_numpy(x).double()).numpy()
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(y[~finite], rounded[~finite])
    error = np.abs(y[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite])).astype(np.float64)
    assert error.max() <= ulp, f"{error.max():.2f} ulp at {x[finite][error.argmax()]!r}"


@pytest.mark.parametrize("function", [*FUNCTIONS, *ACTIVATIONS])
@pytest.mark.parametrize("isa", TARGETS)
def test_special_values_flow_as_in_pytorch(function: str, isa: str) -> None:
    reference = FUNCTIONS[function][0] if function in FUNCTIONS else ACTIVATIONS[function]
    x = np.array(SPECIAL, np.float32)
    y = apply(function, x, isa, TARGETS[isa].vector.lanes)
    expected = reference(torch.from_numpy(x)).numpy()
    # sin and cos are not defined that far out; PyTorch's vector gelu overflows where its float64 one does not
    if function in ("sin", "cos", "gelu"):
        judged = ~(np.abs(x) > 1e38)
        y, expected = y[judged], expected[judged]
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-37)
    signed = (expected == 0) & np.isin(function, ["tanh", "erf", "sin", "expm1", "log1p", "none"])
    np.testing.assert_array_equal(np.signbit(y[signed]), np.signbit(expected[signed]))


@pytest.mark.parametrize(("isa", "lanes"), [("avx2", 8), ("avx512", 16), ("avx512", 1)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_as_accurate_as_pytorch(name: str, isa: str, lanes: int) -> None:
    x = np.linspace(-30, 30, 20011, dtype=np.float32)
    y = apply(name, x, isa, lanes)
    exact = ACTIVATIONS[name](torch.from_numpy(x).double()).numpy()
    theirs = ACTIVATIONS[name](torch.from_numpy(x)).numpy()
    scale = np.maximum(np.abs(exact), 1e-3)  # gelu and the like cancel where they vanish, in PyTorch as well
    error, allowed = np.abs(y - exact) / scale, np.abs(theirs - exact) / scale
    assert error.max() <= max(2 * allowed.max(), 4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("function", [*FUNCTIONS, *ACTIVATIONS])
def test_float64_is_accurate(function: str, lanes: int) -> None:
    reference = FUNCTIONS[function][0] if function in FUNCTIONS else ACTIVATIONS[function]
    x = np.linspace(0.01, 9, 101)
    np.testing.assert_allclose(apply(function, x, "avx2", lanes), reference(torch.from_numpy(x)).numpy(), rtol=1e-14)


def test_every_activation_is_tested() -> None:
    assert {vmath.parse_activation(name)[0] for name in ACTIVATIONS} == set(vmath.ACTIVATIONS)


def test_parse_activation() -> None:
    assert vmath.parse_activation("clamp(0.0,6.0)") == ("clamp", (0.0, 6.0))
    assert vmath.parse_activation("elu") == ("elu", (1.0, 1.0, 1.0))
    with pytest.raises(InvalidInput, match=r"^activation must be one of \['clamp', .*\], not 'swish'$"):
        vmath.parse_activation("swish")
    with pytest.raises(InvalidInput, match=r"^activation relu must have at most 0 parameters, not 'relu\(1"):
        vmath.parse_activation("relu(1)")
    with pytest.raises(InvalidInput, match=r"^parameters of activation elu must be numbers, not 'elu\(a\)'$"):
        vmath.parse_activation("elu(a)")
