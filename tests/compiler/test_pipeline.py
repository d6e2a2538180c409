"""Pipelines as text: they parse, print back, and refuse what they do not know."""

from dataclasses import dataclass
from functools import partial

import pytest
from fxpress import Pass, PassManager, registry
from fxpress.errors import InvalidInput
from fxpress.pipeline import parse_pipeline, print_pipeline


@dataclass(frozen=True, kw_only=True)
class Tune(Pass):
    """A pass with options."""

    name = "tune"
    times: int = 1
    fast: bool = False

    def run(self, program, rw): ...


@dataclass(frozen=True, kw_only=True)
class Measure(Pass):
    """A pass whose options have a float, any type, and no default."""

    name = "measure"
    bound: float = 0.5
    place: str | None = None
    rounds: int

    def run(self, program, rw): ...


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    ours = {"tune": Tune, "tuned": Tune(times=5), "measure": Measure, "no-pass": len}
    entries = registry.entries

    def with_ours(kind):
        return entries(kind) | (
            {n: registry.Entry(n, "tests", partial(ours.get, n)) for n in ours} if kind == "passes" else {}
        )

    monkeypatch.setattr(registry, "entries", with_ours)


@pytest.mark.parametrize("text", ["", "tune", "drop-identity,tune{times=3}", "tune{times=3,fast=true},drop-identity"])
def test_round_trip(text):
    assert print_pipeline(parse_pipeline(text)) == text


def test_named_pipelines_expand():
    manager = PassManager("default{level=1}")
    assert "default" not in str(manager)
    assert str(PassManager(str(manager))) == str(manager)


def test_default_values_are_not_printed():
    assert print_pipeline(parse_pipeline("tune{times=1,fast=false}")) == "tune"


def test_options_of_a_registered_instance():
    assert parse_pipeline("tuned{fast=true}") == [Tune(times=5, fast=True)]
    assert parse_pipeline("tuned") == [Tune(times=5)]


def test_option_values():
    assert parse_pipeline("measure{bound=1,rounds=2,place=here}") == [Measure(bound=1, rounds=2, place="here")]
    assert print_pipeline([Measure(rounds=2, place="Here")]) == "measure{place=Here,rounds=2}"
    assert parse_pipeline("measure{place=none,rounds=0}") == [Measure(rounds=0)]


def test_passes_and_text_mix():
    assert print_pipeline(parse_pipeline([Tune(times=2), "drop-identity"])) == "tune{times=2},drop-identity"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "drop-identiy",
            r"^name must be among the registered pipelines and passes, not 'drop-identiy'; did you mean drop-identity",
        ),
        ("defualt", r"^name must be among the registered pipelines and passes, not 'defualt'; did you mean default\?$"),
        ("fold-batchnorm", r"not 'fold-batchnorm'; did you mean fold-batch-norm\?$"),
        ("tun", r"not 'tun'; did you mean tune or tuned\?$"),
        ("zzz", r"^name must be among the registered pipelines and passes, not 'zzz'; known are .*default, .*tune"),
        ("no-pass", r"^pass no-pass must be a Pass or a class of Passes, not builtin_function_or_method$"),
        ("tune{speed=1}", r"^pass tune option must be one of \['fast', 'times'\], not 'speed'"),
        ("tune{fast=3}", r"^pass tune option fast must be bool, not 3"),
        ("tune{times=often}", r"^pass tune option times must be int, not 'often'$"),
        ("tune{times=1.5}", r"^pass tune option times must be int, not 1\.5$"),
        ("measure{bound=x,rounds=1}", r"^pass measure option bound must be float, not 'x'$"),
        ("measure", r"^pass measure must be given the option rounds: measure\{rounds=\.\.\.\}$"),
        ("tune{times}", r"^pass option must look like name=value, not 'times'"),
        ("drop-identity{x=1}", r"^pass drop-identity must be given no options, not \['x'\]"),
        ("tune,,tune", r"^pipeline must look like 'a-pass,another\{option=1\}', not 'tune,,tune'"),
        ("default{height=2}", r"^pipeline default does not take these options"),
    ],
)
def test_errors(text, message):
    with pytest.raises(InvalidInput, match=message):
        parse_pipeline(text)
