"""linear(x, w)  ->  linear(x / s, w * s), with s large where |x| is, so that weights which matter are stored finely

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", arXiv:2306.00978, section
3.2: s = mean|x|^alpha for each input channel, alpha searched by the error in the layers' results (equations 4 and 5).
Only where the layer before takes the division: a multiplication would cost more than it gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.quantized import expand_weight
from ...pass_manager import PassManager
from ...program import Program
from ..match import arguments
from .algorithms import Algorithm
from .calibration import Calibration
from .scheme import QuantConfig
from .smooth_quant import MigrateScales, is_free, layers_of, observe
from .weights import store_weight

ALPHAS = tuple(step / 10 for step in range(1, 11))


def stored_error(rows: Tensor, weight: Tensor, s: Tensor, config: QuantConfig) -> float:
    """The squared error of (rows / s) @ stored(weight * s).T, relative to the squared exact product."""
    group = config.group if config.weight_bits == 4 else weight.shape[1]
    scaled = (weight.double() * s).float()
    parts = store_weight(scaled, config.weight_bits, group, symmetric=config.symmetric_weights)
    found = expand_weight(*parts, config.weight_bits, group, weight.shape[1]) / s.float()
    exact = rows @ weight.T
    return float((rows @ found.T - exact).square().sum() / exact.square().sum().clamp(min=1e-30))


def best_scales(rows: Tensor, weight: Tensor, config: QuantConfig) -> Tensor:
    """The s [k], 1 in the geometric mean, of the alpha with the least error; ones where none is better than that."""
    mean = rows.double().abs().mean(0)
    logarithm = torch.where(mean > 0, mean, mean.max().clamp(min=1e-30)).log()
    best = torch.ones_like(mean)
    least = stored_error(rows, weight, best, config)
    for alpha in ALPHAS:
        s = (alpha * (logarithm - logarithm.mean())).exp()
        error = stored_error(rows, weight, s, config)
        if error < least:
            best, least = s, error
    return best


class Awq(Algorithm):
    """Store the weights of input channels with large values more finely."""

    def prepare(self, program: Program, config: QuantConfig, calibration: Calibration) -> Program:
        found = {node.name: node for node in program.nodes if layers_of(node) and is_free(node)}
        if not found or calibration.generated:
            return program
        scales: dict[str, Tensor] = {}
        for name, (_, _, rows) in observe(program, list(found), calibration).items():
            weights = [program.constant(arguments(layer)["weight"]) for layer in layers_of(found[name])]
            scales[name] = best_scales(rows, torch.cat(weights), config)
        return PassManager([MigrateScales(scales)]).run(program)
