import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import CALLS, Latency, Plan, Probe, burst, interleave, percentile

times = st.floats(1e-6, 10)


@settings(max_examples=50, deadline=None)
@given(st.lists(times, min_size=1, max_size=20), st.floats(0, 100))
def test_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(times, min_size=1, max_size=8), min_size=1, max_size=8))
def test_latency_orders_its_statistics(rounds: list[list[float]]) -> None:
    latency = Latency.of(rounds)
    assert latency.minimum <= latency.p10 <= latency.median <= latency.p90
    assert latency.calls == sum(map(len, rounds))
    assert len(latency.rounds) == len(rounds)
    assert latency.spread >= 0


def test_spread_is_about_rounds_not_calls() -> None:
    assert Latency.of([[1.0, 2.0, 3.0]] * 4).spread == 0
    assert Latency.of([[2.0]] * 5 + [[4.0]] * 5).spread == pytest.approx(2 / 3)


@pytest.mark.parametrize("rounds", [[], [[1.0], []]])
def test_latency_needs_times(rounds: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"^rounds must be non-empty lists of times, not "):
        Latency.of(rounds)


def test_small_models_get_more_calls_and_large_ones_enough() -> None:
    assert Plan.of(1e-6).calls == CALLS[1]
    assert Plan.of(10.0).calls == CALLS[0]
    assert Plan.of(10.0).warm == 2


def test_burst_times_only_the_counted_calls() -> None:
    made: list[int] = []
    ticks = itertools.count()
    found = burst(lambda: made.append(1), Plan(warm=3, calls=5), clock=lambda: float(next(ticks)))
    assert len(made) == 8
    assert found == [1.0] * 5


def test_interleaving_takes_turns_and_rotates() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = interleave(calls, rounds=3, threads=1, rest=0, slowdown=lambda: 1.0)
    turns = [name for name, _ in itertools.groupby(order)]
    assert "".join(turns[-9:]) == "abcbcacab"
    assert (found.rounds, found.rejected) == (3, 0)
    assert set(found.latencies) == set("abc")


def test_disturbed_rounds_are_run_again() -> None:
    probes = iter([1.0, 2.0, 1.0, 1.0, 1.0, 1.0])  # two for each round: the first round is disturbed
    found = interleave({"a": lambda: None}, rounds=2, threads=1, rest=0, slowdown=lambda: next(probes))
    assert (found.rounds, found.rejected) == (2, 1)


def test_a_machine_that_is_never_quiet_still_gives_a_result() -> None:
    found = interleave({"a": lambda: None}, rounds=2, threads=1, rest=0, slowdown=lambda: 5.0)
    assert (found.rounds, found.rejected) == (2, 4)


def test_probe_compares_with_the_quickest_seen() -> None:
    probe = Probe(threads=2, size=1 << 12)
    assert probe.slowdown() >= 1
    probe.close()
