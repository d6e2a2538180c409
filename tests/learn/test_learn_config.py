"""Options: what is refused, what is plain data, what may be searched; schedules and stopping."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from fxpress.errors import InvalidInput
from fxpress.learn import CutMix, FeatureDistillation, LogitDistillation, Mixup, TokenDropout, TrainConfig
from fxpress.learn.schedules import share_of_rate
from fxpress.learn.stopping import Progression
from fxpress.search.quality import Quality, Scores
from fxpress.search.ranges import space_of
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1, not 0$"),
        ({"steps": 1.5}, "steps must be an integer of at least 1 or None, not 1.5$"),
        ({"optimizer": "lamb"}, r"optimizer must be one of \['adamw', 'sgd'\], not 'lamb'$"),
        ({"schedule": "step"}, r"schedule must be one of \['cosine', 'constant'\], not 'step'$"),
        ({"learning_rate": -1}, "learning_rate must be positive, not -1$"),
        ({"learning_rate": math.nan}, "learning_rate must be positive, not nan$"),
        ({"noise": "much"}, "noise must be a number of at least 0, not 'much'$"),
        ({"ema": 1.0}, "ema must be from 0 to below 1, not 1.0$"),
        ({"seed": "a"}, "seed must be an integer, not 'a'$"),
        ({"augment": Mixup()}, r"augment must be a tuple of augmentations, not Mixup\(.*; a single one is \(one,\)$"),
        ({"augment": ("mixup",)}, "augment must hold callables from Batch to Batch, not 'mixup'$"),
        ({"distill": ("logits",)}, "distill must hold distillations, not 'logits'$"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        TrainConfig(**options)


def test_configs_are_plain_data_and_back():
    config = TrainConfig(
        steps=7,
        augment=[Mixup(alpha=0.3), CutMix(), TokenDropout(token=3, keep=[0, 1])],
        distill=(LogitDistillation(temperature=2.0), FeatureDistillation(layers={"a": "b"})),
    )
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def augmentation(batch):
    return batch


def test_functions_are_named_and_not_found_again():
    document = TrainConfig(augment=(augmentation,)).to_json()
    assert document["augment"] == [{"name": f"{__name__}.augmentation"}]
    with pytest.raises(InvalidInput, match=r"^technique must be one of .*augmentation'; give your own in code$"):
        TrainConfig.from_json(document)
    with pytest.raises(InvalidInput, match=r"^config must have fields of TrainConfig, not speed$"):
        TrainConfig.from_json({"speed": 1})


@pytest.mark.parametrize("options", [TrainConfig, Mixup, CutMix, LogitDistillation])
def test_searchable_options_hold_their_defaults(options):
    space = space_of(options)
    assert space
    for name, values in space.items():
        assert getattr(options(), name) in values


@given(st.integers(1, 300), st.floats(0, 0.5))
def test_rates_grow_then_fall_and_stay_in_bounds(steps, warmup):
    rates = [share_of_rate("cosine", step, steps, warmup) for step in range(steps)]
    top = round(warmup * steps)
    assert all(0 < rate <= 1 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))


def test_the_cosine_is_one():
    assert [share_of_rate("cosine", step, 4, 0.0) for step in range(4)] == pytest.approx(
        [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    )
    assert [share_of_rate("constant", step, 4, 0.5) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def steps_until_no_hope(values, **options):
    progression = Progression(**options)
    for count, value in enumerate(values, 1):
        progression.add(Quality.of(value))
        if not progression.has_hope:
            return count
    return None


def test_patience_ends_what_gets_no_better():
    assert steps_until_no_hope([1, 2, 3, 3, 2, 4], patience=2, noise=0.0) == 5
    assert steps_until_no_hope([1, 2, 3, 3, 3.5, 4], patience=2, noise=0.0) is None
    assert steps_until_no_hope([1, 1.1, 1.2, 1.3], patience=2, noise=0.5) == 3
    assert steps_until_no_hope([1] * 50, patience=None, noise=0.0) is None


def test_a_slow_rise_is_seen_through_the_noise():
    """Each step is within the noise of the one before; after some the sum is not."""
    assert steps_until_no_hope(np.arange(20) * 0.3, patience=3, noise=0.5) is None


def hits(share, n=200):
    return Scores((np.arange(n) < share * n).astype(float))


def test_gains_within_chance_are_none():
    assert steps_until_no_hope([hits(0.8), hits(0.805), hits(0.8075), hits(0.9)], patience=2, noise=0.0) == 3
    assert steps_until_no_hope([hits(0.8), hits(0.9), hits(0.95), hits(0.99)], patience=1, noise=0.0) is None


def test_progressions_go_on_from_their_state():
    values = [hits(0.5), hits(0.7), hits(0.705), hits(0.71), hits(0.6)]
    for cut in (0, 2, 4):
        whole, first, second = (Progression(3, 0.0) for _ in range(3))
        for value in values[:cut]:
            first.add(Quality.of(value))
        second.load(first.state())
        found = [second.add(Quality.of(value)) for value in values[cut:]]
        assert [whole.add(Quality.of(value)) for value in values][cut:] == found
        assert (second.waited, second.highest) == (whole.waited, whole.highest)
