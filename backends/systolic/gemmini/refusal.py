"""Why Gemmini cannot compute a node, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.fx import Node

from ....errors import Unsupported
from ....printer import op_name

QUANTIZE = 'quantise with fxpress.quantize(model, "int8-gemmini", ..., profitable="off")'


class Refused(Unsupported):
    """One node cannot become C for Gemmini: `reason`, and `remedy` as an order."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")


def refuse_all(refused: Mapping[Node, Refused]) -> None:
    """Raise Unsupported that lists every refused node with its source line; nothing when there is none."""
    if not refused:
        return
    lines = "\n".join(f"  %{node.name}: {op_name(node.target)}{_at(node)}: {why}" for node, why in refused.items())
    raise Unsupported(f"every op must be one that Gemmini computes, and these are not:\n{lines}")


def _at(node: Node) -> str:
    return f" at {node.meta['source']}" if node.meta.get("source") else ""


def check_arithmetic(values: Mapping[str, Any]) -> None:
    """Refuse an op, by its arguments, that has zero points or requantises in fixed point."""
    for name, value in values.items():
        if (name == "zero_point" or name.endswith("_zero")) and value != 0:
            raise Refused(f"{name} is {value}, and Gemmini has no zero points", QUANTIZE)
    if values.get("mode", "F") != "F":
        raise Refused("it requantises in fixed point (mode 'I'), and Gemmini in float32", QUANTIZE)


def check_channels_last(values: Mapping[str, Any]) -> None:
    """Refuse an op on images whose channels come before rows and columns."""
    if not values["channels_last"]:
        raise Refused("its channels are first", "run the passes of the pipeline 'default', which put channels last")
