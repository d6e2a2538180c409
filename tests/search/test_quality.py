"""Measures of quality against their definitions, and what an interval is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.search.quality import F1, Accuracy, Agreement, Auc, NegativePerplexity, Precision, Quality, Recall, Scores
from hypothesis import given
from hypothesis import strategies as st

LOGITS = torch.tensor([[3.0, 1, 0], [2, 5, 1], [0, 4, 6], [1, 0, 2], [9, 8, 7]])
LABELS = torch.tensor([0, 0, 2, 2, 1])  # predicted: 0, 1, 2, 2, 0
BATCHES = [(LOGITS[:2], LABELS[:2]), (LOGITS[2:], LABELS[2:])]


def identity(x):
    return x


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Accuracy(BATCHES), 3 / 5),
        (Accuracy(BATCHES, top=2), 5 / 5),
        (Precision(BATCHES), (1 / 2 + 0 / 1 + 2 / 2) / 3),
        (Recall(BATCHES), (1 / 2 + 0 / 1 + 2 / 2) / 3),
        (F1(BATCHES), (2 / 4 + 0 + 1) / 3),
    ],
    ids=["accuracy", "top 2", "precision", "recall", "f1"],
)
def test_classes(measure, expected):
    assert Quality.measure(measure, identity).value == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_area_under_the_curve_is_the_chance_of_right_order(items):
    scores, labels = (np.array(side) for side in zip(*items, strict=True))
    pairs = [(a, b) for (a, ya), (b, yb) in itertools.product(items, items) if ya and not yb]
    expected = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]) if pairs else 0.5
    found = Quality.of(Auc([(scores, labels)])(identity)).value
    assert found == pytest.approx(expected)


def test_perplexity_of_even_chances_is_their_number():
    found = Quality.measure(NegativePerplexity([(torch.zeros(2, 3, 7), torch.ones(2, 3).long())]), identity)
    assert found.value == pytest.approx(-7)


@pytest.mark.parametrize("kind", ["cosine", "top-1", "rank"])
def test_the_original_agrees_with_itself(kind):
    inputs = [torch.randn(2, 8) for _ in range(4)]
    agreement = Agreement(identity, inputs, kind)
    assert Quality.measure(agreement, identity).value == pytest.approx(1)
    assert Quality.measure(agreement, lambda x: (x * x).flip(1)).value < 0.9


def test_agreement_by_cosine():
    agreement = Agreement(identity, [torch.tensor([[3.0, 4.0]])])
    assert Quality.measure(agreement, lambda x: torch.tensor([[3.0, 0.0]])).value == pytest.approx(0.6)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_interval_holds_the_number(hits):
    quality = Quality.of(Scores(np.array(hits, dtype=float)))
    assert quality.low <= quality.value <= quality.high
    assert quality.minus(quality) == (0, 0, 0)
    assert not quality.is_better_than(quality)


def test_models_are_compared_item_by_item():
    random = np.random.default_rng(0)
    hard = random.random(400)
    worse, better = Quality.of(Scores(hard)), Quality.of(Scores(hard + 0.01))
    assert better.low < worse.high  # each for itself, they could be the same
    assert better.is_better_than(worse)
    assert not worse.is_better_than(better)


def test_intervals_are_as_wide_as_the_standard_error_says():
    rows = np.random.default_rng(1).standard_normal(900)
    quality = Quality.of(Scores(rows))
    assert quality.high - quality.low == pytest.approx(2 * 1.96 / math.sqrt(900), rel=0.15)


@pytest.mark.parametrize("found", [float("nan"), float("inf"), None, "good", torch.zeros(2)])
def test_what_is_no_quality_is_refused(found):
    with pytest.raises(InvalidInput, match=r"^evaluate must return a (finite )?number"):
        Quality.measure(lambda model: found, identity)


def test_what_evaluate_raises_is_raised_with_its_place():
    with pytest.raises(ZeroDivisionError) as caught:
        Quality.measure(lambda model: 1 / 0, identity)
    assert "while evaluating a model" in caught.value.__notes__[0]


@pytest.mark.parametrize("make", [lambda: Accuracy([])(identity), lambda: Agreement(identity, [])])
def test_no_items_are_refused(make):
    with pytest.raises(InvalidInput, match="must hold at least one"):
        make()


def test_an_unknown_kind_of_agreement_is_refused():
    with pytest.raises(InvalidInput, match=r"^kind must be one of \['cosine', 'rank', 'top-1'\], not 'mse'$"):
        Agreement(identity, [LOGITS], "mse")


def test_what_is_random_must_stay_within_its_interval():
    random = np.random.default_rng(0)
    noisy = Quality.measure_twice(lambda model: Scores(random.random(400)), identity)
    assert 0.4 < noisy.value < 0.6
    numbers = iter([0.5, 0.5 + 1e-9, 0.5, 0.6])
    assert Quality.measure_twice(lambda model: next(numbers), identity).value == 0.5
    with pytest.raises(
        InvalidInput, match=r"^evaluate must say the same of the same model, not 0.5 and then 0.6; seed"
    ):
        Quality.measure_twice(lambda model: next(numbers), identity)
