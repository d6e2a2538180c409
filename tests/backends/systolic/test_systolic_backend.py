"""From a quantised Program to an artifact that runs on the simulated array, bit for bit what PyTorch computes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fxpress
import numpy as np
import pytest
import torch
from fxpress.backends.systolic.artifact import SystolicArtifact
from fxpress.backends.systolic.backend import SystolicBackend
from fxpress.backends.systolic.compiler import ArrayStage
from fxpress.backends.systolic.compiler import lower as compile_stages
from fxpress.backends.systolic.encoding import assemble_all, encode_all
from fxpress.backends.systolic.host import check_crossings, stitch
from fxpress.backends.systolic.program import Segment
from fxpress.errors import InternalError, InvalidArtifact, InvalidInput, Unsupported
from fxpress.runtime.container import Container
from fxpress.target import Target
from fxpress.testing import op_counts
from torch import nn
from torch.nn import functional as F

TEXT = "systolic{rows=4,cols=4,activation_kib=4,weight_kib=4,accumulator_kib=2,parameter_kib=2}"
TARGET = Target.parse(TEXT)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 16, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = F.max_pool2d(F.relu(self.conv(x)), 2)
        return {"classes": self.fc(y.flatten(1)).softmax(-1)}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.norm(x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def quantized(model: nn.Module, *inputs: torch.Tensor, **options: Any) -> fxpress.Program:
    options = {"target": TARGET, **options}
    return fxpress.quantize(model.eval(), args=inputs, calibration=[inputs, tuple(0.7 * x for x in inputs)], **options)


@pytest.fixture(scope="module")
def program() -> fxpress.Program:
    torch.manual_seed(0)
    return quantized(Small(), torch.randn(1, 3, 8, 8))


@pytest.fixture(scope="module")
def artifact(program: fxpress.Program) -> SystolicArtifact:
    made = fxpress.compile(program, target=TEXT)
    assert isinstance(made, SystolicArtifact)
    return made


def test_outputs_are_those_of_pytorch(program: fxpress.Program, artifact: SystolicArtifact) -> None:
    for seed in range(3):
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(artifact(x)["classes"], program.run(x)["classes"], rtol=1e-6, atol=1e-7)
    assert artifact.self_test().passed
    assert (len(artifact.programs), artifact.architecture) == (1, TARGET.architecture)


def test_the_cpu_gives_the_same_bits(program: fxpress.Program, artifact: SystolicArtifact) -> None:
    on_cpu = fxpress.compile(program, target="cpu")
    for seed in range(3):
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(artifact(x)["classes"], on_cpu(x)["classes"])


def test_attention_alternates_between_array_and_cpu() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    program = quantized(Attention(), x)
    artifact = fxpress.compile(program, target=TEXT)
    assert len(artifact.programs) > 1
    torch.testing.assert_close(artifact(x), program.run(x), rtol=1e-5, atol=1e-6)
    assert any("softmax" in line for line in artifact.on_cpu)
    performance = artifact.performance()
    assert performance.total.cycles == sum(timeline.total for timeline in artifact.timelines)
    gemms = [layer.facts.gemm for layer in performance.layers]
    assert gemms.count((4, 5, 5, 4)) == gemms.count((4, 5, 4, 5)) == 1


def test_it_runs_without_torch(artifact: SystolicArtifact, tmp_path: Path) -> None:
    artifact.save(tmp_path / "model.fxp")
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy, fxpress.runtime\n"
        "artifact = fxpress.runtime.load('model.fxp', verify='full')\n"
        "artifact.self_test(); artifact.disassemble(); artifact.performance()\n"
        "numpy.save('y.npy', artifact(numpy.load('x.npy'))['classes'])\n"
        "assert not any(name.startswith('fxpress.backends.tvm') or name == 'tvm' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), artifact(x)["classes"])


def test_report_has_what_the_cycle_model_says(artifact: SystolicArtifact) -> None:
    report, performance = artifact.report()["systolic"], artifact.performance()
    assert report["total"]["cycles"] == performance.total.cycles == artifact.timelines[0].total
    assert [layer["facts"]["name"] for layer in report["layers"]] == [x.facts.name for x in performance.layers]
    assert report["total"]["macs"] == 6 * 27 * 64 + 96 * 5
    assert [layer.facts.gemm for layer in performance.layers] == [(1, 64, 6, 27), None, (1, 1, 5, 96)]
    assert "quantized_conv" in artifact.text()
    assert artifact.manifest["fallbacks"] == []
    ((title, html),) = artifact.sections()
    assert title == "On the array"
    assert "quantized_conv" in html


def test_a_report_may_be_left_out_but_not_lie(artifact: SystolicArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "report", dict)
    layers = artifact.performance().layers
    assert [layer.facts.name for layer in layers][:2] == ["quantized_conv", "quantized_max_pool"]
    assert artifact.on_cpu == []
    monkeypatch.setattr(artifact, "report", lambda: {"systolic": {"facts": [[]]}})
    with pytest.raises(InvalidArtifact, match=r"^report must have \[3\] layers, not \[0\]$"):
        artifact.performance()
    monkeypatch.setattr(artifact, "report", lambda: {"systolic": {"facts": [[{}]]}})
    with pytest.raises(InvalidArtifact, match=r"^report must have the facts of each layer of the programs"):
        artifact.performance()


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ([b"garbage"], r"^a systolic program must start with "),
        ("other", r"^program 0 must be for the artifact's array, rows=4,.*, not for rows=2,"),
    ],
    ids=["garbage", "other"],
)
def test_foreign_programs_are_refused(
    artifact: SystolicArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: object, message: str
) -> None:
    artifact.save(tmp_path / "model.fxp")
    other = replace(artifact.programs[0], architecture=replace(artifact.architecture, rows=2))
    monkeypatch.setattr(Container, "programs", lambda self: [other.to_bytes()] if programs == "other" else programs)
    with pytest.raises(InvalidArtifact, match=message):
        fxpress.runtime.load(tmp_path / "model.fxp")


def test_traces(artifact: SystolicArtifact, tmp_path: Path) -> None:
    artifact.trace(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())
    with pytest.raises(InvalidInput, match=r"^program must be below 1, not 1$"):
        artifact.trace(tmp_path / "trace.json", program=1)


@pytest.mark.parametrize("index", [1, -1, True, "0"])
def test_calls_of_programs_are_checked(artifact: SystolicArtifact, index: object) -> None:
    with pytest.raises(InvalidArtifact, match=r"^program must be one of the artifact's 1, not "):
        artifact._run_program(index, [])
    with pytest.raises(InvalidArtifact, match=r"^program 0 must be given 1 inputs, not 0$"):
        artifact._run_program(0, [])


def test_disassembly_assembles_to_the_same_program(artifact: SystolicArtifact) -> None:
    (program,) = artifact.programs
    assert encode_all(assemble_all(artifact.disassemble())) == program.code


def test_files_for_other_machines(artifact: SystolicArtifact, tmp_path: Path) -> None:
    names = [path.name for path in artifact.export(tmp_path / "image")]
    assert names == ["model.h", "program_0.code.bin", "program_0.dram.bin"]
    verilog = artifact.verilog(tmp_path / "hardware")
    assert {path.suffix for path in verilog} == {".v"}
    assert "module systolic" in (tmp_path / "hardware" / "systolic.v").read_text()


def test_stitched_program_calls_the_array_once_a_stage(program: fxpress.Program) -> None:
    optimized = fxpress.PassManager("default", target=TARGET).run(program)
    compiled = compile_stages(optimized, TARGET.architecture)
    whole = stitch(optimized, compiled)
    assert op_counts(whole)["run"] == sum(isinstance(stage, ArrayStage) for stage in compiled.stages) == 1
    assert [str(node.meta["val"].shape) for node in whole.results] == ["torch.Size([1, 5])"]


def test_a_wrong_integer_is_found_when_compiling(program: fxpress.Program) -> None:
    optimized = fxpress.PassManager("default", target=TARGET).run(program)
    lowered = SystolicBackend().lower(optimized, TARGET)
    assert check_crossings(optimized, lowered.compiled, optimized.example_inputs) == 0  # only sums leave the array
    cut = fxpress.PassManager("default", target=TARGET).run(quantized(Ends(), torch.randn(1, 3, 8, 8)))
    compiled = compile_stages(cut, TARGET.architecture)
    assert check_crossings(cut, compiled, cut.example_inputs) == 6 * 64
    (stage,) = (stage for stage in compiled.stages if isinstance(stage, ArrayStage))
    (constants,) = stage.program.constants
    flipped = Segment(constants.address, bytes([constants.data[0] ^ 64, *constants.data[1:]]))  # a weight
    wrong = replace(stage, program=replace(stage.program, constants=(flipped,)))
    broken = replace(compiled, stages=tuple(wrong if each is stage else each for each in compiled.stages))
    with pytest.raises(
        InternalError, match=r"^%quantized_max_pool_1 .* must be what PyTorch computes, but \d+ of 384 "
    ):
        check_crossings(cut, broken, cut.example_inputs)


class Ends(nn.Module):
    """Its last integer value is what it returns, as float32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.relu(self.conv(x)), 3, stride=1, padding=1)
        return F.max_pool2d(y, 1)


def test_float_programs_are_told_how_to_quantise() -> None:
    with pytest.raises(Unsupported, match=r"must compute with 8-bit integers.*quantise it with fxpress\.quantize"):
        fxpress.compile(Small().eval(), (torch.randn(1, 3, 8, 8),), target=TEXT)


def test_floats_must_not_requantise() -> None:
    program = quantized(Small(), torch.randn(1, 3, 8, 8), target="cpu")
    with pytest.raises(Unsupported, match=r"must requantise in fixed point .*int8-hardware"):
        fxpress.compile(program, target=TEXT)


def test_sizes_that_vary_are_refused() -> None:
    batch = torch.export.Dim("batch", min=2, max=8)
    program = fxpress.capture(Ends().eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes={"x": {0: batch}})
    with pytest.raises(Unsupported, match=r"^a Program with symbolic sizes cannot be compiled for a systolic array"):
        SystolicBackend().lower(program, TARGET)


def test_targets_of_other_kinds_are_refused(program: fxpress.Program) -> None:
    with pytest.raises(InvalidInput, match=r"^target must be a systolic array, such as "):
        SystolicBackend().lower(program, Target.parse("cpu"))
