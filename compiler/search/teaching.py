"""How the phases of the strategies train: on which batches, from which teacher, and what suits the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.fx import Node

from ..errors import InvalidInput
from ..learn.batches import Batch, Source, unread
from ..learn.config import Augmentation, TrainConfig
from ..learn.corruption import Noise
from ..learn.distillation import (
    AttentionTransfer,
    Distillation,
    FeatureDistillation,
    LogitDistillation,
    OutputDistillation,
)
from ..learn.functions import train_with
from ..learn.images import RandomCrop
from ..learn.mixing import CutMix, Mixup
from ..learn.training import train
from ..program import PassRecord, Program
from ..report.outcomes import TRAINING
from .phases import Options, Phase, Task
from .ranges import Choice, Range, Space, defaults_of, space_of

NONE = "none"
AUGMENTATIONS: dict[str, tuple[type, str]] = {
    "mixup": (Mixup, "alpha"),
    "cutmix": (CutMix, "alpha"),
    "noise": (Noise, "deviation"),
    "crop": (RandomCrop, "padding"),
}
"""By name what makes other batches of a batch, and the option that says how strongly."""
ON_IMAGES = ("cutmix", "crop")
HINTS: dict[str, type[FeatureDistillation] | type[AttentionTransfer]] = {
    "features": FeatureDistillation,
    "attention": AttentionTransfer,
}
"""What may be learned from inside a teacher, besides its results."""
MOST_HINTS = 3
LAYERS = ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.linear", "aten.convolution")

TECHNIQUES: Space = {
    **space_of(TrainConfig, "label_smoothing", "ema"),
    "augment": Choice((NONE, *AUGMENTATIONS)),
    **{name: space_of(technique)[option] for name, (technique, option) in AUGMENTATIONS.items()},
}
"""What a training from labels may choose."""
TAUGHT: Space = {
    "distill": Choice((True, False)),
    "temperature": space_of(LogitDistillation)["temperature"],
    "hints": Choice((NONE, *HINTS)),
}
"""What a training with a teacher may choose."""
USUAL: Options = {
    **{name: default for name, default in defaults_of(TrainConfig).items() if name in ("learning_rate", "ema")},
    **{name: defaults_of(technique)[option] for name, (technique, option) in AUGMENTATIONS.items()},
    "temperature": defaults_of(LogitDistillation)["temperature"],
}
"""What counts where a candidate says nothing and the first choice is not what is usual."""
WHEN: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    **{name: ("augment", (name,)) for name in AUGMENTATIONS},
    "temperature": ("distill", (True,)),
    "hints": ("distill", (True,)),
}


def trained(program: Program, options: Options, task: Task) -> Program:
    """The Program, trained on the task's batches, from the task's teacher too if the options say so."""
    if callable(task.train):
        return _recorded(train_with(program, task.train, seed=task.seed), "train: by the function given", ())
    assert task.train is not None
    base = task.learning or TrainConfig()
    teacher = (task.teacher or task.original) if options.get("distill") else None
    config = replace(
        base,
        epochs=options["epochs"],
        learning_rate=options["learning_rate"],
        label_smoothing=options.get("label_smoothing", base.label_smoothing),
        ema=options.get("ema", base.ema),
        augment=(*base.augment, *_augmentation(options)),
        distill=() if teacher is None else base.distill or _distillation(program, teacher, options),
        seed=task.seed,
    )
    with unread(task.train):  # so that batches come in the same order for every candidate
        found = train(program, task.train, config, loss=task.loss, teacher=teacher, progress=task.progress)
    curve = tuple({"epoch": p.epoch, "loss": p.loss, "quality": p.quality} for p in found.curve)
    return _recorded(found.model, f"train: {found.step} steps", curve)


def _recorded(program: Program, what: str, curve: tuple[Mapping[str, Any], ...]) -> Program:
    """The Program with its training in its history: training is no pass."""
    program.history.append(PassRecord(TRAINING, (what,), (), 0.0, program.text(), curve))
    return program


def _augmentation(options: Options) -> tuple[Augmentation, ...]:
    name = options.get("augment", NONE)
    if name == NONE:
        return ()
    technique, option = AUGMENTATIONS[name]
    return (technique(**{option: options.get(name, USUAL[name])}),)


def _distillation(program: Program, teacher: Program, options: Options) -> tuple[Distillation, ...]:
    by_logits = "temperature" in options
    results = LogitDistillation(temperature=options["temperature"]) if by_logits else OutputDistillation()
    hints = options.get("hints", NONE)
    return (results,) if hints == NONE else (results, HINTS[hints](layers=_compared(program, teacher, hints)))


def _compared(program: Program, teacher: Program, hints: str) -> dict[str, str]:
    """Some layers of the model that its teacher has too, evenly spread, by their names; results are not among them."""
    theirs = {node.name: _dims(node) for node in teacher.nodes if _is_layer(node)}
    mine = {node.name: _dims(node) for node in program.nodes if _is_layer(node) and node not in program.results}
    both = [name for name, dims in mine.items() if theirs.get(name) == dims and (hints == "features" or dims == 4)]
    if not both:
        raise InvalidInput(
            f"hints must be {NONE!r} for a model that has no layers left of its teacher's, not {hints!r}"
        )
    step = max(len(both) / MOST_HINTS, 1.0)
    chosen = sorted({round(len(both) - 1 - step * number) for number in range(min(MOST_HINTS, len(both)))})
    return {both[index]: both[index] for index in chosen}


def _is_layer(node: Node) -> bool:
    return node.op == "call_function" and str(node.target).startswith(LAYERS)


def _dims(node: Node) -> int:
    return int(node.meta["val"].dim())


def suited_training(phase: Phase, task: Task) -> Phase | str:
    """The phase with what makes sense for the model and the data, but for what the task's `learning` decides."""
    if callable(task.train):
        return replace(phase, space={"epochs": Range(1, 1)}, off={"epochs": 0}, defaults={}, when={})
    assert task.train is not None
    first: list[Batch] = []
    Source(task.train, task.seed).peek(1, first.append)
    target, given = first[0].targets[0][0], task.learning or TrainConfig()
    of_classes = isinstance(target, Tensor) and not target.is_floating_point()
    gone = set[str]()
    if not of_classes or task.loss is not None:
        gone.add("label_smoothing")
    if not of_classes or given.distill:
        gone.add("temperature")
    if given.distill:
        gone.add("hints")
    gone |= {name for name in ("label_smoothing", "ema") if getattr(given, name) != getattr(TrainConfig(), name)}
    return _augmented(phase.without(*gone), task, given)


def _augmented(phase: Phase, task: Task, given: TrainConfig) -> Phase:
    """The phase with those augmentations that there are for the model's inputs."""
    inputs = [node.meta["val"] for node in task.original.placeholders]
    floats = [x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
    if not floats or given.augment:
        return phase.without("augment", *AUGMENTATIONS)
    if "augment" not in phase.space or any(x.dim() == 4 for x in floats):
        return phase
    others = phase.without(*ON_IMAGES)
    return replace(others, space={**others.space, "augment": Choice((NONE, "mixup", "noise"))})
