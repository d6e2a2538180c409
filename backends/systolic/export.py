"""Programs for a machine without fxpress: memory images and a C header that says what lies where; Verilog files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import InvalidInput
from .architecture import Architecture
from .layout import ITEMS, Layout
from .program import SystolicProgram, Value

HEADER = "model.h"
_SUPPORT = Path(__file__).with_name("support.h")


def write_images(programs: Sequence[SystolicProgram], folder: Path) -> list[Path]:
    """Write `model.h`, and for each program `program_N.code.bin` and `program_N.dram.bin`; returns the paths.

    The code is what the instruction port is fed with, the image what DRAM must hold from its address 0 on before the
    inputs are written. Raises InvalidInput when the folder cannot be written to.
    """
    files = {HEADER: header(programs).encode()}
    for index, program in enumerate(programs):
        files[f"program_{index}.code.bin"] = program.code
        files[f"program_{index}.dram.bin"] = program.dram().tobytes()
    return write_files(files, folder)


def write_verilog(architecture: Architecture, folder: Path) -> list[Path]:
    """Write the machine's Verilog files; returns the paths. Raises InvalidInput when that cannot be done."""
    from .rtl import generate

    return write_files({name: text.encode() for name, text in generate(architecture).items()}, folder)


def header(programs: Sequence[SystolicProgram]) -> str:
    """A C99 header: sizes, inputs and outputs with their layouts, and functions that write and read them in DRAM."""
    lines = ["/* Written by fxpress. Inputs and outputs are integers: real value = (integer - zero) * scale. */"]
    lines += ["#ifndef FXPRESS_MODEL_H", "#define FXPRESS_MODEL_H", "", _SUPPORT.read_text().rstrip(), ""]
    for index, program in enumerate(programs):
        lines += _program(index, program)
    lines += [f"#define FXPRESS_PROGRAMS {len(programs)}", "", "#endif"]
    return "\n".join(lines) + "\n"


def _program(index: int, program: SystolicProgram) -> Iterator[str]:
    prefix = f"fxpress_program_{index}"
    yield f"/* Program {index}, for {program.architecture} */"
    yield f"#define {prefix.upper()}_INSTRUCTIONS {len(program.instructions)}u"
    yield f"#define {prefix.upper()}_DRAM_BYTES {program.dram_bytes}u"
    for kind, values in (("inputs", program.inputs), ("outputs", program.outputs)):
        for number, value in enumerate(values):
            yield from _layout(f"{prefix}_{kind}_{number}", value.layout)
        rows = ",\n".join(f"    {_value(f'{prefix}_{kind}_{n}', value)}" for n, value in enumerate(values))
        yield f"static const struct fxpress_value {prefix}_{kind}[] = {{\n{rows}\n}};"
    yield ""


def _layout(name: str, layout: Layout) -> Iterator[str]:
    yield f"static const int64_t {name}_shape[] = {_list(layout.shape)};"
    yield f"static const int64_t {name}_counts[] = {_list([len(table) for table in layout.tables])};"
    for dim, table in enumerate(layout.tables):
        yield f"static const int64_t {name}_table_{dim}[] = {_list(table)};"
    tables = ", ".join(f"{name}_table_{dim}" for dim in range(len(layout.tables)))
    yield f"static const int64_t *const {name}_tables[] = {{{tables or '0'}}};"
    windows = layout.windows
    if windows is not None:
        rank = len(windows.kernel)
        pads = [windows.padding[2 * dim] for dim in range(rank)]
        yield (
            f"static const struct fxpress_windows {name}_windows = {{{rank}, {_list(windows.kernel)}, "
            f"{_list(windows.stride)}, {_list(pads)}, {_list(windows.dilation)}, {windows.fill}, "
            f"{int(windows.channels_last)}}};"
        )


def _value(name: str, value: Value) -> str:
    layout = value.layout
    windows = f"&{name}_windows" if layout.windows is not None else "0"
    return (
        f'{{"{_text(value.name)}", {ITEMS[layout.item].itemsize}, {len(layout.shape)}, {name}_shape, '
        f"{len(layout.tables)}, {name}_counts, {name}_tables, {layout.address}, {value.scale!r}, {value.zero}, "
        f"{windows}}}"
    )


def _list(numbers: Sequence[int]) -> str:
    return "{" + (", ".join(map(str, numbers)) or "0") + "}"


def _text(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def write_files(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Write files by name, in folders below where names have them. Raises InvalidInput when that cannot be done."""
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    except OSError as error:
        raise InvalidInput(f"folder must be one that can be written to, not {str(folder)!r}: {error}") from error
    return [folder / name for name in files]
