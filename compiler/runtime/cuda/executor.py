"""Runs an artifact's launches on a GPU: memory of the device, made once; one frame a run under way on a stream."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import InvalidArtifact, InvalidInput, Unsupported
from ..arrays import address_of
from ..container import CONSTANTS, FATBIN, Container
from ..manifest import Manifest
from .driver import Driver
from .plan import CudaPlan, Function, Launch

_FIXED_ENTRIES = 3  # the address table is [constants, derived, arena, inputs..., outputs...]


class _Arguments:
    """The arguments of launches in memory, where the driver reads them: addresses, written anew where they change."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        operands = [operand for launch in launches for operand in launch.operands]
        self._values = np.zeros(max(len(operands), 1), np.uint64)
        self._entries = np.array([entry for entry, _ in operands], np.int64)
        self._offsets = np.array([offset for _, offset in operands], np.uint64)
        first = address_of(self._values)
        self.pointers: list[Any] = []
        for launch in launches:
            count = len(launch.operands)
            self.pointers.append((ctypes.c_void_p * count)(*(first + 8 * i for i in range(count))))
            first += 8 * count
        self._changing = np.flatnonzero(self._entries >= _FIXED_ENTRIES)

    def set(self, table: Sequence[int], changing: bool) -> None:
        """Write the addresses of a table: all, or those of inputs and outputs."""
        addresses = np.array(table, np.uint64)
        which = self._changing if changing else np.arange(len(self._entries))
        self._values[which] = addresses[self._entries[which]] + self._offsets[which]


class _Frame:
    """What one run at a time needs: an arena, zeroed at first, and arguments."""

    def __init__(self, driver: Driver, fixed: Sequence[int], arena_bytes: int, plan: CudaPlan, entries: int) -> None:
        self.arena = driver.allocate(arena_bytes)
        driver.fill_zero(self.arena, arena_bytes, 0)
        driver.wait(0)
        self.fixed = [*fixed, self.arena]
        self.run = _Arguments(plan.run)
        self.run.set([*self.fixed, *[0] * entries], changing=False)


class CudaExecutor:
    """An artifact's code on a device, which is opened when it is first used."""

    num_threads = 1

    def __init__(self, container: Container, manifest: Manifest, open_driver: Callable[[], Driver]) -> None:
        self._container, self._manifest = container, manifest
        self._entries = len(manifest.inputs) + len(manifest.output_specs)
        self.plan = CudaPlan.from_json(container.manifest.get("cuda"), _FIXED_ENTRIES + self._entries)
        self._open_driver = open_driver
        self._driver: Driver | None = None
        self._functions: list[tuple[Any, Function]] = []
        self._fixed: tuple[int, ...] = ()
        self._frames: dict[int, list[_Frame]] = {}
        self._closed = False
        self._preparing = threading.Lock()

    @property
    def driver(self) -> Driver:
        """The device, with code and constants on it. Raises BackendUnavailable, InvalidArtifact, OutOfMemory."""
        with self._preparing:
            if self._closed:
                raise InvalidInput("artifact must be open to be called, not closed; load it again")
            if self._driver is None:
                self._driver = self._prepared()
            return self._driver

    def launch(self, addresses: Sequence[int], stream: int) -> None:
        """Begin a run in the order of the stream; `addresses` are those of inputs, then outputs, on the device."""
        driver = self.driver
        driver.enter()
        frames = self._frames.setdefault(stream, [])
        try:
            frame = frames.pop()  # its last run is in front of this one on the stream
        except IndexError:
            manifest = self._manifest
            frame = _Frame(driver, self._fixed, manifest.arena_bytes, self.plan, self._entries)
        frame.run.set([*frame.fixed, *addresses], changing=True)
        self._launch(driver, self.plan.run, frame.run, stream)
        frames.append(frame)

    def run(self, addresses: Sequence[int]) -> None:
        """Run the model on the default stream and wait for it."""
        self.launch(addresses, 0)
        self.driver.wait(0)

    def timed(self, addresses: Sequence[int], repeat: int) -> list[float]:
        """Raises Unsupported: launches are asynchronous, and are not timed one by one."""
        raise Unsupported("profile must be of an artifact for the CPU; profile this one with NVIDIA's tools")

    def close(self) -> None:
        """Give memory back; no run may be under way."""
        with self._preparing:
            self._closed = True
            if self._driver is None:
                return
            self._driver.enter()
            for address in (*self._fixed, *(frame.arena for frames in self._frames.values() for frame in frames)):
                self._driver.free(address)
            self._frames, self._fixed, self._driver = {}, (), None

    def _prepared(self) -> Driver:
        driver, manifest = self._open_driver(), self._manifest
        if not self.plan.suits(driver.device.capability):
            major, minor = driver.device.capability
            raise InvalidArtifact(
                f"this artifact was compiled for {', '.join(self.plan.architectures)} and newer, and cannot run on "
                f"{driver.device.name}, which is sm_{major}{minor}; compile the model with "
                f"target='cuda{{arch=sm_{major}{minor}}}'"
            )
        self._container.verify_constants()
        driver.enter()
        module = driver.load(self._container.read(FATBIN))
        self._functions = [(driver.function(module, each.name, each.shared), each) for each in self.plan.functions]
        constants = np.frombuffer(self._container.view(CONSTANTS), np.uint8)
        fixed = driver.allocate(constants.nbytes), driver.allocate(manifest.derived_bytes)
        driver.upload(fixed[0], address_of(constants), constants.nbytes, 0)
        driver.fill_zero(fixed[1], manifest.derived_bytes, 0)
        if self.plan.prepare:
            frame = _Frame(driver, fixed, manifest.arena_bytes, self.plan, self._entries)
            arguments = _Arguments(self.plan.prepare)
            arguments.set([*frame.fixed, *[0] * self._entries], changing=False)
            self._launch(driver, self.plan.prepare, arguments, 0)
            self._frames[0] = [frame]
        driver.wait(0)
        self._fixed = fixed
        return driver

    def _launch(self, driver: Driver, launches: Sequence[Launch], arguments: _Arguments, stream: int) -> None:
        for launch, pointers in zip(launches, arguments.pointers, strict=True):
            handle, function = self._functions[launch.function]
            driver.launch(handle, function.grid, function.threads, function.shared, stream, pointers)
