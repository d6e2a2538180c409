"""PyTorch calls between kernels, for ops that no kernel covers and whose fallback the user allowed."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BackendUnavailable, InvalidArtifact

Memory = Callable[[int], int]  # table entry -> address


@dataclass(frozen=True)
class HostCall:
    """A call of a PyTorch op made before kernel call number `at`.

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

    def resolve(self) -> Any:
        """The PyTorch op. Raises BackendUnavailable when PyTorch, or the library that defines the op, is absent."""
        torch = import_torch(f"{self.op}.{self.overload}")
        namespace, _, name = self.op.partition("::")
        try:
            return getattr(getattr(getattr(torch.ops, namespace), name), self.overload)
        except (AttributeError, RuntimeError) as error:
            raise BackendUnavailable(
                f"this artifact calls {self.op}.{self.overload}, which no imported library defines; "
                "import the package that registers it before loading the artifact"
            ) from error

    def run(self, op: Any, memory: Memory) -> None:
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
