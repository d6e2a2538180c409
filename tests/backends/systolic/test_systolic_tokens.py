"""Tokens: enough to order what touches the same words, never more out at once than a counter holds."""

from __future__ import annotations

from typing import Any

from fxpress.backends.systolic.architecture import Architecture, Memory, Unit
from fxpress.backends.systolic.compiler.rings import Ring
from fxpress.backends.systolic.compiler.tokens import limited, ordered
from fxpress.backends.systolic.instructions import Load, Multiply, units
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def programs(draw: Any) -> tuple[list[tuple[int, int]], list[int]]:
    """Places of a giver's and of a taker's instructions, and which of them need which."""
    takes = draw(st.lists(st.booleans(), min_size=2, max_size=60))
    givers = [i for i, taker in enumerate(takes) if not taker]
    takers = [i for i, taker in enumerate(takes) if taker]
    pairs: list[tuple[int, int]] = []
    for taker in takers:
        before = [giver for giver in givers if giver < taker and (not pairs or giver > pairs[-1][0])]
        if before and draw(st.booleans()):
            pairs.append((draw(st.sampled_from(before)), taker))
    return pairs, takers


@given(programs(), st.integers(1, 6))
def test_limited(program: tuple[list[tuple[int, int]], list[int]], limit: int) -> None:
    pairs, takers = program
    kept = limited(pairs, takers, limit)
    signals, waits = [signal for signal, _ in kept], [wait for _, wait in kept]
    assert signals == sorted(set(signals))
    assert waits == sorted(set(waits))
    assert set(waits) <= set(takers)
    assert all(signal < wait for signal, wait in kept)
    for signal, wait in pairs:  # some wait no later than that one takes a token given no earlier than that one
        assert any(s >= signal and w <= wait for s, w in kept)
    for place in range(60):
        assert sum(s <= place for s in signals) - sum(w <= place for w in waits) <= limit


def test_ordered() -> None:
    machine = Architecture()
    load = Load(memory=Memory.ACTIVATIONS, dram=0, destination=0, count_x=16)
    weights = Load(memory=Memory.WEIGHTS, dram=100, destination=0, count_x=16)
    multiply = Multiply(activation=0, weight=0, accumulator=0, width=16, stride_pixel=1, pixels=16)
    first, second, third, fourth = ordered([load, weights, multiply, load], machine, 100)
    assert (first.signals, second.signals) == (0, units(Unit.ARRAY))  # loads are done in order: the last one speaks
    assert (third.waits, third.signals) == (units(Unit.LOAD), units(Unit.LOAD))
    assert fourth.waits == units(Unit.ARRAY)
    assert (first.activation_writes, third.activation_reads, third.accumulator_banks) == (1, 1, 1)


def test_a_ring_keeps_what_it_can() -> None:
    ring = Ring(10, 20)
    assert ring.place("a", 4) == (10, True)
    assert ring.place("b", 4) == (14, True)
    assert ring.place("a", 4) == (10, False)
    assert ring.place("c", 4) == (10, True)  # no room behind b
    assert ring.place("b", 4) == (14, False)
    assert ring.place("a", 4) == (14, True)
    ring.reserve(3)
    assert ring.place("d", 3) == (10, True)
