"""What options declare for searches."""

from dataclasses import dataclass, field

import pytest
from fxpress.errors import InvalidInput
from fxpress.search.ranges import Choice, Range, search, space_of


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
