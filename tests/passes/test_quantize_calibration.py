"""Calibration data: what an item may be, what is refused, what is remembered, what can be replayed."""

from __future__ import annotations

import logging
import math
import re

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.quantization.calibration import GENERATED_ITEMS, Calibration
from fxpress.testing import trace


class Sum(torch.nn.Module):
    def forward(self, x, y=None):
        z = x * 2
        return z if y is None else z + y


@pytest.fixture
def program():
    return trace(Sum(), torch.randn(2, 3), torch.zeros(3))


X, Y = torch.ones(2, 3), torch.ones(3)


def test_tuples_lists_and_dicts_are_calls(program):
    items = list(Calibration([(X, Y), [X, Y], {"x": X, "y": Y}, {"y": Y, "x": X}], program))
    assert len(items) == 4
    assert all(torch.equal(a, X) and torch.equal(b, Y) for a, b in items)


def test_a_tensor_is_the_one_argument():
    assert len(list(Calibration([X], trace(Sum(), X)))) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "calibration must yield at least one item, not none; a used-up iterator yields nothing"),
        (iter([]), "calibration must yield at least one item, not none"),
        ([(X,)], "calibration item 0: argument 'y' is missing"),
        ([(X, Y), (X.T, Y)], "calibration item 1: x must be float32[2, 3], not float32[3, 2]"),
        ([(X.double(), Y)], "calibration item 0: x must be float32[2, 3], not float64[2, 3]"),
        ([(X, Y), (X, Y / 0)], "calibration item 1: y must hold finite numbers, not NaN or infinity"),
        ([(X * math.nan, Y)], "calibration item 0: x must hold finite numbers, not NaN or infinity"),
        ([(X, Y, X)], "calibration item 0: the model must be called with (x, y), not with 3 by position"),
        (["text"], "calibration item 0 must be a tuple (positional arguments), a dict (keyword arguments) or a tensor"),
    ],
)
def test_bad_items(program, data, message):
    with pytest.raises(InvalidInput, match=rf"^{re.escape(message)}"):
        list(Calibration(data, program))


@pytest.mark.parametrize("data", [X, "file.npz", {"x": X}, 3, None])
def test_what_yields_no_items(program, data):
    with pytest.raises(InvalidInput, match=r"^calibration must be an iterable of inputs, not \w+; put a single input"):
        Calibration(data, program)


def test_a_loader_that_ends_early(program):
    message = r"^calibration must yield 3 items, as calibration_items says, but ended after 2$"
    with pytest.raises(InvalidInput, match=message):
        list(Calibration([(X, Y)] * 2, program, count=3))
    with pytest.raises(InvalidInput, match=r"^calibration_items must be a whole number from 1 on, not 0$"):
        Calibration([(X, Y)], program, count=0)


def test_only_as_many_items_as_asked_for_are_taken(program):
    def endless():
        while True:
            yield X, Y

    calibration = Calibration(endless(), program, count=3)
    assert [len(list(calibration)), len(list(calibration))] == [3, 3]


def test_an_iterator_can_be_replayed(program):
    calibration = Calibration(iter([(X, Y), (2 * X, Y)]), program)
    for _ in range(2):
        found = list(calibration.replay(program, ["mul", "add"]))
        assert [float(item["mul"][1].sum()) for item in found] == [12, 24]
        assert [float(item["add"][0][1].sum()) for item in found] == [3, 3]


def test_replay_of_what_is_not_there(program):
    with pytest.raises(InvalidInput, match=r"^replayed nodes must be in the program, but %nothing is not$"):
        list(Calibration([(X, Y)], program).replay(program, ["nothing"]))


def test_ranges(program):
    calibration = Calibration([(X, Y), (-3 * X, Y)], program)
    assert calibration.observe(program, ["mul", "x"]) == ({"mul": (-6, 2), "x": (-3, 1)}, {})


def test_a_value_that_is_not_finite_names_node_and_item():
    program = trace(lambda x: (1 / x).relu(), torch.ones(3))
    calibration = Calibration([torch.ones(3), torch.zeros(3)], program)
    message = r"^%reciprocal.* must be finite to be quantised, but item 1 of the calibration data makes it NaN, infin"
    with pytest.raises(InvalidInput, match=message):
        calibration.observe(program, ["reciprocal"])


