"""What augmentations do to a batch, and what they leave."""

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.learn import Batch, CutMix, Mixup, Noise, RandomCrop, RandomFlip, TokenDropout
from fxpress.learn.randomness import randomness
from hypothesis import given
from hypothesis import strategies as st

seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def of_images(shape, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Batch((x,), {}, ((torch.arange(shape[0]), 1.0),))


def applied(augmentation, batch, seed):
    with randomness(seed):
        return augmentation(batch)


@given(sizes, seeds, st.floats(0.1, 2.0))
def test_mixup_mixes_inputs_and_targets_alike(shape, seed, alpha):
    batch = of_images(shape, seed)
    mixed = applied(Mixup(alpha=alpha), batch, seed)
    (own, share), (others, rest) = mixed.targets
    assert torch.equal(own, torch.arange(shape[0]))
    assert sorted(others.tolist()) == own.tolist()
    assert 0 <= share <= 1
    assert share + rest == pytest.approx(1)
    x = batch.args[0]
    torch.testing.assert_close(mixed.args[0], share * x + (1 - share) * x[others])


@given(sizes, seeds)
def test_cutmix_takes_one_rectangle_and_counts_it(shape, seed):
    batch = of_images(shape, seed)
    x = batch.args[0]
    mixed = applied(CutMix(probability=1.0), batch, seed)
    (own, share), (others, rest) = mixed.targets
    assert share + rest == pytest.approx(1)
    foreign = (mixed.args[0] != x).any(1)
    assert torch.equal(torch.where(foreign[:, None], x[others], x), mixed.args[0])
    for image, (mine, other) in enumerate(zip(own.tolist(), others.tolist(), strict=True)):
        if mine != other:
            places = foreign[image].nonzero()
            assert len(places) == pytest.approx(rest * shape[2] * shape[3])
            if len(places):
                extent = places.amax(0) - places.amin(0) + 1
                assert int(extent.prod()) == len(places)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_shares_are_drawn_from_a_beta_distribution(alpha):
    batch = of_images((2, 1, 1, 1), 0)
    shares = torch.tensor([applied(Mixup(alpha=alpha), batch, seed).targets[0][1] for seed in range(400)])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)


def test_rectangles_are_as_large_as_drawn_unless_cut_off():
    batch = of_images((2, 1, 64, 64), 0)
    shares = {
        alpha: [applied(CutMix(alpha=alpha, probability=1.0), batch, seed).targets[0][1] for seed in range(100)]
        for alpha in (1.0, 1e4)
    }
    assert 0.48 < min(shares[1e4]) < 0.55  # nearly always half; more stays where the borders cut the rectangle
    assert max(shares[1e4]) > 0.8
    assert min(shares[1.0]) < 0.3


def test_what_is_done_with_a_probability_is_sometimes_left_out():
    batch = of_images((4, 1, 3, 3), 0)
    for augmentation in (Mixup(probability=0.5), CutMix(probability=0.5)):
        same = [applied(augmentation, batch, seed) is batch for seed in range(40)]
        assert 5 < sum(same) < 35
    assert applied(Mixup(probability=0.0), batch, 0) is batch


@given(sizes, seeds, st.integers(0, 3))
def test_crops_are_windows_of_the_padded_image(shape, seed, padding):
    batch = of_images(shape, seed)
    cropped = applied(RandomCrop(padding=padding), batch, seed).args[0]
    padded = torch.nn.functional.pad(batch.args[0], [padding] * 4)
    for image, found in zip(padded, cropped, strict=True):
        windows = [
            image[:, top : top + shape[2], left : left + shape[3]]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        assert any(torch.equal(window, found) for window in windows)


@given(sizes, seeds)
def test_flips_are_of_whole_images(shape, seed):
    batch = of_images(shape, seed)
    x, flipped = batch.args[0], applied(RandomFlip(), batch, seed).args[0]
    for image, found in zip(x, flipped, strict=True):
        assert torch.equal(found, image) or torch.equal(found, image.flip(-1))
    assert torch.equal(applied(RandomFlip(probability=1.0), batch, seed).args[0], x.flip(-1))


def test_noise_has_the_deviation_it_is_told():
    x = 5 * torch.randn(100, 100)
    noise = applied(Noise(deviation=0.2), Batch((x, torch.tensor([1])), {}, ()), 0).args[0] - x
    assert float(noise.std()) == pytest.approx(1.0, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.05)


@given(seeds, st.floats(0, 1))
def test_token_dropout_leaves_what_is_kept(seed, rate):
    tokens = torch.randint(0, 10, (4, 7), generator=torch.Generator().manual_seed(seed))
    batch = Batch((), {"mask": torch.ones(4, 7), "tokens": tokens}, ())
    found = applied(TokenDropout(token=99, rate=rate, keep=(0, 1)), batch, seed).kwargs["tokens"]
    changed = found != tokens
    assert bool((found[changed] == 99).all())
    assert not bool(changed[tokens <= 1].any())
    if rate == 1:
        assert bool(changed[tokens > 1].all())


def test_which_input_holds_the_tokens_can_be_said():
    batch = Batch((torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)), {}, ())
    found = TokenDropout(token=9, rate=1.0, input=1)(batch)
    assert torch.equal(found.args[0], batch.args[0])
    assert bool((found.args[1] == 9).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixup(alpha=0), "alpha of Mixup must be positive, not 0$"),
        (lambda: CutMix(probability=2), "probability of CutMix must be from 0 to 1, not 2$"),
        (lambda: RandomCrop(padding=-1), "padding of RandomCrop must be an integer of at least 0, not -1$"),
        (lambda: RandomFlip(probability=-0.1), "probability of RandomFlip must be from 0 to 1, not -0.1$"),
        (lambda: Noise(deviation=-1), "deviation of Noise must be at least 0, not -1$"),
        (lambda: TokenDropout(token=0, rate=1.5), "rate of TokenDropout must be from 0 to 1, not 1.5$"),
        (lambda: Mixup()(Batch((torch.tensor([1]),), {}, ())), "inputs must hold floats for Mixup; tokens cannot be"),
        (lambda: Noise()(Batch((torch.tensor([1]),), {}, ())), "inputs must hold floats for Noise; for tokens use"),
        (lambda: RandomFlip()(Batch((torch.ones(3, 4),), {}, ())), "inputs must hold images, floats .*, for"),
        (lambda: Mixup()(Batch((torch.ones(3), torch.ones(2)), {}, ())),
         r"inputs to be mixed must have one size of batch, not \[2, 3\]$"),
        (lambda: TokenDropout(token=0)(Batch((torch.ones(3),), {}, ())), "inputs must hold an input of tokens"),
        (lambda: TokenDropout(token=0, input="ids")(Batch((), {"x": torch.tensor([1])}, ())),
         r"inputs must hold integers at 'ids' for TokenDropout, not only \['x'\]$"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        make()
