"""NVIDIA's driver: the few functions of its library that running an artifact takes, and its errors in our words."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import BackendUnavailable, InternalError, InvalidArtifact, OutOfMemory

LIBRARY = "libcuda.so.1"
_OUT_OF_MEMORY, _NO_BINARY, _BAD_PTX = 2, 209, 218
_CAPABILITY = (75, 76)  # attributes of a device: its compute capability, major and minor
_MOST_SHARED = 8  # attribute of a function: the dynamic shared memory that a launch may ask for
_MIB = 1 << 20


@dataclass(frozen=True)
class Device:
    """A GPU: its number, name, compute capability and bytes of memory."""

    number: int
    name: str
    capability: tuple[int, int]
    memory: int


class Driver:
    """The driver's functions on one device, in its primary context, which PyTorch uses too.

    Raises BackendUnavailable where there is no driver or no such device.
    """

    def __init__(self, number: int = 0) -> None:
        self._library = _library()
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if number >= count.value:
            raise BackendUnavailable(
                f"running this artifact needs an NVIDIA GPU with the number {number}, but this machine has "
                f"{count.value}; run it where there is one"
            )
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(handle), number)
        self._handle = handle
        self.device = self._describe(number)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._context = context

    def enter(self) -> None:
        """Make the device current for the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def load(self, code: bytes) -> Any:
        """Load a fat binary. Raises InvalidArtifact when it has nothing for the device."""
        module = ctypes.c_void_p()
        status = self._library.cuModuleLoadData(ctypes.byref(module), code)
        if status in (_NO_BINARY, _BAD_PTX):
            major, minor = self.device.capability
            raise InvalidArtifact(
                f"code of the artifact must run on {self.device.name}, which is sm_{major}{minor}, but does not; "
                f"compile the model with target='cuda{{arch=sm_{major}{minor}}}'"
            )
        self._check("cuModuleLoadData", status)
        return module

    def function(self, module: Any, name: str, shared: int) -> Any:
        """A function of a module, allowed that many bytes of dynamic shared memory."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        self._call("cuFuncSetAttribute", function, _MOST_SHARED, shared)
        return function

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes of the device. Raises OutOfMemory."""
        pointer = ctypes.c_uint64()
        status = self._library.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        if status == _OUT_OF_MEMORY:
            free, total = self._memory()
            raise OutOfMemory(
                f"the artifact needs {size / _MIB:.0f} MiB more on {self.device.name}, of whose {total / _MIB:.0f} MiB "
                f"{free / _MIB:.0f} are free; free some, or compile the model for a smaller batch"
            )
        self._check("cuMemAlloc", status)
        return pointer.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def fill_zero(self, address: int, size: int, stream: int) -> None:
        """Set bytes to zero, in the order of the stream."""
        self._call(
            "cuMemsetD8Async", ctypes.c_uint64(address), ctypes.c_ubyte(0), ctypes.c_size_t(size), _stream(stream)
        )

    def upload(self, address: int, source: int, size: int, stream: int) -> None:
        """Copy from the machine's memory, in the order of the stream."""
        host = ctypes.c_void_p(source)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), host, ctypes.c_size_t(size), _stream(stream))

    def download(self, target: int, address: int, size: int, stream: int) -> None:
        """Copy to the machine's memory, in the order of the stream."""
        host = ctypes.c_void_p(target)
        self._call("cuMemcpyDtoHAsync_v2", host, ctypes.c_uint64(address), ctypes.c_size_t(size), _stream(stream))

    def launch(
        self, function: Any, grid: Sequence[int], threads: int, shared: int, stream: int, parameters: Any
    ) -> None:
        """Launch a function; `parameters` is an array of pointers to its arguments."""
        self._check(
            "cuLaunchKernel",
            self._library.cuLaunchKernel(function, *grid, threads, 1, 1, shared, _stream(stream), parameters, None),
        )

    def wait(self, stream: int) -> None:
        """Wait for all work of a stream. Raises InternalError when a kernel of it failed."""
        self._call("cuStreamSynchronize", _stream(stream))

    def _describe(self, number: int) -> Device:
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self._call("cuDeviceGetName", name, 256, self._handle)
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), self._handle)
        capability = []
        for attribute in _CAPABILITY:
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._handle)
            capability.append(value.value)
        return Device(number, name.value.decode(), (capability[0], capability[1]), memory.value)

    def _memory(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, name: str, status: int) -> None:
        if status:
            raise InternalError(
                f"{name} of NVIDIA's driver must succeed, but said {error_text(self._library, status)}; "
                "please report this with the model"
            )


def _stream(handle: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(handle)


@functools.cache
def _library() -> Any:
    """The driver's library, initialised. Raises BackendUnavailable when there is none, or no GPU."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise BackendUnavailable(
            f"running this artifact needs NVIDIA's driver, whose {LIBRARY} is not on this machine; run it on a machine "
            f"with an NVIDIA GPU, or compile the model with target='cpu' ({error})"
        ) from error
    status = library.cuInit(0)
    if status:
        raise BackendUnavailable(
            f"running this artifact needs an NVIDIA GPU, but the driver finds none: {error_text(library, status)}; "
            "run it on a machine with one, or compile the model with target='cpu'"
        )
    return library


def error_text(library: Any, status: int) -> str:
    """What the driver calls an error."""
    text = ctypes.c_char_p()
    if library.cuGetErrorName(status, ctypes.byref(text)) or text.value is None:
        return f"error {status}"
    return text.value.decode()
