"""Integers stay only where they are faster, conversions included; all times here are made up."""

from __future__ import annotations

import logging
import re

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.kernel_times import KernelTimes, KernelUse, predicted_seconds
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.costs import Costs, Measure
from fxpress.passes.quantization.deciding import decide
from fxpress.passes.quantization.profitability import regions
from fxpress.passes.quantization.scheme import PRESETS, QuantConfig
from fxpress.report.decisions import Decisions
from fxpress.target import Target
from fxpress.testing import op_counts, trace
from torch import nn

TARGET = Target.parse("cpu")
X = torch.randn(2, 8, 16)
INT8 = QuantConfig()


class TwoParts(nn.Module):
    """Two pairs of linear layers with a softmax between them, which stays float32: two regions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        self.second = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, x):
        return self.second(self.first(x).softmax(-1))


def fused(module=None):
    return PassManager("default{merge=false}", target=TARGET).run(trace((module or TwoParts()).eval(), X))


def names_of(program, path):
    return [node.name for node in program.nodes if f"({path}." in node.meta.get("source", "") and "linear" in node.name]


def made_up(float32, int8, conversions=0.0):
    """Costs from seconds by module: each layer's share in `float32` and `int8`, and what softmax has to convert."""

    def measure(plan):
        layers = [node for node in plan.program.nodes if node.name.startswith("linear")]
        part = {node.name: "first" if "(first" in node.meta["source"] else "second" for node in layers}
        softmax = next(node.name for node in plan.program.nodes if "softmax" in node.name)
        floats = {name: float32[where] for name, where in part.items()} | {softmax: 1.0}
        quantized = {name: int8[where] if name in plan.layers else float32[where] for name, where in part.items()}
        return Costs("measured", floats, quantized | {softmax: 1.0 + conversions * bool(plan.layers)})

    return measure


def decided(measure, program=None, **options):
    program = program or fused()
    return decide(program, INT8, Calibration([X], program), TARGET, measure=measure, **options)


def test_a_region_that_is_slower_is_rolled_back_with_its_numbers(caplog):
    with caplog.at_level(logging.WARNING, "fxpress.quantize"):
        plan = decided(made_up({"first": 4e-6, "second": 4e-6}, {"first": 1e-6, "second": 5e-6}))
    first, second = names_of(plan.program, "first"), names_of(plan.program, "second")
    assert set(plan.layers) == set(first)
    wanted = "int8 does not pay: the 2 nodes of its region would take 10.00 us in int8 and 0.00 us to convert, "
    assert {plan.left[name] for name in second} == {f"{wanted}8.00 us in float32 (measured)"}
    assert "2 nodes stay in float32, where int8 does not pay" in caplog.text


def test_conversions_at_the_borders_decide():
    cheap = {"first": 4e-6, "second": 4e-6}, {"first": 3e-6, "second": 3e-6}
    assert len(decided(made_up(*cheap, conversions=3e-6)).layers) == 4  # 1.5 us for either region, which gains 2 us
    plan = decided(made_up(*cheap, conversions=5e-6))
    assert plan.layers == {}
    assert all(
        "6.00 us in int8 and 2.50 us to convert, 8.00 us" in plan.left[name] for name in names_of(plan.program, "first")
    )


def test_the_rest_of_the_plan_follows():
    plan = decided(made_up({"first": 4e-6, "second": 4e-6}, {"first": 9e-6, "second": 1e-6}))
    program = PassManager([fxpress.passes.quantization.quantize_ops.QuantizeOps(plan)], target=TARGET).run(plan.program)
    counts = op_counts(program)
    assert counts["linear"] == 2
    assert counts["quantized_linear"] == counts["quantized_linear_float"] == counts["quantize"] == 1


def test_equal_times_do_not_pay():
    assert decided(made_up({"first": 1e-6, "second": 1e-6}, {"first": 1e-6, "second": 1e-6})).layers == {}


def test_pins_and_off():
    slow = made_up({"first": 1e-6, "second": 1e-6}, {"first": 2e-6, "second": 2e-6})
    plan = decided(slow, pin={"first": "int8"})
    assert set(plan.layers) == set(names_of(plan.program, "first"))
    assert len(decided(slow, profitable="off").layers) == 4
    fast = made_up({"first": 2e-6, "second": 2e-6}, {"first": 1e-6, "second": 1e-6})
    plan = decided(fast, pin={"second.0": "float32"})
    (name,) = (node.name for node in plan.program.nodes if "(second.0)" in node.meta.get("source", ""))
    assert plan.left[name] == "named in ignore"
    assert len(plan.layers) == 3


def test_only_integer_activations_are_measured():
    program, asked = fused(), []
    plan = decide(
        program, PRESETS["int8-weights"], Calibration([X], program), TARGET, measure=lambda plan: asked.append(plan)
    )
    assert len(plan.stored) == 4
    assert asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profitable": "maybe"}, "profitable must be 'measure', 'predict' or 'off', not 'maybe'"),
        ({"pin": {"first": "int4"}}, "pin must map a layer to one of ['float32', 'int8'], not 'first' to 'int4'"),
        ({"pin": {"third": "int8"}}, "pin must match something that can be quantised, but 'third' does not; there are"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}"):
        decided(made_up({}, {}), **options)


def test_regions_of_a_residual_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.b(self.a(x).relu()) + x

    image = torch.randn(1, 4, 8, 8)
    program = PassManager("default{merge=false}", target=TARGET).run(trace(Block().eval(), image))
    plan = decide(program, INT8, Calibration([image], program), TARGET, profitable="off")
    (region,) = regions(plan, Costs("measured", {}, {}))
    assert set(region.nodes) >= set(plan.layers)
    assert not region.pays  # nothing is gained


def test_kernels_of_both_programs_are_attributed_to_nodes():
    program = fused()
    plan = decide(program, INT8, Calibration([X], program), TARGET, profitable="off")
    costs = Measure(KernelTimes(TARGET, "predicted"))(plan)
    assert costs.how == "predicted"
    layers = {node.name for node in program.nodes if node.name.startswith("linear")}
    known = {node.name for node in program.nodes} | {""}
    assert layers <= set(costs.float32) <= known
    assert layers <= set(costs.quantized) <= known
    assert all(seconds > 0 for seconds in (*costs.total, *(costs.quantized[name] for name in layers)))


def test_decisions_reach_the_history_and_survive_saving(tmp_path):
    program = fxpress.quantize(TwoParts(), args=(X,), calibration=[X], profitable="predict")
    program.save(tmp_path / "program")
    for each in (program, fxpress.Program.load(tmp_path / "program")):
        (record,) = [record for record in each.history if record.name == "quantize-ops"]
        decisions = Decisions.from_json(record.decisions)
        assert len(decisions.layers) == 4
        assert {layer.how for layer in decisions.layers} == {"predicted"}
        assert all(layer.int8_bytes < layer.float_bytes for layer in decisions.layers)
        assert "float32 (predicted)" in decisions.text().splitlines()[0]


def test_prediction_grows_with_work():
    use = KernelUse("x", "k", "k", flops=10**9, bytes=10**6, integer=False)
    float32, int8 = (
        predicted_seconds(use, TARGET),
        predicted_seconds(KernelUse("x", "k", "k", 10**9, 10**6, True), TARGET),
    )
    assert int8 < float32 < predicted_seconds(KernelUse("x", "k", "k", 10**10, 10**6, False), TARGET)
