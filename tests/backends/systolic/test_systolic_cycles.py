"""The cycle engine against a model that looks at every single cycle, and what it counts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from fxpress.backends.systolic.architecture import Architecture, Memory, Unit
from fxpress.backends.systolic.instructions import Halt, Instruction, Load, Multiply, Store, Vector, units, with_banks
from fxpress.backends.systolic.program import Layer, SystolicProgram
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.backends.systolic.timing import IN_FLIGHT, LOAD_LATENCY, STORE_LATENCY, VECTOR_LATENCY
from fxpress.errors import InvalidInput
from hypothesis import given, settings
from hypothesis import strategies as st
from random_instructions import DRAM_WORDS, architectures, instructions
from random_programs import programs


def naive_times(program: SystolicProgram) -> list[tuple[int, int, int]]:
    """(dispatch, start, done) of each instruction, found by going through all cycles one by one."""
    architecture, code = program.architecture, program.instructions
    dispatch: dict[int, int] = {}
    start: dict[int, int] = {}
    done: dict[int, int] = {}
    of_unit = {unit: [i for i, one in enumerate(code) if one.unit is unit] for unit in Unit}
    time = -1
    while len(start) < len(code) - 1:
        time += 1
        seen_starts = set(start)
        following = len(dispatch)
        if following < len(code) - 1:
            waiting = [i for i in dispatch if code[i].unit is code[following].unit and i not in seen_starts]
            if len(waiting) < architecture.queue_depth:
                dispatch[following] = time
        for unit in (Unit.STORE, Unit.VECTOR, Unit.ARRAY, Unit.LOAD):
            rest = [i for i in of_unit[unit] if i not in start]
            if not rest or dispatch.get(rest[0], time) >= time:
                continue
            index, one = rest[0], code[rest[0]]
            before = [i for i in of_unit[unit] if i in start]
            if before and time < start[before[-1]] + code[before[-1]].issue_cycles(architecture):
                continue
            busy = [i for i in before if done[i] + 1 > time]
            if len(busy) >= IN_FLIGHT or any(code[i].mode() != one.mode() for i in busy):
                continue
            if any(
                one.waits >> giver & 1
                and not sum(code[i].signals >> unit & 1 for i in of_unit[giver] if done.get(i, time) + 1 <= time)
                > sum(code[i].waits >> giver & 1 for i in before)
                for giver in Unit
            ):
                continue
            others = [code[i] for i in start if code[i].unit is not unit and done[i] + 1 > time]
            if any(
                one.activation_reads & other.activation_reads
                or one.activation_writes & other.activation_writes
                or one.accumulator_banks & other.accumulator_banks
                for other in others
            ):
                continue
            start[index] = time
            done[index] = time + one.done_cycles(architecture)
    last = len(code) - 1
    dispatch[last] = max(dispatch.values(), default=-1) + 1
    start[last] = max([dispatch[last], *done.values()])
    done[last] = start[last] + 1
    return [(dispatch[i], start[i], done[i]) for i in range(len(code))]


@st.composite
def token_programs(draw: st.DrawFn) -> SystolicProgram:
    """Programs with tokens here and there, each awaited after it is signalled; their results may depend on speed."""
    architecture = draw(architectures())
    chosen = draw(st.lists(instructions(architecture), max_size=25))
    free: Counter[tuple[Unit, Unit]] = Counter()
    code: list[Instruction] = []
    for one in chosen:
        assert one.unit is not None
        waits = [giver for giver in Unit if free[giver, one.unit] and draw(st.booleans())]
        signals = [taker for taker in Unit if taker is not one.unit and draw(st.integers(0, 2)) == 0]
        signals = [taker for taker in signals if free[one.unit, taker] < 15]
        free.subtract((giver, one.unit) for giver in waits)
        free.update((one.unit, taker) for taker in signals)
        masks = draw(st.integers(0, 255)) & draw(st.integers(0, 255))
        more = masks & ((1 << architecture.activation_banks) - 1)
        reads = one.activation_reads | more
        code.append(replace(one, waits=units(*waits), signals=units(*signals), activation_reads=reads))
    return SystolicProgram.of([*code, Halt()], architecture=architecture, dram_words=DRAM_WORDS)


@settings(max_examples=60)
@given(token_programs())
def test_every_time_is_that_of_the_cycle_by_cycle_model(program: SystolicProgram) -> None:
    timeline = simulate_cycles(program)
    found = zip(timeline.dispatch.tolist(), timeline.start.tolist(), timeline.done.tolist(), strict=True)
    assert list(found) == naive_times(program)


@settings(max_examples=8)
@given(architectures().flatmap(lambda architecture: programs(architecture, most=6)))
def test_times_of_programs_that_compute_something(program: SystolicProgram) -> None:
    timeline = simulate_cycles(program)
    found = zip(timeline.dispatch.tolist(), timeline.start.tolist(), timeline.done.tolist(), strict=True)
    assert list(found) == naive_times(program)


@settings(max_examples=60)
@given(token_programs())
def test_cycles_of_a_unit_add_up_to_the_total(program: SystolicProgram) -> None:
    timeline = simulate_cycles(program)
    busy, idle = timeline.busy(), timeline.idle()
    for unit in Unit:
        assert min(timeline.stalls[unit].values()) >= 0
        assert idle[unit] >= 0
        assert busy[unit] + sum(timeline.stalls[unit].values()) + idle[unit] == timeline.total
    assert sum(timeline.full.values()) == timeline.dispatch[-1] - (len(program.instructions) - 1)


A = Architecture(rows=4, columns=4, dram_bytes=2, dram_latency=20, vector_lanes=2, activation_banks=2)


def program(*code: Instruction, architecture: Architecture = A, dram_words: int = 1000) -> SystolicProgram:
    return SystolicProgram.of(
        [*(with_banks(one, architecture) for one in code), Halt()],
        architecture=architecture,
        dram_words=dram_words,
        layers=(Layer("stem", "model.py:3"), Layer("head")),
    )


def times(*code: Instruction) -> list[tuple[int, int]]:
    timeline = simulate_cycles(program(*code))
    return list(zip(timeline.start.tolist(), timeline.done.tolist(), strict=True))


@pytest.mark.parametrize(
    ("instruction", "issue", "done"),
    [
        (Load(count_x=10), 20, 20 + 20 + LOAD_LATENCY),  # two beats a word
        (Load(count_x=10, before_x=3, after_x=1, count_y=2), 2 * (12 + 4), 32 + 20 + LOAD_LATENCY),
        (Load(count_x=4, count_y=3, transpose=True), 24 + 12, 36 + 20 + LOAD_LATENCY),
        (Store(count_x=10), 20, 20 + 20 + STORE_LATENCY),
        (Store(memory=Memory.ACCUMULATORS, count_x=10, stride_x=4), 80, 80 + 20 + STORE_LATENCY),
        (Multiply(pixels=9, width=9, ky=2, kx=3, outputs=2, stride_output=9), 3 * 2 * 24, 144 + 2 * 4 + 4 + 3),
        (Multiply(pixels=9, width=9, stationary=True, kx=3), 4 + 3 * 9, 31 + 4 + 4 + 3),
        (Multiply(pixels=1, stationary=True, outputs=3, stride_output=1), 4 + 3 * 4, 16 + 4 + 4 + 3),
        (Vector(requantize=True, pixels=5, blocks=2, output_stride_pixel=2), 57, 2 * (13 + 5 * 2) + VECTOR_LATENCY),
        (
            Vector(source=Memory.ACTIVATIONS, requantize=True, add_residual=True, pixels=5, ky=2, kx=2, output=9,
                   output_stride_pixel=1),
            13 + 5 * 5 * 2 + VECTOR_LATENCY + 1,
            13 + 5 * 5 * 2 + VECTOR_LATENCY,
        ),
        (
            Vector(source=Memory.ACTIVATIONS, pixels=5, output=9, output_stride_pixel=1),
            5 * 2 + VECTOR_LATENCY + 1,
            5 * 2 + VECTOR_LATENCY,
        ),
    ],
)  # fmt: skip
def test_costs_are_the_closed_forms(instruction: Instruction, issue: int, done: int) -> None:
    instruction.check(A)
    assert (instruction.issue_cycles(A), instruction.done_cycles(A)) == (issue, done)


def test_instructions_of_a_unit_overlap() -> None:
    one = Load(count_x=10)
    assert times(one, one)[:2] == [(1, 1 + one.done_cycles(A)), (21, 21 + one.done_cycles(A))]


def test_a_token_is_seen_after_the_cycle_of_done() -> None:
    load = Load(count_x=10, signals=units(Unit.ARRAY))
    (_, done), (start, end), halt = times(load, Multiply(waits=units(Unit.LOAD)))
    assert start == done + 1
    assert halt == (end, end + 1)


def test_multiplications_of_two_dataflows_do_not_overlap() -> None:
    one = Multiply(pixels=40, width=40)
    (start, done), (second, _), _ = times(one, replace(one, stationary=True))
    assert (start, second) == (1, done + 1)


def test_a_bank_is_locked_until_done() -> None:
    load = Load(count_x=10)
    (_, done), (start, _), _ = times(load, Store(source=2))  # one reads, the other writes: no conflict
    assert start == 2
    vector = Vector(source=Memory.ACTIVATIONS, output=100, pixels=2, output_stride_pixel=1)
    (_, done), (start, _), _ = times(load, vector)
    assert start == done + 1
    far = A.bank_words(Memory.ACTIVATIONS)
    (_, done), (start, _), _ = times(load, replace(vector, output=far))
    assert start == 2


def test_units_later_in_the_order_wait_for_a_bank_taken_in_the_same_cycle() -> None:
    # both can start as soon as the load is done: the store decides first
    load = Load(count_x=2, destination=64, signals=units(Unit.VECTOR, Unit.STORE))
    vector = Vector(source=Memory.ACTIVATIONS, output=1000, waits=units(Unit.LOAD))
    store = Store(waits=units(Unit.LOAD))
    (_, done), (second, _), (first, end), _ = times(load, vector, store)
    assert (first, second) == (done + 1, end + 1)


def test_the_dispatcher_waits_for_room() -> None:
    short = replace(A, queue_depth=2)
    timeline = simulate_cycles(program(*[Load(count_x=10)] * 5, Store(), architecture=short))
    assert timeline.start.tolist()[:5] == [1, 21, 41, 61, 81]
    assert timeline.dispatch.tolist()[:6] == [0, 1, 2, 22, 42, 43]
    assert timeline.full[Unit.LOAD] == 19 + 19


def test_few_instructions_are_under_way() -> None:
    long = replace(A, dram_latency=200)
    timeline = simulate_cycles(program(*[Load()] * 9, architecture=long))
    assert timeline.start[8] == timeline.done[0] + 1
    assert timeline.start[7] == 15


def test_bytes_are_counted_by_memory_and_by_layer() -> None:
    timeline = simulate_cycles(
        program(
            Load(count_x=10, before_x=1),
            Load(memory=Memory.WEIGHTS, count_x=4, layer=1),
            Multiply(pixels=9, width=9, accumulate=True, layer=1),
            Store(memory=Memory.ACCUMULATORS, count_x=9, stride_x=4, layer=1),
        )
    )
    traffic = timeline.traffic()
    assert traffic[Memory.DRAM, "read"] == 4 * (9 + 4)
    assert traffic[Memory.DRAM, "write"] == traffic[Memory.ACCUMULATORS, "write"] == 9 * 16
    assert traffic[Memory.ACCUMULATORS, "read"] == 2 * 9 * 16
    assert traffic[Memory.ACTIVATIONS, "read"] == 3 * 4 * 4  # three tiles of four rows
    assert traffic[Memory.WEIGHTS, "read"] == 3 * 4 * 4
    assert timeline.traffic(0) == {(Memory.DRAM, "read"): 36, (Memory.ACTIVATIONS, "write"): 40}
    assert timeline.busy(0) == {Unit.LOAD: 19, Unit.ARRAY: 0, Unit.VECTOR: 0, Unit.STORE: 0}
    assert timeline.dram_bytes()[Memory.WEIGHTS] == (16, 0)
    assert timeline.dram_bytes()[Memory.ACCUMULATORS] == (0, 144)


def test_weight_stationary_sums_pass_the_accumulators_for_each_slice() -> None:
    traffic = Multiply(pixels=9, width=9, kx=2, stationary=True).traffic(A)
    assert traffic[Memory.ACCUMULATORS, "write"] == 2 * 9 * 16
    assert traffic[Memory.ACCUMULATORS, "read"] == 1 * 9 * 16
    assert traffic[Memory.WEIGHTS, "read"] == 8 * 4


def test_a_deadlock_names_the_heads_and_what_they_miss() -> None:
    stuck = program(
        Multiply(waits=units(Unit.LOAD), signals=units(Unit.LOAD), layer=1),
        Load(waits=units(Unit.ARRAY), signals=units(Unit.ARRAY)),
    )
    message = (
        "a program must not stop before halt, but no unit can start its next instruction:\n"
        "  instruction 1 `load waits=array signals=array activation_writes=0` of layer stem at model.py:3 waits for a "
        "token from array\n"
        "  instruction 0 `multiply waits=load signals=load layer=1 activation_reads=0 accumulator_banks=0` of layer "
        "head waits for a token from load\n"
    )
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}signal those tokens"):
        simulate_cycles(stuck)


def test_a_token_that_comes_later_in_the_program_is_no_deadlock() -> None:
    multiply, load, _ = times(Multiply(waits=units(Unit.LOAD)), Load(signals=units(Unit.ARRAY)))
    assert multiply[0] == load[1] + 1


def test_a_counter_that_overflows_is_refused() -> None:
    loads = [Load(signals=units(Unit.STORE))] * 16
    simulate_cycles(program(*loads[:15], Store(waits=units(Unit.LOAD))))
    message = r"^instruction 15 `load .*` of layer stem at model.py:3: at most 15 tokens may wait from load to store"
    with pytest.raises(InvalidInput, match=message):
        simulate_cycles(program(*loads))


def test_an_empty_program_ends_at_once() -> None:
    assert simulate_cycles(program()).total == 1
