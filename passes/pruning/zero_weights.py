"""conv(x, w), linear(x, w)  ->  the same with zeros in w where a pattern has them"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidInput
from ...program import Program
from ...report.pruned import LayerZeros
from ...rewriter import Accuracy, Pass, Rewriter


@dataclass(frozen=True, eq=False)
class ZeroWeights(Pass):
    """conv(x, w), linear(x, w)  ->  the same with zeros in w where a pattern has them

    `weights` are the new ones by the name of the constant's node, each with the name of the layer that reports speak
    of. Nothing in the Program says that they are sparse: whoever compiles it finds the zeros.
    """

    name: ClassVar[str] = "zero-weights"
    accuracy: ClassVar[Accuracy] = "lossy"
    establishes: ClassVar[tuple[str, ...]] = ("pruned",)
    weights: Mapping[str, tuple[str, Tensor]] | None = None
    held: Iterable[tuple[str, str]] = field(default=())

    def options(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name

    def run(self, program: Program, rw: Rewriter) -> None:
        if self.weights is None:
            raise InvalidInput("zero-weights must be given weights, which fxpress.prune chooses; it has no default")
        nodes = {node.name: node for node in program.nodes}
        rw.recipe = {
            "pass": self.name,
            "reconstructed": any(
                bool(((weight != program.constant(nodes[name])) & (weight != 0)).any())
                for name, (_, weight) in self.weights.items()
            ),
            "weights": [
                {"constant": name, "layer": layer, "shape": list(weight.shape), "zeros": pack_mask(weight == 0)}
                for name, (layer, weight) in self.weights.items()
            ],
        }
        for name, reason in self.held:
            rw.skip(nodes[name], reason)
        for name, (layer, weight) in self.weights.items():
            if not rw.has_fuel():
                return
            if not bool((weight != program.constant(nodes[name])).any()):
                continue
            rw.burn()
            rw.set_constant(nodes[name], weight)
            left = LayerZeros(layer, tuple(weight.shape), weight.numel(), int((weight != 0).sum()))
            rw.log.append(left.text())
            rw.decisions.append(left.to_json())


def pack_mask(mask: Tensor) -> str:
    """A tensor of booleans as text: 8 of them a byte, in base64."""
    return base64.b64encode(np.packbits(mask.flatten().numpy()).tobytes()).decode()


def unpack_mask(text: str, shape: Sequence[int]) -> Tensor:
    """The tensor of booleans that `pack_mask` made `text` of."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=prod(shape))
    return torch.from_numpy(bits.astype(np.bool_)).reshape(tuple(shape))
