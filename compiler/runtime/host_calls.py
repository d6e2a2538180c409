"""Calls between kernels: of PyTorch, for ops that no kernel covers and whose fallback the user allowed, or a device."""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BackendUnavailable, InvalidArtifact
from .tensor_file import Array, numpy_dtype

Memory = Callable[[int], int]  # table entry -> address
Functions = Mapping[str, Callable[..., Sequence[Array]]]
"""What a device other than the CPU does: by op, functions of numpy arrays (and plain data) that return new ones."""


@dataclass(frozen=True)
class HostCall:
    """A call of a PyTorch op, or of a device's function, made before kernel call number `at`.

    Arguments are JSON: `{"view": {"entry", "offset", "shape", "strides", "dtype"}}` is a tensor in memory, offset and
    strides in elements; `{"dtype": name}`, `{"device": name}`, `{"layout": name}` and `{"memory_format": name}` are
    PyTorch's; lists, numbers, strings, booleans and null are themselves. The results are copied to `outputs`, views.
    """

    at: int
    op: str  # namespace::name
    overload: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Any, ...]

    @classmethod
    def from_json(cls, data: Any) -> HostCall:
        """Raises InvalidArtifact when `data` does not describe a call."""
        match data:
            case {
                "at": int(at),
                "op": str(op),
                "overload": str(overload),
                "args": [*args],
                "outputs": [*outputs],
            }:
                return cls(at, op, overload, tuple(args), dict(data.get("kwargs") or {}), tuple(outputs))
        raise InvalidArtifact(f"host call must have at, op, overload, args and outputs, not {data!r:.200}")

    def resolve(self, functions: Functions) -> Callable[[Memory], None]:
        """What makes the call: one of a device's `functions`, or a PyTorch op.

        Raises BackendUnavailable when PyTorch, or the library that defines the op, is absent.
        """
        if self.op in functions:
            return functools.partial(self._run_function, functions[self.op])
        torch = import_torch(f"{self.op}.{self.overload}")
        namespace, _, name = self.op.partition("::")
        try:
            op = getattr(getattr(getattr(torch.ops, namespace), name), self.overload)
        except (AttributeError, RuntimeError) as error:
            raise BackendUnavailable(
                f"this artifact calls {self.op}.{self.overload}, which no imported library defines; "
                "import the package that registers it before loading the artifact"
            ) from error
        return functools.partial(self._run_torch, op)

    def _run_function(self, function: Callable[..., Sequence[Array]], memory: Memory) -> None:
        results = function(*(_array_argument(x, memory) for x in self.args))
        for result, output in zip(results, self.outputs, strict=True):
            _array(output["view"], memory)[...] = result

    def _run_torch(self, op: Any, memory: Memory) -> None:
        """Call `op` on tensors in `memory` and copy its results to where kernels expect them."""
        torch = import_torch(self.op)
        with torch.no_grad():
            results = op(
                *(_argument(x, memory, torch) for x in self.args),
                **{name: _argument(x, memory, torch) for name, x in self.kwargs.items()},
            )
            if not isinstance(results, tuple | list):
                results = (results,)
            for result, output in zip(results, self.outputs, strict=False):
                if output is not None:
                    _argument(output, memory, torch).copy_(result)


def import_torch(op: str) -> Any:
    """PyTorch. Raises BackendUnavailable when it is not installed."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise BackendUnavailable(
            f"this artifact was compiled with fallback='torch' and calls {op}: install torch to run it, "
            "or compile without that option"
        ) from error


def _argument(value: Any, memory: Memory, torch: Any) -> Any:
    match value:
        case {"view": view}:
            return _tensor(view, memory, torch)
        case {"dtype": str(name)} | {"layout": str(name)} | {"memory_format": str(name)}:
            return getattr(torch, name.removeprefix("torch."))
        case {"device": str(name)}:
            return torch.device(name)
        case [*items]:
            return [_argument(item, memory, torch) for item in items]
    return value


def _array_argument(value: Any, memory: Memory) -> Any:
    match value:
        case {"view": view}:
            return _array(view, memory)
        case [*items]:
            return [_array_argument(item, memory) for item in items]
    return value


def _array(view: dict[str, Any], memory: Memory) -> Array:
    """The numpy array that a view is of, in memory."""
    dtype = numpy_dtype(view["dtype"])
    if 0 in view["shape"]:
        return np.empty(view["shape"], dtype)
    start = memory(view["entry"]) + view["offset"] * dtype.itemsize
    strides = [stride * dtype.itemsize for stride in view["strides"]]
    reach = sum((n - 1) * stride for n, stride in zip(view["shape"], strides, strict=True))
    raw = (ctypes.c_char * (reach + dtype.itemsize)).from_address(start)
    return np.ndarray(view["shape"], dtype, raw, 0, strides)


def _tensor(view: dict[str, Any], memory: Memory, torch: Any) -> Any:
    dtype = getattr(torch, view["dtype"])
    shape: Sequence[int] = view["shape"]
    strides: Sequence[int] = view["strides"]
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    count = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    start = memory(view["entry"]) + view["offset"] * dtype.itemsize
    raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(start)
    return torch.frombuffer(raw, dtype=dtype).as_strided(shape, strides)
