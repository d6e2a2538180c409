"""NVIDIA's GPU architectures as data: what a block may use, what tensor cores multiply, how fast a typical GPU is.

Limits of a block and a multiprocessor are of the table "Technical Specifications per Compute Capability" of the CUDA
C++ Programming Guide 13.0. What depends on the product is that of one product of the architecture, named by `device`,
from NVIDIA's datasheet or whitepaper of it; rates are without sparsity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
WARP = 32  # threads that run together, on all architectures


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture, `sm_90` for compute capability 9.0, and a device that has it.

    Bytes of shared memory are the most for one block (asked for when a kernel is launched) and for one multiprocessor.
    `peak` holds operations a second, a multiply-add counted as two, by the dtype that is multiplied: of tensor cores,
    except "float32". `bandwidth` is bytes a second of the device's memory.
    """

    name: str
    block_shared: int
    multiprocessor_shared: int
    multiprocessor_threads: int
    multiprocessor_blocks: int
    multiprocessor_registers: int = 64 * KIB
    block_threads: int = 1024
    thread_registers: int = 255
    device: str
    multiprocessors: int
    l2: int
    bandwidth: float
    peak: Mapping[str, float]
    source: str

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability: (9, 0) for sm_90."""
        major, minor = divmod(int(self.name.removeprefix("sm_")), 10)
        return major, minor

    def blocks_at_once(self, threads: int, registers: int, shared: int) -> int:
        """How many blocks of a kernel one multiprocessor holds; registers are a thread's, shared bytes a block's."""
        warps = -(-threads // WARP)
        warp_registers = -(-registers * WARP // 256) * 256
        held = [
            self.multiprocessor_blocks,
            self.multiprocessor_threads // (warps * WARP),
            self.multiprocessor_shared // (shared + KIB),  # the system keeps 1 KiB a block
        ]
        if registers:
            held.append(self.multiprocessor_registers // (warp_registers * warps))
        return min(held)


ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for each in (
        Architecture(
            name="sm_80",
            block_shared=163 * KIB,
            multiprocessor_shared=164 * KIB,
            multiprocessor_threads=2048,
            multiprocessor_blocks=32,
            device="A100 SXM 80 GB",
            multiprocessors=108,
            l2=40 * MIB,
            bandwidth=2.039e12,
            peak={"float32": 19.5e12, "tf32": 156e12, "float16": 312e12, "bfloat16": 312e12, "int8": 624e12},
            source="NVIDIA A100 Tensor Core GPU datasheet, 2021",
        ),
        Architecture(
            name="sm_86",
            block_shared=99 * KIB,
            multiprocessor_shared=100 * KIB,
            multiprocessor_threads=1536,
            multiprocessor_blocks=16,
            device="A10",
            multiprocessors=72,
            l2=6 * MIB,
            bandwidth=0.6e12,
            peak={"float32": 31.2e12, "tf32": 62.5e12, "float16": 125e12, "bfloat16": 125e12, "int8": 250e12},
            source="NVIDIA A10 Tensor Core GPU datasheet, 2021",
        ),
        Architecture(
            name="sm_89",
            block_shared=99 * KIB,
            multiprocessor_shared=100 * KIB,
            multiprocessor_threads=1536,
            multiprocessor_blocks=24,
            device="L40S",
            multiprocessors=142,
            l2=96 * MIB,
            bandwidth=0.864e12,
            peak={"float32": 91.6e12, "tf32": 183e12, "float16": 362e12, "bfloat16": 362e12, "int8": 733e12},
            source="NVIDIA L40S GPU datasheet, 2023",
        ),
        Architecture(
            name="sm_90",
            block_shared=227 * KIB,
            multiprocessor_shared=228 * KIB,
            multiprocessor_threads=2048,
            multiprocessor_blocks=32,
            device="H100 SXM",
            multiprocessors=132,
            l2=50 * MIB,
            bandwidth=3.35e12,
            peak={"float32": 67e12, "tf32": 494.5e12, "float16": 989.5e12, "bfloat16": 989.5e12, "int8": 1979e12},
            source="NVIDIA H100 Tensor Core GPU datasheet, 2023",
        ),
        Architecture(
            name="sm_100",
            block_shared=227 * KIB,
            multiprocessor_shared=228 * KIB,
            multiprocessor_threads=2048,
            multiprocessor_blocks=32,
            device="B200",
            multiprocessors=148,
            l2=126 * MIB,
            bandwidth=8e12,
            peak={"float32": 75e12, "tf32": 1.12e15, "float16": 2.25e15, "bfloat16": 2.25e15, "int8": 4.5e15},
            source="NVIDIA HGX B200 datasheet, 2024",
        ),
    )
}
