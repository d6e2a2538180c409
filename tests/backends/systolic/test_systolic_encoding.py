from __future__ import annotations

import enum
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fxpress.backends.systolic.architecture import Memory, Unit
from fxpress.backends.systolic.encoding import (
    assemble,
    assemble_all,
    decode,
    decode_all,
    disassemble,
    disassemble_all,
    encode,
    encode_all,
    reference,
)
from fxpress.backends.systolic.instructions import (
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    Field,
    Halt,
    Instruction,
    Kind,
    Load,
    Multiply,
    Reduce,
    Store,
    Vector,
    units,
)
from fxpress.errors import InvalidArtifact, InvalidInput
from hypothesis import given, settings
from hypothesis import strategies as st

DOCUMENT = Path(__file__).parents[3] / "docs" / "systolic-instructions.md"
EXAMPLES: tuple[Instruction, ...] = (
    Load(
        memory=Memory.ACTIVATIONS,
        dram=-57,
        destination=96,
        count_x=58,
        before_x=1,
        after_x=1,
        count_y=6,
        stride_y=56,
        before_y=1,
        padding=-128,
        signals=units(Unit.ARRAY),
        activation_writes=1,
        layer=3,
    ),
    Multiply(
        activation=96,
        weight=7,
        accumulator=512,
        ky=3,
        kx=3,
        stride_ky=58,
        stride_kx=1,
        width=56,
        stride_pixel=1,
        stride_row=58,
        pixels=224,
        outputs=2,
        stride_output=224,
        accumulate=True,
        stationary=True,
        waits=units(Unit.LOAD, Unit.VECTOR),
        signals=units(Unit.VECTOR),
        activation_reads=0b11,
        accumulator_banks=0b10,
        layer=3,
    ),
    Vector(
        source=Memory.ACTIVATIONS,
        reduce=Reduce.MAX,
        ky=3,
        kx=3,
        stride_ky=58,
        stride_kx=-1,
        pixels=20,
        use_table=True,
        table=2,
        low=-5,
        high=6,
    ),
    Store(memory=Memory.ACCUMULATORS, source=4, dram=1 << 30, count_x=7, stride_x=4, count_y=2, stride_y=28),
    Halt(),
)


def values(place: Field) -> st.SearchStrategy[int]:
    if place.name == "reserved":
        return st.just(0)
    if place.kind is Kind.FLAG:
        return st.booleans()
    if place.choices is not None:
        return st.sampled_from(list(place.choices))
    return st.one_of(st.just(place.least), st.just(place.most), st.integers(place.least, place.most))


def any_instruction() -> st.SearchStrategy[Instruction]:
    """Every combination of field values, legal on a machine or not."""
    return st.one_of([st.builds(kind, **{p.name: values(p) for p in kind.layout()}) for kind in INSTRUCTIONS])


@settings(max_examples=100)
@given(any_instruction())
def test_bytes_and_text_round_trip(instruction: Instruction) -> None:
    data = encode(instruction)
    assert len(data) == INSTRUCTION_BYTES
    for again in (decode(data), assemble(disassemble(instruction))):
        assert again == instruction
        for place in instruction.layout():
            assert type(getattr(again, place.name)) is type(getattr(instruction, place.name))


@settings(max_examples=100)
@given(st.one_of(st.binary(min_size=64, max_size=64), any_instruction().map(encode)), st.integers(0, 511))
def test_any_64_bytes_are_one_instruction_or_refused(data: bytes, bit: int) -> None:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        instruction = decode(bytes(flipped))
    except InvalidArtifact:
        return
    assert encode(instruction) == flipped


def test_fields_do_not_overlap_and_fill_their_bits() -> None:
    for kind in INSTRUCTIONS:
        bit = 8
        for place in kind.layout():
            assert place.low == bit
            bit += place.bits
        assert bit <= 8 * INSTRUCTION_BYTES
        header = [place for place in kind.layout() if place.low < 64]
        assert header[-1].name == "reserved"
        assert header[-1].low + header[-1].bits == 64


