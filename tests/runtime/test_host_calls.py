"""PyTorch calls between kernels."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import fxpress.runtime
import numpy as np
import pytest
from fxpress.errors import BackendUnavailable


def view(entry: int, offset: int = 0, shape: tuple[int, ...] = (4, 16), strides: tuple[int, ...] = (16, 1)) -> Any:
    place = {"entry": entry, "offset": offset, "shape": shape, "strides": strides, "dtype": "float32"}
    return {"view": place}


# before the second kernel call: arena = flip(arena, [1]), then its first row = abs of its column-wise minimum
CALLS = [
    {"at": 1, "op": "aten::flip", "overload": "default", "args": [view(2), [1]], "outputs": [view(2)]},
    {
        "at": 1,
        "op": "aten::min",
        "overload": "dim",
        "args": [view(2, 0, (16, 4), (1, 16)), 1],
        "kwargs": {"keepdim": False},
        "outputs": [view(2, 0, (16,), (1,)), None],
    },
]


def reference(toy: Any, x: np.ndarray) -> np.ndarray:
    arena = (2 * x + 3 * toy.weight)[:, ::-1].copy()
    arena[0] = arena.min(axis=0)
    return 2 * arena + toy.weight


def test_calls_run_between_kernels(write_toy: Any) -> None:
    toy = write_toy(host_calls=CALLS)
    artifact = fxpress.runtime.load(toy.path)
    for seed in range(3):
        x = toy.inputs(seed)
        np.testing.assert_allclose(artifact(x), reference(toy, x), rtol=1e-4, atol=1e-5)
    assert len(artifact.profile([x], repeat=2)) == 2


def test_calls_after_the_last_kernel(write_toy: Any) -> None:
    call = {"at": 2, "op": "aten::neg", "overload": "default", "args": [view(4)], "outputs": [view(4)]}
    toy = write_toy(host_calls=[call])
    x = toy.inputs()
    np.testing.assert_allclose(fxpress.runtime.load(toy.path)(x), -toy.expected(x), rtol=1e-5)


def test_unknown_op(write_toy: Any) -> None:
    toy = write_toy(host_calls=[{**CALLS[0], "op": "nowhere::nothing"}])
    with pytest.raises(BackendUnavailable, match=r"calls nowhere::nothing\.default, which no imported library defines"):
        fxpress.runtime.load(toy.path)


def test_without_torch_it_says_so_at_load(write_toy: Any) -> None:
    toy = write_toy(host_calls=CALLS)
    code = "import sys; sys.modules['torch'] = None; import fxpress.runtime as r; r.load(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, toy.path], capture_output=True, text=True, check=False)
    assert "BackendUnavailable: this artifact was compiled with fallback='torch' and calls aten::flip" in result.stderr
