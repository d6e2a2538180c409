"""How a Program changes: passes, local rewrite rules, and the Rewriter, the only hand that touches a graph."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from .errors import InternalError, InvalidInput
from .printer import op_name, print_type
from .program import Program, set_constant

Accuracy = Literal["exact", "reassociating", "lossy"]
MAX_ROUNDS = 100


class Pass(ABC):
    """One rewrite of a Program. Subclasses are frozen dataclasses whose fields are the pass's options.

    Contract: the Program verifies before and after a pass, not necessarily during it. `accuracy` says what the pass
    promises: "exact" gives the same bits, "reassociating" may change float rounding, "lossy" has a quality budget.
    `requires` and `establishes` are facts (words) that the manager checks before anything runs.
    """

    name: ClassVar[str]
    accuracy: ClassVar[Accuracy] = "exact"
    requires: ClassVar[tuple[str, ...]] = ()
    establishes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, program: Program, rw: Rewriter) -> None:
        """Rewrite `program` through `rw`. Return nothing: the manager sees what changed."""

    def options(self) -> dict[str, Any]:
        """The pass's options with their values."""
        if not is_dataclass(self):
            return {}
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self) or "").split("\n", 1)[0]

    def __str__(self) -> str:
        options: dict[str, Any] = {f.name: f.default for f in fields(self)} if is_dataclass(self) else {}
        changed = [f"{k}={_option_text(v)}" for k, v in self.options().items() if v != options[k]]
        return self.name + (f"{{{','.join(changed)}}}" if changed else "")


Rule = Callable[[Node, "Rewriter"], None]


@dataclass(frozen=True, eq=False)
class RulePass(Pass):
    """A local rule applied to every node whose op is one of `roots`, until nothing changes."""

    function: Rule
    roots: frozenset[Any]
    name: str  # type: ignore[misc]
    accuracy: Accuracy  # type: ignore[misc]
    requires: tuple[str, ...] = ()  # type: ignore[misc]
    establishes: tuple[str, ...] = ()  # type: ignore[misc]

    def options(self) -> dict[str, Any]:
        return {}

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    def __str__(self) -> str:
        return self.name

    def __call__(self, node: Node, rw: Rewriter) -> None:
        """Apply the rule to one node, so that passes can be built from rules."""
        self.function(node, rw)

    def run(self, program: Program, rw: Rewriter) -> None:
        for _ in range(MAX_ROUNDS):
            before = len(rw.log)
            for node in program.nodes:
                if node.op == "call_function" and not rw.erased(node) and node.target in self.roots:
                    if not rw.has_fuel():
                        return
                    count = len(rw.log)
                    self.function(node, rw)
                    rw.sweep()
                    if len(rw.log) > count:
                        rw.burn()
            if len(rw.log) == before:
                return
        recent = "\n  ".join(rw.log[-5:])
        raise InternalError(
            f"pass {self.name} still rewrites after {MAX_ROUNDS} rounds; its last rewrites were:\n  {recent}\n"
            "A rule must not undo what it or another application of it did."
        )


def rewrite(
    *roots: Any,
    name: str | None = None,
    accuracy: Accuracy = "exact",
    requires: tuple[str, ...] = (),
    establishes: tuple[str, ...] = (),
) -> Callable[[Rule], RulePass]:
    """Turn a function `rule(node, rw)` into a pass that visits the nodes of the ops `roots`.

    The name defaults to the function's, in kebab-case. Raises InvalidInput without a root or a docstring.
    """

    def make(function: Rule) -> RulePass:
        rule_name = name or function.__name__.replace("_", "-")
        if not roots:
            raise InvalidInput(f"rule {rule_name} must name at least one op: @rewrite(aten.mul.Tensor)")
        if not inspect.getdoc(function):
            raise InvalidInput(f"rule {rule_name} must have a docstring saying what it rewrites: before  ->  after")
        return RulePass(function, frozenset(roots), rule_name, accuracy, requires, establishes)

    return make


@dataclass
class Fuel:
    """How many more rewrites may happen; `None` is without end. Shared by the passes of one run, for bisection."""

    left: int | None = None
    burned: int = 0


