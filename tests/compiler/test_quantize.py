"""`fxpress.quantize`: what it takes, what it refuses, what it records."""

from __future__ import annotations

import logging
import re

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.testing import op_counts
from torch import nn

X = torch.randn(2, 8)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def test_modules_exported_programs_and_programs():
    expected = fxpress.quantize(model(), args=(X,), calibration=[X]).text()
    assert fxpress.quantize(fxpress.capture(model(), (X,)), calibration=[X]).text() == expected
    fused = fxpress.PassManager("default").run(fxpress.capture(model(), (X,)))
    assert fxpress.quantize(fused, calibration=[X]).run(X).shape == (2, 4)
    exported = torch.export.export(model(), (X,))
    assert fxpress.quantize(exported, calibration=[X]).run(X).shape == (2, 4)


def test_the_model_is_not_changed():
    program = fxpress.capture(model(), (X,))
    text, result = program.text(), program.run(X)
    fxpress.quantize(program, calibration=[X])
    assert program.text() == text
    assert torch.equal(program.run(X), result)


def test_without_data_it_says_so(caplog):
    with caplog.at_level(logging.WARNING, "fxpress.quantize"):
        program = fxpress.quantize(model(), args=(X,))
    assert "no calibration data: ranges are those of generated inputs, which costs accuracy" in caplog.text
    (record,) = [record for record in program.history if record.name == "quantize-ops"]
    assert record.skipped == ("%output: no calibration data was given: ranges are those of generated inputs",)
    error = (program.run(X) - model()(X)).norm() / model()(X).norm()
    assert error < 0.1


def test_weight_only_needs_no_data(caplog):
    with caplog.at_level(logging.WARNING, "fxpress.quantize"):
        fxpress.quantize(model(), "int8-weights", args=(X,))
    assert not caplog.records


def test_quantised_twice():
    for name in ("int8", "int4-weights", "int8-dynamic"):
        program = fxpress.quantize(model(), name, args=(X,), calibration=[X])
        with pytest.raises(
            InvalidInput, match=r"^model must not be quantised already, but %\w+ is fxpress\.\w+\.default"
        ):
            fxpress.quantize(program, calibration=[X])


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_weights_that_are_not_finite(part):
    broken = model()
    with torch.no_grad():
        getattr(broken[2], part).view(-1)[1] = float("nan")
    message = rf"^{part} of %linear_\d \(.*\(2\)\) must hold finite numbers, not NaN or infinity; repair the model, or "
    with pytest.raises(InvalidInput, match=message):
        fxpress.quantize(broken, args=(X,), calibration=[X])
    assert fxpress.quantize(broken, args=(X,), calibration=[X], ignore="2").run(X).isnan().any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"config": "int7"}, InvalidInput, "config must be a QuantConfig or one of ["),
        ({"config": QuantConfig(algorithms=("magic",))}, InvalidInput, "algorithm must be one of ["),
        ({"calibration": []}, InvalidInput, "calibration must yield at least one item, not none"),
        (
            {"calibration": [X], "calibration_items": 2},
            InvalidInput,
            "calibration must yield 2 items, as calibration_it",
        ),
        ({"calibration": [X.T]}, InvalidInput, "calibration item 0: input must be float32[2, 8], not float32[8, 2]"),
        ({"calibration": [X / 0]}, InvalidInput, "calibration item 0: input must hold finite numbers, not NaN"),
        ({"ignore": "nowhere"}, InvalidInput, "ignore must match something that can be quantised, but 'nowhere' does"),
        ({"only": ["0", "nowhere"]}, InvalidInput, "only must match something that can be quantised, but 'nowhere' do"),
        ({"target": "npu"}, InvalidInput, "target kind must be one of ['cpu', '"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=rf"^{re.escape(message)}"):
        fxpress.quantize(model(), **({"args": (X,), "calibration": [X]} | options))


def test_scopes_and_cache(tmp_path):
    options = {"args": (X,), "calibration": [X], "cache": tmp_path}
    first = fxpress.quantize(model(), **options)
    stages = []
    second = fxpress.quantize(model(), progress=stages.append, **options)
    assert second.text() == first.text()
    assert "calibration from cache" in stages
    assert "quantized_linear" not in op_counts(fxpress.quantize(model(), only="2", **options))


