"""The target's text, and what is known of architectures."""

from __future__ import annotations

import pytest
from fxpress.backends.cuda.architectures import ARCHITECTURES, KIB
from fxpress.backends.cuda.target import CudaTarget
from fxpress.errors import InvalidInput
from fxpress.target import Target


@pytest.mark.parametrize("text", ["cuda{arch=sm_80}", "cuda{arch=sm_80+sm_90}", "cuda{arch=sm_90,matmul=tf32}", "cuda"])
def test_parses_and_prints_back(text: str) -> None:
    target = Target.parse(text)

    assert isinstance(target, CudaTarget)
    assert Target.parse(str(target)) == target
    assert str(CudaTarget()) == "cuda{arch=sm_80+sm_90,matmul=float32}"


def test_oldest_decides_whatever_the_order() -> None:
    target = CudaTarget(arch="sm_90+sm_86")

    assert target.oldest.name == "sm_86"
    assert target.block_shared == 99 * KIB
    assert [each.name for each in target.architectures] == ["sm_86", "sm_90"]
    assert [each.name for each in CudaTarget(arch="sm_100+sm_90").architectures] == ["sm_90", "sm_100"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cuda{arch=sm_81}",
            r"^target option arch must be some of \['sm_80', .* joined by '\+', each once, not 'sm_81'$",
        ),
        ("cuda{arch=sm_80+sm_80}", r"^target option arch must be .* each once, not 'sm_80\+sm_80'$"),
        ("cuda{arch=}", r"^target option arch must be .* not ''$"),
        ("cuda{matmul=float16}", r"^target option matmul must be one of \['float32', 'tf32'\], not 'float16'$"),
        ("cuda{isa=avx2}", r"^target option must be one of \['arch', 'matmul'\], not 'isa'$"),
    ],
)
def test_rejects(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Target.parse(text)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_limits_are_consistent(name: str) -> None:
    each = ARCHITECTURES[name]

    assert each.name == name == "sm_{}{}".format(*each.capability)
    assert each.block_shared == each.multiprocessor_shared - KIB
    assert each.multiprocessor_threads % each.block_threads in (0, 512)
    assert each.peak["int8"] == pytest.approx(2 * each.peak["float16"], rel=0.02)
    assert each.peak["float16"] == pytest.approx(2 * each.peak["tf32"], rel=0.02)


def test_blocks_at_once_is_the_least_of_all_limits() -> None:
    a100 = ARCHITECTURES["sm_80"]

    assert a100.blocks_at_once(threads=256, registers=32, shared=0) == 8  # threads
    assert a100.blocks_at_once(threads=256, registers=128, shared=0) == 2  # registers
    assert a100.blocks_at_once(threads=128, registers=32, shared=80 * KIB) == 2  # shared memory
    assert a100.blocks_at_once(threads=32, registers=16, shared=0) == 32  # blocks
    assert a100.blocks_at_once(threads=1024, registers=128, shared=0) == 0  # none fits
