from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest
from fxpress.backends.systolic.architecture import Architecture, Memory, Unit
from fxpress.backends.systolic.instructions import (
    Halt,
    Instruction,
    Load,
    Multiply,
    Reduce,
    Store,
    Vector,
    units,
    with_banks,
)
from fxpress.backends.systolic.program import Layer, SystolicProgram
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.backends.systolic.simulator.memories import Machine
from fxpress.backends.systolic.simulator.races import check_order
from fxpress.errors import InvalidInput
from hypothesis import given, settings
from hypothesis import strategies as st
from random_instructions import DRAM_WORDS, architectures, instructions

A = Architecture(
    rows=4, columns=4, activation_kib=1, weight_kib=1, accumulator_kib=1, parameter_kib=1, activation_banks=2
)
LOAD, ARRAY, VECTOR, STORE = (units(unit) for unit in Unit)


def program(*code: Instruction, architecture: Architecture = A) -> SystolicProgram:
    return SystolicProgram.of(
        [*(with_banks(one, architecture) for one in code), Halt()],
        architecture=architecture,
        dram_words=DRAM_WORDS,
        layers=(Layer("stem", "model.py:3"),),
    )


def layer() -> list[Instruction]:
    """Weights and pixels in, a product, a requantisation, pixels out; twice, with buffers used again."""
    first: list[Instruction] = [
        Load(memory=Memory.PARAMETERS, count_x=16),
        Load(memory=Memory.WEIGHTS, count_x=4),
        Load(count_x=8, dram=20, signals=ARRAY),
        Multiply(pixels=8, width=8, stride_pixel=1, waits=LOAD, signals=LOAD | VECTOR),
        Vector(requantize=True, pixels=8, width=8, stride_pixel=1, output=128, output_stride_pixel=1,
               waits=ARRAY, signals=ARRAY | STORE),
        Store(source=128, dram=100, count_x=8, waits=VECTOR, signals=VECTOR),
    ]  # fmt: skip
    second = [
        replace(first[2], waits=ARRAY),
        replace(first[3], waits=LOAD | VECTOR, signals=VECTOR),
        replace(first[4], waits=ARRAY | STORE, signals=STORE),
        replace(first[5], dram=108, signals=0),
    ]
    return first + second


def test_an_ordered_program_is_taken() -> None:
    check_order(program(*layer()))
    simulate_cycles(program(*layer()))


def test_tokens_do_not_only_order_their_own_two_instructions() -> None:
    # the second load of pixels is ordered after the first store through vector and array
    chain = layer()
    chain[6] = replace(chain[6], destination=128)
    chain[7] = replace(chain[7], activation=128)
    chain[4] = replace(chain[4], signals=STORE)
    chain[5] = replace(chain[5], signals=LOAD)
    chain[6] = replace(chain[6], waits=ARRAY | STORE)
    chain[7] = replace(chain[7], waits=LOAD, accumulator=8)
    chain[8] = replace(chain[8], waits=ARRAY, input=8, output=192)
    chain[9] = replace(chain[9], source=192)
    check_order(program(*chain))


