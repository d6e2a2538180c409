"""What `gemmini_params.h` says of a Gemmini: the array's size and memories, and whether loads can scale."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from ....errors import InvalidInput

_DEFINE = re.compile(r"^\s*#\s*define\s+(\w+)(?:\s+(\d+))?\s*(?://.*)?$", re.MULTILINE)
_TYPEDEF = re.compile(r"^\s*typedef\s+(\w+)\s+(\w+)\s*;", re.MULTILINE)
_TYPES = {"elem_t": "int8_t", "acc_t": "int32_t", "acc_scale_t": "float"}

LARGEST_POOL = 3
"""Pools' sizes, strides and paddings are 2-bit fields of the instruction that stores."""
LARGEST_POOLED = 255
"""Rows and columns around a pool are 8-bit fields of it."""
LARGEST_SIZE = 65535
"""Sizes of images and matrices are 16-bit fields."""

_HEADER = """#ifndef GEMMINI_PARAMS_H
#define GEMMINI_PARAMS_H

#include <stdint.h>

#define DIM {dim}
#define BANK_NUM {bank_num}
#define BANK_ROWS {bank_rows}
#define ACC_ROWS {acc_rows}
{mvin_scale}
typedef int8_t elem_t;
typedef int32_t acc_t;
typedef float scale_t;
typedef float acc_scale_t;
typedef int32_t scale_acc_t;

#define row_align(blocks) __attribute__((aligned((blocks) * DIM * sizeof(elem_t))))
#define row_align_acc(blocks) __attribute__((aligned((blocks) * DIM * sizeof(acc_t))))
#define MVIN_SCALE_IDENTITY 1.0
#define ACC_SCALE_IDENTITY 1.0

#endif
"""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The array that C is generated for. The fields are macros of `gemmini_params.h` in lower case.

    Rows of the scratchpad hold `dim` elements, rows of the accumulators `dim` sums. `mvin_scale` says whether loads
    multiply by a float, as sums of two scaled values need.
    """

    dim: int = 16
    bank_num: int = 4
    bank_rows: int = 4096
    acc_rows: int = 1024
    mvin_scale: bool = True

    def __post_init__(self) -> None:
        for name in ("dim", "bank_num", "bank_rows", "acc_rows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value & (value - 1):
                raise InvalidInput(f"{name} must be a positive power of two, not {value!r}")
        if self.spad_half < 2 * self.dim:
            raise InvalidInput(
                f"bank_num * bank_rows must be at least {4 * self.dim} rows, so that each half holds a tile of both "
                f"operands, not {self.bank_num * self.bank_rows}"
            )
        if self.acc_half < self.dim:
            raise InvalidInput(
                f"acc_rows must be at least {2 * self.dim}, so that each half holds a tile, not {self.acc_rows}"
            )

    @property
    def spad_half(self) -> int:
        """Rows of the scratchpad that one of two alternating tiles may use."""
        return self.bank_num * self.bank_rows // 2

    @property
    def acc_half(self) -> int:
        """Rows of the accumulators that one of two alternating tiles may use."""
        return self.acc_rows // 2

    @staticmethod
    def of_header(text: str) -> Parameters:
        """The parameters that the text of a `gemmini_params.h` states.

        Raises InvalidInput when one is missing, or when the array's elements are not int8, its sums not int32 or its
        scales not float.
        """
        found = {name: value for name, value in _DEFINE.findall(text)}
        types = {name: kind for kind, name in _TYPEDEF.findall(text)}
        for name, kind in _TYPES.items():
            if types.get(name) != kind:
                raise InvalidInput(f"{name} must be {kind} in gemmini_params.h, not {types.get(name)!r}")
        numbers = {}
        for field in fields(Parameters):
            macro = field.name.upper()
            if field.name == "mvin_scale":
                continue
            if not found.get(macro):
                raise InvalidInput(f"gemmini_params.h must define {macro} as a number, and does not")
            numbers[field.name] = int(found[macro])
        return Parameters(**numbers, mvin_scale="HAS_MVIN_SCALE" in found and types.get("scale_t") == "float")

    def header(self) -> str:
        """A `gemmini_params.h` with these parameters, for the host model."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _HEADER.format(**{**values, "mvin_scale": "#define HAS_MVIN_SCALE" if self.mvin_scale else ""})

    def __str__(self) -> str:
        return f"DIM {self.dim}, BANK_NUM {self.bank_num}, BANK_ROWS {self.bank_rows}, ACC_ROWS {self.acc_rows}"

    def holds_window(self, stride: int, pool: int, pool_stride: int) -> bool:
        """Whether the smallest tile of a convolution, one pixel after pooling, fits: else the library finds no tiling.

        The library counts `pool_stride + pool - 1` rows and columns of sums for it.
        """
        side = pool_stride + pool - 1
        return side * side <= self.acc_half and (side * stride) ** 2 + 1 <= self.spad_half
