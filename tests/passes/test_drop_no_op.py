"""Identities and no-ops vanish; what only looks like one stays."""

from __future__ import annotations

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace

X = torch.randn(3, 4)
YES, NO = torch.ones(3, 4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)

VANISH = {
    "multiply by one": ("drop-identity", lambda x: x * 1),
    "add zero": ("drop-identity", lambda x: x + 0),
    "first power": ("drop-identity", lambda x: x**1),
    "slice of all": ("drop-no-op", lambda x: x[:, 0:4]),
    "expand to the same": ("drop-no-op", lambda x: x.expand(3, 4)),
    "cast there and back": ("drop-no-op,compose-casts", lambda x: x.double().float()),
    "cat of one": ("drop-single-cat", lambda x: torch.cat([x])),
    "where true": ("drop-decided-where", lambda x: torch.where(YES, x, x.exp())),
    "where false": ("drop-decided-where", lambda x: torch.where(NO, x.exp(), x)),
}


@pytest.mark.parametrize("name", VANISH)
def test_vanishes(name):
    passes, function = VANISH[name]
    assert op_counts(check_pass(passes, trace(function, X))) == {}


STAY = {
    "multiply by two": ("drop-identity", lambda x: x * 2),
    "slice of a part": ("drop-no-op", lambda x: x[:, 0:3]),
    "expand": ("drop-no-op", lambda x: x.expand(2, 3, 4)),
    "cast that rounds": ("drop-no-op,compose-casts", lambda x: x.half().float()),
    "cast to integer": ("drop-no-op,compose-casts", lambda x: x.int().float()),
    "cat of two": ("drop-single-cat", lambda x: torch.cat([x, x])),
    "where undecided": ("drop-decided-where", lambda x: torch.where(YES.triu(), x, -x)),
    "where that broadcasts": ("drop-decided-where", lambda x: torch.where(YES, x[:1], x)),
}


@pytest.mark.parametrize("name", STAY)
def test_stays(name):
    passes, function = STAY[name]
    program = trace(function, X)
    assert check_pass(passes, program).text() == program.text()


def test_integer_keeps_the_cast_that_arithmetic_makes():
    program = trace(lambda x: x / 1, torch.arange(3))
    assert check_pass("drop-identity", program).text() == program.text()


@pytest.mark.parametrize("wide", [torch.float64, torch.int64])
def test_composed_casts(wide):
    program = trace(lambda x: x.to(wide).to(torch.float32), torch.arange(3, dtype=torch.int32))
    counts = op_counts(check_pass("compose-casts", program))
    assert counts == {"_to_copy": 1}


def test_dead_code():
    program = trace(lambda x: x + 1, X)
    one = next(node for node in program.nodes if node.op == "call_function")
    with program.graph.inserting_before(one):
        dead = program.graph.call_function(torch.ops.aten.exp.default, (program.placeholders[0],))
    dead.meta["val"] = one.meta["val"]
    assert op_counts(check_pass("drop-dead-code", program)) == {"add": 1}
