"""Models compiled for CUDA without a GPU: artifacts whose launches are evaluated, and what errors say."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fxpress
import numpy as np
import pytest
import torch
from cuda_kernels import EvaluatingDriver
from fxpress.backends.cuda import build as cuda_build
from fxpress.backends.cuda.nvcc import Usage
from fxpress.backends.cuda.worker import Compiled
from fxpress.errors import BackendUnavailable, InvalidArtifact, InvalidInput, OutOfMemory, Unsupported
from fxpress.runtime.cuda import artifact as cuda_artifact
from torch import nn
from torch.nn import functional as F

TARGET = "cuda{arch=sm_80}"


@pytest.fixture
def device(monkeypatch) -> list[EvaluatingDriver]:
    """Let kernels be evaluated, not compiled; the list gets the driver of each compiled model."""
    drivers: list[EvaluatingDriver] = []

    def compile_kernels(kernels, architectures) -> Compiled:
        drivers.append(EvaluatingDriver(kernels))
        return Compiled("", b"none", tuple(Usage(k, a.name, 32, 0, 0, 0) for k in kernels for a in architectures))

    monkeypatch.setattr(cuda_build, "compile_kernels", compile_kernels)
    monkeypatch.setattr(cuda_artifact, "Driver", lambda: drivers[-1])
    return drivers


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(20, 33), nn.LayerNorm(33), nn.Linear(33, 20)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.last(F.gelu(self.norm(self.first(x)))) + x
        return torch.softmax(y, -1), y.mean(0)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = F.max_pool2d(F.relu6(self.depthwise(y) + y), 3, 2, 1)
        y = F.avg_pool2d(y, 2, padding=1, count_include_pad=False)
        return self.last(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.transpose(1, 2) for part in x.unflatten(-1, (3, 2, 8)).unbind(2))
        y = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
        return y.transpose(1, 2).flatten(2)


MODELS: list[tuple[type[nn.Module], Sequence[int]]] = [
    (Perceptron, (6, 20)),
    (Convolutions, (2, 3, 13, 12)),
    (Attention, (2, 9, 48)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("model", "shape"), MODELS, ids=lambda each: getattr(each, "__name__", ""))
def test_models_compute_what_they_should(device, model, shape, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = model().eval().to(dtype), torch.randn(*shape).to(dtype)

    artifact = fxpress.compile(net, (x,), target=TARGET)  # with its self-test
    found = artifact(x)

    exact = net.double()(x.double())
    for one, other in zip(
        *((each,) if isinstance(each, torch.Tensor) else each for each in (found, exact)), strict=True
    ):
        assert one.dtype == dtype
        bound = 1e-5 if dtype == torch.float32 else 4e-3
        np.testing.assert_allclose(one.double().numpy(), other.detach().numpy(), rtol=bound, atol=bound)
    assert device[-1].launched


def test_embedding(device) -> None:
    torch.manual_seed(0)
    net, ids = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 4)).eval(), torch.tensor([[1, 2, 3], [10, 0, 5]])

    artifact = fxpress.compile(net, (ids,), target=TARGET)

    np.testing.assert_allclose(artifact(ids).numpy(), net(ids).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_second_call_reuses_the_arena_and_numpy_gets_numpy(device) -> None:
    net, x = nn.Linear(8, 8).eval(), np.ones((3, 8), np.float32)
    artifact = fxpress.compile(net, (torch.from_numpy(x),), target=TARGET)

    first, second = artifact(x), artifact(2 * x)

    assert isinstance(first, np.ndarray)
    np.testing.assert_allclose(second, net(torch.from_numpy(2 * x)).detach().numpy(), rtol=1e-5)
    artifact.close()
    assert device[-1]._blocks == {}
    with pytest.raises(InvalidInput, match=r"^artifact must be open to be called, not closed"):
        artifact(x)


def test_without_a_driver_the_artifact_is_whole_but_cannot_be_called(device, monkeypatch, tmp_path: Path) -> None:
    def no_driver() -> Any:
        raise BackendUnavailable("no driver")

    monkeypatch.setattr(cuda_artifact, "Driver", no_driver)
    x = torch.ones(2, 8)

    artifact = fxpress.compile(nn.Linear(8, 4).eval(), (x,), target="cuda{arch=sm_90+sm_80}")
    artifact.save(tmp_path / "model.fxp")
    loaded = fxpress.runtime.load(tmp_path / "model.fxp", verify="full")

    assert not loaded.runs_here
    with pytest.raises(BackendUnavailable, match=r"^no driver$"):
        loaded(x)
    with zipfile.ZipFile(tmp_path / "model.fxp") as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert archive.read("kernels.fatbin") == b"none"
    assert manifest["cuda"]["architectures"] == ["sm_80", "sm_90"]
    assert [len(operands) for _, *operands in manifest["cuda"]["run"]] == [4]  # x, weight, bias, y
    assert "gemm float32 2x4x8" in loaded.text()


def test_on_a_gpu_that_the_code_is_not_for(device) -> None:
    x = torch.ones(2, 8)
    artifact = fxpress.compile(nn.Linear(8, 4).eval(), (x,), target=TARGET, self_test=False)
    device[-1].device = device[-1].device.__class__(0, "an old GPU", (7, 5), 1 << 30)
    artifact = fxpress.runtime.load(artifact._container.path)

    with pytest.raises(InvalidArtifact, match=r"^this artifact was compiled for sm_80 and newer, .* an old GPU.*sm_75"):
        artifact(x)
    assert not artifact.runs_here


def test_out_of_memory(device) -> None:
    x = torch.ones(2, 8)
    artifact = fxpress.compile(nn.Linear(8, 4).eval(), (x,), target=TARGET, self_test=False)
    artifact = fxpress.runtime.load(artifact._container.path)
    device[-1].device = device[-1].device.__class__(0, "a small GPU", (8, 0), 16)

    with pytest.raises(OutOfMemory, match=r"bytes are more than 16"):
        artifact(x)


class Sorting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x.relu())[0]


def test_ops_without_a_kernel_are_listed_with_their_place() -> None:
    with pytest.raises(Unsupported) as caught:
        fxpress.compile(Sorting(), (torch.ones(2, 8),), target=TARGET)

    text = str(caught.value)
    assert text.startswith("1 node(s) cannot be compiled for cuda:\n- %sort")
    assert "aten.sort" in text
    assert "test_cuda_backend.py" in text
    assert text.endswith("\nRewrite these lines with supported ops, or compile the model for the CPU.")


def test_fallback_to_pytorch_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"^fallback must be None for CUDA, not 'torch'"):
        fxpress.compile(nn.ReLU(), (torch.ones(2),), target=TARGET, fallback="torch")
