"""Models as ONNX files, exported once and kept in the user's cache directory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves


def cache_directory() -> Path:
    """Where exported and compiled models are kept between runs; deleting it is safe."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxpress-benchmarks"
    root.mkdir(parents=True, exist_ok=True)
    return root


def fingerprint(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *facts: str) -> str:
    """Identifies a model by structure, weights, input shapes and `facts` such as the versions of exporters."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr(module).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().data)
    for leaf in tree_leaves((args, kwargs)):
        digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
    digest.update("\n".join((torch.__version__, *facts)).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def own_errors(tool: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of a tool's own classes into RuntimeError."""
    try:
        yield
    except kinds as error:
        raise RuntimeError(f"{tool} cannot do this: {str(error).strip()}") from None


def onnx_runtime_errors() -> contextlib.AbstractContextManager[None]:
    """`own_errors` of ONNX Runtime."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    return own_errors("ONNX Runtime", *kinds)


EXPORTERS = {"script": False, "export": True}  # by tracing, or through torch.export; the value is `dynamo`


def onnx_files(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], exporters: Sequence[str] = tuple(EXPORTERS)
) -> list[Path]:
    """The model as ONNX files, one from each of PyTorch's two exporters that can export it.

    Neither is better for every model: they differ in how they write GELU, masks and recurrent layers, and so in which
    fusions of a runtime they hit, by up to a factor of two. Fails with the last exporter's error if both fail.
    """
    base = cache_directory() / fingerprint(module, args, kwargs)
    paths, failure = [], None
    for exporter in exporters:
        path = base.with_suffix(f".{exporter}.onnx")
        try:
            if not path.exists():
                _export(module, args, kwargs, path, dynamo=EXPORTERS[exporter])
            paths.append(path)
        except RuntimeError as error:
            failure = error
    if not paths and failure is not None:
        raise failure
    return paths


def _export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path, *, dynamo: bool) -> None:
    """Writes beside `path` and renames, so that an interrupted export leaves no broken file behind."""
    unfinished = path.with_suffix(".unfinished")
    options: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {"opset_version": 17}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, args, str(unfinished), kwargs=kwargs, dynamo=dynamo, **options)
    unfinished.rename(path)
