"""Small artifacts with real compiled code, for the tests of the runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from fxpress.artifact import write_artifact
from fxpress.backends.tvm.kernels.base import Access, B, Call, Kernel, Operand, run_module
from fxpress.backends.tvm.kernels.harness import llvm_target
from fxpress.runtime.samples import Samples
from fxpress.runtime.signature import Signature
from fxpress.runtime.structure import LEAF, Structure, TensorSpec
from fxpress.target import Target

SHAPE = (4, 16)


@dataclass(frozen=True)
class AddScaled(Kernel):
    """out = x * factor + weight, `n` elements; on all threads if `tasks`, `repeat` times over."""

    n: int
    factor: float = 2.0
    tasks: int = 1
    repeat: int = 1
    name = "add-scaled"

    def operands(self) -> tuple[Operand, ...]:
        return (Operand("weight", "float32"), Operand("x", "float32"), Operand("out", "float32", True))

    def emit(self, weight: Access, x: Access, out: Access) -> None:
        part = self.n // self.tasks
        loop = B.parallel if self.tasks > 1 else B.serial
        with loop(0, self.tasks) as task, B.serial(0, self.repeat) as again, B.serial(0, part) as i:
            at = task * part + i
            # adding the turn times zero keeps the compiler from running the turns as one
            turn = B.Cast("float32", again) * weight.load(0) * B.float32(0)
            out.store(at, x.load(at) * B.float32(self.factor) + weight.load(at) + turn)


def library(tmp_path: Path, calls: list[Call], prepare: list[Call], table_size: int) -> bytes:
    """The bytes of a shared library whose `run` and `prepare` make these calls."""
    with tvm.transform.PassContext(opt_level=3):
        module = tvm.compile(
            run_module(calls, table_size, {"prepare": prepare}), llvm_target(Target.parse("cpu{isa=avx2}"))
        )
    path = tmp_path / "library.so"
    module.export_library(str(path))
    return path.read_bytes()


def manifest(**changes: Any) -> dict[str, Any]:
    """The manifest of a model with one input and one output of `SHAPE`, with `changes`."""
    spec = TensorSpec("x", "float32", SHAPE)
    return {
        "fxpress": "0.1.0",
        "target": "cpu{isa=avx2}",
        "features": ["avx2", "fma"],
        "signature": Signature(("x",), Structure("tuple", (LEAF,)), Structure("dict")).to_json(),
        "inputs": [spec.to_json()],
        "outputs": LEAF.to_json(),
        "output_specs": [TensorSpec("output", "float32", SHAPE).to_json()],
        "memory": {"arena": 256, "derived": 256},
        "calls": 2,
        "prepare_calls": 1,
        "layers": [{"op": "add"}, {"op": "add"}],
        "tolerances": [1e-6],
        **changes,
    }


@pytest.fixture(scope="session")
def toy_library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return _toy_library(tmp_path_factory, AddScaled(64))


@pytest.fixture(scope="session")
def parallel_library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return _toy_library(tmp_path_factory, AddScaled(64, tasks=4))


def _toy_library(tmp_path_factory: pytest.TempPathFactory, kernel: AddScaled) -> bytes:
    """prepare: derived = 2w + w.  run: arena = 2x + derived; output = 2 arena + w."""
    prepare = [Call(kernel, ((0, 0), (0, 0), (1, 0)))]
    calls = [Call(kernel, ((1, 0), (3, 0), (2, 0))), Call(kernel, ((0, 0), (2, 0), (4, 0)))]
    return library(tmp_path_factory.mktemp("library"), calls, prepare, 5)


@dataclass(frozen=True)
class Toy:
    """The toy artifact: where it is, and what it computes."""

    path: Path
    weight: np.ndarray

    def inputs(self, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)

    def expected(self, x: np.ndarray) -> np.ndarray:
        return 2 * (2 * x + 3 * self.weight) + self.weight


@pytest.fixture
def write_toy(tmp_path: Path, toy_library: bytes, parallel_library: bytes) -> Callable[..., Toy]:
    """Write the toy artifact, its manifest with changes."""

    def write(
        name: str = "toy.fxp",
        bundle_runtime: bool = False,
        parallel: bool = False,
        programs: tuple[bytes, ...] = (),
        **changes: Any,
    ) -> Toy:
        weight = np.random.default_rng(5).standard_normal(SHAPE, dtype=np.float32)
        toy = Toy(tmp_path / name, weight)
        x = toy.inputs(1)
        write_artifact(
            toy.path,
            manifest(**changes),
            parallel_library if parallel else toy_library,
            [weight],
            Samples.of([x], [toy.expected(x)]),
            {"passes": []},
            "a report",
            bundle_runtime=bundle_runtime,
            programs=programs,
        )
        return toy

    return write


@pytest.fixture
def toy(write_toy: Callable[..., Toy]) -> Toy:
    return write_toy()
