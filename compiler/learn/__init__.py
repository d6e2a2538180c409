"""Training: `fxpress.learn.train`, and techniques that make small models better. Names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .averaging import WeightAverage as WeightAverage
    from .batches import Batch as Batch
    from .config import TrainConfig as TrainConfig
    from .corruption import Noise as Noise
    from .corruption import TokenDropout as TokenDropout
    from .distillation import AttentionTransfer as AttentionTransfer
    from .distillation import FeatureDistillation as FeatureDistillation
    from .distillation import LogitDistillation as LogitDistillation
    from .distillation import OutputDistillation as OutputDistillation
    from .distillation import RelationDistillation as RelationDistillation
    from .functions import TrainFunction as TrainFunction
    from .functions import train_with as train_with
    from .images import RandomCrop as RandomCrop
    from .images import RandomFlip as RandomFlip
    from .mixing import CutMix as CutMix
    from .mixing import Mixup as Mixup
    from .pseudo_labels import PseudoLabels as PseudoLabels
    from .pseudo_labels import Together as Together
    from .result import CurvePoint as CurvePoint
    from .result import Trained as Trained
    from .training import train as train

_HOME = {
    "AttentionTransfer": "distillation",
    "Batch": "batches",
    "CurvePoint": "result",
    "CutMix": "mixing",
    "FeatureDistillation": "distillation",
    "LogitDistillation": "distillation",
    "Mixup": "mixing",
    "Noise": "corruption",
    "OutputDistillation": "distillation",
    "PseudoLabels": "pseudo_labels",
    "RandomCrop": "images",
    "RandomFlip": "images",
    "RelationDistillation": "distillation",
    "Together": "pseudo_labels",
    "TokenDropout": "corruption",
    "TrainConfig": "config",
    "TrainFunction": "functions",
    "Trained": "result",
    "WeightAverage": "averaging",
    "train": "training",
    "train_with": "functions",
}

__all__ = [
    "AttentionTransfer",
    "Batch",
    "CurvePoint",
    "CutMix",
    "FeatureDistillation",
    "LogitDistillation",
    "Mixup",
    "Noise",
    "OutputDistillation",
    "PseudoLabels",
    "RandomCrop",
    "RandomFlip",
    "RelationDistillation",
    "Together",
    "TokenDropout",
    "TrainConfig",
    "TrainFunction",
    "Trained",
    "WeightAverage",
    "train",
    "train_with",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {sorted(__all__)}")
