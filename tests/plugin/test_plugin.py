"""Passes, pipelines and backends of other packages: installed for real, found by their entry points."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "fxpress_example_plugin"


def install(name: str, folder: Path) -> Path:
    """Install the plugin under the distribution name `name` to `folder`/site; return that folder."""
    copy, site = folder / name, folder / "site"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace("fxpress-example-plugin", name))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", site, copy], check=True)
    return site


def run(code: str, *sites: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that sees the packages in `sites` besides our own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites))}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("fxpress-example-plugin", tmp_path_factory.mktemp("plugin"))


def test_everything_is_found_and_runs(site: Path) -> None:
    code = """
import torch
from fxpress import PassManager
from fxpress.registry import entries, lookup
from fxpress.testing import check_pass, op_counts, trace

for kind, name in (("passes", "halve-negations"), ("pipelines", "example"), ("backends", "example")):
    print(kind, entries(kind)[name].owner)
program = trace(lambda x: (-(-(-x))).relu(), torch.randn(3))
print(op_counts(check_pass("halve-negations", program)))
print(PassManager("example{clean=false}"), "|", PassManager("example,fold-constants"))
lowered = lookup("backends", "example")().lower(PassManager("example").run(program), None)
print(lowered.text())
"""
    result = run(code, site)
    assert result.stdout.splitlines() == [
        "passes fxpress-example-plugin",
        "pipelines fxpress-example-plugin",
        "backends fxpress-example-plugin",
        "{'neg': 1, 'relu': 1}",
        "halve-negations | halve-negations,drop-dead-code,fold-constants",
        "neg_2 relu",
    ], result.stderr


def test_without_it_the_name_is_unknown() -> None:
    result = run("from fxpress import PassManager; PassManager('halve-negations')")
    expected = r"^fxpress\.errors\.InvalidInput: name must be among the registered .*passes, not 'halve-negations'; "
    assert re.search(expected, result.stderr, re.MULTILINE), result.stderr


def test_a_name_that_two_packages_claim_is_an_error(site: Path, tmp_path: Path) -> None:
    other = install("another-plugin", tmp_path)
    result = run("from fxpress.registry import entries; entries('passes')", site, other)
    expected = (
        r"^fxpress\.errors\.InvalidInput: passes name 'halve-negations' must be unique, but (\S+) and (\S+) both "
        r"define it; uninstall one of them or rename the entry point$"
    )
    match = re.search(expected, result.stderr, re.MULTILINE)
    assert match, result.stderr
    assert set(match.groups()) == {"fxpress-example-plugin", "another-plugin"}


def test_a_name_of_ours_cannot_be_taken(tmp_path: Path) -> None:
    site = tmp_path / "site" / "thief-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: thief\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text("[fxpress.backends]\ntvm = thief:Backend\n")
    result = run("from fxpress.registry import lookup; lookup('backends', 'tvm')", site.parent)
    assert "InvalidInput: backends name 'tvm' must be unique, but fxpress and thief both define it" in result.stderr
