"""The state of a training in one file, which replaces the last one whole or not at all. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import InvalidInput
from ..runtime.container import replaced_file

FORMAT = "fxpress-training-1"
_TENSOR, _ITEMS = "tensor", "items"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and plain data. Raises InvalidInput where the disk does not take it."""
    tensors: dict[str, Tensor] = {}
    document = json.dumps(_encode(state, tensors))
    contents = safetensors.torch.save(tensors, {"format": FORMAT, "state": document})
    try:
        with replaced_file(path) as file:
            file.write(contents)
    except (OSError, InvalidInput) as error:
        raise InvalidInput(
            f"checkpoint must be a file that can be written, not {str(path)!r}: {error}; make room and train again, "
            "the last checkpoint is kept"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote; None when there is no file. Raises InvalidInput for another or a damaged file."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError("it holds something else")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        state: dict[str, Any] = _decode(json.loads(metadata["state"]), tensors)
        return state
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"checkpoint must be a file that training wrote, not {str(path)!r}: {error}; "
            "name another file, or delete it to train anew"
        ) from error


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`; tensors go to `tensors`. A dict is written as its items, since keys may be integers."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format).cpu()
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {_ITEMS: [[key, _encode(x, tensors)] for key, x in value.items()]}
    if isinstance(value, list | tuple):
        return [_encode(x, tensors) for x in value]
    return value


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _decode(x, tensors) for key, x in value[_ITEMS]}
    return [_decode(x, tensors) for x in value] if isinstance(value, list) else value
