"""Latencies of several competitors in one process: short interleaved bursts, with rests, judged for noise.

Thread pools spin for a while after a call and would steal cycles from whoever runs next, so a rest precedes every
burst and its first calls are not counted. Rounds rotate the order. A round during which the machine was disturbed,
as a fixed piece of work on every thread tells, is thrown away and run again.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

REST = 0.15  # seconds before a burst, longer than any peer's threads spin
BURST = 0.12  # seconds of counted calls, if a call is shorter than that
CALLS = (3, 4000)  # fewest and most counted calls of a burst
WARM = 0.02  # seconds of calls before counting, after a rest; at least two calls
QUIET = 1.15  # a probe at most this many times the quickest probe seen means an undisturbed machine
SPREAD_LIMIT = 0.10  # medians of rounds further apart than this make a measurement worth repeating

Call = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Statistics of one competitor, in seconds. `rounds` holds the median of each round, `calls` counts all calls.

    `spread` is the distance between the 10th and 90th percentile of the rounds, relative to the median.
    """

    median: float
    p10: float
    p90: float
    minimum: float
    spread: float
    calls: int
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float]]) -> Latency:
        """Summarises the times of at least one round of at least one call."""
        if not rounds or not all(rounds):
            raise ValueError("rounds must be non-empty lists of times, not " + repr([len(r) for r in rounds]))
        times = sorted(time for each in rounds for time in each)
        medians = [statistics.median(each) for each in rounds]
        median = statistics.median(times)
        spread = (percentile(medians, 90) - percentile(medians, 10)) / median
        return cls(
            median=median,
            p10=percentile(times, 10),
            p90=percentile(times, 90),
            minimum=times[0],
            spread=spread,
            calls=len(times),
            rounds=tuple(medians),
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the values lie, interpolated linearly between neighbours."""
    if not values:
        raise ValueError("values must not be empty")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


class Probe:
    """Tells whether the machine is disturbed, by timing the same work on `threads` threads at once.

    The work is hashing, which needs neither memory bandwidth nor a numeric library and releases Python's lock.
    """

    def __init__(self, threads: int, size: int = 1 << 21) -> None:
        self._data = bytes(size)
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads
        self.quickest = min(self._time() for _ in range(10))

    def _time(self) -> float:
        start = time.perf_counter()
        list(self._pool.map(hashlib.sha256, [self._data] * self._threads))
        return time.perf_counter() - start

    def slowdown(self) -> float:
        """How many times longer the work takes now than when it was quickest; the better of two tries."""
        now = min(self._time(), self._time())
        self.quickest = min(self.quickest, now)
        return now / self.quickest

    def close(self) -> None:
        self._pool.shutdown()


@dataclass(frozen=True)
class Plan:
    """How many calls of one competitor make a burst, and how many of them are not counted."""

    warm: int
    calls: int

    @classmethod
    def of(cls, seconds_per_call: float) -> Plan:
        fewest, most = CALLS
        return cls(
            warm=max(2, min(most, int(WARM / seconds_per_call))),
            calls=max(fewest, min(most, int(BURST / seconds_per_call))),
        )


def burst(call: Call, plan: Plan, clock: Clock = time.perf_counter) -> list[float]:
    """The times of `plan.calls` calls one after the other, in seconds."""
    for _ in range(plan.warm):
        call()
    times = []
    for _ in range(plan.calls):
        start = clock()
        call()
        times.append(clock() - start)
    return times


def estimate(call: Call) -> float:
    """Roughly the seconds of one warm call."""
    for _ in range(3):
        call()
    return max(1e-7, min(burst(call, Plan(warm=0, calls=3))))


@dataclass(frozen=True)
class Measurement:
    """The latencies of all competitors over `rounds` quiet rounds; `rejected` rounds were thrown away.

    `noisy` names the competitors whose spread stayed above the limit.
    """

    latencies: Mapping[str, Latency]
    rounds: int
    rejected: int
    noisy: tuple[str, ...]


def interleave(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    threads: int,
    rest: float = REST,
    quiet: float = QUIET,
    slowdown: Callable[[], float] | None = None,
) -> Measurement:
    """Times the competitors against each other until `rounds` rounds were quiet, or three times as many were tried.

    If the machine never calms down the least disturbed rounds count, so that there is always a result; their spread
    tells how good it is. `slowdown` replaces the probe.
    """
    plans = {name: Plan.of(estimate(call)) for name, call in calls.items()}
    probe = Probe(threads) if slowdown is None else None
    disturbance = probe.slowdown if probe is not None else slowdown
    assert disturbance is not None
    names = list(calls)
    tried: list[tuple[float, dict[str, list[float]]]] = []
    while len(tried) < 3 * rounds and sum(noise <= quiet for noise, _ in tried) < rounds:
        turn = len(tried) % len(names)
        before = disturbance()
        times = {}
        for name in names[turn:] + names[:turn]:
            time.sleep(rest)
            times[name] = burst(calls[name], plans[name])
        time.sleep(rest)
        tried.append((max(before, disturbance()), times))
    if probe is not None:
        probe.close()
    best = sorted(tried, key=lambda each: each[0])[:rounds]
    latencies = {name: Latency.of([times[name] for _, times in best]) for name in names}
    noisy = tuple(name for name in names if latencies[name].spread > SPREAD_LIMIT)
    return Measurement(latencies, len(best), len(tried) - len(best), noisy)
