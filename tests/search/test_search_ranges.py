"""What options declare for searches."""

from dataclasses import dataclass, field, is_dataclass

import pytest
from fxpress.errors import InvalidInput
from fxpress.learn.config import TECHNIQUES, TrainConfig
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.quantization.budget import Budget
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.registry import entries, lookup
from fxpress.search.ranges import Choice, Range, defaults_of, not_searched, search, space_of, undeclared


def test_values_are_in_their_range():
    assert 0.5 in Range(0.1, 1.0, log=True)
    assert 1.0 in Range(0.1, 1.0)
    assert 1.1 not in Range(0.1, 1.0)
    assert "a" not in Range(0, 1)
    assert None in Choice((None, 1))
    assert 2 not in Choice((None, 1))
    assert Range(0, 8).is_whole
    assert not Range(0, 8.0).is_whole


def test_spaces_are_of_the_fields_that_declare_one():
    @dataclass
    class Options:
        rate: float = field(default=0.1, metadata=search(Range(0.0, 1.0)))
        name: str = "x"

    assert space_of(Options) == {"rate": Range(0.0, 1.0)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range(2, 1), "range must have low <= high, not 2 and 1$"),
        (lambda: Range(0, 1, log=True), "logarithmic range must have low > 0 and no step, not Range"),
        (lambda: Range(1, 2, log=True, step=0.5), "logarithmic range must have low > 0 and no step, not Range"),
        (lambda: Range(0, 1, step=0), "step of a range must be positive, not 0$"),
        (lambda: Choice(()), "choice must have at least one option$"),
    ],
)
def test_ranges_that_hold_nothing_are_refused(make, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        make()


def test_parts_of_ranges():
    assert Range(1, 100, log=True).narrowed(high=10) == Range(1, 10, log=True)
    assert Choice(("a", "b", "c")).without("b") == Choice(("a", "c"))
    with pytest.raises(InvalidInput, match=r"^part of a range must be in Range.*, not 0$"):
        Range(1, 100).narrowed(low=0)


OPTIONS = [
    *(lookup("passes", name) for name in entries("passes")),
    *(TrainConfig, *TECHNIQUES.values(), PruneConfig, QuantConfig, Budget),
]
CHANGE_THE_MODEL = ("passes.architecture", "passes.growth", "passes.pruning", "passes.quantization")


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: getattr(options, "__name__", None) or options.name)
def test_options_of_what_changes_a_model_say_what_may_be_searched(options):
    if not isinstance(options, type) or not is_dataclass(options):
        return  # a local rule: it has no options
    if "learn" in options.__module__ or any(folder in options.__module__ for folder in CHANGE_THE_MODEL):
        assert undeclared(options) == [], "give the field metadata=search(...) or metadata=not_searched(why)"


def test_what_says_nothing_is_found():
    @dataclass
    class Options:
        rate: float = 0.1
        name: str | None = None
        kept: int = field(default=3, metadata=not_searched("a guard"))
        parts: tuple[int, ...] = ()

    assert undeclared(Options) == ["rate", "name"]
    assert space_of(Options) == {}


@pytest.mark.parametrize("options", [TrainConfig, PruneConfig, QuantConfig, Budget, *TECHNIQUES.values()])
def test_defaults_are_options(options):
    defaults = defaults_of(options)
    for name, values in space_of(options).items():
        if name in defaults and defaults[name] is not None and defaults[name] != 0.0:
            assert defaults[name] in values, name
