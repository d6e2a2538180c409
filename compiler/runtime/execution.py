"""Runs an artifact's code: memory per caller, load-time preparation, threads, and other calls between kernels."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InvalidArtifact, InvalidInput
from .arrays import address_of, aligned_zeros
from .container import CONSTANTS, LIBRARY, RUNTIME_LIBRARY, Container
from .host_calls import Functions
from .libraries import load_module, runtime_library, tvm_ffi
from .manifest import Manifest
from .threads import setting, use_threads

_FIXED_ENTRIES = 3  # the address table is [constants, derived, arena, inputs..., outputs...]


class _Frame:
    """What one caller at a time needs: an arena, zeroed at first, and an address table."""

    def __init__(self, fixed: Sequence[int], arena_bytes: int, inputs_and_outputs: int) -> None:
        self.arena = aligned_zeros(arena_bytes)
        self._memory = aligned_zeros(8 * (_FIXED_ENTRIES + inputs_and_outputs)).view(np.int64)
        self._memory[:_FIXED_ENTRIES] = (*fixed, address_of(self.arena))
        self.table = self._memory.data  # much faster to write to than the array
        self.tensor = tvm_ffi().from_dlpack(self._memory)


class Executor:
    """The library's functions over constants (mapped, shared), derived memory (made once) and one frame a caller."""

    def __init__(self, container: Container, manifest: Manifest, num_threads: int, functions: Functions) -> None:
        self.num_threads = num_threads
        self._calls, self._prepare_calls = manifest.calls, manifest.prepare_calls
        self._arena_bytes = manifest.arena_bytes
        self._entries = len(manifest.inputs) + len(manifest.output_specs)
        self._host_calls = [(call.at, call.resolve(functions)) for call in manifest.host_calls]
        runtime_library(container.read(RUNTIME_LIBRARY) if RUNTIME_LIBRARY in container else None)
        module = load_module(container.read(LIBRARY))
        self._run, self._prepare = _function(module, "run"), _function(module, "prepare")
        self._load_only_bytes = manifest.load_only_bytes
        self._container = container
        self._constants = np.frombuffer(container.view(CONSTANTS), np.uint8)
        self._derived = aligned_zeros(manifest.derived_bytes)
        self._frames: list[_Frame] = []
        self._state = "new"  # then "ready", then "closed"
        self._preparing = threading.Lock()

    def run(self, addresses: Sequence[int]) -> None:
        """Run the model; `addresses` are those of the inputs, then the outputs."""
        frame = self._enter(addresses)
        if self._host_calls:
            self._run_with_host_calls(frame)
        else:
            self._run(frame.tensor, 0, self._calls)
        self._frames.append(frame)  # a frame whose run failed is dropped

    def timed(self, addresses: Sequence[int], repeat: int) -> list[float]:
        """Run the model `repeat` times, call by call; return the median seconds of each call.

        Calls between kernels count towards the kernel call that follows them.
        """
        frame = self._enter(addresses)
        seconds = np.empty((repeat, self._calls))
        for row in seconds:
            for number in range(self._calls):
                start = time.perf_counter()
                self._host_calls_at(number, frame)
                self._run(frame.tensor, number, number + 1)
                row[number] = time.perf_counter() - start
            self._host_calls_at(self._calls, frame)
        self._frames.append(frame)
        return [float(x) for x in np.median(seconds, axis=0)]

    def close(self) -> None:
        """Give memory back; no call may be running."""
        self._state = "closed"
        self._frames = []
        self._derived = self._constants = np.empty(0, np.uint8)

    def _enter(self, addresses: Sequence[int]) -> _Frame:
        """A frame of one's own with these addresses in its table, and the thread pool as this artifact wants it."""
        if self._state != "ready":
            self._make_ready()
        if setting.used != self.num_threads:
            use_threads(self.num_threads)
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = self._new_frame()
        table = frame.table
        for entry, address in enumerate(addresses, _FIXED_ENTRIES):
            table[entry] = address
        return frame

    def _new_frame(self) -> _Frame:
        return _Frame((address_of(self._constants), address_of(self._derived)), self._arena_bytes, self._entries)

    def _make_ready(self) -> None:
        with self._preparing:
            if self._state == "closed":
                raise InvalidInput("artifact must be open to be called, not closed; load it again")
            if self._state == "ready":
                return
            self._container.verify_constants()
            use_threads(self.num_threads)
            frame = self._new_frame()
            self._prepare(frame.tensor, 0, self._prepare_calls)
            self._container.forget(CONSTANTS, self._load_only_bytes)
            self._frames.append(frame)
            self._state = "ready"

    def _run_with_host_calls(self, frame: _Frame) -> None:
        begin = 0
        for at, call in self._host_calls:
            self._run(frame.tensor, begin, at)
            call(frame.table.__getitem__)
            begin = at
        self._run(frame.tensor, begin, self._calls)

    def _host_calls_at(self, number: int, frame: _Frame) -> None:
        for at, call in self._host_calls:
            if at == number:
                call(frame.table.__getitem__)


def _function(module: Any, name: str) -> Any:
    try:
        return module.get_function(name)
    except (AttributeError, RuntimeError) as error:
        raise InvalidArtifact(f"code of the artifact must export the function {name!r}: {error}") from error
