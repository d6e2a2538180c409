"""activation(conv(x) + residual)  ->  conv(x, residual, activation)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ...ops import fxpress
from ...program import Program
from ...rewriter import Pass, Rewriter
from ..match import arguments, is_call, is_number, only_user, same_type

aten = torch.ops.aten

WITH_RESIDUAL = (fxpress.conv.default, fxpress.linear.default)
PRODUCERS = (*WITH_RESIDUAL, fxpress.conv_transpose.default)

PLAIN_ACTIVATIONS = {
    aten.relu.default: "relu",
    aten.relu6.default: "relu6",
    aten.silu.default: "silu",
    aten.hardswish.default: "hardswish",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.mish.default: "mish",
}


@dataclass(frozen=True)
class FuseEpilogue(Pass):
    """activation(conv(x) + residual)  ->  conv(x, residual, activation); linear and conv_transpose likewise

    Taken where the intermediate value has no other user, so that nothing is computed twice. The fused op stands where
    its last piece stood, so its residual is computed before it. When both operands of a sum could take the other as
    residual, the later one does. Transposed convolutions take no residual.
    """

    name: ClassVar[str] = "fuse-epilogue"
    establishes: ClassVar[tuple[str, ...]] = ("epilogues-fused",)
    residual: bool = True
    activation: bool = True

    def run(self, program: Program, rw: Rewriter) -> None:
        for node in reversed(program.nodes):
            while is_call(node, *PRODUCERS) and rw.has_fuel():
                fused = self._fuse(node, rw)
                if fused is None:
                    break
                rw.burn()
                node = fused

    def _fuse(self, producer: Node, rw: Rewriter) -> Node | None:
        """The producer with its user fused into it, or None."""
        user, a = only_user(producer), arguments(producer)
        if user is None or a["activation"] != "none" or not same_type(producer, user):
            return None
        changes: dict[str, Any] = {}
        residual = _residual(producer, user) if self.residual else None
        activation = activation_name(user) if self.activation else None
        if residual is not None and a.get("residual", producer) is None:
            changes["residual"] = residual
        elif activation is not None:
            changes["activation"] = activation
        else:
            return None
        fused = rw.call(producer.target, *(a | changes).values(), at=user, origin=producer)
        rw.replace(user, fused)
        return fused


def _residual(producer: Node, user: Node) -> Node | None:
    """What `user` adds to the producer, when it is a tensor of the same type."""
    if not is_call(user, aten.add.Tensor) or user.kwargs or producer.target not in WITH_RESIDUAL:
        return None
    first, second = user.args
    other = second if first is producer else first
    if not isinstance(other, Node) or other is producer or not same_type(other, producer):
        return None
    return other


def activation_name(node: Node) -> str | None:
    """The epilogue name of the activation that `node` applies, None when it applies none."""
    if node.target in PLAIN_ACTIVATIONS:
        return PLAIN_ACTIVATIONS[node.target]
    rule = PARAMETERISED.get(node.target)
    return rule(arguments(node)) if rule is not None else None


def _gelu(a: dict[str, Any]) -> str:
    return "gelu_tanh" if a["approximate"] == "tanh" else "gelu"


def _leaky_relu(a: dict[str, Any]) -> str:
    return f"leaky_relu({float(a['negative_slope'])!r})"


def _elu(a: dict[str, Any]) -> str | None:
    return f"elu({float(a['alpha'])!r})" if a["scale"] == 1 and a["input_scale"] == 1 else None


def _softplus(a: dict[str, Any]) -> str | None:
    return "softplus" if a["beta"] == 1 and a["threshold"] == 20 else None


def _clamp(a: dict[str, Any]) -> str | None:
    low, high = a.get("min", a.get("min_val")), a.get("max", a.get("max_val"))
    if not is_number(low) or not is_number(high):
        return None
    return "relu6" if (low, high) == (0, 6) else f"clamp({float(low)!r},{float(high)!r})"


PARAMETERISED = {
    aten.gelu.default: _gelu,
    aten.leaky_relu.default: _leaky_relu,
    aten.elu.default: _elu,
    aten.softplus.default: _softplus,
    aten.clamp.default: _clamp,
    aten.hardtanh.default: _clamp,
}
