"""Load and run compiled models with numpy, apache-tvm-ffi and TVM's runtime library: no PyTorch, no compiler."""

from __future__ import annotations

import hmac
import importlib
import os
from pathlib import Path

from ..errors import BackendUnavailable, InvalidArtifact, InvalidInput
from .artifact import Artifact
from .container import Container
from .samples import SelfTest
from .structure import Outputs, TensorSpec
from .threads import thread_count

__all__ = ["Artifact", "Outputs", "SelfTest", "TensorSpec", "load"]


def load(
    path: str | os.PathLike[str],
    *,
    num_threads: int | None = None,
    verify: str = "code",
    expected_digest: str | None = None,
) -> Artifact:
    """Load an artifact.

    `num_threads` defaults to the physical cores. Code and metadata are always checked against their hashes; constants
    when the artifact is first called, or now with `verify="full"`. `expected_digest` pins the artifact: it must have
    that `digest`. An artifact holds native code: load only what you trust.

    Raises InvalidArtifact for a file that is damaged, hostile, of another version or for another machine,
    BackendUnavailable when a library that it needs is not installed, InvalidInput for wrong arguments.
    """
    if verify not in ("code", "full"):
        raise InvalidInput(f"verify must be 'code' or 'full', not {verify!r}")
    threads = thread_count(num_threads)
    container = Container(Path(path))
    if expected_digest is not None and not hmac.compare_digest(container.digest, expected_digest.lower()):
        raise InvalidArtifact(
            f"artifact {os.fspath(path)!r} must have the digest {expected_digest}, not {container.digest}; "
            "it is not the file that was pinned"
        )
    if verify == "full":
        container.verify_constants()
    return _class_of(container)(container, threads)


_DEVICES = {
    "cuda": f"{__name__}.cuda.artifact:CudaArtifact",
    "systolic": "fxpress.backends.systolic.artifact:SystolicArtifact",
}
"""Artifacts that run on more than the CPU, by the kind of their target: where their class is."""


def _class_of(container: Container) -> type[Artifact]:
    kind = str(container.manifest.get("target")).partition("{")[0]
    if kind not in _DEVICES:
        return Artifact
    module, _, name = _DEVICES[kind].partition(":")
    try:
        made: type[Artifact] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise BackendUnavailable(
            f"this artifact was compiled for a {kind} target, whose simulator is not in fxpress-runtime: "
            f"install fxpress to run it ({error})"
        ) from error
    return made
