"""How a model is trained: TrainConfig, as plain data too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from ..errors import InvalidInput
from ..search.ranges import Choice, Range, not_searched, search
from .batches import Batch
from .corruption import Noise, TokenDropout
from .distillation import (
    AttentionTransfer,
    Distillation,
    FeatureDistillation,
    LogitDistillation,
    OutputDistillation,
    RelationDistillation,
)
from .images import RandomCrop, RandomFlip
from .mixing import CutMix, Mixup
from .schedules import SCHEDULES

OPTIMIZERS = ("adamw", "sgd")
Augmentation = Callable[[Batch], Batch]
"""Changes a batch. What it draws from PyTorch, numpy or Python is decided by the seed and the step."""
TECHNIQUES: dict[str, type] = {
    technique.__name__: technique
    for technique in (
        *(AttentionTransfer, FeatureDistillation, LogitDistillation, OutputDistillation, RelationDistillation),
        *(CutMix, Mixup, Noise, RandomCrop, RandomFlip, TokenDropout),
    )
}
"""What `augment` and `distill` may hold by name."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained. `dataclasses.replace` makes variants.

    Training ends after `epochs`, or after `steps` where they are given. `optimizer` is "adamw" or "sgd" (with
    Nesterov's `momentum`); `weight_decay` is of weights of two or more dims, not of biases and norms. `schedule` is
    "cosine" or "constant", after a linear growth in the share `warmup` of all steps. `clip_norm` is the largest norm of
    all gradients together. `label_smoothing` is of the default loss for classes. `ema` is the decay of an average of
    the weights, which is then what is evaluated and returned. `augment` change each batch, in order. `distill` are the
    ways to learn from a teacher, by default its logits where targets are classes, its outputs where not;
    `target_weight` is what the loss on targets counts beside them. Training ends early after `patience` evaluations
    that are no better than the best before by more than `noise` and chance. `keep` is which weights are returned where
    there is an `evaluate`: those of the "best" evaluation (of equals, the latest), or the "last". `seed` decides
    everything that is random.
    """

    epochs: int = field(default=10, metadata=search(Range(1, 100, log=True)))
    steps: int | None = field(default=None, metadata=not_searched("it takes the place of epochs"))
    optimizer: str = field(default="adamw", metadata=search(Choice(OPTIMIZERS)))
    learning_rate: float = field(default=1e-3, metadata=search(Range(1e-5, 1e-1, log=True)))
    weight_decay: float = field(default=1e-4, metadata=search(Range(1e-6, 1e-1, log=True)))
    momentum: float = field(default=0.9, metadata=search(Range(0.8, 0.99)))
    schedule: str = field(default="cosine", metadata=search(Choice(tuple(SCHEDULES))))
    warmup: float = field(default=0.05, metadata=search(Range(0.0, 0.2)))
    clip_norm: float | None = field(default=None, metadata=search(Choice((None, 0.5, 1.0, 5.0))))
    label_smoothing: float = field(default=0.0, metadata=search(Range(0.0, 0.2)))
    ema: float | None = field(default=None, metadata=search(Choice((None, 0.9, 0.99, 0.999))))
    augment: tuple[Augmentation, ...] = ()
    distill: tuple[Distillation, ...] = ()
    target_weight: float = field(default=1.0, metadata=search(Range(0.0, 1.0)))
    patience: int | None = field(default=None, metadata=not_searched("it saves time, not quality"))
    noise: float = field(default=0.0, metadata=not_searched("it is known, not chosen"))
    keep: str = field(default="best", metadata=not_searched("the best is better"))
    seed: int = field(default=0, metadata=not_searched("a search has one of its own"))

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "patience"):
            _check_whole(name, getattr(self, name), or_none=name != "epochs")
        for name, value, choices in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, tuple(SCHEDULES)),
            ("keep", self.keep, ("best", "last")),
        ):
            if value not in choices:
                raise InvalidInput(f"{name} must be one of {list(choices)}, not {value!r}")
        for name in ("learning_rate", "clip_norm"):
            if (value := getattr(self, name)) is not None and not (_is_number(value) and value > 0):
                raise InvalidInput(f"{name} must be positive, not {value!r}")
        for name in ("weight_decay", "noise", "target_weight"):
            if not (_is_number(value := getattr(self, name)) and value >= 0):
                raise InvalidInput(f"{name} must be a number of at least 0, not {value!r}")
        for name in ("momentum", "warmup", "label_smoothing", "ema"):
            if (value := getattr(self, name)) is not None and not (_is_number(value) and 0 <= value < 1):
                raise InvalidInput(f"{name} must be from 0 to below 1, not {value!r}")
        if not isinstance(self.seed, int):
            raise InvalidInput(f"seed must be an integer, not {self.seed!r}")
        for name, wanted in (("augment", "augmentations"), ("distill", "distillations")):
            object.__setattr__(self, name, _tuple(name, getattr(self, name), wanted))
        for item in self.distill:
            if not isinstance(item, Distillation):
                raise InvalidInput(f"distill must hold distillations, not {item!r}")
        for change in self.augment:
            if not callable(change):
                raise InvalidInput(f"augment must hold callables from Batch to Batch, not {change!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a Recipe. A function of the user's is its name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return found | {name: [_technique_to_json(x) for x in found[name]] for name in ("augment", "distill")}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> TrainConfig:
        """The config that `to_json` wrote. Raises InvalidInput for names that are not known here."""
        unknown = sorted(set(document) - {f.name for f in fields(TrainConfig)})
        if unknown:
            raise InvalidInput(f"config must have fields of TrainConfig, not {', '.join(unknown)}")
        listed = {name: tuple(map(_technique_of, document.get(name, ()))) for name in ("augment", "distill")}
        return TrainConfig(**{**document, **listed})


def _technique_to_json(technique: Any) -> dict[str, Any]:
    if is_dataclass(technique) and TECHNIQUES.get(type(technique).__name__) is type(technique):
        options = {f.name: _plain(getattr(technique, f.name)) for f in fields(technique)}
        return {"name": type(technique).__name__, **options}
    named = technique if hasattr(technique, "__qualname__") else type(technique)
    return {"name": f"{named.__module__}.{named.__qualname__}"}


def _technique_of(document: Mapping[str, Any]) -> Any:
    options = dict(document)
    name = options.pop("name", None)
    if name not in TECHNIQUES:
        raise InvalidInput(f"technique must be one of {sorted(TECHNIQUES)}, not {name!r}; give your own in code")
    return TECHNIQUES[name](**options)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _tuple(name: str, value: Any, wanted: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise InvalidInput(f"{name} must be a tuple of {wanted}, not {value!r}; a single one is (one,)")
    return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_whole(name: str, value: Any, *, or_none: bool) -> None:
    if value is None and or_none:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{name} must be an integer of at least 1{' or None' if or_none else ''}, not {value!r}")
