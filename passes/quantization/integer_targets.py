"""What each kind of target computes with integers, and how it may be asked to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import InvalidInput, Unsupported
from ...target import Target
from .integer_ops import CPU, IntegerOp
from .scheme import QuantConfig

aten = torch.ops.aten

SYSTOLIC: dict[Any, IntegerOp] = {
    **{op: form for op, form in CPU.items() if form.role != "attention"},
    aten.matmul.default: IntegerOp("matmul", ("self", "other"), centered=("self", "other")),
    aten.bmm.default: IntegerOp("matmul", ("self", "mat2"), centered=("self", "mat2")),
    aten.add.Tensor: IntegerOp("add", ("self", "other"), same_shapes=True),
}
"""What the array and its host compute: attention is expanded into its products, the host looks up int8 rows."""


@dataclass(frozen=True)
class Integers:
    """What a kind of target computes with integers: its `ops`, the `preset` that suits it, and how it may requantise.

    `static` targets have no ops that keep float32 activations, `prepare` are passes that run before quantisation.
    """

    ops: Mapping[Any, IntegerOp]
    preset: str
    modes: tuple[str, ...]
    static: bool = False
    prepare: tuple[str, ...] = ()

    def check(self, config: QuantConfig, target: Target) -> None:
        """Raise InvalidInput when `target`, which this describes, cannot compute as `config` says."""
        if config.mode not in self.modes:
            raise InvalidInput(
                f"mode of the config must be one of {list(self.modes)} for a {target.kind} target, not "
                f"{config.mode!r}; use config={self.preset!r}"
            )
        if self.static and not config.is_static:
            raise InvalidInput(
                f"activations must be 8-bit integers with fixed scales for a {target.kind} target, not those of "
                f"the config {config}; use config={self.preset!r}"
            )


INTEGERS: Mapping[str, Integers] = {
    "cpu": Integers(CPU, "int8", ("F", "I"), prepare=("look-up-addends",)),
    "systolic": Integers(SYSTOLIC, "int8-hardware", ("I",), static=True, prepare=("expand-attention",)),
}
"""By kind of target."""


def integers_of(target: Target) -> Integers:
    """What a target computes with integers. Raises Unsupported for a kind that does not."""
    if target.kind not in INTEGERS:
        raise Unsupported(f"target kind must be one of {sorted(INTEGERS)} to be quantised for, not {target.kind!r}")
    return INTEGERS[target.kind]


def integer_ops(target: Target) -> Mapping[Any, IntegerOp]:
    """The integer ops of a target. Raises Unsupported for a kind without any."""
    return integers_of(target).ops
