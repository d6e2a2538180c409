"""linear(x, w)  ->  linear(x / s, w * s), with the division in the layer before where that can take it

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
arXiv:2211.10438, equations 3 and 4: s = max|x|^alpha / max|w|^(1 - alpha) for each input channel. One scale for all of
x then suits every channel. Alpha is searched for each x by the error that quantising makes in the layers' results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...ops import fxpress
from ...pass_manager import PassManager
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ..fusion.channels import affine_constants
from ..match import arguments, change_call, is_call, is_constant
from .algorithms import Algorithm
from .calibration import Calibration
from .scheme import LARGEST_RANGE, QParams, QuantConfig
from .walking import round_to
from .weights import quantize_weight, weight_scales

aten = torch.ops.aten

NORMS = (aten.layer_norm.default, aten.rms_norm.default)
ALPHAS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROWS = 512
ROWS_AN_ITEM = 16
FEWEST_ROWS = 64
"""Fewer rows do not tell how far a channel reaches."""
GOOD_ENOUGH = 1e-4
"""Where quantising makes less than that part of the squared results wrong, an x that needs a multiplication stays."""
WORTH = 0.5
"""A multiplication must bring the squared error below that part of what it was."""


def migration(largest_x: Tensor, largest_weight: Tensor, alpha: float) -> Tensor:
    """s [k] of equation 4 from the largest |x| and |w| of each channel, geometric mean 1; 1 where one of them is 0."""
    x, weight = largest_x.double(), largest_weight.double()
    used = (x > 0) & (weight > 0)
    if not bool(used.any()):
        return torch.ones_like(x)
    logarithm = alpha * x.clamp(min=1e-30).log() - (1 - alpha) * weight.clamp(min=1e-30).log()
    return torch.where(used, (logarithm - logarithm[used].mean()).exp(), 1.0)


def product_error(
    rows: Tensor, weight: Tensor, low: Tensor, high: Tensor, s: Tensor, config: QuantConfig
) -> float:  # fmt: skip
    """The squared error of quantised (rows / s) @ (weight * s).T, relative to the squared exact product.

    `rows` [r, k], `weight` [n, k]; `low` and `high` [k] are the extremes of x.
    """
    params = QParams.of_range(float((low / s).min()), float((high / s).max()), symmetric=config.symmetric)
    scaled = (weight.double() * s).float()
    none = torch.zeros(len(weight))
    scale = weight_scales(scaled, none, params, per_channel=config.per_channel, method=config.weight_range)
    rounded = quantize_weight(scaled, scale) * scale.unsqueeze(1)
    exact = rows @ weight.T
    found = round_to((rows / s).float(), params) @ rounded.T
    return float((found - exact).square().sum() / exact.square().sum().clamp(min=1e-30))


def best_migration(
    rows: Tensor, weight: Tensor, low: Tensor, high: Tensor, config: QuantConfig
) -> tuple[Tensor, float, float]:
    """The s of the alpha with the least error, that error, and the error with s = 1."""
    largest_x, largest_weight = torch.maximum(low.abs(), high.abs()), weight.abs().amax(0)
    plain = torch.ones_like(largest_x, dtype=torch.float64)
    before = product_error(rows, weight, low, high, plain, config)
    best, least = plain, before
    for alpha in ALPHAS:
        s = migration(largest_x, largest_weight, alpha)
        error = product_error(rows, weight, low, high, s, config)
        if error < least:
            best, least = s, error
    return best, least, before


@dataclass(frozen=True, eq=False)
class MigrateScales(Pass):
    """linear(x, w)  ->  linear(x * (1 / s), w * s)

    `scales` are s [k] by the name of x. The factor 1 / s goes into the weights of a layer norm, RMS norm or linear
    layer that makes x for such layers alone; otherwise x is multiplied, and its other users keep the x there was.
    """

    name: ClassVar[str] = "migrate-scales"
    accuracy: ClassVar[Accuracy] = "reassociating"
    scales: dict[str, Tensor] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name

    def run(self, program: Program, rw: Rewriter) -> None:
        for node in program.nodes:
            if node.name in self.scales and rw.has_fuel():
                rw.burn()
                _migrate(node, self.scales[node.name], rw)


def _migrate(x: Node, s: Tensor, rw: Rewriter) -> None:
    layers = layers_of(x)
    scaled = x
    if is_free(x):
        change_call(x, rw, **_scaled_constants(x, 1 / s, rw))
    else:
        factor = rw.constant(f"{x.name}_smoothing", (1 / s).float())
        first = next(node for node in rw.program.nodes if node in layers)
        scaled = rw.call(aten.mul.Tensor, x, factor, at=first)
    for layer in layers:
        stored = arguments(layer)["weight"]
        weight = (rw.program.constant(stored).double() * s).float()
        change_call(layer, rw, x=scaled, weight=rw.constant(f"{stored.target}_smoothed", weight))


def is_free(x: Node) -> bool:
    """Whether no multiplication is needed to scale x."""
    return set(x.users) == set(layers_of(x)) and _takes_factor(x)


def is_of_attention(x: Node) -> bool:
    """Whether attention makes x: it computes with integers only where nothing on floats is between it and a layer."""
    while is_call(x, aten.reshape.default, aten.permute.default):
        x = x.args[0]
    return is_call(x, aten.scaled_dot_product_attention.default)


def _takes_factor(x: Node) -> bool:
    """Whether the layer that makes x can make x times a positive number for each channel."""
    if is_call(x, *NORMS):
        a = arguments(x)
        return len(a["normalized_shape"]) == 1 and all(is_constant(a[name]) for name in _affine_names(a))
    if not is_call(x, fxpress.linear.default):
        return False
    a = arguments(x)
    is_fixed = is_constant(a["weight"]) and (a["bias"] is None or is_constant(a["bias"]))
    return is_fixed and a["activation"] in ("none", "relu") and a["residual"] is None


def _scaled_constants(x: Node, factor: Tensor, rw: Rewriter) -> dict[str, Node]:
    """The constants with which the layer that makes x makes x * factor."""
    if is_call(x, fxpress.linear.default):
        return affine_constants(x, rw, factor, None)
    a = arguments(x)
    changes = {}
    for name in dict.fromkeys(("weight", *_affine_names(a))):
        value = factor if a[name] is None else rw.program.constant(a[name]).double() * factor
        changes[name] = rw.constant(f"{x.name}_{name}_smoothed", value.float())
    return changes


def _affine_names(a: dict[str, Any]) -> list[str]:
    return [name for name in ("weight", "bias") if a.get(name) is not None]


def layers_of(x: Node) -> list[Node]:
    """The linear layers with constant weights whose input `x` is."""
    return [
        user
        for user in x.users
        if is_call(user, fxpress.linear.default)
        and user.args[0] is x
        and is_constant(arguments(user)["weight"])
        and arguments(user)["residual"] is not x
    ]


class SmoothQuant(Algorithm):
    """Move the differences between an input's channels into the weights of linear layers."""

    def prepare(self, program: Program, config: QuantConfig, calibration: Calibration) -> Program:
        nodes = {node.name: node for node in program.nodes if node.op == "call_function" and layers_of(node)}
        if not nodes:
            return program
        seen = observe(program, list(nodes), calibration)
        scales: dict[str, Tensor] = {}
        for name, (low, high, rows) in seen.items():
            weights = [program.constant(arguments(layer)["weight"]) for layer in layers_of(nodes[name])]
            s, after, before = best_migration(rows, torch.cat(weights), low, high, config)
            worth = before > GOOD_ENOUGH and after < WORTH * before and not is_of_attention(nodes[name])
            if after < before and (is_free(nodes[name]) or worth):
                scales[name] = s
        return PassManager([MigrateScales(scales)]).run(program)


def observe(
    program: Program, names: Sequence[str], calibration: Calibration
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """The extremes of each channel of values, and some of their rows; nothing of values with few rows, or with numbers
    that have no scale."""
    chance = torch.Generator().manual_seed(0)
    lows: dict[str, Tensor] = {}
    highs: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    count = dict.fromkeys(names, 0)
    for item in calibration.replay(program, names, "smoothing"):
        for name, (_, value) in item.items():
            flat = value.flatten(0, -2)
            count[name] += len(flat)
            low, high = flat.amin(0), flat.amax(0)
            lows[name] = torch.minimum(lows[name], low) if name in lows else low
            highs[name] = torch.maximum(highs[name], high) if name in highs else high
            rows[name].append(flat[torch.randint(len(flat), (ROWS_AN_ITEM,), generator=chance)])
    bounded = [name for name in lows if bool(((lows[name] >= -LARGEST_RANGE) & (highs[name] <= LARGEST_RANGE)).all())]
    chosen = {name: torch.cat(rows[name]) for name in bounded if count[name] >= FEWEST_ROWS}
    return {
        name: (lows[name].double(), highs[name].double(), some[:: -(-len(some) // ROWS)])
        for name, some in chosen.items()
    }
