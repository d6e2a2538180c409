"""The compiler of the systolic backend: from a quantised Program to programs for the array and for the host."""

from __future__ import annotations

from .array_stage import ArrayStage, LayerReport
from .host_stage import HostStage
from .lowering import CompiledProgram, lower

__all__ = ["ArrayStage", "CompiledProgram", "HostStage", "LayerReport", "lower"]
