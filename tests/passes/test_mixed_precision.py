"""A solver gives each layer its width; the whole model is checked; all times here are made up."""

from __future__ import annotations

import itertools
import math
import re

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.assignment import Edge, Limits, Option, solve
from fxpress.passes.quantization.budget import Budget
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.costs import Costs, constant_bytes, quantized_program
from fxpress.passes.quantization.deciding import decide, width_of
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.passes.quantization.sensitivity import whole_noise
from fxpress.report.decisions import decibel
from fxpress.target import Target
from fxpress.testing import trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

TARGET = Target.parse("cpu")
ITEMS = [torch.randn(4, 16) for _ in range(4)]


CONFIG = QuantConfig(per_channel=False)


def mlp():
    """The middle layer has one row of huge weights, whose result the activation always cuts off."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    with torch.no_grad():
        module[2].weight[0] *= 100
        module[2].bias[0] = -1000.0
    return module


def faster_int8(plan):
    """Every linear layer takes 4 ms in float32 and 1 ms in int8."""
    layers = [node.name for node in plan.program.nodes if node.name.startswith("linear")]
    quantized = {name: 1e-3 if name in plan.layers else 4e-3 for name in layers}
    return Costs("measured", dict.fromkeys(layers, 4e-3), quantized)


def decided(budget, module=None, **options):
    program = PassManager("default{merge=false}", target=TARGET).run(trace((module or mlp()).eval(), ITEMS[0]))
    data = Calibration(ITEMS, program)
    plan = decide(program, CONFIG, data, TARGET, measure=faster_int8, budget=budget, **options)
    return plan, data


def widths(plan):
    return [width_of(plan, node.name) for node in plan.program.nodes if node.name.startswith("linear")]


def test_the_layer_with_outlier_weights_is_kept_in_float():
    loose, data = decided(Budget(min_sqnr=10))
    assert widths(loose) == ["int8"] * 3
    wanted = decibel(whole_noise(loose, data)) + 3
    plan, data = decided(Budget(min_sqnr=wanted))
    assert widths(plan) == ["int8", "float32", "int8"]
    assert decibel(whole_noise(plan, data)) >= wanted
    (row,) = [layer for layer in plan.decisions.layers if layer.width == "float32"]
    assert re.match(
        r"mixed precision: int8 alone would leave \d+\.\d dB at the outputs; it would be 3\.00 ms ", row.why
    )
    assert row.output_noise == max(layer.output_noise for layer in plan.decisions.layers)


def test_evaluate_decides():
    module = mlp().eval()
    wanted = [module(x).detach() for x in ITEMS]
    calls = []

    def score(model):
        calls.append(model)
        return -sum(float((model(x) - y).square().sum()) for x, y in zip(ITEMS, wanted, strict=True))

    loose, _ = decided(Budget(max_drop=1e9, evaluate=score), module)
    assert widths(loose) == ["int8"] * 3
    assert len(calls) == 2  # in float32 and in int8
    drop = -score(quantized_program(loose, TARGET).run)
    plan, _ = decided(Budget(max_drop=0.5 * drop, evaluate=score), module)
    assert "float32" in widths(plan)
    assert "int8" in widths(plan)
    assert -score(quantized_program(plan, TARGET).run) <= 0.5 * drop
    plan, _ = decided(Budget(max_drop=0, evaluate=score), module)
    assert widths(plan) == ["float32"] * 3


def test_seconds_and_bytes():
    plan, _ = decided(Budget(max_seconds=7e-3))
    assert sorted(widths(plan)) == ["float32", "int8", "int8"]  # 4 + 1 + 1, and conversions
    assert widths(plan)[1] == "float32"
    plan, _ = decided(Budget(max_seconds=1.0))
    assert widths(plan) == ["float32"] * 3
    whole, _ = decided(Budget(max_seconds=1.0))
    limit = constant_bytes(whole, TARGET) // 2
    plan, _ = decided(Budget(max_bytes=limit))
    assert constant_bytes(plan, TARGET) <= limit
    assert set(widths(plan)) & {"int8-weights", "int8"}


def test_small_weights_beat_small_activations():
    """With room for no float32 weights but no hurry, activations stay wide."""
    plan, _ = decided(Budget(max_bytes=4000))
    assert "int8-weights" in widths(plan)
    assert constant_bytes(plan, TARGET) <= 4000
    (x,) = ITEMS[:1]
    found, wanted = quantized_program(plan, TARGET).run_flat(x)[0], plan.program.run_flat(x)[0]
    assert (found - wanted).norm() < 0.1 * wanted.norm()


def test_pins_stand():
    plan, data = decided(Budget(min_sqnr=10), pin={"0": "float32"})
    assert widths(plan) == ["float32", "int8", "int8"]
    loose, data = decided(Budget(min_sqnr=10))
    quality = decibel(whole_noise(loose, data)) + 3
    with pytest.raises(
        InvalidInput, match=r"^budget must be within reach, but no assignment of widths keeps it: min_sq"
    ):
        decided(Budget(min_sqnr=quality), pin={"2": "int8"})


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (lambda: Budget(), "budget must limit min_sqnr, max_drop, max_seconds or max_bytes, not nothing"),
        (lambda: Budget(max_drop=0.1), "max_drop and evaluate must be given together"),
        (lambda: Budget(evaluate=len, min_sqnr=3), "max_drop and evaluate must be given together"),
        (lambda: Budget(evaluate=3, max_drop=1), "evaluate must be a function of a model, not 3"),
        (lambda: Budget(evaluate=len, max_drop=-1), "max_drop must be a number from 0 on, not -1"),
        (lambda: Budget(min_sqnr=math.nan), "min_sqnr must be a finite number of dB, not nan"),
        (lambda: Budget(max_seconds=0), "max_seconds must be positive, not 0"),
        (lambda: Budget(max_bytes=-5), "max_bytes must be positive, not -5"),
        (lambda: Budget(max_bytes=5, items=0), "items must be at least 1, not 0"),
    ],
)
def test_bad_budgets(budget, message):
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}"):
        budget()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_bytes=100), "none is as small, fast and accurate as it says"),
        (Budget(max_seconds=1e-4), "none is as small, fast and accurate as it says"),
        (Budget(max_seconds=3.5e-3, min_sqnr=80), "none is as small, fast and accurate as it says"),
    ],
)
def test_budgets_out_of_reach(budget, message):
    with pytest.raises(InvalidInput, match=f"^budget must be within reach, .*: {message}"):
        decided(budget)


def test_evaluate_must_return_a_number():
    for wrong in (math.nan, "0.7", None):
        with pytest.raises(InvalidInput, match=r"^evaluate must return a finite number, higher is better, not "):
            decided(Budget(max_drop=0.1, evaluate=lambda model, wrong=wrong: wrong))


def test_through_the_front_door():
    module = mlp().eval()
    stages = []
    program = fxpress.quantize(
        module, args=(ITEMS[0],), calibration=ITEMS, profitable="predict", pin=dict.fromkeys("024", "int8"),
        budget=fxpress.passes.quantization.Budget(min_sqnr=5), progress=stages.append,
    )  # fmt: skip
    assert program.run(ITEMS[0]).shape == (4, 8)
    assert any(stage.startswith("sensitivity: item 1 of 4") for stage in stages)
    (record,) = [record for record in program.history if record.name == "quantize-ops"]
    assert [row["width"] for row in record.decisions] == ["int8"] * 3
    assert all(row["output_noise"] > 0 for row in record.decisions)


def test_neighbours_of_different_width_pay_for_conversions():
    layers = [[Option("int8", 0.1, 1.0, 1), Option("float32", 0.0, 1.2, 4)] for _ in range(3)]
    layers[1] = [Option("int8", 1.0, 1.0, 1), Option("float32", 0.0, 1.2, 4)]
    far = [Edge(0, 1, 0.0), Edge(1, 2, 0.0)]
    near = [Edge(0, 1, 0.5), Edge(1, 2, 0.5)]
    limits = Limits(noise=0.3)
    assert [o.width for o in solve(layers, far, limits, "seconds")] == ["int8", "float32", "int8"]
    assert [o.width for o in solve(layers, near, limits, "seconds")] == ["float32", "float32", "float32"]
    assert solve(layers, near, Limits(bytes=2), "noise") is None
    assert solve([], [], Limits(), "noise") == []
    assert {o.width for o in solve(layers, far, Limits(noise=1e-30), "seconds")} == {"float32"}


numbers = st.floats(0.01, 10)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5), st.floats(0.2, 0.8))
def test_the_solver_finds_the_best(rows, share):
    layers = [[Option("int8", noise, fast, 1), Option("float32", 0.0, fast + slow, 4)] for noise, fast, slow in rows]
    limits = Limits(noise=share * sum(noise for noise, _, _ in rows))
    found = solve(layers, [], limits, "seconds")
    allowed = [each for each in itertools.product(*layers) if sum(o.noise for o in each) <= limits.noise]
    best = min(sum(o.seconds for o in each) for each in allowed)
    assert sum(o.noise for o in found) <= limits.noise * (1 + 1e-5)
    assert sum(o.seconds for o in found) <= best * (1 + 1e-3)
