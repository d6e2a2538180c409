"""Hashes of what a search is given, the same in every process: what is kept rests on them.

Numbers, texts, tensors, arrays and what holds them are hashed by content, batches of training as the first epoch yields
them. A function or class is named by its module and name, with a hash of its source; what a function closes over is not
seen. Objects are hashed by their class and attributes.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from ..learn.batches import bytes_of
from ..program import Program

Add = Callable[[bytes], None]


def digest_of(value: Any) -> str:
    """A hash of anything."""
    sha = hashlib.sha256()
    _add(value, sha.update, set())
    return sha.hexdigest()


def _add(value: Any, add: Add, inside: set[int]) -> None:
    """Add what tells `value` from others. `inside` are the objects that it is part of."""
    add(f"{type(value).__name__} ".encode())
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        add(f"{value!r};".encode())
    elif isinstance(value, torch.Tensor):
        add(f"{value.dtype}{tuple(value.shape)};".encode())
        add(bytes_of(value))
    elif isinstance(value, np.ndarray):
        add(f"{value.dtype}{value.shape};".encode())
        add(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Program):
        add(value.text().encode())
        _add(dict(sorted(value.constants.items())), add, inside)
    elif inspect.isroutine(value) or inspect.isclass(value):
        add(_name(value).encode())
        _add(getattr(value, "__self__", None) if inspect.ismethod(value) else None, add, inside)
    elif id(value) not in inside:
        for part in _parts(value):
            _add(part, add, inside | {id(value)})
    add(b".")


def _parts(value: Any) -> list[Any]:
    """What a thing consists of."""
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return [len(value), *value]
    if isinstance(value, set | frozenset):
        return sorted(map(digest_of, value))
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, torch.utils.data.DataLoader):  # its other attributes change as it is read
        return [value.dataset, value.batch_size, value.drop_last]
    if is_dataclass(value):
        return [type(value), *(getattr(value, field.name) for field in fields(value))]
    return [type(value), getattr(value, "__dict__", {})]


def _name(value: Any) -> str:
    """A function or class by name and source."""
    module = "__main__" if value.__module__ == "__mp_main__" else value.__module__
    try:
        source = inspect.getsource(value)
    except (OSError, TypeError):  # it is built in, or was typed
        source = ""
    code = getattr(value, "__code__", None)
    if code is not None:  # two functions may share a line
        source += repr((code.co_code, code.co_names, [x for x in code.co_consts if not inspect.iscode(x)]))
    return f"{module}.{value.__qualname__} {hashlib.sha256(source.encode()).hexdigest()};"
