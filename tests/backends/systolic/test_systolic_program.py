"""Programs: their file, what is refused, what running one computes and where errors point to."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fxpress.backends.systolic.architecture import Architecture, Memory, Unit
from fxpress.backends.systolic.encoding import assemble_all, encode
from fxpress.backends.systolic.instructions import Halt, Instruction, Load, Multiply, Store, Vector, units, with_banks
from fxpress.backends.systolic.layout import Layout, Windows
from fxpress.backends.systolic.program import Layer, Segment, SystolicProgram, Value
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.backends.systolic.simulator.functional import execute, run
from fxpress.backends.systolic.simulator.memories import Machine
from fxpress.backends.systolic.simulator.perfetto import trace_events, write_trace
from fxpress.backends.systolic.simulator.races import check_order
from fxpress.errors import InvalidArtifact, InvalidInput

A = Architecture(rows=2, columns=4, activation_kib=1, weight_kib=1, accumulator_kib=1, parameter_kib=1)
CODE: tuple[Instruction, ...] = (
    Load(memory=Memory.WEIGHTS, dram=0, count_x=36),  # the next token to the array says that this is done, too
    Load(memory=Memory.PARAMETERS, dram=36, count_x=16, signals=units(Unit.VECTOR)),
    Load(
        dram=52 - 7, count_x=8, before_x=1, after_x=1, count_y=8, stride_y=6, before_y=1, after_y=1, padding=3,
        signals=units(Unit.ARRAY), layer=1,
    ),
    Multiply(
        ky=3, kx=3, stride_ky=8, stride_kx=1, width=6, stride_pixel=1, stride_row=8, pixels=36, layer=1,
        waits=units(Unit.LOAD), signals=units(Unit.VECTOR, Unit.STORE),
    ),
    Vector(
        requantize=True, output=64, pixels=36, width=36, stride_pixel=1, output_stride_pixel=1, zero=-3, low=-100,
        layer=1, waits=units(Unit.LOAD, Unit.ARRAY), signals=units(Unit.STORE),
    ),
    Store(source=64, dram=88, count_x=36, waits=units(Unit.VECTOR), layer=1),
    Store(memory=Memory.ACCUMULATORS, dram=124, count_x=36, stride_x=4, waits=units(Unit.ARRAY), layer=1),
    Halt(),
)  # fmt: skip


def dense(shape: Sequence[int], item: str, address: int) -> Layout:
    """Elements in row-major order, in a row."""
    size, tables = {"int8": 1, "int32": 4}[item], []
    for dim in reversed(shape):
        tables.insert(0, tuple(index * size for index in range(dim)))
        size *= dim
    return Layout(tuple(shape), item, address, tuple(tables))


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(0).integers(-127, 128, (3, 3, 4, 4)).astype(np.int8)


@pytest.fixture(scope="module")
def program(weights: np.ndarray) -> SystolicProgram:
    """A 3x3 convolution of 6x6 pixels with 4 channels, padded with 3, requantised, and its sums."""
    record = np.zeros(64, np.uint8)
    record[:16] = np.array([100, -200, 300, -400], "<i4").view(np.uint8)
    record[16:32] = np.full(4, 1 << 23, "<i4").view(np.uint8)
    record[48:52] = 31
    return SystolicProgram.of(
        [with_banks(one, A) for one in CODE],
        architecture=A,
        layers=(Layer("weights"), Layer("conv1", "model.py:12 in forward")),
        dram_words=268,
        constants=(Segment(0, weights.tobytes()), Segment(36 * 4, record.tobytes())),
        inputs=(Value("x", dense((6, 6, 4), "int8", 52 * 4), 0.5, 3),),
        outputs=(
            Value("y", dense((6, 6, 4), "int8", 88 * 4), 0.25, -3),
            Value("sums", dense((6, 6, 4), "int32", 124 * 4)),
        ),
    )


def expected(weights: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    padded = np.pad(x.astype(np.int64), ((1, 1), (1, 1), (0, 0)), constant_values=3)
    sums = sum(padded[i : i + 6, j : j + 6] @ weights[i, j].astype(np.int64) for i in range(3) for j in range(3))
    bias = np.array([100, -200, 300, -400])
    scaled = ((sums + bias) * (1 << 23) + (1 << 30)) >> 31
    return np.clip(scaled - 3, -100, 127), sums


@pytest.mark.parametrize("stationary", [False, True])
def test_a_convolution_is_computed(program: SystolicProgram, weights: np.ndarray, stationary: bool) -> None:
    code = list(program.instructions)
    code[3] = replace(code[3], stationary=stationary)
    program = replace(program, code=b"".join(map(encode, code)))
    check_order(program)
    x = np.random.default_rng(1).integers(-128, 128, (6, 6, 4)).astype(np.int8)
    y, sums = expected(weights, x)
    found = run(program, {"x": x})
    np.testing.assert_array_equal(found["y"], y)
    np.testing.assert_array_equal(found["sums"], sums)
    assert found["y"].dtype == np.int8
    assert found["sums"].dtype == np.int32
    assert len(np.unique(y)) > 20


def test_a_run_leaves_the_program_as_it_was(program: SystolicProgram) -> None:
    before = program.dram().copy()
    run(program, {"x": np.ones((6, 6, 4), np.int8)})
    np.testing.assert_array_equal(program.dram(), before)


def test_listing(program: SystolicProgram, golden) -> None:
    golden(program.disassemble())
    assert assemble_all(program.disassemble()) == list(program.instructions)


def test_a_program_is_saved_and_loaded(program: SystolicProgram, tmp_path: Path) -> None:
    program.save(tmp_path / "conv.fxs")
    again = SystolicProgram.load(tmp_path / "conv.fxs")
    assert again == program
    assert again.to_bytes() == program.to_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["conv.fxs"]


def test_a_file_that_is_no_program_is_refused(program: SystolicProgram, tmp_path: Path) -> None:
    data = program.to_bytes()
    with pytest.raises(InvalidInput, match=r"^path must be a readable systolic program, not '.*nothing.fxs'"):
        SystolicProgram.load(tmp_path / "nothing.fxs")
    for foreign in (b"", b"PK\3\4" + data, data[:40], b"\x7fELF" * 100):
        with pytest.raises(InvalidArtifact, match=r"^a systolic program must start with b'fxpress systolic', not b'"):
            SystolicProgram.from_bytes(foreign)
    other = data[:16] + struct.pack("<I", 2) + data[20:]
    with pytest.raises(InvalidArtifact, match=r"^a systolic program's version must be 1, not 2: compile it again$"):
        SystolicProgram.from_bytes(other)
    for place in (25, 55, 70, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[place] ^= 4
        with pytest.raises(
            InvalidArtifact, match=r"^a systolic program must have the SHA-256 that it names, but is dam"
        ):
            SystolicProgram.from_bytes(bytes(damaged))
    with pytest.raises(InvalidArtifact, match=r"SHA-256"):
        SystolicProgram.from_bytes(data[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, code=p.code[:-64]), r"instruction 6 `store .*: halt must be the last instruction"),
        (lambda p: replace(p, code=b""), r"a program must end with halt, not be empty"),
        (lambda p: replace(p, code=bytes(64)), r"instruction 0: an opcode must be one of"),
        (lambda p: replace(p, dram_words=(1 << 31) + 1), r"DRAM must have at most 2147483648 words, not 2147483649"),
        (lambda p: replace(p, dram_words=267), r"output sums must lie in bytes 0..1067 of DRAM, not 496..1071"),
        (
            lambda p: replace(p, constants=(Segment(-1, b"a"),)),
            r"a constant must lie in bytes 0..1071 of DRAM, not -1..-1",
        ),
        (lambda p: replace(p, outputs=p.outputs * 2), r"output names must differ, not \['y', 'sums', 'y', 'sums'\]"),
        (
            lambda p: replace(p, code=p.code[-64:] + p.code),
            r"instruction 0 `halt` of layer weights: halt must be the last",
        ),
    ],
)
def test_a_file_of_a_program_that_cannot_run_is_refused(program, change, message: str) -> None:
    with pytest.raises(InvalidArtifact, match=rf"^a systolic program must be one that fxpress wrote: {message}"):
        SystolicProgram.from_bytes(change(program).to_bytes())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "rows=3"),
        ("architecture", 5),
        ("code", 64),
        ("code", -64),
        ("constants", [[0, 10]]),
        ("constants", [5]),
        ("layers", [{}]),
        ("inputs", [{"name": "x", "layout": {}, "scale": 1.0, "zero": 0}]),
        ("dram_words", None),
    ],
)
def test_a_wrong_header_is_refused(program: SystolicProgram, name: str, value: object) -> None:
    data = program.to_bytes()
    (size,) = struct.unpack_from("<Q", data, 52)
    header = json.loads(data[60 : 60 + size]) | {name: value}
    with pytest.raises(InvalidArtifact, match=r"^a systolic program must be one that fxpress wrote: "):
        SystolicProgram.from_bytes(signed(header, data[60 + size :]))


def places(node: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Paths to all values inside a JSON document, but only to the first of a list's."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node[:1]) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@pytest.mark.parametrize(
    "value", [None, "x", -1, 10**400, 1.5, float("inf"), [], [[]], {}, True], ids=lambda v: str(v)[:5]
)
def test_no_header_leads_to_another_error(program: SystolicProgram, value: object) -> None:
    windows = Windows((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 0, True)
    (x,) = program.inputs
    data = replace(program, inputs=(replace(x, layout=replace(x.layout, windows=windows)),)).to_bytes()
    (size,) = struct.unpack_from("<Q", data, 52)
    for path in places(json.loads(data[60 : 60 + size])):
        header = json.loads(data[60 : 60 + size])
        node = {"": header}
        for key in ("", *path)[:-1]:
            node = node[key]
        node[("", *path)[-1]] = value
        with contextlib.suppress(InvalidArtifact):
            SystolicProgram.from_bytes(signed(header if path else value, data[60 + size :]))


def signed(header: object, body: bytes) -> bytes:
    """A file with the right hash for any header."""
    text = json.dumps(header).encode()
    size = struct.pack("<Q", len(text))
    digest = hashlib.sha256(size + text + body).digest()
    return b"fxpress systolic" + struct.pack("<I", 1) + digest + size + text + body


def test_inputs_must_be_those_of_the_program(program: SystolicProgram) -> None:
    with pytest.raises(InvalidInput, match=r"^inputs must be \['x'\], not \['y'\]$"):
        run(program, {"y": np.zeros((6, 6, 4), np.int8)})
    with pytest.raises(InvalidInput, match=r"must be int8\[6, 6, 4\], not int8\[6, 6, 3\]$"):
        run(program, {"x": np.zeros((6, 6, 3), np.int8)})


def changed(program: SystolicProgram, index: int, **fields: int) -> SystolicProgram:
    code = list(program.instructions)
    code[index] = replace(code[index], **fields)
    return replace(program, code=b"".join(map(encode, code)))


@pytest.mark.parametrize(
    ("index", "fields", "message"),
    [
        (0, {"dram": 240}, r"addresses must be in 0..267 of DRAM, not 240..275"),
        (2, {"before_y": 0, "dram": -2}, r"addresses must be in 0..267 of DRAM, not -1..40"),
        (5, {"dram": -1}, r"addresses must be in 0..267 of DRAM, not -1..34"),
        (6, {"dram": 125}, r"addresses must be in 0..267 of DRAM, not 125..268"),
        (
            3,
            {"activation": 250},
            r"multiply field activation must be such that addresses 250..313 are in 0..255 of the act",
        ),
        (
            4,
            {"output": 221},
            r"vector field output must be such that addresses 221..256 are in 0..255 of the activations",
        ),
    ],
)
def test_an_address_outside_names_instruction_layer_memory_and_range(program, index, fields, message: str) -> None:
    bad = changed(program, index, **fields)
    layer = "weights" if index == 0 else "conv1 at model.py:12 in forward"
    pattern = rf"^instruction {index} `{bad.instructions[index].mnemonic} .*` of layer {re.escape(layer)}: {message}"
    for action in (lambda: execute(bad, bad.dram()), lambda: simulate_cycles(bad), lambda: check_order(bad)):
        with pytest.raises(InvalidInput, match=pattern):
            action()


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (48, 0, r"shifts of a record must be in 1..55, not 0..31"),
        (51, 56, r"shifts of a record must be in 1..55, not 31..56"),
        (19, 1, r"multipliers of a record must be between -2\^24 and 2\^24, not 25165824"),
    ],
)
def test_a_record_that_hardware_cannot_use_names_the_instruction(
    program, offset: int, value: int, message: str
) -> None:
    dram = program.dram()
    dram[36 * 4 + offset] = value
    with pytest.raises(InvalidInput, match=rf"^instruction 4 `vector .*` of layer conv1 at .*: {message}$"):
        execute(program, dram)


def test_dram_must_be_the_programs(program: SystolicProgram) -> None:
    with pytest.raises(InvalidInput, match=r"^DRAM must have 1072 bytes, not 4$"):
        execute(program, np.zeros(4, np.uint8))
    with pytest.raises(
        InvalidInput, match=r"^DRAM must be a dense vector of uint8 with a multiple of 4 elements, not int8"
    ):
        Machine(A, np.zeros(4, np.int8))


def test_a_view_outside_a_memory_is_refused() -> None:
    machine = Machine(A, np.zeros(40, np.uint8))
    message = r"^addresses must be in 0..9 of the dram memory, not 4..10$"
    with pytest.raises(InvalidInput, match=message):
        machine.view(Memory.DRAM, 4, (3, 3))


def test_a_trace_shows_what_each_unit_does(program: SystolicProgram, tmp_path: Path) -> None:
    timeline = simulate_cycles(program)
    events = trace_events(timeline)
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert tracks == {"load": 0, "array": 1, "vector": 2, "store": 3}
    spans = [e for e in events if e["ph"] == "X"]
    assert [(e["name"], e["tid"]) for e in spans[2:4]] == [("conv1", 0), ("conv1", 1)]
    for unit, cycles in timeline.busy().items():
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in spans if e["tid"] == unit)
        assert sum(end - start for start, end in mine) == cycles
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(mine))
    counters = [e for e in events if e["ph"] == "C"]
    step = counters[1]["ts"]
    for direction, size in (("read", 88 * 4 + 36 * 4 - 36 * 4), ("write", 36 * 4 * 5)):
        assert sum(e["args"][direction] for e in counters) * step == pytest.approx(size, rel=1e-2)
    write_trace(timeline, tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"] == events
    with pytest.raises(InvalidInput, match=r"^path must be in a writable folder"):
        write_trace(timeline, tmp_path / "missing" / "trace.json")


def test_a_program_is_checked_before_dram_is_filled(program: SystolicProgram) -> None:
    with pytest.raises(InvalidInput, match=r"^input x must lie in bytes 0..119 of DRAM, not 208..351$"):
        run(replace(program, dram_words=30), {"x": np.zeros((6, 6, 4), np.int8)})


def test_running_a_program_loads_numpy_only() -> None:
    code = (
        "import sys\n"
        "from fxpress.backends.systolic.simulator import cycles, functional, perfetto, races\n"
        "print(sorted({'torch', 'tvm', 'tvm_ffi', 'scipy'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
