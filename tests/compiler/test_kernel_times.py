"""Seconds of kernels: measured in another process, predicted for other machines; no time is asserted."""

from __future__ import annotations

import json
import logging
import re
import sys

import fxpress
import pytest
import torch
from fxpress import kernel_times
from fxpress.errors import InvalidInput, Unsupported
from fxpress.kernel_times import CrashedKernel, KernelTimes, is_this_machine
from fxpress.registry import lookup
from fxpress.target import Target
from fxpress.testing import trace
from torch import nn

HERE = Target.parse("cpu")


def lowered(*layers, target=HERE, x=None):
    x = torch.randn(8, 16) if x is None else x
    program = fxpress.PassManager("default", target=target).run(trace(nn.Sequential(*layers).eval(), x))
    return lookup("backends", "tvm")().lower(program, target)


def test_equal_kernels_are_measured_once(tmp_path):
    twice = lowered(nn.Linear(16, 16), nn.Linear(16, 16), nn.Softmax(-1))
    stages = []
    times = KernelTimes(HERE, cache=tmp_path, progress=stages.append, seconds=0.01)
    first, second = times.of(twice, lowered(nn.Softmax(-1)))
    assert stages == ["code of 2 kernels to be measured", "measuring kernels"]
    assert first[0][0].key == first[1][0].key
    assert first[0][1] == first[1][1] > 0
    assert second == [(second[0][0], first[-1][1])]
    again = KernelTimes(HERE, cache=tmp_path, progress=stages.append)
    assert again.of(twice) == [first]
    assert len(stages) == 2


def test_a_damaged_cache_is_written_anew(tmp_path, caplog):
    KernelTimes(HERE, cache=tmp_path, seconds=0.01).of(lowered(nn.Softmax(-1)))
    (file,) = tmp_path.iterdir()
    file.write_text("[]")
    with caplog.at_level(logging.WARNING, "fxpress.kernel_times"):
        KernelTimes(HERE, cache=tmp_path, seconds=0.01).of(lowered(nn.Softmax(-1)))
    assert "holds no kernel times and is written anew" in caplog.text
    assert len(json.loads(file.read_text())) == 1


def test_other_machines_are_predicted():
    other = Target.parse("cpu{isa=avx2,cores=64}")
    assert is_this_machine(HERE)
    assert not is_this_machine(other)
    times = KernelTimes(other, "measured")
    assert times.how == "predicted"
    ((_, seconds), *_) = times.of(lowered(nn.Linear(16, 16), target=other))[0]
    assert seconds > 0


def test_a_crash_stays_in_its_process(monkeypatch, tmp_path, caplog):
    """A worker that dies as by a bad address costs the measurement, not the caller."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    times = KernelTimes(HERE)
    with caplog.at_level(logging.WARNING, "fxpress.kernel_times"):
        (found,) = times.of(lowered(nn.Softmax(-1)))
    assert "kernel times are predicted, not measured: the process that times kernels must end well" in caplog.text
    assert times.how == "predicted"
    assert found[0][1] > 0
    with pytest.raises(
        CrashedKernel, match=r"^the process that times kernels must end well, not with status -11: it sa"
    ):
        kernel_times._run_worker([kernel_times.TimingCode(b"", 1, (64, 64))], 1, 0.01)


def test_backends_without_kernels_say_so():
    reference = lookup("backends", "reference")().lower(trace(nn.Softmax(-1), torch.randn(2, 3)), HERE)
    with pytest.raises(Unsupported, match=r"^ReferenceLowered must know its kernels to be timed, but has none"):
        KernelTimes(HERE).of(reference)


def test_unknown_how():
    with pytest.raises(InvalidInput, match=r"^how must be .measured. or .predicted., not .guessed.$"):
        KernelTimes(HERE, "guessed")


def test_measured_end_to_end():
    module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    x = torch.randn(32, 64)
    program = fxpress.quantize(module, args=(x,), calibration=[x], profitable="measure")
    (record,) = [record for record in program.history if record.name == "quantize-ops"]
    assert {row["how"] for row in record.decisions} == {"measured"}
    assert all(row["float_seconds"] > 0 and row["int8_seconds"] > 0 for row in record.decisions)
    assert any(re.search(r"kernels take .* as quantised, .* in float32 \(measured\)", line) for line in record.skipped)
