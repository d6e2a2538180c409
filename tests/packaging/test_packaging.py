"""The package as it is installed: complete, under one name, with its licence."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import fxpress
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"compiler": "fxpress", "passes": "fxpress.passes", "backends": "fxpress.backends"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_on_disk() -> set[str]:
    return {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for folder, name in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }


def test_every_package_is_listed() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk()


def test_every_folder_with_modules_is_a_package() -> None:
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} must have an __init__.py"


def test_versions_agree() -> None:
    assert fxpress.__version__ == PYPROJECT["project"]["version"] == importlib.metadata.version("fxpress")


@pytest.mark.parametrize(("folder", "name"), FOLDERS.items())
def test_raw_import_is_refused(folder: str, name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    expected = rf"^ImportError: import this package as {name}, not as {folder}: a raw import makes a second copy of it$"
    assert re.search(expected, result.stderr, re.MULTILINE), result.stderr


def test_import_is_lazy() -> None:
    code = (
        "import sys, fxpress, fxpress.runtime; print(sorted({'torch', 'tvm', 'tvm_ffi', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "['numpy']\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what a build reads, so that building leaves nothing in the checkout."""
    copy = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(source: Path, hook: str) -> zipfile.ZipFile:
    """Run a build hook of setuptools; return the wheel that it wrote."""
    output = source.parent / hook
    output.mkdir()
    code = f"from setuptools import build_meta; build_meta.{hook}({str(output)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    (wheel,) = output.glob("*.whl")
    return zipfile.ZipFile(wheel)


def test_wheel_is_complete(source: Path) -> None:
    wheel = build(source, "build_wheel")
    names = set(wheel.namelist())
    modules = {
        "/".join([*name.split("."), *path.relative_to(ROOT / folder).parts])
        for folder, name in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert modules == {name for name in names if name.endswith(".py")}
    assert "fxpress/py.typed" in names
    info = f"fxpress-{fxpress.__version__}.dist-info"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"[torch_dynamo_backends]\nfxpress = " in wheel.read(f"{info}/entry_points.txt")


def test_data_files_are_in_the_wheel(source: Path) -> None:
    data = {
        "/".join([*name.split("."), *path.relative_to(ROOT / folder).parts])
        for folder, name in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md", ".so")
    }
    assert data <= set(build(source, "build_wheel").namelist())


def test_editable_install(source: Path) -> None:
    site = source.parent / "site"
    build(source, "build_editable").extractall(site)
    code = (
        f"import site; site.addsitedir({str(site)!r})\n"
        "import importlib.util, fxpress, fxpress.errors\n"
        "for name in ('fxpress', 'fxpress.passes', 'fxpress.backends'):\n"
        "    print(importlib.util.find_spec(name).origin)"
    )
    # without site-packages, so that the installed fxpress is out of the way
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.split() == [str(source / folder / "__init__.py") for folder in FOLDERS], result.stderr
