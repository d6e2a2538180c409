"""Compiles kernels in a process of its own: a code generator that crashes takes that process down and not the compiler.

`python -m fxpress.backends.cuda.worker FOLDER` reads kernels from `job.pickle` in the folder, which our own process has
just written, and writes `kernels.cu`, `kernels.fatbin` and `usage.json`.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import InternalError
from .architectures import ARCHITECTURES, Architecture
from .kernels.base import CudaKernel
from .nvcc import Usage, compile_source, find_nvcc

_TIMEOUT = 3600  # seconds after which a compilation is given up


@dataclass(frozen=True)
class Compiled:
    """Kernels as C++ and as machine code for several architectures, and what each function uses on each of them."""

    source: str
    fatbin: bytes
    usages: tuple[Usage, ...]


def compile_kernels(kernels: Mapping[str, CudaKernel], architectures: Sequence[Architecture]) -> Compiled:
    """Compile kernels to functions named by their keys.

    Raises BackendUnavailable without nvcc, InternalError when the code generator or nvcc fails.
    """
    find_nvcc()
    with tempfile.TemporaryDirectory(prefix="fxpress-") as folder:
        job = dict(kernels), [each.name for each in architectures]
        (Path(folder) / "job.pickle").write_bytes(pickle.dumps(job))
        command = [sys.executable, "-m", "fxpress.backends.cuda.worker", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise InternalError(
                f"the process that compiles kernels must end well, not with status {done.returncode}: {last}; "
                "please report this with the model"
            )
        usages = json.loads((Path(folder) / "usage.json").read_text())
        return Compiled(
            (Path(folder) / "kernels.cu").read_text(),
            (Path(folder) / "kernels.fatbin").read_bytes(),
            tuple(Usage(**each) for each in usages),
        )


def main(folder: Path) -> None:
    """Do the job that lies in the folder."""
    from .codegen import cuda_source, device_module

    kernels, names = pickle.loads((folder / "job.pickle").read_bytes())
    architectures = [ARCHITECTURES[name] for name in names]
    source = cuda_source(device_module(kernels, architectures[0]))
    (folder / "kernels.cu").write_text(source)
    fatbin, usages = compile_source(source, architectures)
    (folder / "kernels.fatbin").write_bytes(fatbin)
    (folder / "usage.json").write_text(json.dumps([asdict(each) for each in usages]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
