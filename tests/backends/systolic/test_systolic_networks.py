"""Whole networks: how busy they keep a 16 x 16 array with 256 KiB of scratchpad, and how long that takes to compile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.compiler import ArrayStage, LayerReport, lower
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.backends.systolic.simulator.races import check_order
from fxpress.program import Program
from quantized_programs import Builder
from test_systolic_layers import check
from torch.fx import Node

MACHINE = Architecture()


def resnet_50(b: Builder) -> Program:
    """The convolutions and pools of ResNet-50 at 224 x 224, residuals fused, without its classifier."""
    x = b.conv(b.input(1, 224, 224, 3), 64, [7, 7], stride=[2, 2], padding=[3, 3, 3, 3])
    x = b.max_pool(x, [3, 3], [2, 2], [1, 1])
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            stride = [2, 2] if stage and not block else [1, 1]
            y = b.conv(b.conv(x, width, [1, 1]), width, [3, 3], stride=stride, padding=[1, 1, 1, 1])
            if block:
                x = b.conv(y, 4 * width, [1, 1], residual=x)
            else:
                x = b.conv(x, 4 * width, [1, 1], stride=stride, residual=b.conv(y, 4 * width, [1, 1]))
    return b.program(x)


MOBILE = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def mobilenet_v2(b: Builder, size: int = 224, plan: Sequence[tuple[int, int, int, int]] = MOBILE) -> Program:
    """The convolutions of MobileNetV2: expansion, channels, blocks and first stride of each stage."""
    x = b.conv(b.input(1, size, size, 3), 32, [3, 3], stride=[2, 2], padding=[0, 1, 0, 1])
    for expansion, channels, blocks, stride in plan:
        for block in range(blocks):
            x = inverted_residual(b, x, expansion, channels, 1 if block else stride, bool(block))
    return b.program(b.avg_pool(b.conv(x, 1280, [1, 1]), x.meta["val"].shape[1:3], [1, 1], [0, 0]))


def inverted_residual(b: Builder, x: Node, expansion: int, channels: int, stride: int, residual: bool) -> Node:
    wide = expansion * x.meta["val"].shape[-1]
    y = b.conv(x, wide, [1, 1]) if expansion > 1 else x
    padding = [1, 1, 1, 1] if stride == 1 else [0, 1, 0, 1]
    y = b.conv(y, wide, [3, 3], stride=[stride, stride], padding=padding, groups=wide)
    return b.conv(y, channels, [1, 1], residual=x if residual else None)


def stage_of(program: Program) -> ArrayStage:
    (stage,) = lower(program, MACHINE).stages
    assert isinstance(stage, ArrayStage)
    return stage


def spans(stage: ArrayStage) -> list[int]:
    """Cycles from the end of one layer to the end of the next, which add up to all but HALT."""
    timeline = simulate_cycles(stage.program)
    ends = [0] * len(stage.layers)
    for instruction, done in zip(stage.program.instructions[:-1], timeline.done.tolist(), strict=False):
        ends[instruction.layer] = max(ends[instruction.layer], done)
    return [end - before for before, end in zip([0, *ends], ends, strict=False)]


def utilisation(layers: Sequence[LayerReport], cycles: Sequence[int]) -> float:
    return sum(layer.macs for layer in layers) / (MACHINE.rows * MACHINE.columns * sum(cycles))


def test_resnet_50_keeps_the_array_busy() -> None:
    stage = stage_of(resnet_50(Builder()))
    some = [(layer, span) for layer, span in zip(stage.layers, spans(stage), strict=True) if layer.macs]
    assert len(some) == 53
    assert sum(layer.macs for layer, _ in some) == 4_087_136_256
    assert utilisation(*zip(*some, strict=True)) > 0.95


def test_mobilenet_v2_keeps_the_array_busy() -> None:
    stage = stage_of(mobilenet_v2(Builder()))
    layers = list(zip(stage.layers, spans(stage), strict=True))
    depthwise = [(layer, span) for layer, span in layers if layer.macs and layer.gemm is not None and layer.gemm[0] > 1]
    points = [(layer, span) for layer, span in layers[1:] if layer.macs and (layer, span) not in depthwise]
    assert (len(depthwise), len(points)) == (17, 34)
    assert utilisation(*zip(*points, strict=True)) > 0.85
    products = sum(layer.macs for layer, _ in depthwise)
    assert products / sum(layer.array_cycles for layer, _ in depthwise) > MACHINE.columns
    assert products / sum(span for _, span in depthwise) > 0.98 * MACHINE.columns


@pytest.mark.parametrize("depth", [1, 9, 64])
def test_queues_of_any_length(depth: int) -> None:
    plan = [(1, 16, 1, 1), (6, 24, 2, 2)]
    machine = Architecture(queue_depth=depth)
    check(mobilenet_v2(Builder(), 32, plan), machine)


@pytest.mark.slow
def test_resnet_50_has_no_race() -> None:
    check_order(stage_of(resnet_50(Builder())).program)
