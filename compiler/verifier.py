"""The verifier: level 1 structure, level 2 every node's type re-inferred, level 3 numbers against another Program."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import UnsupportedOperatorException
from torch.fx import Node
from torch.fx.node import map_arg

from . import ops as _ops  # noqa: F401  (the fxpress:: ops must exist before a graph that holds them is checked)
from .errors import InvalidProgram
from .numerics import Errors, compare_outputs, run_float64
from .printer import op_name, print_type
from .program import Program
from .rewriter import Accuracy

MAX_VIOLATIONS = 20
SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass(frozen=True)
class Violation:
    """One broken invariant at one node."""

    node: str
    expected: str
    found: str
    hint: str

    def __str__(self) -> str:
        return f"%{self.node}: expected {self.expected}, found {self.found}. {self.hint}"


def verify(program: Program, level: int = 2, only: Iterable[Node] | None = None) -> None:
    """Check a Program; raise InvalidProgram listing up to 20 violations.

    Level 1 checks structure, level 2 also re-infers the type of every node (or of those in `only`) from its operands.
    """
    violations = list(_structure(program))
    if level >= 2 and not violations:
        nodes = program.nodes if only is None else [n for n in only if not getattr(n, "_erased", False)]
        for node in nodes:
            violation = _reinfer(program, node)
            if violation is not None:
                violations.append(violation)
    if violations:
        raise InvalidProgram(_report(program, violations))


def verify_numbers(
    before: Program, after: Program, accuracy: Accuracy, inputs: Sequence[torch.Tensor] | None = None
) -> Errors:
    """Level 3: run both Programs on `inputs` (by default the example inputs); judge `after` by what its pass promises.

    An exact pass must give the same bits. A reassociating pass is compared with float64: its error may be at most twice
    that of `before`, or 4 epsilons. A lossy pass is only measured. Raises InvalidProgram.
    """
    inputs = before.example_inputs if inputs is None else inputs
    expected, actual = before.run_flat(*inputs), after.run_flat(*inputs)
    if accuracy == "exact":
        for index, (x, y) in enumerate(zip(expected, actual, strict=True)):
            if not torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) or not torch.equal(x.isnan(), y.isnan()):
                worst = (x.double() - y.double()).abs().nan_to_num().max().item()
                raise InvalidProgram(
                    f"output {index} must have the same bits after an exact pass, but differs by up to {worst:.3g}; "
                    "if the pass may change the order of float operations, declare it accuracy='reassociating'"
                )
        return Errors((0.0,) * len(expected), (0.0,) * len(expected))
    errors = compare_outputs(actual, expected, run_float64(before, inputs))
    if accuracy == "reassociating" and not errors.acceptable:
        raise InvalidProgram(f"outputs are further from float64 than reassociation explains: {errors}")
    return errors


def _structure(program: Program) -> Iterable[Violation]:
    seen: set[Node] = set()
    outputs = [node for node in program.graph.nodes if node.op == "output"]
    if len(outputs) != 1:
        yield Violation("output", "one output node", str(len(outputs)), "A Program returns one tuple.")
    for node in program.graph.nodes:
        for operand in node.all_input_nodes:
            if operand not in seen:
                yield Violation(
                    node.name, f"operand %{operand.name} defined before its use", "a later or foreign node",
                    "Create nodes with Rewriter.call(..., at=user).",
                )  # fmt: skip
        seen.add(node)
        yield from _check_node(program, node)


def _check_node(program: Program, node: Node) -> Iterable[Violation]:
    if node.op == "output":
        results = node.args[0] if node.args else None
        if not isinstance(results, (tuple, list)) or not all(isinstance(r, Node) for r in results):
            yield Violation(node.name, "a tuple of nodes", repr(results), "Set results with Rewriter.output(...).")
        return
    if "val" not in node.meta:
        yield Violation(node.name, 'a fake value in meta["val"]', "none", "Create nodes through the Rewriter.")
        return
    if node.op == "get_attr":
        yield from _check_constant(program, node)
    elif node.op == "call_function":
        yield from _check_op(node)
    elif node.op != "placeholder":
        yield Violation(
            node.name, "placeholder, get_attr, call_function or output", node.op, "Inline modules and methods."
        )


def _check_constant(program: Program, node: Node) -> Iterable[Violation]:
    try:
        tensor = program.constant(node)
    except AttributeError:
        yield Violation(node.name, f"a constant named {node.target}", "none", "Add it with Rewriter.constant.")
        return
    expected, found = print_type(node.meta["val"]), print_type(tensor)
    if expected != found:
        yield Violation(node.name, expected, found, "A constant was changed without its node; use Rewriter.constant.")


def _check_op(node: Node) -> Iterable[Violation]:
    if node.target is operator.getitem or isinstance(node.meta["val"], SYMBOLS):
        return  # arithmetic with sizes that vary is Python's
    if not isinstance(node.target, torch._ops.OpOverload):
        yield Violation(
            node.name, "an OpOverload", op_name(node.target),
            "Use torch.ops.aten.*.default, an fxpress:: op, or an op of your own registered with torch.library.",
        )  # fmt: skip
    elif node.target._schema.is_mutable:
        yield Violation(node.name, "a functional op", op_name(node.target), "Use the out-of-place form.")


def _reinfer(program: Program, node: Node) -> Violation | None:
    if node.op != "call_function":
        return None
    recorded = print_type(node.meta["val"])
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    try:
        with program.fake_mode, torch.no_grad():
            inferred = print_type(node.target(*args, **kwargs))
    except UnsupportedOperatorException:
        name = node.target._schema.name
        return Violation(
            node.name, "an op that says the type of its result", op_name(node.target),
            f'Describe it with @torch.library.register_fake("{name}").',
        )  # fmt: skip
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return Violation(
            node.name, f"operands that {op_name(node.target)} accepts", str(error).split("\n", 1)[0],
            "The operands' types do not fit the op.",
        )  # fmt: skip
    if inferred != recorded:
        return Violation(node.name, inferred, recorded, "The recorded type is not what the op computes.")
    return None


def _report(program: Program, violations: Sequence[Violation]) -> str:
    lines = program.text().splitlines()
    shown = []
    for violation in violations[:MAX_VIOLATIONS]:
        shown.append(f"- {violation}")
        shown += [f"    {line}" for line in lines if line.startswith(f"%{violation.node}:")]
    more = len(violations) - MAX_VIOLATIONS
    if more > 0:
        shown.append(f"... and {more} more")
    return f"the program breaks {len(violations)} invariant(s):\n" + "\n".join(shown)