def without(index: int, **changes: int) -> list[Instruction]:
    code = layer()
    code[index] = replace(code[index], **changes)
    return code


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (  # read before written
            [layer()[1], replace(layer()[2], signals=0), replace(layer()[3], waits=0, signals=0)],
            r"^instruction 2 `multiply .*` of layer stem at model.py:3 reads word 0 of the activations memory, and "
            r"must do so after instruction 1 `load .*` of layer stem at model.py:3 writes it: let load signal array",
        ),
        (  # replaced before read
            [
                *layer()[1:3],
                replace(layer()[3], signals=0),
                replace(layer()[2], signals=0),
            ],
            r"^instruction 3 `load .*` .*writes word 0 of the activations memory, and must do so after "
            r"instruction 2 `multiply .*` .*reads it: let array signal load after that, and await it$",
        ),
        (  # replaced before written
            [
                replace(layer()[2], destination=130, signals=0),
                Vector(
                    source=Memory.ACTIVATIONS, reduce=Reduce.MAX, input=0, output=128, pixels=8, output_stride_pixel=1
                ),
            ],
            r"^instruction 1 `vector .*` .*writes word 130 of the activations memory, and must do so after "
            r"instruction 0 `load .*` .*writes it: let load signal vector",
        ),
        (  # through DRAM
            [Store(dram=20, count_x=8), layer()[2]],
            r"^instruction 1 `load .*` .*reads word 20 of the dram memory, and must do so after "
            r"instruction 0 `store .*` .*writes it: let store signal load",
        ),
        (
            [layer()[2], Store(source=100, dram=27, count_x=8)],
            r"^instruction 1 `store .*` .*writes word 27 of the dram memory, and must do so after "
            r"instruction 0 `load .*` .*reads it: let load signal store",
        ),
    ],
    ids=[
        "read before written",
        "replaced before read",
        "replaced before written",
        "load of a store",
        "store on a load",
    ],
)
def test_accesses_without_order_are_refused(code: list[Instruction], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_order(program(*code), written_first=False)


def test_every_token_of_the_example_is_needed() -> None:
    code = layer()
    for index, one in enumerate(code):
        for giver in Unit:
            if not one.waits >> giver & 1:
                continue
            changed = list(code)
            changed[index] = replace(one, waits=one.waits & ~units(giver))
            before = [i for i in range(index) if code[i].unit is giver and code[i].signals >> one.unit & 1]
            taken = [i for i in range(index) if code[i].unit is one.unit and code[i].waits >> giver & 1]
            source = before[len(taken)]
            changed[source] = replace(code[source], signals=code[source].signals & ~units(one.unit))
            with pytest.raises(InvalidInput, match=r"and must do so after"):
                check_order(program(*changed))


def test_a_token_must_be_signalled_first() -> None:
    message = (
        r"^instruction 0 `multiply .*` .*: a token from load must be signalled before it is awaited, but no earlier"
    )
    with pytest.raises(InvalidInput, match=message):
        check_order(program(Multiply(waits=LOAD), Load(signals=ARRAY)), written_first=False)


def test_a_token_must_be_awaited() -> None:
    message = r"^instruction 0 `load .*` .*: every token must be awaited, but this one from load to store is not$"
    with pytest.raises(InvalidInput, match=message):
        check_order(program(Load(signals=STORE)))


def test_words_must_be_written_before_they_are_read() -> None:
    code = [Load(count_x=4, signals=STORE), Store(source=2, count_x=3, waits=LOAD)]
    check_order(program(*code), written_first=False)
    message = (
        r"^instruction 1 `store .*` .*: every word must be written before it is read, but nothing wrote word 4 of "
    )
    with pytest.raises(InvalidInput, match=message):
        check_order(program(*code))


def test_banks_must_be_named() -> None:
    code = [*program(*layer()).instructions]
    code[4] = replace(code[4], activation_writes=0b01)
    bad = SystolicProgram.of(code, architecture=A, dram_words=DRAM_WORDS)
    message = r"^instruction 4 `vector .*`.*: field activation_writes must have the banks 0b00000010, not 0b00000001: "
    with pytest.raises(InvalidInput, match=message):
        check_order(bad)


def test_more_banks_than_needed_may_be_named() -> None:
    code = [replace(one, activation_reads=0b11) for one in program(*layer()).instructions]
    check_order(SystolicProgram.of(code, architecture=A, dram_words=DRAM_WORDS))


def test_counters_must_not_overflow_whatever_the_speed() -> None:
    """Sixteen tokens in a row can only wait together if no queue keeps the giver from running ahead."""
    giver, taker = Load(signals=STORE), Store(source=100, dram=50, waits=LOAD)
    ahead = [giver] * 15 + [taker] * 15
    check_order(program(*ahead), written_first=False)
    message = (
        r"^instruction 15 `load .*` .*: at most 15 tokens may wait from load to store, but 16 can: let load wait for"
    )
    with pytest.raises(InvalidInput, match=message):
        check_order(program(*[giver] * 16, *[taker] * 16), written_first=False)
    # in turns, the dispatcher stops the loads when eight stores wait in their queue, and one more can be at its head
    check_order(program(*[giver, taker] * 40), written_first=False)
    deep = replace(A, queue_depth=32)
    with pytest.raises(InvalidInput, match=r"^instruction 30 `load .*but 16 can"):
        check_order(program(*[giver, taker] * 40, architecture=deep), written_first=False)


@st.composite
def token_programs(draw: st.DrawFn) -> SystolicProgram:
    """Programs with many tokens: some race, some do not."""
    architecture = draw(architectures())
    code: list[Instruction] = []
    for one in draw(st.lists(instructions(architecture), min_size=2, max_size=8)):
        assert one.unit is not None
        waits = 0
        for giver in Unit:
            last = [i for i, other in enumerate(code) if other.unit is giver]
            if giver is one.unit or not last or draw(st.integers(0, 5)) == 0:
                continue
            other = code[last[-1]]
            if not other.signals >> one.unit & 1:
                code[last[-1]] = replace(other, signals=other.signals | units(one.unit))
                waits |= units(giver)
        code.append(replace(one, waits=waits))
    return SystolicProgram.of([*code, Halt()], architecture=architecture, dram_words=DRAM_WORDS)


def run_in_some_order(program: SystolicProgram, chance: random.Random) -> dict[Memory, np.ndarray]:
    """Execute with units at random speeds, held back by tokens only."""
    machine = Machine(program.architecture, np.zeros(program.dram_bytes, np.uint8))
    contents = np.random.default_rng(5)
    for words in machine.memories.values():
        words[...] = contents.integers(-100, 100, words.shape)
    queues = {unit: [i for i in program.instructions if i.unit is unit] for unit in Unit}
    tokens = {(giver, taker): 0 for giver in Unit for taker in Unit}
    while any(queues.values()):
        ready = [
            unit
            for unit, queue in queues.items()
            if queue and all(tokens[giver, unit] or not queue[0].waits >> giver & 1 for giver in Unit)
        ]
        unit = chance.choice(ready)
        instruction = queues[unit].pop(0)
        instruction.execute(machine)
        for other in Unit:
            tokens[other, unit] -= instruction.waits >> other & 1
            tokens[unit, other] += instruction.signals >> other & 1
    return machine.memories


@settings(max_examples=60)
@given(
    token_programs().filter(lambda p: all(not getattr(i, "requantize", False) for i in p.instructions)), st.randoms()
)
def test_what_passes_means_the_same_in_every_order(program: SystolicProgram, chance: random.Random) -> None:
    try:
        check_order(program, written_first=False)
    except InvalidInput as error:
        assert re.search(r"and must do so after|every token must be awaited", str(error))  # noqa: PT017
        return
    expected = run_in_some_order(program, random.Random(0))
    for _ in range(4):
        for memory, words in run_in_some_order(program, chance).items():
            np.testing.assert_array_equal(words, expected[memory], err_msg=memory.name)
