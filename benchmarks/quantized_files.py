"""Models quantised by the peers' own tools, made once and kept in the user's cache directory."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_files import cache_directory, onnx_runtime_errors, own_errors
from torch import Tensor

# What the tools raise when a model is beyond them, besides their own classes, which derive from Exception alone.
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True)
class Calibration:
    """What every quantiser gets: positional inputs, one tuple a call, and the kind of the model (`models.Model`)."""

    inputs: Sequence[tuple[Tensor, ...]]
    kind: str

    @cached_property
    def arrays(self) -> list[list[NDArray[Any]]]:
        """The inputs as numpy arrays."""
        return [[np.ascontiguousarray(tensor.numpy()) for tensor in args] for args in self.inputs]

    @cached_property
    def digest(self) -> str:
        """Identifies the inputs and the kind."""
        digest = hashlib.blake2b(self.kind.encode(), digest_size=6)
        for args in self.arrays:
            for array in args:
                digest.update(array.data)
        return digest.hexdigest()


def quantized(attempts: Mapping[str, Callable[[], Path]]) -> list[Path]:
    """The files of all attempts that succeed. Raises RuntimeError when none does, with the reason of each, by name."""
    found, failures = [], []
    for name, attempt in attempts.items():
        try:
            found.append(attempt())
        except FAILURES as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error).strip()[:200]}")
    if not found:
        raise RuntimeError("the model cannot be quantised. " + "; ".join(failures))
    return found


def openvino_file(onnx: Path, calibration: Calibration) -> Path:
    """The model quantised by NNCF as its documentation recommends for the kind, in OpenVINO's own format."""
    path = _path(onnx, calibration, ".xml", "nncf", "openvino")
    if not path.exists():
        with _unfinished(path) as made:
            _nncf(onnx, calibration, made / path.name)
    return path


def _nncf(onnx: Path, calibration: Calibration, path: Path) -> None:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    options: dict[str, Any] = {
        "rectified": {},
        "signed": {"preset": nncf.QuantizationPreset.MIXED},
        "transformer": {"model_type": nncf.ModelType.TRANSFORMER},
    }[calibration.kind]
    with own_errors("NNCF", nncf.InternalError, nncf.ValidationError, nncf.UnsupportedModelError):
        source, data = openvino.Core().read_model(onnx), nncf.Dataset(calibration.arrays)
        model = nncf.quantize(source, data, subset_size=len(calibration.inputs), **options)
    openvino.save_model(model, path, compress_to_fp16=False)


def onnx_runtime_file(onnx: Path, calibration: Calibration, way: str) -> Path:
    """The model quantised by ONNX Runtime; `way` is "static" or "dynamic"."""
    path = _path(onnx, calibration, f".{way}.onnx", "onnxruntime")
    if not path.exists():
        with _unfinished(path) as made, onnx_runtime_errors():
            _WAYS[way](onnx, calibration, made / path.name)
    return path


def _static(onnx: Path, calibration: Calibration, path: Path) -> None:
    """QDQ with unsigned activations and one weight scale a channel, after the pre-processing that the docs ask for."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared")
    quant_pre_process(onnx, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        path,
        _reader(prepared, calibration),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


def _dynamic(onnx: Path, calibration: Calibration, path: Path) -> None:
    """Activations quantised as they come, after the fusions of the transformer optimiser."""
    from onnx import TensorProto
    from onnxruntime import quantization
    from onnxruntime.transformers import optimizer

    prepared = path.with_suffix(".prepared")
    optimizer.optimize_model(str(onnx), model_type="bert", opt_level=0).save_model_to_file(str(prepared))
    quantization.quantize_dynamic(
        prepared,
        path,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # of what its own fused ops return
    )


_WAYS = {"static": _static, "dynamic": _dynamic}


def _reader(model: Path, calibration: Calibration) -> Any:
    """The calibration inputs in the form that ONNX Runtime wants: a dictionary by name at a time, then None."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    names = [each.name for each in onnx.load(model, load_external_data=False).graph.input]
    waiting = iter([dict(zip(names, args, strict=True)) for args in calibration.arrays])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(waiting, None)

    return Reader()


def _path(onnx: Path, calibration: Calibration, suffix: str, *packages: str) -> Path:
    """Where what these packages make of an ONNX file is kept."""
    versions = [f"{package}-{importlib.metadata.version(package)}" for package in packages]
    return cache_directory() / f"{onnx.stem}-{calibration.digest}-{'-'.join(versions)}{suffix}"


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A directory to write a file into; what has the name of `path` is moved beside it in the end, `path` last."""
    directory = Path(tempfile.mkdtemp(dir=path.parent, prefix="unfinished-"))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield directory
        made = directory.glob(f"{path.stem}.*")
        for file in sorted(made, key=lambda file: file.name == path.name):
            if file.suffix != ".prepared":
                file.rename(path.with_name(file.name))
    finally:
        shutil.rmtree(directory)
