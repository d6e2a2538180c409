"""Lowering: one walk over a Program that gives every value a view and turns every op into kernel calls."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ... import ops as _ops  # noqa: F401  (defines torch.ops.fxpress)
from ...errors import InternalError, Unsupported
from ...printer import op_name, print_type
from ...program import Program
from ...target import Target
from .kernels.base import Kernel
from .kernels.pointwise_program import Instruction, copy_program, fill_program, flip_program
from .placement import concatenation_slots, result_places
from .views import Storage, View, dense_strides

Rule = Callable[[Node, Any], None]  # of a node and the lowering of its machine
Check = Callable[[Node, Any], str | None]  # of a node and the target


@dataclass(frozen=True)
class OpRule:
    """How an op is lowered; `check` returns why a particular node cannot be, or None."""

    lower: Rule
    check: Check = lambda node, target: None


@dataclass(frozen=True)
class KernelCall:
    """A kernel with its operands, the node it computes and what the report should say about it."""

    kernel: Kernel
    views: tuple[View, ...]
    node: Node | None
    note: str = ""


@dataclass(frozen=True)
class HostCall:
    """A node computed by PyTorch, or another device, between two kernels: before call number `at`."""

    at: int
    node: Node
    arguments: Any  # the node's (args, kwargs) with views in place of nodes
    outputs: tuple[View, ...]
    on: str = "PyTorch"


@dataclass
class GraphLowering(ABC):
    """The state of one walk, and what lowering rules call. `values` maps each node to its view (or views).

    Each kind of machine has a subclass, which knows the kernel of a fused chain of elementwise operations.
    """

    way_out: ClassVar[str] = "allow calls of PyTorch at run time with fallback='torch'"
    program: Program
    target: Target
    rules: Mapping[Any, OpRule]
    fallback: str | None = None
    values: dict[Node, View | tuple[View, ...]] = field(default_factory=dict)
    calls: list[KernelCall] = field(default_factory=list)
    prepare_calls: list[KernelCall] = field(default_factory=list)
    host_calls: list[HostCall] = field(default_factory=list)
    constants: list[tuple[Storage, torch.Tensor]] = field(default_factory=list)
    outputs: list[Storage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._constant_by_content: dict[tuple[Any, ...], View] = {}
        self._cache: dict[str, Any] = {}
        self._flipped: dict[View, View] = {}
        self._current: Node | None = None
        self._results = result_places(self.program)
        self.outputs = [
            Storage("output", dtype_name(n.meta["val"].dtype), n.meta["val"].numel(), index=i)
            for i, n in enumerate(self.program.results)
        ]
        self._slots = concatenation_slots(self.program)

    def run(self) -> None:
        """Lower the whole Program. Raises Unsupported listing every node that has no rule."""
        self._require_support()
        for index, node in enumerate(self.program.placeholders):
            value = node.meta["val"]
            storage = Storage("input", dtype_name(value.dtype), value.numel(), index=index)
            self.values[node] = View(storage, 0, tuple(value.shape), dense_strides(value.shape))
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._current = node
                self._lower(node)
        self._current = None
        self._write_results()

    def _lower(self, node: Node) -> None:
        rule = self.rules.get(node.target)
        if rule is None or rule.check(node, self.target) is not None:
            self.call_host(node)
            return
        try:
            rule.lower(node, self)
        except Exception as error:
            error.add_note(f"while lowering %{node.name} = {op_name(node.target)} ({node.meta.get('source', '?')})")
            raise

    def _require_support(self) -> None:
        missing = []
        for node in self.program.graph.nodes:
            if node.op != "call_function":
                continue
            reason = unsupported_reason(node, self.target, self.rules)
            if reason is not None and self.fallback != "torch":
                missing.append(
                    f"- %{node.name}: {print_type(node.meta['val'])} = {op_name(node.target)}: {reason} "
                    f"(at {node.meta.get('source') or 'an unknown place'})"
                )
        if missing:
            raise Unsupported(
                f"{len(missing)} node(s) cannot be compiled for {self.target.kind}:\n" + "\n".join(missing) + "\n"
                f"Rewrite these lines with supported ops, or {self.way_out}."
            )

    # what rules read

    def view(self, node: Any) -> View:
        """The view of a node's value, as its dtype says; constants are added to the artifact when first read."""
        held = self.held(node)
        return self._converted(held, biased=False) if held.biased else held

    def biased(self, node: Node) -> View:
        """The view of an int8 value as uint8, 128 added to each element."""
        held = self.held(node)
        return held if held.biased else self._converted(held, biased=True)

    def held(self, node: Any) -> View:
        """The view of a node's value as it is in memory, biased or not: for rules that only move elements."""
        if not isinstance(node, Node):
            raise InternalError(f"operand must be a node, not {node!r}")
        if node not in self.values:
            tensor = self.constant_tensor(node)
            if tensor is None:
                raise InternalError(f"%{node.name} is used before it is lowered")
            self.values[node] = self.constant(tensor)
        value = self.values[node]
        if isinstance(value, tuple):
            raise InternalError(f"%{node.name} has several values; read them through getitem")
        return value

    def _converted(self, view: View, biased: bool) -> View:
        if view not in self._flipped:
            other = replace(self.temporary(view.shape, "uint8" if biased else "int8"), biased=biased)
            self.flip(view, other)
            self._flipped[view] = other
        return self._flipped[view]

    def flip(self, source: View, destination: View) -> None:
        """Copy a biased view into an unbiased one or the other way round."""
        note = f"copy: 8-bit integers {'with' if destination.biased else 'without'} bias"
        self.elementwise([source], [destination], flip_program(source.dtype), [2], note)

    def constant_tensor(self, node: Any) -> torch.Tensor | None:
        """The tensor when `node` is a constant, else None."""
        return self.program.constant(node) if isinstance(node, Node) and node.op == "get_attr" else None

    def cached(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute` returns, computed once for this Program."""
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    def contiguous(self, node: Node | View, note: str = "copy: the kernel needs dense memory") -> View:
        """The value in dense memory, copied if its view is not dense."""
        view = node if isinstance(node, View) else self.view(node)
        if view.is_dense:
            return view
        dense = replace(self.temporary(view.shape, view.dtype), biased=view.biased)
        self.copy(view, dense, note)
        return dense

    # what rules make

    def output(self, node: Node, index: int | None = None, *, strided: bool = False, biased: bool = False) -> View:
        """Memory for the node's value (or its value number `index`), registered as such.

        `strided` says that the kernel can write any strides with a dense last dimension; the value then gets the halo
        its consumers read, or lies where a concatenation wants it. `biased` says that the kernel writes an int8 value
        as uint8, 128 added to each element.
        """
        fake = node.meta["val"] if index is None else node.meta["val"][index]
        shape, dtype = tuple(fake.shape), dtype_name(fake.dtype)
        if index is not None:
            view = self.temporary(shape, dtype)
        elif biased:
            view = self._place_biased(node, shape, strided)
        else:
            view = self._place(node, shape, dtype, strided)
        if index is None:
            self.values[node] = view
        else:
            known = self.values.get(node, ())
            assert isinstance(known, tuple)
            self.values[node] = (*known, view)
        return view

    def alias(self, node: Node, view: View | tuple[View, ...]) -> None:
        """Let the node's value be this view; nothing is computed."""
        self.values[node] = view

    def temporary(self, shape: Sequence[int], dtype: str = "float32") -> View:
        """Dense arena memory."""
        return View(Storage("arena", dtype, math.prod(shape)), 0, tuple(shape), dense_strides(shape))

    def constant(self, tensor: torch.Tensor) -> View:
        """Add a constant, dense, to the artifact; equal constants are stored once."""
        tensor = tensor.detach().contiguous()
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        key = (digest, tensor.dtype, tuple(tensor.shape))
        if key not in self._constant_by_content:
            storage = Storage("constant", dtype_name(tensor.dtype), tensor.numel())
            self.constants.append((storage, tensor))
            self._constant_by_content[key] = View(storage, 0, tuple(tensor.shape), dense_strides(tensor.shape))
        return self._constant_by_content[key]

    def derived(self, shape: Sequence[int], dtype: str = "float32") -> View:
        """Dense memory that `prepare` calls fill once, when the artifact is loaded."""
        return View(Storage("derived", dtype, math.prod(shape)), 0, tuple(shape), dense_strides(shape))

    def call(self, kernel: Kernel, *views: View, note: str = "") -> None:
        """Call a kernel: inputs first, outputs last, as `kernel.operands()` says."""
        self.calls.append(self._checked(kernel, views, note))

    def prepare(self, kernel: Kernel, *views: View) -> None:
        """Call a kernel once, when the artifact is loaded."""
        self.prepare_calls.append(self._checked(kernel, views, "at load"))

    @abstractmethod
    def elementwise(
        self,
        inputs: Sequence[View],
        outputs: Sequence[View],
        program: Sequence[Instruction],
        results: Sequence[int],
        note: str = "",
    ) -> None:
        """Call the kernel of a pointwise program. All views have the shape of the outputs."""

    def copy(self, source: View, destination: View, note: str = "") -> None:
        """Copy one view into another of the same shape and type."""
        self.elementwise([source], [destination], copy_program(source.dtype), [0], note)

    def fill(self, destination: View, value: Any, note: str = "") -> None:
        """Write one number over a view."""
        self.elementwise([], [destination], fill_program(value, destination.dtype), [0], note)

    # placing values

    def _checked(self, kernel: Kernel, views: Sequence[View], note: str) -> KernelCall:
        operands = kernel.operands()
        found = [v.dtype for v in views]
        if found != [op.dtype for op in operands]:
            raise InternalError(
                f"kernel {kernel.name} must get operands {[(op.name, op.dtype) for op in operands]}, not {found}"
            )
        return KernelCall(kernel, tuple(views), self._current, note)

    def _place(self, node: Node, shape: tuple[int, ...], dtype: str, strided: bool) -> View:
        if strided and node in self._slots and dtype != "int8":
            user, dim, start = self._slots[node]
            return self._concatenation(user).slice(dim, start, shape[dim])
        if node in self._results:
            return View(self.outputs[self._results[node]], 0, shape, dense_strides(shape))
        return self.temporary(shape, dtype)

    def _place_biased(self, node: Node, shape: tuple[int, ...], strided: bool) -> View:
        if strided and node in self._slots:
            user, dim, start = self._slots[node]
            return self._concatenation(user).slice(dim, start, shape[dim])
        return replace(self.temporary(shape, "uint8"), biased=True)

    def _concatenation(self, node: Node) -> View:
        """The value of a concatenation, placed by whichever of its operands is lowered first. Of int8 it is biased."""
        if node not in self.values:
            self.output(node, strided=True, biased=node.meta["val"].dtype == torch.int8)
        return self.held(node)

    def _write_results(self) -> None:
        for index, node in enumerate(self.program.results):
            view, storage = self.view(node), self.outputs[index]
            if view.storage is not storage:
                destination = View(storage, 0, view.shape, dense_strides(view.shape))
                self.copy(view, destination, f"copy: output {index} is a view of another value")

    def call_host(self, node: Node, on: str = "PyTorch") -> None:
        """Call the node's op between kernels, on dense memory: of PyTorch, or of another device."""
        arguments = torch.fx.node.map_arg(
            (node.args, dict(node.kwargs)),
            lambda n: self.contiguous(n, "copy: calls between kernels get dense memory"),
        )
        at = len(self.calls)
        value = node.meta["val"]
        if isinstance(value, torch.Tensor):
            outputs: tuple[View, ...] = (self.output(node),)
        else:
            outputs = tuple(self.output(node, i) for i in range(len(value)))
        self.host_calls.append(HostCall(at, node, arguments, outputs, on))


def unsupported_reason(node: Node, target: Target, rules: Mapping[Any, OpRule]) -> str | None:
    """Why a node cannot be lowered, or None."""
    rule = rules.get(node.target)
    if rule is None:
        return "no kernel and no TVM operator computes this op"
    return rule.check(node, target)


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")
