"""Whole networks as C: LeNet and ResNet-8, quantised with "int8-gemmini", from the model to a main that compares."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.backends.systolic.gemmini import emit, host_model, prepare
from fxpress.cli.commands import app
from fxpress.cli.objects import find_object
from fxpress.errors import Unsupported
from fxpress.ops import fxpress as ops
from gemmini_host import FLAGS, check_c, compile_c, conv_of, program_of, random_int8, write
from torch import Tensor, nn
from typer.testing import CliRunner, Result

NETWORKS = Path(__file__).parents[3] / "benchmarks" / "tiny_models.py"


def quantized(name: str, *shape: int) -> tuple[fxpress.Program, list[Tensor]]:
    """A network of the benchmarks with random weights, prepared for Gemmini, and images."""
    model = find_object("network", f"{NETWORKS}:{name}")().eval()
    images = [torch.randn(1, *shape) for _ in range(3)]
    program = fxpress.quantize(model, "int8-gemmini", args=(images[0],), calibration=images, profitable="off")
    prepared = prepare(program)
    wanted, found = program.run(images[1]), prepared.run(images[1])
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    return prepared, images


def test_lenet(tmp_path: Path) -> None:
    program, images = quantized("LeNet", 1, 28, 28)
    text = ""
    for image in images:
        text = check_c(program, tmp_path, image)
    assert text.count("tiled_conv_auto") == 2  # with their pools
    assert text.count("tiled_matmul_auto") == 3
    assert text.count("for (") == 4  # NHWC to NCHW before the linear layers, and floats at the end


def test_resnet_8(tmp_path: Path) -> None:
    program, images = quantized("ResNet8", 3, 32, 32)
    text = ""
    for image in images:
        text = check_c(program, tmp_path, image)
    calls = {name: text.count(name) for name in ("tiled_conv_auto", "tiled_resadd_auto", "tiled_matmul_auto")}
    assert calls == {"tiled_conv_auto": 9, "tiled_resadd_auto": 3, "tiled_matmul_auto": 2}
    assert text.count("for (") == 1  # all but the last product is on the array


def small(convs: list[Callable[..., Tensor]]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """One of everything that has a call."""
    weight, scale, bias = (
        random_int8(3, 4).clamp(min=-127),
        torch.full((3,), 0.125),
        torch.tensor([5, -6, 7], dtype=torch.int32),
    )

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        first, depthwise, pointwise = convs
        y = ops.quantized_max_pool(first(x), [2, 2], [2, 2], [0, 0], [1, 1], False, True)
        z = ops.requantize(depthwise(y), 0.25, 0, 0.5, 0, -128, 127, "F")
        y = ops.quantized_add(z, pointwise(y), 0.5, 0, 0.5, 0, 0.5, 0, 0, 127, "F")
        mean = ops.quantized_avg_pool(y, [4, 4], [4, 4], [0, 0], False, 0.5, 0, 0.25, 0, -128, 127, "F", True)
        return ops.quantized_linear_float(mean.reshape(1, 4), weight, bias, None, scale, 0.25, 0, "none"), y

    return function


def test_text(golden: Callable[[str], None], tmp_path: Path) -> None:
    convs = [conv_of(2, 4, padding=1, low=0), conv_of(4, 4, padding=1, groups=4), conv_of(4, 4, 1)]
    program = program_of(small(convs), (1, 8, 8, 2))
    check_c(program, tmp_path)
    golden("".join(f"// {name}\n{text}" for name, text in emit(program, name="small", check=True).items()))


MODEL = """
import torch

def small():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    layers += torch.nn.Flatten(), torch.nn.Linear(45, 4)
    return torch.nn.Sequential(*layers).eval(), (torch.randn(1, 3, 8, 8),)
"""


def gemmini_command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["systolic", "gemmini", *map(str, arguments)])


def run_main(folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile what the command wrote, and run it."""
    compile_c(folder, "tiny.c", "tiny_check.c", "-o", "tiny", flags=FLAGS)
    return subprocess.run([folder / "tiny"], capture_output=True, text=True, check=False)


def test_command(tmp_path: Path) -> None:
    source, folder, parameters = tmp_path / "small.py", tmp_path / "out", tmp_path / "gemmini_params.h"
    source.write_text(MODEL)
    parameters.write_text(host_model()["include/gemmini_params.h"].replace("#define DIM 16", "#define DIM 8"))
    options = ("-o", folder, "--name", "tiny", "--check", "--host", "--parameters", parameters)
    result = gemmini_command(f"{source}:small", *options)
    assert result.exit_code == 0, result.output
    run = run_main(folder)
    assert (run.returncode, run.stdout) == (0, "tiny: equal\n")
    assert "for DIM 8," in (folder / "tiny.c").read_text()

    check = (folder / "tiny_check.c").read_text()
    wrong = re.sub(r"(_wanted\[4\] = \{\s*)[^,]+,", r"\g<1>1e9f,", check)
    write({"tiny_check.c": wrong}, folder)
    run = run_main(folder)
    assert (run.returncode, run.stdout) == (1, "output[0] differs\n")


def test_code_for_another_array_does_not_compile(tmp_path: Path) -> None:
    files = emit(program_of(conv_of(2, 2), (1, 4, 4, 2)))
    headers = {name: text.replace("DIM 16", "DIM 8") for name, text in host_model().items()}
    write(files | headers, tmp_path)
    with pytest.raises(AssertionError, match=r"generate it again for this gemmini_params\.h"):
        compile_c(tmp_path, "-c", "model.c")


def test_command_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(MODEL)
    missing = tmp_path / "none.h"
    result = gemmini_command(f"{tmp_path / 'small.py'}:small", "-o", tmp_path, "--parameters", missing)
    assert result.exit_code != 0
    assert "file must be text that can be read" in " ".join(result.output.split()) + str(result.exception)


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, (3, 2)), nn.Flatten(), nn.Linear(80, 2))
    image = torch.randn(1, 3, 8, 8)
    program = fxpress.quantize(model, "int8-gemmini", args=(image,), calibration=[image], profitable="off")
    with pytest.raises(Unsupported, match=r"%lookup.*: Gemmini has no such op;(.|\n)*kernel is 3x2"):
        emit(prepare(program))