def test_progress_counts_items(program):
    stages = []
    Calibration([(X, Y)] * 2, program, progress=stages.append).observe(program, ["mul"])
    assert stages == ["calibration: item 1", "calibration: item 2"]


def observe_with_cache(program, folder, data, **options):
    stages = []
    found = Calibration(data, program, progress=stages.append).observe(program, ["mul"], cache=folder, **options)
    return found, stages


def test_ranges_are_cached_by_content(program, tmp_path):
    folder = tmp_path / "deep" / "cache"
    first, _ = observe_with_cache(program, folder, [(X, Y)])
    again, stages = observe_with_cache(program, folder, [(X.clone(), Y.clone())])
    assert again == first
    assert stages == ["calibration from cache"]
    assert observe_with_cache(program, folder, [(X, Y)], observer="mse")[1] == ["calibration: item 1"]
    assert observe_with_cache(program, folder, [(X + 1, Y)])[1] == ["calibration: item 1"]
    other = trace(lambda x, y: x * 3 + y, X, Y)
    assert observe_with_cache(other, folder, [(X, Y)])[1] == ["calibration: item 1"]
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("content", ["", "{}", '{"values": {"mul": [1]}, "inner": {}}', '{"values": {}, "inner": {}}'])
def test_a_damaged_cache_is_written_anew(program, tmp_path, content, caplog):
    first, _ = observe_with_cache(program, tmp_path, [(X, Y)])
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    with caplog.at_level(logging.WARNING, "fxpress.quantize"):
        found, stages = observe_with_cache(program, tmp_path, [(X, Y)])
    assert found == first
    assert stages == ["calibration: item 1"]
    assert "is written anew" in caplog.text
    assert observe_with_cache(program, tmp_path, [(X, Y)])[1] == ["calibration from cache"]


def test_generated_items_are_like_the_example():
    image, ids = 5 + 2 * torch.randn(1, 3, 32, 32), torch.randint(7, 90, (1, 50))
    program = trace(lambda x, ids, mask: x.sum() + ids.sum() * mask, image, ids, torch.tensor([True, False]))
    items = list(Calibration.generate(program))
    assert len(items) == GENERATED_ITEMS
    assert torch.equal(items[0][0], image)
    for x, numbers, mask in items[1:]:
        assert float(x.mean()) == pytest.approx(5, abs=0.5)
        assert float(x.std()) == pytest.approx(2, abs=0.5)
        assert ids.min() <= numbers.min() <= numbers.max() <= ids.max()
        assert mask.tolist() == [True, False]
    assert not torch.equal(items[1][0], items[2][0])
    assert torch.equal(items[3][0], list(Calibration.generate(program))[3][0])


@pytest.mark.parametrize("count", [0, 2.5, "3"])
def test_a_count_is_a_whole_number(program, count):
    with pytest.raises(InvalidInput, match=r"^calibration_items must be a whole number from 1 on, not "):
        Calibration([], program, count=count)


def test_numbers_too_large_for_a_scale_name_the_node_and_nothing_else():
    program = trace(lambda x: (x * 1e10).relu(), torch.ones(3))
    calibration = Calibration([torch.full((3,), 1e25)], program)
    message = r"^%mul.* must be finite to be quantised, but item 0 .* or larger than 1e\+30; leave .*change the data$"
    with pytest.raises(InvalidInput, match=message):
        calibration.observe(program, ["mul"])


def test_items_without_elements():
    program = trace(lambda x: x.relu(), torch.ones(0, 3))
    with pytest.raises(
        InvalidInput, match=r"^calibration item 0: args\[0\] must have elements, not the shape \[0, 3\]$"
    ):
        list(Calibration([torch.ones(0, 3)], program))


def test_an_example_that_is_not_finite_generates_nothing():
    program = trace(lambda x: x.relu(), torch.full((3,), torch.nan))
    message = (
        r"^the example inputs, which stand for calibration data: args\[0\] must hold finite numbers, not NaN or inf"
    )
    with pytest.raises(InvalidInput, match=message):
        list(Calibration.generate(program))
