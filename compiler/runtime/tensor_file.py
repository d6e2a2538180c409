"""Tensors as bytes in the safetensors format, which is a JSON header and raw data, with numpy alone."""

from __future__ import annotations

import functools
import importlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import BackendUnavailable, InvalidArtifact, InvalidInput

Array = np.ndarray[Any, np.dtype[Any]]

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_NAMES = {code: name for name, code in _CODES.items()}
_SIZE = struct.Struct("<Q")


@functools.cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype called `name`. Raises InvalidArtifact for an unknown one, BackendUnavailable for bfloat16
    without `ml_dtypes`."""
    if name not in _CODES:
        raise InvalidArtifact(f"dtype must be one of {sorted(_CODES)}, not {name!r:.50}")
    if name != "bfloat16":
        return np.dtype(name)
    try:
        scalar: Any = importlib.import_module("ml_dtypes").bfloat16
    except ImportError as error:
        raise BackendUnavailable("bfloat16 arrays need the package ml_dtypes: pip install ml_dtypes") from error
    dtype: np.dtype[Any] = np.dtype(scalar)
    return dtype


def numpy_dtype_or_none(name: str) -> np.dtype[Any] | None:
    """`numpy_dtype`, or None for bfloat16 without `ml_dtypes`."""
    try:
        return numpy_dtype(name)
    except BackendUnavailable:
        return None


def save_tensors(tensors: Mapping[str, Array]) -> bytes:
    """The bytes of a safetensors file."""
    header: dict[str, Any] = {}
    blobs: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        if str(tensor.dtype) not in _CODES:
            raise InvalidInput(f"dtype of {name} must be one of {sorted(_CODES)}, not {tensor.dtype}")
        blob = np.ascontiguousarray(tensor).tobytes()
        header[name] = {
            "dtype": _CODES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(blob)],
        }
        end += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([_SIZE.pack(len(text)), text, *blobs])


def load_tensors(data: bytes) -> dict[str, Array]:
    """Read a safetensors file into read-only arrays. Raises InvalidArtifact when it is malformed."""
    try:
        (size,) = _SIZE.unpack_from(data)
        if size > len(data) - _SIZE.size:
            raise ValueError(f"a header of {size} bytes is longer than the file")
        header = json.loads(data[_SIZE.size : _SIZE.size + size])
        body = memoryview(data)[_SIZE.size + size :]
        return {name: _tensor(entry, body) for name, entry in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArtifact(f"samples must be a safetensors file ({error})") from error


def _tensor(entry: Mapping[str, Any], body: memoryview) -> Array:
    dtype = numpy_dtype(_NAMES[entry["dtype"]])
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= len(body):
        raise ValueError(f"data offsets must lie within {len(body)} bytes, not {begin} to {end}")
    return np.frombuffer(body[begin:end], dtype).reshape(entry["shape"])
