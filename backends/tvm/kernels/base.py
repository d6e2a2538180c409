"""What every kernel template shares: operands, the emitter's view of memory, and how a kernel becomes TIR.

A kernel is a frozen dataclass: every shape, stride and option is fixed, so equal kernels share one compiled function.
Its operands are raw pointers plus an element offset that only run time knows. Nothing is therefore assumed about
alignment (the code generator emits unaligned moves, which cost nothing on aligned data), and unaligned inputs are safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as B

Expr = Any  # a TIR expression; TVM has no static types worth naming

_UNBOUNDED = 1 << 30  # declared extent of every operand; pointers are raw, so no extent is enforced
_CPU = 1  # kDLCPU


@dataclass(frozen=True)
class Operand:
    """One pointer parameter of a kernel. `write` marks outputs; outputs come last."""

    name: str
    dtype: str
    write: bool = False


def _first(count: Expr, lanes: int) -> Expr:
    return B.ramp(B.int32(0), 1, lanes) < B.broadcast(B.cast(count, "int32"), lanes)


class Access:
    """An operand inside a kernel body. Indices are elements relative to the operand's first element."""

    def __init__(self, buffer: Expr, base: Expr, dtype: str) -> None:
        self._buffer = buffer
        self._base = base
        self.dtype = dtype

    def load(self, index: Expr, lanes: int = 1, stride: int = 1, count: Expr | None = None) -> Expr:
        """Load `lanes` elements that lie `stride` apart (0 broadcasts one element).

        With `count` (stride 1 only), lanes from `count` on read no memory and are 0.
        """
        if count is not None:
            where, mask = B.ramp(self._base + index, 1, lanes), _first(count, lanes)
            return B.masked_load(f"{self.dtype}x{lanes}", self._buffer, where, mask)
        if lanes == 1:
            return self._buffer[self._base + index]
        if stride == 0:
            return B.broadcast(self._buffer[self._base + index], lanes)
        return self._buffer[B.ramp(self._base + index, stride, lanes)]

    def store(self, index: Expr, value: Expr, lanes: int = 1, stride: int = 1, count: Expr | None = None) -> None:
        """Store `value`, a vector of `lanes` elements, `stride` apart; with `count` (stride 1 only) its first ones."""
        where = self._base + index
        if isinstance(count, int) and count == 1:  # for a single lane of 16 bits LLVM's masked store may write 32
            B.buffer_store(self._buffer, tirx.Shuffle([value], [tirx.const(0, "int32")]), [where])
            return
        if count is not None:
            B.evaluate(B.masked_store(self._buffer, value, B.ramp(where, 1, lanes), _first(count, lanes)))
            return
        B.buffer_store(self._buffer, value, [where if lanes == 1 else B.ramp(where, stride, lanes)])

    def prefetch(self, index: Expr) -> None:
        """Ask for the cache line of that element to be brought to L2; harmless outside the operand."""
        address = B.address_of(self._buffer[self._base + index])
        B.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, B.int32(0), B.int32(2), B.int32(1)))

    def address(self, index: Expr) -> Expr:
        """A pointer to the element at `index`."""
        return B.address_of(self._buffer[self._base + index])

    def shifted(self, offset: Expr) -> Access:
        """The same memory seen from `offset` elements further on."""
        return Access(self._buffer, B.bind(self._base + offset), self.dtype)


# How `Registers` are declared: for LLVM as a stack allocation, which it promotes.
_ON_THE_STACK: Mapping[str, Any] = MappingProxyType({"scope": "global", "annotations": {"disable_lower_builtin": True}})
_REGISTERS: ContextVar[Mapping[str, Any]] = ContextVar("registers", default=_ON_THE_STACK)


@contextmanager
def registers_in(scope: str) -> Iterator[None]:
    """Let `Registers` be memory of that TIR scope: what another code generator than LLVM's keeps in registers."""
    token = _REGISTERS.set({"scope": scope})
    try:
        yield
    finally:
        _REGISTERS.reset(token)


class Registers:
    """Vectors of `lanes` elements kept in machine registers."""

    def __init__(self, count: int, lanes: int, dtype: str = "float32") -> None:
        self.lanes = lanes
        self._buffer = B.alloc_buffer((count * lanes,), dtype, **_REGISTERS.get())

    def _index(self, slot: int) -> Expr:
        return slot * self.lanes if self.lanes == 1 else B.ramp(slot * self.lanes, 1, self.lanes)

    def __getitem__(self, slot: int) -> Expr:
        return self._buffer[self._index(slot)]

    def __setitem__(self, slot: int, value: Expr) -> None:
        B.buffer_store(self._buffer, value, [self._index(slot)])


