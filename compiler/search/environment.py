"""What a search ran on and with: what its numbers hold for."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from ..cpu import cpu_name

PACKAGES = ("fxpress", "torch", "numpy", "apache-tvm", "optuna", "ray")
"""Whose versions may change what is found."""


def environment() -> dict[str, Any]:
    """This machine and the versions of what computes, as plain data."""
    installed = {name: _version(name) for name in PACKAGES}
    return {
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version()} | {name: x for name, x in installed.items() if x},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
