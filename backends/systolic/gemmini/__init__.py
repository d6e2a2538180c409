"""C for Gemmini: source that calls `gemmini.h` for a Program quantised with "int8-gemmini"."""

from __future__ import annotations

from .emission import emit, host_model
from .parameters import Parameters
from .sums import gemmini_sums, prepare

__all__ = ["Parameters", "emit", "gemmini_sums", "host_model", "prepare"]
