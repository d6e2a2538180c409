"""fxpress and its peers with 8-bit integers, all calibrated with the same inputs (`quantized_files.Calibration`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from judge import Array, arrays
from onnx_files import EXPORTERS, onnx_files
from peers import OURS, Args, Fxpress, Kwargs, OnnxRuntime, OpenVino, Peer, aligned, missing
from quantized_files import Calibration, onnx_runtime_file, openvino_file, quantized
from results import FLOAT
from torch import nn
from torch.utils._pytree import tree_map


class QuantizedPeer(Peer, Protocol):
    """A peer that is made for a calibration, and that runs other inputs than those it was prepared with.

    A `thorough` one tries every ONNX file and every setting and keeps the quickest; else it takes the plainest.
    """

    def __init__(self, calibration: Calibration, thorough: bool = True) -> None: ...

    def run(self, args: Args) -> list[Array]:
        """The outputs for other inputs of the same shapes."""


class FxpressInt8(Fxpress):
    """What `fxpress.quantize` makes with the preset "int8", compiled; `data_free` does not look at the calibration."""

    profitable = "measure"

    def __init__(
        self, calibration: Calibration, thorough: bool = True, config: str = "int8", data_free: bool = False
    ) -> None:
        self.calibration, self.config, self.data_free = calibration, config, data_free

    def available(self) -> str | None:
        import fxpress

        return None if hasattr(fxpress, "quantize") else "this fxpress has no quantize()"

    def _quantized(self, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        import fxpress

        data = None if self.data_free else list(self.calibration.inputs)
        return fxpress.quantize(
            module, self.config, args=args, kwargs=kwargs, calibration=data, profitable=self.profitable
        )

    def prepare(self, module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> None:
        import fxpress

        program = self._quantized(module, args, kwargs)
        self.artifact = fxpress.compile(program, target="cpu", num_threads=threads)
        self._args, self._kwargs = tree_map(aligned, (args, kwargs))

    def run(self, args: Args) -> list[Array]:
        return arrays(self.artifact(*map(aligned, args)))


class FxpressProgram(FxpressInt8):
    """The quantised Program in PyTorch: the integers that the artifact computes, without compiling.

    Everything that can be is integer, however long it takes here: the same on every machine.
    """

    profitable = "off"

    def prepare(self, module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> None:
        self.program = self._quantized(module, args, kwargs)
        self._args, self._kwargs = args, kwargs

    def call(self) -> object:
        return self.program.run(*self._args, **self._kwargs)

    def run(self, args: Args) -> list[Array]:
        with torch.inference_mode():
            return arrays(self.program.run(*args))


class FxpressFloat(Fxpress):
    """The same model as our float32 artifact: what quantising gains."""

    name = FLOAT

    def __init__(self, calibration: Calibration, thorough: bool = True) -> None:
        pass

    def run(self, args: Args) -> list[Array]:
        return arrays(self.artifact(*map(aligned, args)))


class OpenVinoInt8(OpenVino):
    """NNCF's post-training quantisation in OpenVINO, what stays float in float32 or bfloat16, whichever is quicker."""

    def __init__(self, calibration: Calibration, thorough: bool = True) -> None:
        self.calibration, self.exporters = calibration, _exporters(thorough)
        self.precisions = ("f32", "bf16") if thorough and self._has_bfloat16() else ("f32",)

    def available(self) -> str | None:
        return super().available() or missing("nncf")

    def _has_bfloat16(self) -> bool:
        if self.available() is not None:
            return False
        import openvino

        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def _files(self, module: nn.Module, args: Args, kwargs: Kwargs) -> list[Path]:
        files = onnx_files(module, args, kwargs, self.exporters)
        return quantized({file.name: partial(openvino_file, file, self.calibration) for file in files})


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime's own quantisation: static, and dynamic as well for transformers, whichever is quicker."""

    def __init__(self, calibration: Calibration, thorough: bool = True) -> None:
        self.calibration, self.exporters = calibration, _exporters(thorough)
        recommended = "dynamic" if calibration.kind == "transformer" else "static"
        self.ways = ("static", "dynamic") if thorough and recommended == "dynamic" else (recommended,)

    def _files(self, module: nn.Module, args: Args, kwargs: Kwargs) -> list[Path]:
        pairs = [(file, way) for file in onnx_files(module, args, kwargs, self.exporters) for way in self.ways]
        return quantized(
            {f"{file.name} {way}": partial(onnx_runtime_file, file, self.calibration, way) for file, way in pairs}
        )


def _exporters(thorough: bool) -> tuple[str, ...]:
    return tuple(EXPORTERS) if thorough else tuple(EXPORTERS)[:1]


QUANTIZED_PEERS: dict[str, Any] = {
    OURS: FxpressInt8,
    FLOAT: FxpressFloat,
    OnnxRuntimeInt8.name: OnnxRuntimeInt8,
    OpenVinoInt8.name: OpenVinoInt8,
}
