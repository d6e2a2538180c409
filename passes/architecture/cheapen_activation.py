"""gelu(x), silu(x), sigmoid(x), tanh(x)  ->  relu, hardswish, hardsigmoid, hardtanh or the tanh form of gelu

Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, section 5.2: hard-swish for swish and hard-sigmoid for
sigmoid, piecewise polynomials for exponentials. Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415,
section 2: the tanh form. The new function is near the old one, but for relu; training brings the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...ops.activation import ACTIVATIONS
from ...rewriter import Rewriter
from ...search.ranges import Choice, search
from ..match import arguments
from .replacing import ReplaceLayers, Replacement, relative

aten = torch.ops.aten

KEEP = "keep"
CHOICES = {
    "gelu": (KEEP, "gelu_tanh", "hardswish", "relu"),
    "silu": (KEEP, "hardswish", "relu"),
    "sigmoid": (KEEP, "hardsigmoid"),
    "tanh": (KEEP, "hardtanh"),
}
"""What may take the place of a function, the dearest first."""
OPS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "gelu_tanh": (aten.gelu.default, (), {"approximate": "tanh"}),
    "hardswish": (aten.hardswish.default, (), {}),
    "hardsigmoid": (aten.hardsigmoid.default, (), {}),
    "hardtanh": (aten.hardtanh.default, (-1.0, 1.0), {}),
    "relu": (aten.relu.default, (), {}),
}
KINDS = {
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: ACTIVATIONS[name][1] for name in ("gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "relu")},
    **{name: ACTIVATIONS[name][1] for name in ("hardswish", "hardsigmoid")},
    "hardtanh": torch.nn.functional.hardtanh,
}
SAMPLES = 4096


@dataclass(frozen=True)
class CheapenActivation(ReplaceLayers):
    """gelu(x), silu(x), sigmoid(x), tanh(x)  ->  relu, hardswish, hardsigmoid, hardtanh or the tanh form of gelu

    Each option names what takes the place of its function; "keep" leaves it. Functions whose value the model returns
    stay: a probability of exactly 0 has no logarithm. Raises InvalidInput for a function that is not offered.
    """

    name: ClassVar[str] = "cheapen-activation"
    ops = tuple(KINDS)
    gelu: str = field(default="gelu_tanh", metadata=search(Choice(CHOICES["gelu"])))
    silu: str = field(default="hardswish", metadata=search(Choice(CHOICES["silu"])))
    sigmoid: str = field(default="hardsigmoid", metadata=search(Choice(CHOICES["sigmoid"])))
    tanh: str = field(default="hardtanh", metadata=search(Choice(CHOICES["tanh"])))

    def __post_init__(self) -> None:
        for kind, offered in CHOICES.items():
            if getattr(self, kind) not in offered:
                raise InvalidInput(f"{kind} must be one of {list(offered)}, not {getattr(self, kind)!r}")

    def replacements(self, nodes: Sequence[Node], rw: Rewriter) -> Iterator[tuple[Node, Replacement | str]]:
        return ((node, self._replacement(node)) for node in nodes)

    def _replacement(self, node: Node) -> Replacement | str:
        kind = KINDS[node.target]
        before = "gelu_tanh" if kind == "gelu" and arguments(node)["approximate"] == "tanh" else kind
        after = getattr(self, kind)
        if after in (KEEP, before):
            return f"{before} is to stay"
        if any(user.op == "output" for user in node.users):
            return "it is an output of the model"
        op, args, kwargs = OPS[after]

        def build(rw: Rewriter) -> Node:
            return rw.call(op, node.args[0], *args, at=node, **kwargs)

        return Replacement(before, after, None, difference(before, after), build)


def difference(before: str, after: str) -> float:
    """How far one function is from another, relative, over inputs of a normal distribution."""
    x = torch.special.ndtri((torch.arange(SAMPLES, dtype=torch.float64) + 0.5) / SAMPLES)
    old, new = FUNCTIONS[before](x), FUNCTIONS[after](x)
    return relative(new - old, old)
