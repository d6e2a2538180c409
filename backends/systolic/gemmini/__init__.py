"""C for Gemmini: source that calls `gemmini.h` for a Program quantised with "int8-gemmini"."""

from __future__ import annotations

from pathlib import Path

from .emission import emit
from .parameters import Parameters
from .sums import gemmini_sums

HOST_MODEL = Path(__file__).with_name("host_model.h")
"""What the library computes, for any compiler: stands in for `include/gemmini.h` where there is no Gemmini."""

__all__ = ["HOST_MODEL", "Parameters", "emit", "gemmini_sums"]
