"""Generated C, compiled for this machine against the host model, beside the Program that it was made of."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import torch
from fxpress import Program
from fxpress.backends.systolic.gemmini import Parameters, emit, host_model
from fxpress.backends.systolic.gemmini.self_check import values_of
from fxpress.backends.systolic.gemmini.signature import arguments_of
from fxpress.backends.systolic.gemmini.steps import plan_steps
from fxpress.ops import fxpress
from fxpress.testing import trace
from torch import Tensor

FLAGS = ("-std=c99", "-O1", "-march=native", "-Wall", "-Wextra", "-Werror")  # native: products and sums may be fused


def write(files: dict[str, str], folder: Path) -> None:
    """Write files by name, folders and all."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def compile_c(folder: Path, *arguments: str, flags: tuple[str, ...] = FLAGS) -> None:
    """Run gcc in the folder; its complaints become the test's."""
    run = subprocess.run(["gcc", *flags, "-I.", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def results_of_c(program: Program, folder: Path, *inputs: Tensor, parameters: Parameters | None = None) -> list[Tensor]:
    """What the generated function gives for the Program's inputs, quantised by the Program's own nodes."""
    write({**emit(program, parameters=parameters), **host_model(parameters)}, folder)
    compile_c(folder, "-shared", "-fPIC", "model.c", "-o", "model.so")
    plan = plan_steps(program, parameters or Parameters())
    ins, outs = arguments_of(program, plan)
    values = values_of(program, {x.node for x in ins}, inputs)
    given = [values[x.node].contiguous() for x in ins]
    made = [torch.full(tuple(y.node.meta["val"].shape), 99, dtype=y.node.meta["val"].dtype) for y in outs]
    function: Any = ctypes.CDLL(str(folder / "model.so")).model_run
    function(*(ctypes.c_void_p(tensor.data_ptr()) for tensor in (*given, *made)))
    return made


def check_c(program: Program, folder: Path, *inputs: Tensor, parameters: Parameters | None = None) -> str:
    """Compare every number with what PyTorch computes for the same inputs; return the C."""
    inputs = inputs or program.example_inputs
    found = results_of_c(program, folder, *inputs, parameters=parameters)
    for mine, wanted in zip(found, program.run_flat(*inputs), strict=True):
        assert torch.equal(mine, wanted), f"{int((mine != wanted).sum())} of {mine.numel()} numbers differ"
    return (folder / "model.c").read_text()


def random_int8(*shape: int) -> Tensor:
    """Any integers, the extremes among them."""
    return torch.randint(-128, 128, shape, dtype=torch.int8)


def _all(value: int | list[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else value


def conv_of(
    ic: int, oc: int, kernel: int | tuple[int, int] = 3, *, stride: int | list[int] = 1, padding: int | list[int] = 0,
    dilation: int | list[int] = 1, groups: int = 1, low: int = -128, high: int = 127, **changed: Any,
) -> Any:  # fmt: skip
    """A function of int8 images, channels last, and perhaps a residual that is one quantised convolution."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = torch.randint(-127, 128, (oc, ic // groups, *sides), dtype=torch.int8)
    bias = torch.randint(-5000, 5000, (oc,), dtype=torch.int32)
    fan_in = weight[0].numel()
    options: dict[str, Any] = {
        "weight_scale": torch.full((oc,), 0.01), "x_scale": 0.02, "x_zero": 0, "residual_scale": 1.0,
        "residual_zero": 0, "y_scale": 0.01 * 0.02 * 100 * fan_in**0.5, "y_zero": 0, "low": low, "high": high,
        "stride": _all(stride, 2), "padding": _all(padding, 4), "dilation": _all(dilation, 2), "groups": groups,
        "mode": "F", "channels_last": True, **changed,
    }  # fmt: skip
    return lambda x, residual=None: fxpress.quantized_conv(x, weight, bias, residual, *options.values())


def program_of(function: Any, *shapes: tuple[int, ...]) -> Program:
    """The Program of a function of random int8 tensors."""
    return trace(function, *(random_int8(*shape) for shape in shapes))
