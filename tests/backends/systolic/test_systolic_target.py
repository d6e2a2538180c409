"""Systolic targets parse, print back, and say which option is wrong."""

from __future__ import annotations

import pytest
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.target import SystolicTarget
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "architecture"),
    [
        ("systolic", Architecture()),
        ("systolic{rows=4,cols=8,dataflow=os}", Architecture(rows=4, columns=8, dataflow="os")),
        ("systolic{preset=edge}", Architecture.parse("preset=edge")),
        (" systolic { preset=edge , dram_latency=7 } ", Architecture.parse("preset=edge,dram_latency=7")),
    ],
)
def test_text_parses_and_prints_back(text: str, architecture: Architecture) -> None:
    target = Target.parse(text)
    assert target == SystolicTarget(architecture)
    assert Target.parse(str(target)) == target
    assert (target.kind, target.backend) == ("systolic", "systolic")


@given(st.integers(1, 7), st.integers(0, 3), st.sampled_from(["os", "ws", "both"]), st.integers(1, 500))
def test_any_architecture_prints_back(columns: int, fewer: int, dataflow: str, latency: int) -> None:
    rows = max(2, 2**columns >> fewer)
    target = SystolicTarget(Architecture(rows=rows, columns=2**columns, dataflow=dataflow, dram_latency=latency))
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("systolic{rows=0}", r"^systolic option rows must be a positive integer, not 0$"),
        ("systolic{rows=6}", r"^systolic option rows must be a power of two, not 6$"),
        ("systolic{rows=-4}", r"^systolic option rows must be a positive integer, not '-4'$"),
        ("systolic{dataflow=diagonal}", r"^systolic option dataflow must be one of .*, not 'diagonal'$"),
        ("systolic{preset=huge}", r"^systolic option preset must be one of .*, not 'huge'$"),
        ("systolic{lanes=4}", r"^systolic option must be one of .*, not 'lanes'$"),
        ("systolic{cols=8,cols=4}", r"^target option cols must be given once, not twice in "),
    ],
)
def test_wrong_options(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Target.parse(text)
