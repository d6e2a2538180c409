"""How numbers become integers: the scale and zero point of a value, and the presets that `fxpress.quantize` takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ...errors import InvalidInput
from ...ops.requantization import HIGHEST, LOWEST, check_mode
from ...search.ranges import Choice, not_searched, search

SMALLEST_RANGE = 1e-30
"""Values that never left +-1e-30 count as zero: the reciprocal of their scale would leave float32."""
LARGEST_RANGE = 1e30
UNSEEN_SCALE = 1 / 128

Range = tuple[float, float]
OBSERVERS: tuple[str, ...] = ("min-max", "moving-average", "percentile", "entropy", "mse")
WEIGHT_RANGES: tuple[str, ...] = ("max", "mse")
WEIGHT_BITS = (4, 8)


@dataclass(frozen=True)
class QParams:
    """The scale (positive, a float32 number) and zero point of an int8 value: real = (integer - zero) * scale."""

    scale: float
    zero: int

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf):
            raise InvalidInput(f"scale must be a positive number, not {self.scale!r}")
        if not LOWEST <= self.zero <= HIGHEST:
            raise InvalidInput(f"zero point must be from {LOWEST} to {HIGHEST}, not {self.zero!r}")

    @staticmethod
    def of_range(low: float, high: float, *, symmetric: bool = False) -> QParams:
        """The parameters with which int8 covers [low, high] and 0, which is always an integer.

        Asymmetric parameters use all 256 integers, symmetric ones -127..127 with zero point 0. A value that was always
        0 (or within 1e-30 of it) gets the scale 1/128, as if it were from -1 to 1. A value that was always c gets a
        scale at which c is exact. Raises InvalidInput when the range is not finite, or
        wider than 1e30.
        """
        if not (-LARGEST_RANGE <= low <= high <= LARGEST_RANGE):
            raise InvalidInput(f"range must be two finite numbers in order, below 1e30 in size, not {low!r}..{high!r}")
        low, high = min(low, 0.0), max(high, 0.0)
        if max(-low, high) < SMALLEST_RANGE:
            return QParams(UNSEEN_SCALE, 0)
        if symmetric:
            return QParams(_float32(max(-low, high) / HIGHEST), 0)
        scale = _float32((high - low) / (HIGHEST - LOWEST))
        zero = LOWEST + round(-low / scale)
        return QParams(scale, max(LOWEST, min(HIGHEST, zero)))

    def clip(self, low: float | None, high: float | None) -> tuple[int, int]:
        """The integers that a clamp to [low, high] becomes; None where there is no limit."""
        bounds = []
        for limit, otherwise in ((low, LOWEST), (high, HIGHEST)):
            if limit is None or math.isinf(limit):
                bounds.append(otherwise)
            else:
                bounds.append(max(LOWEST, min(HIGHEST, round(limit / self.scale) + self.zero)))
        return bounds[0], bounds[1]


@dataclass(frozen=True, kw_only=True)
class QuantConfig:
    """How a model is quantised. The presets are `PRESETS`; `dataclasses.replace` makes variants.

    `mode` is how results are requantised: "F" with one float32 factor, "I" with integers only, for hardware.
    `symmetric` activations have zero point 0. `per_channel` weights have a scale for each output channel.
    `activation_bits` is 8, or None for activations that stay float32 (weights alone are stored in `weight_bits`).
    `dynamic` activations are quantised row by row when they are there. `observer` chooses the range of an activation
    from what calibration saw, `weight_range` that of a weight. `matmuls` of two computed values become integer too.
    `embeddings` of at least `smallest_table` elements are stored as int8 rows. `algorithms` are names of
    `ALGORITHMS`, run in this order. `group` is how many weights in a row share a scale where weights have 4 bits, with
    a zero point of their own unless `symmetric_weights`.
    """

    mode: str = field(default="F", metadata=not_searched("it follows from the target"))
    symmetric: bool = field(default=False, metadata=not_searched("it follows from the target"))
    per_channel: bool = field(default=True, metadata=not_searched("it follows from the target"))
    weight_bits: int = field(default=8, metadata=search(Choice(WEIGHT_BITS)))
    activation_bits: int | None = field(default=8, metadata=search(Choice((8, None))))
    dynamic: bool = field(default=False, metadata=search(Choice((False, True))))
    float_dtype: str = field(default="float32", metadata=not_searched("it excludes integers"))
    observer: str = field(default="min-max", metadata=search(Choice(OBSERVERS)))
    weight_range: str = field(default="max", metadata=search(Choice(WEIGHT_RANGES)))
    matmuls: bool = field(default=False, metadata=search(Choice((False, True))))
    embeddings: bool = field(default=True, metadata=not_searched("rows of 8 bits are smaller at no loss that is seen"))
    smallest_table: int = field(default=16384, metadata=not_searched("a guard"))
    group: int = field(default=32, metadata=search(Choice((32, 64, 128))))
    symmetric_weights: bool = field(default=True, metadata=search(Choice((True, False))))
    algorithms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.weight_bits not in WEIGHT_BITS:
            raise InvalidInput(f"weight_bits must be one of {list(WEIGHT_BITS)}, not {self.weight_bits!r}")
        if self.activation_bits not in (8, None):
            raise InvalidInput(
                f"activation_bits must be 8, or None for activations in float32, not {self.activation_bits!r}"
            )
        if self.weight_bits == 4 and self.activation_bits is not None:
            raise InvalidInput("activation_bits must be None where weight_bits is 4: there are no 4-bit products")
        if self.observer not in OBSERVERS:
            raise InvalidInput(f"observer must be one of {list(OBSERVERS)}, not {self.observer!r}")
        if self.weight_range not in WEIGHT_RANGES:
            raise InvalidInput(f"weight_range must be one of {list(WEIGHT_RANGES)}, not {self.weight_range!r}")
        if self.float_dtype not in ("float32", "bfloat16", "float16"):
            raise InvalidInput(f"float_dtype must be float32, bfloat16 or float16, not {self.float_dtype!r}")
        if not (isinstance(self.group, int) and self.group >= 1):
            raise InvalidInput(f"group must be a whole number from 1 on, not {self.group!r}")
        if isinstance(self.algorithms, str):
            raise InvalidInput(f"algorithms must be a tuple of names, not {self.algorithms!r}; a single one is (name,)")
        if not self.symmetric_weights and self.weight_bits != 4:
            raise InvalidInput(
                "symmetric_weights must be True where weight_bits is 8, not False: only 4-bit weights have zero points"
            )

    def __str__(self) -> str:
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in changed) or "default"

    @property
    def is_static(self) -> bool:
        """Whether activations are integers with scales fixed beforehand: what calibration is for."""
        return self.activation_bits == 8 and not self.dynamic and self.float_dtype == "float32"


PRESETS: dict[str, QuantConfig] = {
    "int8": QuantConfig(algorithms=("smooth-quant", "bias-correction")),
    "int8-hardware": QuantConfig(mode="I", matmuls=True, algorithms=("smooth-quant", "bias-correction")),
    "int8-gemmini": QuantConfig(
        symmetric=True, per_channel=False, algorithms=("equalize", "smooth-quant", "bias-correction")
    ),
    "int8-accurate": QuantConfig(weight_range="mse", algorithms=("smooth-quant", "gptq")),
    "int8-dynamic": QuantConfig(dynamic=True),
    "int8-weights": QuantConfig(activation_bits=None),
    "int4-weights": QuantConfig(activation_bits=None, weight_bits=4, algorithms=("awq", "gptq")),
    "bf16": QuantConfig(float_dtype="bfloat16", embeddings=False),
}


def config_of(config: str | QuantConfig, **changes: Any) -> QuantConfig:
    """The QuantConfig that `config` names, with some fields changed. Raises InvalidInput for an unknown preset."""
    if isinstance(config, QuantConfig):
        chosen = config
    elif isinstance(config, str) and config in PRESETS:
        chosen = PRESETS[config]
    else:
        raise InvalidInput(f"config must be a QuantConfig or one of {sorted(PRESETS)}, not {config!r}")
    return replace(chosen, **changes)


def _float32(value: float) -> float:
    """`value` rounded to float32, so that every consumer, also an exported file, has the same scale."""
    return float(np.float32(value))
