"""What every CUDA kernel shares: its grid, its operands, shared and local memory, barriers, and how it becomes TIR.

A kernel is a frozen dataclass like the CPU's, and equal kernels share one compiled function. Its TIR is what one thread
does, written out: every barrier is there, no pass adds one. Operands are plain pointers, so that vectors of elements
can be loaded where a kernel's parameters say that they are aligned.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as B

from ...tvm.kernels.base import Expr, Kernel, registers_in
from ..architectures import WARP

ACCESS = 16  # bytes of the widest load and store
_UNBOUNDED = 1 << 30  # declared extent of operands; no extent is enforced


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched: blocks in x, y and z, threads of a block, bytes of dynamic shared memory."""

    grid: tuple[int, int, int]
    threads: int
    shared: int = 0


@dataclass(frozen=True)
class Place:
    """Which thread of which block the code runs for."""

    block: tuple[Expr, Expr, Expr]
    thread: Expr

    @property
    def warp(self) -> Expr:
        """The number of the thread's warp in the block."""
        return self.thread // WARP

    @property
    def lane(self) -> Expr:
        """The number of the thread in its warp."""
        return self.thread % WARP


class Memory:
    """An operand, or memory that a kernel allocates. Indices count elements from its first."""

    def __init__(self, buffer: Expr, dtype: str) -> None:
        self.buffer = buffer
        self.dtype = dtype

    def vector(self, number: Expr, lanes: int) -> Expr:
        """The vector `number` of the memory seen as vectors of `lanes` elements: aligned by construction."""
        return self.buffer[self._vector(number, lanes)]

    def set_vector(self, number: Expr, lanes: int, value: Expr) -> None:
        """Store a vector of `lanes` elements as vector `number`."""
        B.buffer_store(self.buffer, value, [self._vector(number, lanes)])

    def _vector(self, number: Expr, lanes: int) -> Expr:
        return number if lanes == 1 else B.ramp(number * lanes, 1, lanes)

    def address(self, index: Expr) -> Expr:
        """A pointer to an element."""
        return B.address_of(self.buffer[index])

    def __getitem__(self, index: Expr) -> Expr:
        return self.buffer[index]

    def __setitem__(self, index: Expr, value: Expr) -> None:
        B.buffer_store(self.buffer, value, [index])


def local(elements: int, dtype: str = "float32") -> Memory:
    """Registers of the running thread; what indexes them must be constant once loops are unrolled."""
    return Memory(B.alloc_buffer((elements,), dtype, scope="local"), dtype)


def shared(elements: int, dtype: str = "float32") -> Memory:
    """Memory of the block, its size part of the kernel: at most 48 KiB in all."""
    return Memory(B.alloc_buffer((elements,), dtype, scope="shared"), dtype)


def dynamic_shared(elements: int, dtype: str) -> Memory:
    """Memory of the block that is asked for at launch: one such allocation a kernel, as large as `Launch.shared`."""
    return Memory(B.alloc_buffer((elements,), dtype, scope="shared.dyn"), dtype)


def barrier() -> None:
    """Wait for all threads of the block."""
    B.evaluate(B.cuda.cta_sync())


def when(condition: Expr, body: Callable[[], None]) -> None:
    """Emit `body` for the threads for which the condition holds; for all where it is plain True."""
    if condition is True:
        body()
        return
    with B.If(condition):
        with B.Then():
            body()


def every(*conditions: Expr) -> Expr:
    """Whether all conditions hold; those that are plain True are left out."""
    given = [each for each in conditions if each is not True]
    return tirx.all(*given) if given else True


class CudaKernel(Kernel):
    """A kernel template with all its parameters fixed. Subclasses are frozen dataclasses."""

    @abstractmethod
    def launch(self) -> Launch:
        """The grid and the blocks. Both are constants: shapes are."""

    @abstractmethod
    def emit(self, at: Place, *operands: Any) -> None:
        """Emit what the thread at `at` does. Each operand is a Memory; subclasses may name them."""

    def prim_func(self) -> Any:
        """The kernel as the TIR of one device function: a pointer an operand, thread indices bound."""
        launch, operands = self.launch(), self.operands()
        with IRBuilder() as ib:
            with B.prim_func(is_private=True, s_tir=True):
                B.func_name("kernel")
                B.func_attr({"tirx.noalias": True})
                pointers = [B.arg(op.name, B.handle(op.dtype)) for op in operands]
                memory = [
                    Memory(B.decl_buffer((_UNBOUNDED,), op.dtype, data=pointer), op.dtype)
                    for op, pointer in zip(operands, pointers, strict=True)
                ]
                with ExitStack() as stack:
                    stack.enter_context(registers_in("local"))
                    block = []
                    for axis, size in zip("xyz", launch.grid, strict=True):
                        index = B.env_thread(f"blockIdx.{axis}")
                        stack.enter_context(B.launch_thread(index, size))
                        block.append(index)
                    thread = B.env_thread("threadIdx.x")
                    stack.enter_context(B.launch_thread(thread, launch.threads))
                    self.emit(Place((block[0], block[1], block[2]), thread), *memory)
        return ib.get()