def test_disassembly(golden) -> None:
    golden(disassemble_all(EXAMPLES, ["stem", "", "pool", "layer1.0.conv1\nof the model"]))


def test_the_document_is_what_the_definitions_say(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(reference())
    assert DOCUMENT.read_text() == reference(), "run with --update-golden to write the page anew"


def test_a_listing_assembles_again() -> None:
    text = f"# a program\n\n{disassemble_all(EXAMPLES, ['a'])}   # the end\n"
    assert assemble_all(text) == list(EXAMPLES)
    assert decode_all(encode_all(EXAMPLES)) == list(EXAMPLES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "jump destination=3",
            "an instruction must start with one of ['halt', 'load', 'multiply', 'store', 'vector'], ",
        ),
        ("", "an instruction must start with one of"),
        ("load speed=3", "a field of load must be one of ["),
        ("load opcode=3", "a field of load must be one of ["),
        ("load dram=1 dram=1", "load field dram must be given once, not twice"),
        ("load dram=one", "load field dram must be an integer, not 'one'"),
        ("load dram", "load field dram must be an integer, not None"),
        ("load transpose=1", "load field transpose must be its name alone, not transpose=1"),
        ("load memory=disk", "load field memory must be of ['activations', "),
        (
            "load waits=array+fpu",
            "load field waits must be of ['load', 'array', 'vector', 'store'], joined by '+', not",
        ),
        ("load activation_writes=8", "load field activation_writes must be of ['0', "),
        ("load padding=128", "load field padding must be an integer in -128..127, not 128 (layer 0)"),
        ("multiply pixels=65536", "multiply field pixels must be an integer in 0..65535, not 65536 (layer 0)"),
        ("load dram=-2147483649", "load field dram must be an integer in -2147483648..2147483647, not -2147483649"),
    ],
)
def test_text_that_is_no_instruction_is_refused(line: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}"):
        assemble(line)
    with pytest.raises(InvalidInput, match=f"^line 2: {re.escape(message)}" if line else "^line 2: .*nope"):
        assemble_all(f"halt\n{line or 'nope'}")


class Other(enum.IntEnum):
    ACTIVATIONS = 0


@pytest.mark.parametrize("value", [0, Other.ACTIVATIONS, None, "activations"])
def test_a_choice_must_be_of_its_enumeration(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^load field memory must be one of \['activations', .*\], of Memory, not "):
        encode(replace(EXAMPLES[0], memory=value))


@pytest.mark.parametrize("value", [1.0, None, -1, 1 << 24])
def test_a_number_must_fit_its_bits(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^load field destination must be an integer in 0..16777215, not "):
        encode(replace(EXAMPLES[0], destination=value))


def test_damaged_bytes_are_refused() -> None:
    good = encode(EXAMPLES[0])
    with pytest.raises(InvalidArtifact, match=r"^an instruction must have 64 bytes, not 63$"):
        decode(good[:63])
    with pytest.raises(
        InvalidArtifact, match=r"^an opcode must be one of 1 \(load\), .*, not 0: the program is damaged"
    ):
        decode(bytes(64))
    with pytest.raises(InvalidArtifact, match=r"^unused bits of load must be zero: the program is damaged or foreign$"):
        decode(good[:63] + b"\x80")
    with pytest.raises(InvalidArtifact, match=r"^unused bits of load must be zero"):
        decode(good[:7] + b"\x01" + good[8:])
    with pytest.raises(InvalidArtifact, match=r"^load field memory has no value 7: damaged or foreign$"):
        decode(good[:8] + bytes([good[8] | 7]) + good[9:])
    with pytest.raises(InvalidArtifact, match=r"^instructions must be a multiple of 64 bytes, not 65 bytes$"):
        decode_all(good + b"\x01")
    with pytest.raises(InvalidArtifact, match=r"^instruction 1: an opcode must be one of"):
        decode_all(good + bytes(64))