def scratch(elements: int, dtype: str = "float32") -> Access:
    """Pooled memory, private to the running iteration of the enclosing parallel loop (or to the call)."""
    return Access(B.alloc_buffer((elements,), dtype, scope="global"), B.int32(0), dtype)


def broadcast(value: Expr, lanes: int) -> Expr:
    """`value` in each of `lanes` lanes; `value` itself when `lanes` is 1."""
    return value if lanes == 1 else B.broadcast(value, lanes)


class Kernel(ABC):
    """A kernel template with all its parameters fixed. Subclasses are frozen dataclasses."""

    name: ClassVar[str]  # kebab-case, shown by explain

    @abstractmethod
    def operands(self) -> tuple[Operand, ...]:
        """The pointer parameters, inputs first, outputs last."""

    @abstractmethod
    def emit(self, *operands: Any, **_: Any) -> None:
        """Emit the body into the current TIR function. Each operand is an Access; subclasses may name them."""

    def flops(self) -> int:
        """Floating-point operations of one call, a multiply-add counted as two."""
        return 0

    def extensions(self) -> frozenset[str]:
        """The target's extensions (names of EXTENSIONS) that the kernel's code needs."""
        return frozenset()

    def traffic(self, sizes: Sequence[int]) -> int:
        """Bytes that one call reads and writes, where `sizes` are the bytes each operand shows: by default all."""
        return sum(sizes)

    def describe(self) -> str:
        """The kernel's choices (tile, order, algorithm) on one line, for reports."""
        return self.name

    def prim_func(self) -> Any:
        """The kernel as a private TIR function: one (pointer, element offset) pair an operand, returning int32 0."""
        operands = self.operands()
        with IRBuilder() as ib:
            with B.prim_func(is_private=True, s_tir=True):
                B.func_name("kernel")
                B.func_ret(tvm.ir.PrimType("int32"))
                B.func_attr({"tirx.noalias": True})
                arguments = [
                    (B.arg(op.name, B.handle(op.dtype)), B.arg(f"{op.name}_offset", B.int32())) for op in operands
                ]
                views = [
                    Access(B.decl_buffer((_UNBOUNDED,), op.dtype, data=pointer), offset, op.dtype)
                    for op, (pointer, offset) in zip(operands, arguments, strict=True)
                ]
                # What lowers `scratch` to the pooled workspace; TVM itself sets it in packed functions only.
                with B.attr({"device_id": B.int32(0), "device_type": B.int32(_CPU)}):
                    self.emit(*views)
                B.add_to_parent(tirx.Return(B.int32(0)))
        return ib.get()


@dataclass(frozen=True)
class Call:
    """One kernel call: for each operand an entry of the address table and an element offset from that address."""

    kernel: Kernel
    arguments: tuple[tuple[int, int], ...]


def run_module(
    calls: Sequence[Call], table_size: int, symbols: dict[str, Sequence[Call]] | None = None
) -> tvm.IRModule:
    """Build the module whose function `run(table, begin, end)` makes the calls numbered begin to end - 1, in order.

    `table` is an int64 tensor of addresses. `symbols` adds more such functions by name, sharing kernels with `run`.
    """
    functions: dict[Any, Any] = {}
    shared: dict[Kernel, Any] = {}
    entries = {"run": calls, **(symbols or {})}
    for entry_calls in entries.values():
        for call in entry_calls:
            if call.kernel not in shared:
                symbol = tvm.ir.GlobalVar(f"k{len(shared)}_{call.kernel.name.replace('-', '_')}")
                shared[call.kernel] = symbol
                functions[symbol] = call.kernel.prim_func()
    for name, entry_calls in entries.items():
        functions[tvm.ir.GlobalVar(name)] = _entry(name, entry_calls, shared, table_size)
    return tvm.IRModule(functions)


def _entry(name: str, calls: Sequence[Call], symbols: dict[Kernel, Any], table_size: int) -> Any:
    with IRBuilder() as ib:
        with B.prim_func(s_tir=True):
            B.func_name(name)
            B.func_attr({"global_symbol": name})
            table = B.arg("table", B.buffer((table_size,), "int64", buffer_name="table"))
            begin = B.arg("begin", B.int32())
            end = B.arg("end", B.int32())
            pointers = [B.bind(tirx.reinterpret("handle", table[i])) for i in range(table_size)]
            for number, call in enumerate(calls):
                with B.If(tirx.all(begin <= number, number < end)):
                    with B.Then():
                        arguments = [x for entry, offset in call.arguments for x in (pointers[entry], B.int32(offset))]
                        B.evaluate(tvm.ir.Call(symbols[call.kernel], arguments, ret_ty=tvm.ir.PrimType("int32")))
    return ib.get()
