"""The target `cuda{arch=sm_80+sm_90}`: NVIDIA GPUs of one or more architectures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...errors import InvalidInput
from ...target import Target
from .architectures import ARCHITECTURES, Architecture

DEFAULT = "sm_80+sm_90"
MATMULS = ("float32", "tf32")


@dataclass(frozen=True, kw_only=True)
class CudaTarget(Target):
    """NVIDIA GPUs, such as `cuda{arch=sm_90}` or `cuda{arch=sm_80+sm_90,matmul=tf32}`.

    `arch` names the architectures that the artifact holds machine code for, joined by "+"; newer ones compile its PTX
    when it is loaded. Kernels fit the least of them. `matmul` says what products of float32 are computed in: float32,
    or tf32, whose factors have 10 bits of mantissa.
    """

    kind: ClassVar[str] = "cuda"
    backend: ClassVar[str] = "cuda"
    arch: str = DEFAULT
    matmul: str = "float32"

    def __post_init__(self) -> None:
        names = self.arch.split("+")
        unknown = [name for name in names if name not in ARCHITECTURES]
        if unknown or len(set(names)) < len(names):
            raise InvalidInput(
                f"target option arch must be some of {list(ARCHITECTURES)} joined by '+', each once, not {self.arch!r}"
            )
        if self.matmul not in MATMULS:
            raise InvalidInput(f"target option matmul must be one of {list(MATMULS)}, not {self.matmul!r}")

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """The architectures, the oldest first."""
        return tuple(sorted((ARCHITECTURES[name] for name in self.arch.split("+")), key=lambda each: each.capability))

    @property
    def oldest(self) -> Architecture:
        """The architecture whose instructions all of them have."""
        return self.architectures[0]

    @property
    def block_shared(self) -> int:
        """Bytes of shared memory that a block can have on all of them."""
        return min(each.block_shared for each in self.architectures)

    @property
    def width_step(self) -> int:
        return 8  # 16-bit elements of one 16-byte access, columns of one tensor-core product

    def options(self) -> dict[str, object]:
        return {"arch": self.arch, "matmul": self.matmul}

    @classmethod
    def of_options(cls, options: Mapping[str, str]) -> CudaTarget:
        known = ("arch", "matmul")
        for name in options:
            if name not in known:
                raise InvalidInput(f"target option must be one of {list(known)}, not {name!r}")
        return cls(**options)
