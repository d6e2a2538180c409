"""Quantisation in parts; `fxpress.quantize` is the whole. Names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget import Budget as Budget
    from .scheme import PRESETS as PRESETS
    from .scheme import QParams as QParams
    from .scheme import QuantConfig as QuantConfig
    from .training import TrainableProgram as TrainableProgram
    from .training import trainable as trainable

_HOME = {
    "Budget": "budget",
    "PRESETS": "scheme",
    "QParams": "scheme",
    "QuantConfig": "scheme",
    "TrainableProgram": "training",
    "trainable": "training",
}

__all__ = ["PRESETS", "Budget", "QParams", "QuantConfig", "TrainableProgram", "trainable"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {sorted(__all__)}")
