"""Pruning with what follows it: training, integers, patterns of zeros, artifacts; saved and read at every step."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fxpress
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fxpress.passes.pruning.config import PruneConfig
from torch import Tensor, nn

IMAGES = torch.rand(32, 1, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES[:, 0, :6].mean((1, 2)) > IMAGES[:, 0, 6:].mean((1, 2))).long()
DATA = [image[None] for image in IMAGES[:16]]
UNITS = PruneConfig(ratio=0.5, multiple=1, recovery="least-squares")


@pytest.fixture(autouse=True)
def _no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is pickled, nor read from a pickle."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("pickle was called")

    for module, names in ((pickle, ("dump", "load")), (torch, ("save", "load"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)


def pruned(config: PruneConfig = UNITS) -> fxpress.Program:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 2),
    ).eval()  # fmt: skip
    return fxpress.prune(net, config, args=DATA[:1], calibration=DATA)


def kept(program: fxpress.Program, path: Path) -> fxpress.Program:
    """The Program as it comes back from a file."""
    program.save(path / "kept.program")
    return fxpress.Program.load(path / "kept.program")


def learn(module: nn.Module, rate: float) -> list[float]:
    optimizer = torch.optim.Adam(module.parameters(), rate)
    module.train()
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(IMAGES), LABELS)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    module.eval()
    return losses


def quantized(program: fxpress.Program) -> fxpress.Program:
    return fxpress.quantize(program, calibration=DATA, profitable="off")


def holds_integers(program: fxpress.Program) -> bool:
    return any(x.dtype == torch.int8 for x in program.constants.values())


def check_artifact(program: fxpress.Program, path: Path, steps: float) -> None:
    """The artifact, read from its file, gives the Program's numbers: within `steps` of float32 relative to the norm."""
    fxpress.compile(program).save(path / "m.fxp")
    artifact = fxpress.runtime.load(path / "m.fxp")
    for x in DATA[:4]:
        wanted = program.run(x).numpy()
        assert np.linalg.norm(artifact(x.numpy()) - wanted) <= steps * 1.2e-7 * np.linalg.norm(wanted)


def test_prune_train_quantize_compile(tmp_path):
    small = kept(pruned(), tmp_path)
    assert small.constants["constant_3_weight"].shape == (8, 8, 3, 3)
    module = fxpress.trainable(small)
    losses = learn(module, 1e-2)
    assert losses[-1] < 0.8 * losses[0]
    trained = kept(module.convert(), tmp_path)
    assert torch.equal(trained.run(DATA[0]), module(DATA[0]))
    integers = kept(quantized(trained), tmp_path)
    assert holds_integers(integers)
    check_artifact(integers, tmp_path, 16)


def test_prune_quantize_train_compile(tmp_path):
    integers = kept(quantized(kept(pruned(), tmp_path)), tmp_path)
    module = fxpress.quantization.trainable(integers)
    losses = learn(module, 3e-2)
    assert losses[-1] < 0.9 * losses[0]
    trained = kept(module.convert(), tmp_path)
    assert torch.equal(trained.run(DATA[0]), module(DATA[0]))
    check_artifact(trained, tmp_path, 16)


def test_patterns_of_zeros_stay_through_training_and_integers(tmp_path):
    sparse = kept(
        fxpress.prune(pruned(), PruneConfig(pattern="2:4", recovery="least-squares"), calibration=DATA), tmp_path
    )
    module = fxpress.trainable(sparse)
    learn(module, 1e-2)
    trained = module.convert()
    for name in ("constant_3_weight", "constant_7_weight"):
        assert trained.constants[name].shape == pruned().constants[name].shape  # what is gone stays gone
        assert bool(((trained.constants[name] == 0) == (sparse.constants[name] == 0)).all())
    integers = kept(quantized(trained), tmp_path)
    shares = [float((x == 0).float().mean()) for x in integers.constants.values() if x.dtype == torch.int8]
    assert max(shares) >= 0.5
    check_artifact(integers, tmp_path, 16)


def test_structured_then_blocks_compiles(tmp_path):
    config = PruneConfig(ratio=0.5, pattern="4x4", recovery="least-squares")
    blocks = kept(fxpress.prune(pruned(), config, calibration=DATA), tmp_path)
    weight = blocks.constants["constant_3_weight"].permute(0, 2, 3, 1).reshape(2, 4, 18, 4)
    gone = (weight == 0).all(3).all(1)
    assert float(gone.float().mean()) == pytest.approx(0.5, abs=0.03)
    check_artifact(blocks, tmp_path, 16)


def test_recovery_makes_the_error_smaller_than_none(tmp_path):
    whole = pruned(PruneConfig(ratio=0.0, multiple=1))
    errors = {}
    for recovery in ("none", "least-squares"):
        small = pruned(PruneConfig(ratio=0.5, multiple=1, recovery=recovery))
        errors[recovery] = sum(float((small.run(x[None]) - whole.run(x[None])).norm()) for x in IMAGES[16:])
    assert errors["least-squares"] < 0.5 * errors["none"]


def test_recipes_of_composed_programs_replay(tmp_path):
    made = fxpress.prune(pruned(), PruneConfig(pattern="2:4", reconstruct=True), calibration=DATA)
    fxpress.Recipe.of(kept(made, tmp_path)).save(tmp_path / "recipe.json")
    original = pruned(PruneConfig(ratio=0.0, multiple=1))
    original.history.clear()
    again = fxpress.Recipe.load(tmp_path / "recipe.json").replay(original, calibration=DATA)
    assert torch.equal(again.run(DATA[0]), made.run(DATA[0]))


def test_tensors_of_the_model_are_not_touched():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    before: list[Tensor] = [x.clone() for x in net.parameters()]
    x = torch.randn(2, 8)
    small = fxpress.prune(net, UNITS, args=(x,), calibration=[x])
    module = fxpress.trainable(small)
    module(x).sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    module.convert()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
