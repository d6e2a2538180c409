"""From a lowering for the CPU to an artifact: one compiled module, and what the manifest says about it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...cpu import EXTENSIONS, CpuTarget
from ...kernel_times import KernelUse, TimingCode
from ...target import Target
from .borders import keep_borders, merged
from .kernels.base import Call, run_module
from .kernels.harness import build as compile_module
from .kernels.pointwise import FillFrame
from .lowering import HostCall, Lowering
from .memory import ALIGNMENT, plan
from .planned import PlannedLowered
from .views import Storage, View


@dataclass(frozen=True)
class Attached:
    """What a backend that has TVM compile its host parts adds to the artifact.

    `target` takes the place of the CPU in the manifest, `programs` are the device's, `report` and `text` are added to
    the report.
    """

    target: Target
    programs: tuple[bytes, ...]
    report: Mapping[str, Any]
    text: str


@dataclass
class TvmLowered(PlannedLowered):
    """A Program as calls of kernels for the CPU."""

    lowering: Lowering
    attached: Attached | None = None

    def _place_arena(self) -> None:
        kept = keep_borders(self.lowering.calls, self.lifetimes)
        self.arena_bytes = plan(merged(self.lifetimes, kept))
        if any(lifetime.storage.dtype == "uint8" for lifetime in self.lifetimes):
            self.arena_bytes += ALIGNMENT  # kernels read 8-bit integers in fours, a few bytes beyond the last
        for storage, shared in kept.items():
            storage.offset = shared.offset
        self._leave_out(kept)

    def _leave_out(self, kept: dict[Storage, Storage]) -> None:
        """Drop the calls that fill borders which are kept; a PyTorch call stays in front of the call it was before."""
        calls = self.lowering.calls
        dropped = [isinstance(c.kernel, FillFrame) and c.views[0].storage in kept for c in calls]
        self.kernel_calls = [call for call, drop in zip(calls, dropped, strict=True) if not drop]
        self.host_calls = [replace(h, at=h.at - sum(dropped[: h.at])) for h in self.lowering.host_calls]

    @property
    def calls(self) -> list[Call]:
        """The calls of `run`, with addresses."""
        return [self._call(call) for call in self.kernel_calls]

    def module(self) -> Any:
        """The TVM module before code generation."""
        prepare = [self._call(call) for call in self.lowering.prepare_calls]
        return run_module(self.calls, self.table_size, {"prepare": prepare})

    @property
    def extensions(self) -> frozenset[str]:
        """The target's extensions that some kernel needs."""
        kernels = {call.kernel for call in (*self.lowering.prepare_calls, *self.kernel_calls)}
        return frozenset(extension for kernel in kernels for extension in kernel.extensions())

    @property
    def features(self) -> frozenset[str]:
        """What a machine's CPU must have to run the code, as /proc/cpuinfo spells it."""
        return self.lowering.target.vector.features | {EXTENSIONS[name].flag for name in self.extensions}

    def kernel_uses(self) -> list[KernelUse]:
        from .timing import kernel_uses

        return kernel_uses(self.kernel_calls)

    def timing_code(self, keys: Sequence[str]) -> TimingCode:
        from .timing import timing_code

        return timing_code(self.kernel_calls, keys, self.lowering.target)

    def code(self) -> tuple[bytes, Mapping[str, Any]]:
        library = compile_library(self.module(), self.lowering.target, self.extensions)
        facts: dict[str, Any] = {"features": sorted(self.features)}
        return library, facts if self.attached is None else facts | {"target": str(self.attached.target)}

    def more_report(self) -> Mapping[str, Any]:
        return {} if self.attached is None else self.attached.report

    def report_text(self) -> str:
        return self.text() if self.attached is None else self.attached.text

    def programs(self) -> Sequence[bytes]:
        return () if self.attached is None else self.attached.programs

    def host_call_facts(self) -> list[dict[str, Any]]:
        return [self._host_call(call) for call in self.host_calls]

    def _host_call(self, call: HostCall) -> dict[str, Any]:
        args, kwargs = call.arguments
        namespace, name = call.node.target._schema.name.split("::")
        return {
            "at": call.at,
            "op": f"{namespace}::{name}",
            "overload": call.node.target._overloadname,
            "args": [self._json(x) for x in args],
            "kwargs": {k: self._json(v) for k, v in kwargs.items()},
            "outputs": [self._json(view) for view in call.outputs],
        }

    def _json(self, value: Any) -> Any:
        if isinstance(value, View):
            entry, offset = self._address(value)
            return {
                "view": {
                    "entry": entry, "offset": offset, "shape": list(value.shape),
                    "strides": list(value.strides), "dtype": value.dtype,
                }
            }  # fmt: skip
        for kind in ("dtype", "device", "layout", "memory_format"):
            if isinstance(value, getattr(torch, kind)):
                return {kind: str(value).removeprefix("torch.")}
        if isinstance(value, (list, tuple)):
            return [self._json(x) for x in value]
        return value


def compile_library(module: Any, target: CpuTarget, extensions: Iterable[str]) -> bytes:
    """Generate code for `module` and link it into a shared library; returns the file's content."""
    built = compile_module(module, target, extensions)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.so"
        built.export_library(str(path), options=["-s"])
        return path.read_bytes()