def test_symbolic_batches():
    batch = torch.export.Dim("batch", min=2, max=64)
    program = fxpress.capture(model(), (X,), dynamic_shapes=({0: batch},))
    quantized = fxpress.quantize(program, calibration=[X, torch.randn(5, 8)])
    assert quantized.run(torch.randn(7, 8)).shape == (7, 4)


def test_quantised_by_other_means():
    narrow = fxpress.quantize(model(), "bf16", args=(X,))
    big = nn.Linear(128, 128)
    clustered = fxpress.PassManager("default,cluster-weights").run(fxpress.capture(big, (torch.randn(1, 128),)))
    for program in (narrow, clustered):
        with pytest.raises(InvalidInput, match=r"^model must not be quantised already, but %\w+ is fxpress\."):
            fxpress.quantize(program)


def uneven():
    """A model whose channels equalisation evens out."""
    changed = model()
    with torch.no_grad():
        changed[0].weight[0] *= 100
    return changed


@pytest.mark.parametrize("option", [{"ignore": "linear_4"}, {"pin": {"linear_4": "float32"}}])
def test_names_of_nodes_stay_while_algorithms_change_them(option):
    with pytest.raises(InvalidInput, match=r"(?s)^ignore must match .*%linear_4 in 0\n"):
        fxpress.quantize(uneven(), "int8-gemmini", args=(X,), calibration=[X], ignore="nowhere")
    options = {"args": (X,), "calibration": [X], "profitable": "off"}
    assert op_counts(fxpress.quantize(uneven(), "int8-gemmini", **options, **option))["linear"] == 1


def test_scopes_are_checked_before_data_is_read():
    def items():
        raise AssertionError("data was read")
        yield

    with pytest.raises(InvalidInput, match=r"^ignore must match something that can be quantised, but 'nowhere' does"):
        fxpress.quantize(model(), args=(X,), calibration=items(), ignore="nowhere")


def test_weights_that_are_not_finite_are_found_before_algorithms_spread_them():
    broken = model()
    with torch.no_grad():
        broken[2].weight[1] = float("inf")
    with pytest.raises(InvalidInput, match=r"^weight of %linear_\d \(.*\(2\)\) must hold finite numbers"):
        fxpress.quantize(broken, "int8-gemmini", args=(X,), calibration=[X])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pin": {"0": "int8"}, "ignore": "0"},
            "pin must not ask for int8 where ignore asks for float32, as for %l",
        ),
        (
            {"pin": {"0": "int8"}, "only": "2"},
            "pin must not ask for int8 where only asks for float32, as for %l",
        ),
        (
            {"pin": {"0": "int8", "linear": "float32"}},
            "pin must not ask for int8 where pin asks for float32, as for %l",
        ),
        ({"pin": ["0"]}, "pin must map layers to one of ['float32', 'int8'], not be ['0']"),
        ({"budget": 40}, "budget must be a fxpress.quantization.Budget, not 40"),
        (
            {"config": "bf16", "pin": {"0": "float32"}},
            "budget and pin must be None for a config with float_dtype='b",
        ),
        ({"calibration": None, "calibration_items": 3}, "calibration_items must be None without calibration, not 3"),
    ],
)
def test_options_that_contradict(options, message):
    with pytest.raises(InvalidInput, match=rf"^{re.escape(message)}"):
        fxpress.quantize(model(), **({"args": (X,), "calibration": [X]} | options))


def test_it_says_when_nothing_is_quantised(caplog):
    with caplog.at_level(logging.WARNING, "fxpress.quantize"):
        fxpress.quantize(nn.Conv2d(3, 4, 3), "int8-weights", args=(torch.randn(1, 3, 8, 8),))
    (record,) = caplog.records
    assert re.fullmatch(
        r"nothing was quantised: %conv\w*: stays float32: only linear layers have kernels .*", record.getMessage()
    )


def test_what_kernels_take_is_noted_for_what_a_budget_leaves():
    wide = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    x = torch.randn(4, 64)
    budget = fxpress.quantization.Budget(min_sqnr=300)
    program = fxpress.quantize(wide, args=(x,), calibration=[x], profitable="predict", budget=budget)
    (record,) = [record for record in program.history if record.name == "quantize-ops"]
    taken = re.search(r"kernels take (.*) as quantised, (.*) in float32 \(predicted\)", "\n".join(record.skipped))
    assert taken[1] == taken[2]
