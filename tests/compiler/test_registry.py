"""Names of passes, pipelines and backends: found without an import, loaded when asked for, clear when they fail.

Plugins here are metadata on a path; tests/plugin installs one, and another that claims the same names.
"""

from __future__ import annotations

import sys

import pytest
from fxpress.backends.base import Backend
from fxpress.errors import BackendUnavailable, InvalidInput
from fxpress.registry import entries, kind_of, lookup


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Put a package `plugin` with these entry points, and a module `plugin_module` with this code, on the path."""

    def write(entry_points: str, code: str = "") -> None:
        info = tmp_path / "plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        (tmp_path / "plugin_module.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        entries.cache_clear()

    yield write
    entries.cache_clear()
    sys.modules.pop("plugin_module", None)


def test_our_backends_load_under_their_names():
    for name, entry in entries("backends").items():
        loaded = entry.load()
        assert issubclass(loaded, Backend)
        assert (loaded.name, entry.owner) == (name, "fxpress")


def test_a_name_is_known_before_its_module_is_imported(plugin):
    plugin("[fxpress.passes]\nhalve = plugin_module:halve\n", "halve = 'the pass'")
    assert entries("passes")["halve"].owner == "plugin"
    assert "plugin_module" not in sys.modules
    assert lookup("passes", "halve") == "the pass"
    assert "plugin_module" in sys.modules


@pytest.mark.parametrize(
    ("code", "value", "cause"),
    [
        ("import no_such_module", "plugin_module:thing", r"No module named 'no_such_module'"),
        ("", "absent_module:thing", r"No module named 'absent_module'"),
        ("", "plugin_module:thing", r"module 'plugin_module' has no attribute 'thing'"),
    ],
    ids=["needs", "module", "attribute"],
)
@pytest.mark.parametrize("kind", ["passes", "pipelines", "targets", "backends", "commands"])
def test_what_cannot_be_imported(plugin, kind, code, value, cause):
    plugin(f"[fxpress.{kind}]\nbroken = {value}\n", code)
    assert "broken" in entries(kind)
    message = (
        rf"^'broken' of plugin, registered in {kind}, must be importable, but: {cause}; "
        r"install what it needs, or uninstall plugin$"
    )
    with pytest.raises(BackendUnavailable, match=message):
        lookup(kind, "broken")


def test_kinds_are_searched_in_order(plugin):
    plugin("[fxpress.passes]\ndefault = plugin_module:default\n")
    assert kind_of("default", "pipelines", "passes") == "pipelines"
    assert kind_of("default", "passes", "pipelines") == "passes"
    assert kind_of("tvm", "passes", "backends") == "backends"


@pytest.mark.parametrize(
    ("kinds", "name", "message"),
    [
        (["backends"], "tmv", r"^name must be among the registered backends, not 'tmv'; did you mean tvm\?$"),
        (["backends"], "gpu", r"^name must be among the registered backends, not 'gpu'; known are .*reference.*tvm"),
        (["pipelines", "backends"], "defualt", r"the registered pipelines and backends, .*; did you mean default\?$"),
        (["backends"], "default", r"^name must be among the registered backends, not 'default'"),
    ],
)
def test_unknown_names(kinds, name, message):
    with pytest.raises(InvalidInput, match=message):
        kind_of(name, *kinds)
    with pytest.raises(InvalidInput, match=rf"among the registered {kinds[0]}, not '{name}'"):
        lookup(kinds[0], name)
