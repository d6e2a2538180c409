"""The range that each observer makes of what it saw."""

from __future__ import annotations

import math

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.quantization.observers import BINS, Histogram, MinMax, make_observer
from fxpress.passes.quantization.scheme import OBSERVERS, QParams
from hypothesis import given
from hypothesis import strategies as st

HISTOGRAMS = ("percentile", "entropy", "mse")


def ranged(name, *tensors, symmetric=False):
    observer = make_observer(name)
    for x in tensors:
        assert observer.update(x)
    return observer.range(symmetric)


@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=40), st.sampled_from(OBSERVERS))
def test_no_range_is_wider_than_what_was_seen(numbers, name):
    x = torch.tensor(numbers)
    low, high = ranged(name, x)
    assert min([*numbers, 0]) <= low <= high <= max([*numbers, 0])
    QParams.of_range(low, high)


def test_min_max_over_items_and_channels():
    x, y = torch.tensor([[1.0, -2.0], [3.0, 0.5]]), torch.tensor([[-1.0, 4.0], [0.0, 0.0]])
    assert ranged("min-max", x, y) == (-2, 4)
    observer = MinMax(axis=1)
    observer.update(x)
    observer.update(y)
    assert observer.low.tolist() == [-1, -2]
    assert observer.high.tolist() == [3, 4]


def test_moving_average_follows_slowly():
    low, high = ranged("moving-average", torch.tensor([0.0, 10.0]), torch.tensor([0.0, 30.0]))
    assert (low, high) == (0, pytest.approx(11))


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_rare_extremes_are_cut_off(name):
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    x[0] = 100
    low, high = ranged(name, x)
    assert -5.5 < low < -2
    assert 2 < high < 90


def test_entropy_keeps_what_is_dense():
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    x[0] = 100
    assert ranged("entropy", x)[1] < 20


def test_percentile_is_the_quantile():
    x = torch.linspace(0, 1, 100_001)
    _, high = ranged("percentile", x)
    assert high == pytest.approx(0.9999, abs=3 / BINS)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_has_less_error_than_min_max(symmetric):
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(2)) ** 3

    def error(name):
        p = QParams.of_range(*ranged(name, x, symmetric=symmetric), symmetric=symmetric)
        q = (x / p.scale).round().add(p.zero).clamp(-128, 127)
        return ((q - p.zero) * p.scale - x).square().mean()

    assert error("mse") < error("min-max")


def test_a_histogram_grows_without_losing_counts():
    seen = []
    observer = Histogram(lambda counts, edges, extremes, symmetric: seen.append(counts) or extremes)
    for size in (0.0, 1e-3, 1.0, 500.0):
        observer.update(torch.full((10,), size))
    assert observer.range() == (0, 500)
    assert float(seen[0].sum()) == 40
    assert len(seen[0]) == BINS


@pytest.mark.parametrize("name", OBSERVERS)
def test_constants_and_nothing(name):
    assert ranged(name, torch.zeros(5)) == (0, 0)
    assert ranged(name, torch.zeros(0)) == (0, 0)
    low, high = ranged(name, torch.full((5,), 2.0))
    assert QParams.of_range(low, high).scale == pytest.approx(2 / 255, rel=0.02)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(name, bad):
    observer = make_observer(name)
    assert not observer.update(torch.tensor([1.0, bad]))
    assert observer.range() == (0, 0)


def test_unknown_observer():
    with pytest.raises(InvalidInput, match=r"^observer must be one of \['min-max', .*\], not 'median'$"):
        make_observer("median")
