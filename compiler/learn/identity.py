"""What a training is of: a checkpoint goes on only with the same model, data and options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import InvalidInput
from .batches import bytes_of
from .config import TrainConfig


def identity_of(
    module: nn.Module, config: TrainConfig, length: int, loss: Any, teacher: Any, evaluate: Any
) -> dict[str, Any]:
    """Plain data that differs where two trainings do: options, a hash of the weights at the start, what was given."""
    sha = hashlib.sha256()
    for name, x in module.state_dict().items():
        sha.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        sha.update(bytes_of(x))
    given = {name: value is not None for name, value in (("loss", loss), ("teacher", teacher), ("evaluate", evaluate))}
    found = {"config": config.to_json(), "model": sha.hexdigest(), "batches an epoch": length, "given": given}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def check_same(kept: Mapping[str, Any], found: Mapping[str, Any], path: str) -> None:
    """Raise InvalidInput naming what differs where a checkpoint is of another training."""
    pairs = [(f"{name}=", kept["config"].get(name), value) for name, value in found["config"].items()]
    pairs += [(f"{name}=", kept["given"].get(name), value) for name, value in found["given"].items()]
    pairs.append(("batches an epoch", kept["batches an epoch"], found["batches an epoch"]))
    different = [f"{name} {old!r} instead of {new!r}" for name, old, new in pairs if old != new]
    if kept["model"] != found["model"]:
        different.append("a model with other weights")
    if different:
        raise InvalidInput(
            f"checkpoint must be of this training, but {path!r} is of one with {', '.join(different)}; "
            "name another file, or delete this one"
        )