@dataclass
class Rewriter:
    """The only way to change a Program. Keeps fake values, provenance and a log of every change."""

    program: Program
    fuel: Fuel = field(default_factory=Fuel)
    target: Any = None  # the Target code is generated for, when there is one
    log: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    decisions: list[Mapping[str, Any]] = field(default_factory=list)  # rows of a table for reports
    recipe: dict[str, Any] = field(default_factory=dict)  # what the pass chose, plain data that replays it
    touched: set[Node] = field(default_factory=set)
    made: list[Node] = field(default_factory=list)

    def has_fuel(self) -> bool:
        """Whether another rewrite may happen."""
        return self.fuel.left is None or self.fuel.left > 0

    def burn(self) -> None:
        """Count one rewrite."""
        self.fuel.burned += 1
        if self.fuel.left is not None:
            self.fuel.left -= 1

    @staticmethod
    def erased(node: Node) -> bool:
        """Whether the node is no longer in the graph."""
        return bool(getattr(node, "_erased", False))

    def call(self, op: Any, *args: Any, at: Node, origin: Node | None = None, **kwargs: Any) -> Node:
        """Add a call of `op` before `at`. Its fake value is computed at once; provenance is `origin`'s or `at`'s."""
        with self.program.graph.inserting_before(at):
            name = op_name(op).split(".")[1] if isinstance(op, torch._ops.OpOverload) else None
            node = self.program.graph.create_node("call_function", op, args, kwargs, name=name)
        try:
            node.meta["val"] = self.infer(node)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            self.program.graph.erase_node(node)
            error.add_note(f"while adding {op_name(op)} before %{at.name}")
            raise
        origin = at if origin is None else origin
        if "source" in origin.meta:
            node.meta["source"] = origin.meta["source"]
        self.touched.add(node)
        self.made.append(node)
        return node

    def infer(self, node: Node) -> Any:
        """The fake value that `node` computes from its operands' fake values."""
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
        with self.program.fake_mode, torch.no_grad():
            return node.target(*args, **kwargs)

    def constant(self, name: str, tensor: torch.Tensor) -> Node:
        """Add a constant under a name made unique; return its node, placed before all calls."""
        module, graph = self.program.graph_module, self.program.graph
        name = name.replace(".", "_")
        unique, number = name, 1
        while hasattr(module, unique):
            unique, number = f"{name}_{number}", number + 1
        set_constant(module, unique, tensor.detach())
        first = next(n for n in graph.nodes if n.op in ("call_function", "output"))
        with graph.inserting_before(first):
            node = graph.create_node("get_attr", unique, name=unique)
        node.meta["val"] = self.program.fake_mode.from_tensor(tensor.detach(), static_shapes=True)
        self.touched.add(node)
        self.made.append(node)
        return node

    def set_constant(self, node: Node, tensor: torch.Tensor) -> None:
        """Give a constant another tensor, of any shape, under the same name; its users become suspects."""
        before = print_type(node.meta["val"])
        name = str(node.target)
        set_constant(self.program.graph_module, name, tensor.detach())
        for other in self.program.graph.nodes:
            if other.op == "get_attr" and str(other.target) == name:
                other.meta["val"] = self.program.fake_mode.from_tensor(tensor.detach(), static_shapes=True)
                self.touched.update((other, *other.users))
        self.log.append(f"%{node.name}: {before} -> {print_type(node.meta['val'])}")

    def value(self, node: Any) -> torch.Tensor | None:
        """The tensor of a constant node, None for any other node or value."""
        if isinstance(node, Node) and node.op == "get_attr":
            return self.program.constant(node)
        return None

    def replace(self, old: Node, new: Node) -> None:
        """Let `new` take the place of `old`, which must have the same dtype and shape; drop what dies with it."""
        before, after = print_type(old.meta["val"]), print_type(new.meta["val"])
        if before != after:
            raise InternalError(f"%{old.name}: {before} replaced by %{new.name}: {after}; they must have the same type")
        self.log.append(f"%{old.name} -> %{new.name}: {op_name(old.target)} -> {_what(new)}")
        users = list(old.users)
        old.replace_all_uses_with(new)
        self.touched.update(users)
        self._drop(old)

    def update(self, node: Node, *args: Any, **kwargs: Any) -> None:
        """Give `node` other operands; infer its fake value anew; its users become suspects for the verifier."""
        operands = list(node.all_input_nodes)
        node.args, node.kwargs = args, kwargs
        node.meta["val"] = self.infer(node)
        self.touched.update((node, *node.users))
        self.log.append(f"%{node.name}: new operands of {op_name(node.target)}")
        for operand in operands:
            self._drop(operand)

    def output(self, *results: Node) -> None:
        """Make these nodes the Program's results."""
        node = self.program.output_node
        old = list(node.all_input_nodes)
        node.args = (tuple(results),)
        self.log.append(f"results are {', '.join('%' + n.name for n in results)}")
        for operand in old:
            self._drop(operand)

    def erase(self, node: Node) -> None:
        """Remove a node without users, and what dies with it."""
        if node.users:
            raise InternalError(f"%{node.name} must have no users to be erased, not {[u.name for u in node.users]}")
        self.log.append(f"%{node.name} erased")
        self._drop(node)

    def skip(self, node: Node, reason: str) -> None:
        """Note why a rule that looked at `node` left it alone, for `explain`."""
        self.skipped.append(f"%{node.name}: {reason}")

    def sweep(self) -> None:
        """Erase new nodes that nothing uses, so that a rule may build before it knows whether it can replace."""
        for node in reversed(self.made):
            if not self.erased(node) and not node.users:
                self.program.graph.erase_node(node)
                self.touched.discard(node)
        self.made.clear()

    def finish(self) -> None:
        """End a pass: sweep, and free the constants that no node reads any more."""
        self.sweep()
        read = {str(node.target) for node in self.program.graph.nodes if node.op == "get_attr"}
        module = self.program.graph_module
        for constants in (module._parameters, module._buffers):
            for name in set(constants) - read:
                del constants[name]

    def _drop(self, node: Node) -> None:
        if node.users or self.erased(node) or node.op in ("placeholder", "output"):
            return
        operands = list(node.all_input_nodes)
        self.program.graph.erase_node(node)
        self.touched.discard(node)
        for operand in operands:
            self._drop(operand)


def _what(node: Node) -> str:
    return op_name(node.target) if node.op == "call_function" else node.op


def _option_text(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
