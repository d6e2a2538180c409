"""Arrays of any library as memory addresses, without copies where the memory is C-contiguous."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InvalidInput
from .structure import TensorSpec
from .tensor_file import Array, numpy_dtype

_byte_at: Callable[[Any], Any] = ctypes.c_char.from_buffer


def address_of(array: Array) -> int:
    """The address of a numpy array's first element."""
    try:
        return ctypes.addressof(_byte_at(array))  # four times faster than array.ctypes.data
    except (TypeError, ValueError, BufferError):  # read-only, empty, or of a dtype without a buffer format
        return int(array.__array_interface__["data"][0])


def aligned_zeros(size: int, alignment: int = 64) -> Array:
    """`size` zero bytes at an aligned address; pages take memory only once they are written."""
    raw = np.zeros(size + alignment, np.uint8)
    start = -address_of(raw) % alignment
    return raw[start : start + size]


def torch_module() -> Any:
    """The module torch if this process has imported it; never imports it."""
    return sys.modules.get("torch")


def is_torch(value: Any) -> bool:
    """Whether `value` is a PyTorch tensor."""
    torch = torch_module()
    return torch is not None and isinstance(value, torch.Tensor)


def input_memory(value: Any, spec: TensorSpec) -> tuple[int, Any]:
    """The address of `value`'s elements in C order and the object that keeps that memory alive.

    Raises InvalidInput naming the argument when its type, dtype or shape differs from `spec`.
    """
    if is_torch(value):
        return _torch_memory(value, spec)
    array = _as_numpy(value, spec)
    _check(spec, str(array.dtype), array.shape, array.dtype.isnative, "numpy.asarray(x, {!r})")
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return address_of(array), array


def _torch_memory(value: Any, spec: TensorSpec) -> tuple[int, Any]:
    if value.device.type != "cpu":
        raise InvalidInput(f"{spec.name} must be on the CPU, not on {value.device}; call .cpu()")
    check_tensor(value, spec)
    dense = value.detach().resolve_neg().contiguous()
    return dense.data_ptr(), dense


def check_tensor(value: Any, spec: TensorSpec) -> None:
    """Raises InvalidInput naming the argument when a PyTorch tensor's dtype or shape differs from `spec`."""
    dtype = str(value.dtype).removeprefix("torch.")
    _check(spec, dtype, tuple(value.shape), not value.is_sparse, "x.to(torch.{})")


def _as_numpy(value: Any, spec: TensorSpec) -> Array:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"{spec.name} must be readable on the CPU through DLPack, not {type(value).__name__}: {error}"
            ) from error
    if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        return np.asarray(value)
    raise InvalidInput(
        f"{spec.name} must be an array of {spec.dtype}{list(spec.shape)}, not {type(value).__name__}; "
        "numpy arrays, torch tensors and anything with __dlpack__ are arrays"
    )


def _check(spec: TensorSpec, dtype: str, shape: tuple[int, ...], plain: bool, remedy: str) -> None:
    if shape != spec.shape:
        raise InvalidInput(
            f"{spec.name} must be {spec.dtype}{list(spec.shape)}, not {dtype}{list(shape)}; "
            "the model was compiled for that shape"
        )
    if dtype != spec.dtype or not plain:
        raise InvalidInput(
            f"{spec.name} must be {spec.dtype}{list(spec.shape)}, not {dtype}{list(shape)}; "
            f"convert it with {remedy.format(spec.dtype)}"
        )


def numpy_outputs(specs: tuple[TensorSpec, ...], addresses: list[int]) -> list[Any]:
    """A new numpy array for each output; their addresses are appended to `addresses`."""
    arrays = [np.empty(spec.shape, numpy_dtype(spec.dtype)) for spec in specs]
    addresses.extend(map(address_of, arrays))
    return arrays


def torch_outputs(specs: tuple[TensorSpec, ...], addresses: list[int]) -> list[Any]:
    """A new PyTorch tensor for each output; their addresses are appended to `addresses`."""
    torch = torch_module()
    tensors = [torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs]
    addresses.extend(tensor.data_ptr() for tensor in tensors)
    return tensors


def like(example: Any, output: Any) -> Any:
    """`output` as an array of the library that `example` is from, where that library can take it over."""
    if is_torch(output) or isinstance(example, np.ndarray | np.generic) or not hasattr(example, "__array_namespace__"):
        return output
    return example.__array_namespace__().from_dlpack(output)
