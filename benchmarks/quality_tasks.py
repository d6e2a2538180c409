"""What 8-bit models lose: each task quantises with every peer and compares with the float32 model, or with the truth.

A peer that cannot do a task gets an entry with `failed`, the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import fxpress
import numpy as np
import samples
import torch
from fidelity import fidelity
from judge import Array
from models import MODELS, SEED
from peers import OURS
from quantized_files import Calibration
from quantized_peers import QuantizedPeer
from scipy import stats
from torch import Tensor
from training import Trained, train, trained
from worker import FAILURES

LATE_EPOCHS, LATE_RATE = 3, 3e-4
"""Of the training that goes on with integers."""

CLASSIFIERS = ("lenet", "mobilenet")
"""Of the trained ones, those that are quantised here."""

Entry = dict[str, Any]
Progress = Callable[[str], object]
Run = Callable[[Tensor], Array]  # the logits of one image


@dataclass(frozen=True)
class Settings:
    """How many inputs there are of each kind, and how many classifiers are trained."""

    calibration: int = 128
    images: int = 280
    texts: int = 300
    folds: int = 5
    seeds: int = 5
    threads: int = 1  # of PyTorch and of every peer; more help only on a quiet machine


Makers = dict[str, Callable[[Calibration], QuantizedPeer]]


def _singly(module: Callable[..., Tensor], cases: Sequence[tuple[Tensor, ...]]) -> list[Array]:
    with torch.inference_mode():
        return [module(*case).numpy() for case in cases]


def _compared(name: str, makers: Makers, count: int, settings: Settings, judged: Callable[..., Entry]) -> Entry:
    """A task that compares a model of the suites with its own float32 outputs."""
    module, args, kwargs = MODELS[name].build()
    calibration = Calibration(samples.inputs(MODELS[name], "calibration", settings.calibration), MODELS[name].kind)
    cases = samples.inputs(MODELS[name], "evaluation", count)
    expected = _singly(module, cases)
    peers: dict[str, Entry] = {}
    for key, make in makers.items():
        start = time.perf_counter()
        try:
            peer = make(calibration)
            peer.prepare(module, args, kwargs, settings.threads)
            seconds = time.perf_counter() - start
            found = [peer.run(case)[0] for case in cases]
        except FAILURES as error:
            peers[key] = {"failed": f"{type(error).__name__}: {str(error).strip()[:400]}"}
        else:
            peers[key] = judged(found, expected) | {"prepare": seconds}
    return {"evaluated": len(cases), "calibrated": settings.calibration, "peers": peers}


def efficientnet(makers: Makers, settings: Settings, progress: Progress) -> Entry:
    """Top-1 agreement with float32 and the SQNR of logits, on crops of photographs."""
    return _compared(
        "efficientnet-lite0",
        makers,
        settings.images,
        settings,
        lambda found, expected: asdict(fidelity(found, expected)),
    )


def minilm(makers: Makers, settings: Settings, progress: Progress) -> Entry:
    """Cosine of sentence embeddings to float32's, and Spearman's correlation of all pairwise similarities."""

    def judged(found: list[Array], expected: list[Array]) -> Entry:
        near = fidelity(found, expected)
        ours, theirs = (_similarities(np.concatenate(each)) for each in (found, expected))
        return {"cosine": near.cosine, "spearman": float(stats.spearmanr(ours, theirs).statistic), "sqnr": near.sqnr}

    return _compared("minilm-b1", makers, settings.texts, settings, judged)


def _similarities(embeddings: Array) -> Array:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / lengths
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def after_training(make: Callable[[Calibration], QuantizedPeer], settings: Settings) -> Callable[[Trained], Run]:
    """Post-training quantisation as a way to make an 8-bit classifier of a trained one."""

    def quantize(case: Trained) -> Run:
        chosen = torch.randperm(len(case.images), generator=torch.Generator().manual_seed(SEED))[: settings.calibration]
        peer = make(Calibration([(image,) for image in case.images[chosen].split(1)], "rectified"))
        peer.prepare(case.module, (case.images[:1],), {}, settings.threads)
        return lambda image: peer.run((image,))[0]

    return quantize


def going_on_training(settings: Settings) -> Callable[[Trained], Run]:
    """Training-aware quantisation as such a way: the 8-bit classifier learns the digits again, for a short while."""

    def quantize(case: Trained) -> Run:
        chosen = torch.randperm(len(case.images), generator=torch.Generator().manual_seed(SEED))[: settings.calibration]
        program = fxpress.quantize(
            case.module,
            args=(case.images[:1],),
            calibration=list(case.images[chosen].split(1)),
            profitable="off",
            progress=lambda stage: None,
        )
        torch.manual_seed(SEED)
        module = fxpress.quantization.trainable(program)
        train(module, case.images, case.labels, LATE_EPOCHS, LATE_RATE)
        converted = module.convert()
        return lambda image: _singly(converted.run, [(image,)])[0]

    return quantize


def classifier(net: str, ways: dict[str, Callable[[Trained], Run]], settings: Settings, progress: Progress) -> Entry:
    """The loss of accuracy in percentage points, of the same classifier on the same digits, over folds and seeds.

    `ways` make the 8-bit classifier of a trained one: `after_training`, or one that goes on training.
    """
    accuracies: list[float] = []
    found: dict[str, list[float]] = {key: [] for key in ways}
    failed: dict[str, str] = {}
    for i, case in enumerate(trained(net, settings.folds, settings.seeds)):
        progress(f"{net} {i + 1}/{settings.folds * settings.seeds}")
        accuracies.append(_accuracy(lambda image, case=case: _singly(case.module, [(image,)])[0], case))
        for key, way in ways.items():
            if key in failed:
                continue
            try:
                found[key].append(_accuracy(way(case), case))
            except FAILURES as error:
                failed[key] = f"{type(error).__name__}: {str(error).strip()[:400]}"
    peers = {key: {"failed": failed[key]} if key in failed else paired(accuracies, found[key]) for key in ways}
    return {"accuracy": float(np.mean(accuracies)), "runs": len(accuracies), "peers": peers}


def _accuracy(run: Run, case: Trained) -> float:
    """In percent, of the digits that were left out of training."""
    found = [int(run(image).argmax()) for image in case.test_images.split(1)]
    return 100 * float(np.mean(np.array(found) == case.test_labels.numpy()))


def paired(before: Sequence[float], after: Sequence[float]) -> Entry:
    """The mean of before - after and the upper end of its 95% interval (Student's t; None for a single pair)."""
    drops = np.subtract(before, after)
    upper = None
    if len(drops) > 1:
        upper = float(drops.mean() + stats.t.ppf(0.975, len(drops) - 1) * drops.std(ddof=1) / len(drops) ** 0.5)
    return {"drop": float(drops.mean()), "upper": upper, "drops": drops.tolist()}


def _classifier_ways(makers: Makers, settings: Settings) -> dict[str, Callable[[Trained], Run]]:
    ways = {key: after_training(make, settings) for key, make in makers.items()}
    if any(key.startswith(OURS) for key in makers):
        ways[f"{OURS} int8 trained"] = going_on_training(settings)
    return ways


TASKS: dict[str, Callable[[Makers, Settings, Progress], Entry]] = {
    "efficientnet-lite0": efficientnet,
    "minilm": minilm,
    **{
        net: lambda makers, settings, progress, net=net: classifier(
            net, _classifier_ways(makers, settings), settings, progress
        )
        for net in CLASSIFIERS
    },
}
