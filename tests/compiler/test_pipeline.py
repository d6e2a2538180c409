"""Pipelines as text: they parse, print back, and refuse what they do not know."""

from dataclasses import dataclass

import pytest
from fxpress import Pass, PassManager
from fxpress.errors import InvalidInput
from fxpress.pipeline import parse_pipeline, print_pipeline


@dataclass(frozen=True, kw_only=True)
class Tune(Pass):
    """A pass with options."""

    name = "tune"
    times: int = 1
    fast: bool = False

    def run(self, program, rw): ...


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    from fxpress import registry

    table = {**registry.entries("passes"), "tune": registry.Entry("tune", "tests", lambda: Tune)}
    monkeypatch.setattr(
        "fxpress.pipeline.lookup",
        lambda kind, name: table[name].load() if kind == "passes" and name in table else registry.lookup(kind, name),
    )


@pytest.mark.parametrize("text", ["", "tune", "drop-identity,tune{times=3}", "tune{times=3,fast=true},drop-identity"])
def test_round_trip(text):
    assert print_pipeline(parse_pipeline(text)) == text


def test_named_pipelines_expand():
    manager = PassManager("default{level=1}")
    assert "default" not in str(manager)
    assert str(PassManager(str(manager))) == str(manager)


def test_default_values_are_not_printed():
    assert print_pipeline(parse_pipeline("tune{times=1,fast=false}")) == "tune"


def test_passes_and_text_mix():
    assert print_pipeline(parse_pipeline([Tune(times=2), "drop-identity"])) == "tune{times=2},drop-identity"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop-identiy", r"^passes must name one that is registered, not 'drop-identiy'; did you mean drop-identity"),
        ("tune{speed=1}", r"^pass tune option must be one of \['fast', 'times'\], not 'speed'"),
        ("tune{fast=3}", r"^pass tune option fast must be bool, not 3"),
        ("tune{times}", r"^pass option must look like name=value, not 'times'"),
        ("drop-identity{x=1}", r"^pass drop-identity must be given no options, not \['x'\]"),
        ("tune,,tune", r"^pipeline must look like 'a-pass,another\{option=1\}', not 'tune,,tune'"),
        ("default{height=2}", r"^pipeline default does not take these options"),
    ],
)
def test_errors(text, message):
    with pytest.raises(InvalidInput, match=message):
        parse_pipeline(text)
