"""Random graphs made wider and deeper compute what they did, before passes and after."""

from __future__ import annotations

import random

import pytest
from fxpress.errors import InvalidProgram
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.growth.deepen import Deepen
from fxpress.passes.growth.widen import Widen
from fxpress.program import Program
from fxpress.testing import trace
from hypothesis import given
from test_pruned_random_graphs import PIPELINES, RNGS, random_prunable_model, settings_of

CLOSE = 1e-5
"""In float64 what is left are weights that are split into float32 numbers, and batch norms that undo themselves."""


def check(program: Program, growth: Widen | Deepen) -> bool:
    """Grow and compare; whether anything was grown."""
    grown = PassManager([growth]).run(program)
    wanted = run_float64(program, program.example_inputs)
    for found, expected in zip(run_float64(grown, program.example_inputs), wanted, strict=True):
        error = relative_error(found, expected)
        if not error < CLOSE:
            raise InvalidProgram(f"{growth} changed the numbers by {error:.3g}:\n{program.text()}\n{grown.text()}")
    return grown.history[-1].changed


def check_model(rng: random.Random) -> None:
    model = random_prunable_model(rng)
    program = PassManager(rng.choice(PIPELINES)).run(trace(model, *model.inputs))
    check(program, Widen(rng.choice((1.3, 2.0, 2.5)), rng.choice((0.0, 0.2)), rng.randrange(100)))
    check(program, Deepen(rng.choice(("layer", "block")), rng.choice((1, 2))))


@given(rng=RNGS)
@settings_of(6)
def test_grown_random_graphs_compute_the_same(rng):
    check_model(rng)


@pytest.mark.slow
@given(rng=RNGS)
@settings_of(300)
def test_many_grown_random_graphs_compute_the_same(rng):
    check_model(rng)


def test_random_graphs_have_something_to_grow():
    rng, grown = random.Random(0), 0
    for _ in range(8):
        model = random_prunable_model(rng)
        grown += check(trace(model, *model.inputs), Widen())
    assert grown >= 4
