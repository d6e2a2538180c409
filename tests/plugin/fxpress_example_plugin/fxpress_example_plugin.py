"""A plugin for fxpress: one rule, one pipeline, one backend. The entry points in pyproject.toml are all it takes."""

import torch
from fxpress import rewrite
from fxpress.backends.base import YES, Backend, Lowered, Support

aten = torch.ops.aten


@rewrite(aten.neg.default)
def halve_negations(node, rw):
    """-(-x)  ->  x"""
    inner = node.args[0]
    if inner.op == "call_function" and inner.target is aten.neg.default:
        rw.replace(node, inner.args[0])


def example(clean: bool = True) -> str:
    """Negations halved, then what nobody uses dropped."""
    return "halve-negations,drop-dead-code" if clean else "halve-negations"


class ExampleLowered(Lowered):
    """The names of the ops."""

    def __init__(self, program) -> None:
        self._program = program

    def text(self) -> str:
        return " ".join(node.name for node in self._program.graph.nodes if node.op == "call_function")

    def build(self, path, reference, *, bundle_runtime=False, progress=None) -> None:
        path.write_text(self.text())


class ExampleBackend(Backend):
    """Takes every op and compiles it to its name."""

    name = "example"

    def supports(self, node, target) -> Support:
        return YES

    def lower(self, program, target, *, fallback=None) -> ExampleLowered:
        return ExampleLowered(program)
