"""The small wheel: installed alone, it runs an artifact."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 25 << 20  # bytes installed besides numpy


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that building leaves nothing in the checkout."""
    for name in ("compiler", "packaging"):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "build")
        )
    shutil.copy(ROOT / "LICENSE", folder)
    output = folder / "wheels"
    output.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(output)!r})"
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "packaging" / "fxpress-runtime", capture_output=True, check=True
    )
    (wheel,) = output.glob("*.whl")
    return wheel


def installed_bytes(site: Path) -> dict[str, int]:
    """Bytes on disk of each top-level entry of a site-packages folder."""
    return {
        entry.name: sum(path.stat().st_size for path in [entry, *entry.rglob("*")] if path.is_file())
        for entry in site.iterdir()
    }


@pytest.mark.slow
def test_runtime_wheel_runs_an_artifact_in_a_fresh_environment(toy: Any, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    site = next(environment.glob("lib/*/site-packages"))
    before = set(installed_bytes(site))
    wheel = build_wheel(tmp_path)
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", wheel]
    subprocess.run(pip, capture_output=True, text=True, check=True)
    code = (
        "import sys, fxpress.runtime\n"
        "print(fxpress.runtime.load(sys.argv[1], verify='full').self_test().passed, fxpress.__file__)"
    )
    result = subprocess.run([python, "-c", code, toy.path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout == f"True {site / 'fxpress' / '__init__.py'}\n", result.stderr
    sizes = {name: size for name, size in installed_bytes(site).items() if name not in before}
    print({name: f"{size / 2**20:.1f} MB" for name, size in sorted(sizes.items())})
    assert sum(size for name, size in sizes.items() if not name.startswith("numpy")) < LIMIT
