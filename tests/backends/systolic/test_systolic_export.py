"""The C header writes inputs where the program reads them, and reads outputs where it writes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.export import write_images
from fxpress.backends.systolic.instructions import Halt
from fxpress.backends.systolic.layout import Layout, Windows
from fxpress.backends.systolic.program import Segment, SystolicProgram, Value
from fxpress.errors import InvalidInput

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"

static void *read_file(const char *path, size_t size) {
    void *data = malloc(size);
    FILE *file = fopen(path, "rb");
    if (!data || !file || fread(data, 1, size, file) != size) exit(2);
    fclose(file);
    return data;
}

int main(void) {
    uint8_t *dram = read_file("program_0.dram.bin", FXPRESS_PROGRAM_0_DRAM_BYTES);
    const struct fxpress_value *input = &fxpress_program_0_inputs[0], *output = &fxpress_program_0_outputs[0];
    fxpress_write(dram, input, read_file("input.bin", INPUT_BYTES));
    void *tensor = malloc(OUTPUT_BYTES);
    fxpress_read(dram, output, tensor);
    fwrite(dram, 1, FXPRESS_PROGRAM_0_DRAM_BYTES, stdout);
    fwrite(tensor, 1, OUTPUT_BYTES, stdout);
    return input->zero + output->zero;
}
"""


def tables(shape: tuple[int, ...], pitch: int, item: int = 1) -> tuple[tuple[int, ...], ...]:
    """Dense, but for a last dimension padded to `pitch` elements."""
    strides, step = [item], pitch * item
    for size in reversed(shape[1:-1] if len(shape) > 1 else ()):
        strides.append(step)
        step *= size
    strides.append(step)
    return tuple(tuple(i * stride for i in range(size)) for size, stride in zip(shape, reversed(strides), strict=False))


WINDOWS = Windows((3, 2), (2, 1), (1, 0, 0, 1), (1, 2), -7, channels_last=False)
CASES = {
    "plain": Layout((2, 3, 3), "int8", 8, tables((2, 3, 3), 4)),
    "windows": Layout((1, 2, 5, 4), "int8", 16, tables((1, 2, 3, 3, 2, 2), 4), WINDOWS),
    "windows, channels last": Layout(
        (2, 6, 3), "int8", 4, tables((2, 2, 3, 3), 4), Windows((3,), (3,), (0, 0), (1,), 5, channels_last=True)
    ),
}


@pytest.mark.parametrize("layout", CASES.values(), ids=CASES)
def test_a_c_program_finds_inputs_and_outputs(layout: Layout, tmp_path: Path) -> None:
    result = Layout((3, 5), "int32", 1024, tables((3, 5), 8, 4))
    sums = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 5)).astype(np.int32)
    image = np.zeros(2048, np.uint8)
    result.write(image, sums)
    program = SystolicProgram.of(
        [Halt()], architecture=Architecture(rows=4, columns=4), dram_words=512,
        constants=(Segment(1024, image[1024:].tobytes()),),
        inputs=(Value('the "input"', layout, 0.5, 3),), outputs=(Value("sums", result, 1.0, -3),),
    )  # fmt: skip
    paths = write_images([program], tmp_path)
    assert [path.name for path in paths] == ["model.h", "program_0.code.bin", "program_0.dram.bin"]
    x = np.random.default_rng(1).integers(-128, 128, layout.shape).astype(np.int8)
    (tmp_path / "input.bin").write_bytes(x.tobytes())
    (tmp_path / "main.c").write_text(MAIN)
    sizes = [f"-DINPUT_BYTES={x.nbytes}", f"-DOUTPUT_BYTES={sums.nbytes}"]
    warnings = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable", "-fsanitize=undefined"]
    subprocess.run(["gcc", *warnings, *sizes, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, check=True)
    dram = program.dram()
    layout.write(dram, x)
    assert done.stdout[:2048] == dram.tobytes()
    assert done.stdout[2048:] == sums.tobytes()
    assert (tmp_path / "program_0.code.bin").read_bytes() == program.code


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"^folder must be one that can be written to, not "):
        write_images([], tmp_path / "file")
