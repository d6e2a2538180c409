"""TVM's runtime: found and loaded without importing the compiler, and without PyTorch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable, InvalidArtifact

_NAME = "libtvm_runtime.so"
_lock = threading.Lock()


@functools.cache
def tvm_ffi() -> Any:
    """The module tvm_ffi. Importing it would import PyTorch wherever that is installed, for one second and 200 MB,
    so PyTorch is hidden meanwhile unless the process has it already.

    Raises BackendUnavailable when apache-tvm-ffi is not installed.
    """
    try:
        with _hidden("torch"):
            return importlib.import_module("tvm_ffi")
    except ImportError as error:
        raise BackendUnavailable(
            f"running an artifact needs the package apache-tvm-ffi ({error}): pip install apache-tvm-ffi"
        ) from error


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # makes `import name` raise ImportError
    try:
        yield
    finally:
        if sys.modules.get(name) is None:
            sys.modules.pop(name, None)


def find_runtime_library() -> Path:
    """Where libtvm_runtime.so lies: beside this package (the small runtime wheel) or in an installed apache-tvm.

    Raises BackendUnavailable when neither has it.
    """
    folders = [Path(__file__).parent / "lib"]
    spec = importlib.util.find_spec("tvm")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "lib")
    for folder in folders:
        if (folder / _NAME).is_file():
            return folder / _NAME
    raise BackendUnavailable(
        f"running an artifact needs {_NAME}: install fxpress-runtime or apache-tvm, "
        "or write the artifact with bundle_runtime=True"
    )


_loaded: list[ctypes.CDLL] = []


def runtime_library(bundled: bytes | None = None) -> ctypes.CDLL:
    """TVM's runtime, loaded once a process; `bundled` is used when none is installed. Raises BackendUnavailable."""
    with _lock:
        if not _loaded:
            tvm_ffi()  # the runtime resolves its symbols in tvm_ffi's library
            # TVM would bind the calling thread to the first core, and every thread and process it starts later
            os.environ.setdefault("TVM_BIND_THREADS", "0")
            _loaded.append(_load_runtime(bundled))
        return _loaded[0]


def _load_runtime(bundled: bytes | None) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(find_runtime_library()), ctypes.RTLD_GLOBAL)
    except BackendUnavailable:
        if bundled is None:
            raise
    except OSError as error:
        raise BackendUnavailable(f"{_NAME} must match the installed apache-tvm-ffi: {error}") from error
    with _temporary_file(_NAME, bundled) as path:
        try:
            return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise BackendUnavailable(f"the bundled {_NAME} must match the installed apache-tvm-ffi: {error}") from error


def load_module(code: bytes) -> Any:
    """Load a compiled module from the bytes of a shared library. Raises InvalidArtifact when it is none."""
    with _temporary_file("library.so", code) as path:
        try:
            return tvm_ffi().load_module(str(path))
        except (RuntimeError, OSError, ValueError) as error:
            raise InvalidArtifact(f"code of the artifact must be a loadable shared library: {error}") from error


@contextlib.contextmanager
def _temporary_file(name: str, data: bytes) -> Iterator[Path]:
    # a loaded library stays mapped after its file is gone
    with tempfile.TemporaryDirectory(prefix="fxpress-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path
