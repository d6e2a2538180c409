"""Targets of several kinds parse, print back, and say what is wrong with a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
from fxpress import registry
from fxpress.cpu import EXTENSIONS, CpuTarget, host_options
from fxpress.errors import InvalidInput
from fxpress.target import Target


@pytest.mark.parametrize("text", ["cpu", "cpu{isa=avx2}", " cpu { cores=3 , l2=4096 } ", "cpu{}"])
def test_text_parses_and_prints_back(text):
    target = Target.parse(text)
    assert Target.parse(str(target)) == target
    assert Target.parse(target) is target


def test_what_is_not_given_is_this_machines():
    assert Target.parse("cpu") == CpuTarget(**host_options())
    assert (Target.parse("cpu{isa=avx2}").vector.lanes, CpuTarget(isa="avx512").vector.lanes) == (8, 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", r"^target kind must be one of \['cpu'.*\], not 'gpu'$"),
        ("cpu{cores=2,cores=3}", r"^target option cores must be given once, not twice in 'cpu\{cores=2,cores=3\}'$"),
        ("cpu{isa=mmx}", r"^target option isa must be one of \['avx2', 'avx512'\], not 'mmx'$"),
        ("cpu{cores=0}", r"^target option cores must be at least 1, not 0$"),
        ("cpu{cores=two}", r"^target option cores must be a positive integer, not 'two'$"),
        (
            "cpu{speed=1}",
            r"^target option must be one of \['cores', 'extensions', 'isa', 'l1', 'l2', 'l3'\], not 'speed'$",
        ),
        ("cpu{", r"^target must look like 'cpu' or 'cpu\{isa=avx2\}', not 'cpu\{'$"),
    ],
)
def test_wrong_text(text, message):
    with pytest.raises(InvalidInput, match=message):
        Target.parse(text)


def test_extensions_are_read_printed_and_asked_for() -> None:
    target = Target.parse("cpu{isa=avx512,extensions=vnni+bf16,cores=2}")
    assert target.has("vnni")
    assert target.has("bf16")
    assert not target.has("vbmi")
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["cpu{isa=avx512}", "cpu{isa=avx2}", "cpu{isa=avx512,extensions=none}"])
def test_a_named_isa_brings_no_extensions(text: str) -> None:
    assert Target.parse(text).extensions == "none"


@pytest.mark.parametrize("text", ["cpu{extensions=vnni,isa=avx512}", "cpu{isa=avx512,extensions=vnni}"])
def test_extensions_may_stand_on_either_side_of_the_isa(text: str) -> None:
    assert Target.parse(text).extensions == "vnni"


def test_bfloat16_products_are_taken_where_they_are_fast() -> None:
    has = frozenset({"avx512_bf16", "avx512_vnni"})
    assert EXTENSIONS["bf16"].pays(has, "AuthenticAMD")
    assert not EXTENSIONS["bf16"].pays(has, "GenuineIntel")
    assert not EXTENSIONS["bf16"].pays(frozenset(), "AuthenticAMD")
    assert EXTENSIONS["vnni"].pays(has, "GenuineIntel")


def test_an_extension_of_another_isa_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^target option extensions must be 'none' or some of \['avxvnni'\]"):
        Target.parse("cpu{isa=avx2,extensions=vnni}")


@dataclass(frozen=True)
class Abacus(Target):
    """A kind of target as a plugin would bring it."""

    kind: ClassVar[str] = "abacus"
    backend: ClassVar[str] = "beads"
    rods: str = "10"

    def options(self) -> Mapping[str, object]:
        return {"rods": self.rods}

    @classmethod
    def of_options(cls, options: Mapping[str, str]) -> Abacus:
        return cls(**options)


def test_kinds_come_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**registry.entries("targets"), "abacus": registry.Entry("abacus", "plugin", lambda: Abacus)}
    monkeypatch.setattr(registry, "entries", lambda kind: known)
    target = Target.parse("abacus{rods=13}")
    assert target == Abacus("13")
    assert Target.parse(str(target)) == target
    assert Target.parse("cpu{cores=2}").kind == "cpu"
    with pytest.raises(InvalidInput, match=r"^target kind must be one of \['abacus', 'cpu'.*\], not 'sundial'$"):
        Target.parse("sundial")
