"""nvcc: finding it, machine code for several architectures in one fat binary, and what each function uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import BackendUnavailable, InternalError
from .architectures import Architecture

_TIMEOUT = 1800  # seconds after which nvcc is given up
# 177: helpers of TVM's header that no kernel calls, and names bound to values that only some of the code reads
_OPTIONS = ("-std=c++17", "-O3", "--diag-suppress=177")


@dataclass(frozen=True)
class Usage:
    """What ptxas reports of a function on an architecture: registers a thread, bytes of static shared memory a block,
    bytes of stack and of spills a thread."""

    function: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spills: int


def find_nvcc() -> Path:
    """Where nvcc is: in CUDA_HOME, on the PATH or in /usr/local/cuda. Raises BackendUnavailable when nowhere."""
    home = os.environ.get("CUDA_HOME")
    found = [str(Path(home) / "bin" / "nvcc")] if home else []
    found += [path for path in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc") if path is not None]
    for path in found:
        if os.access(path, os.X_OK):
            return Path(path)
    raise BackendUnavailable(
        "compiling for CUDA needs nvcc, which is not on the PATH; install NVIDIA's CUDA toolkit (no GPU is needed), "
        "or set CUDA_HOME to where it is"
    )


def compile_source(source: str, architectures: Sequence[Architecture]) -> tuple[bytes, list[Usage]]:
    """A fat binary with machine code for each architecture, PTX for newer ones, and what each function uses.

    Raises BackendUnavailable without nvcc, InternalError with nvcc's message when it does not take the source.
    """
    command = [str(find_nvcc()), *_OPTIONS, "-fatbin", "--resource-usage", "--threads", "2"]
    for each in architectures:
        number = each.name.removeprefix("sm_")
        command += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
    command += ["-gencode", "arch=compute_{0},code=compute_{0}".format(architectures[-1].name.removeprefix("sm_"))]
    with tempfile.TemporaryDirectory(prefix="fxpress-") as folder:
        path, result = Path(folder) / "kernels.cu", Path(folder) / "kernels.fatbin"
        path.write_text(source)
        command += [str(path), "-o", str(result)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        if done.returncode:
            raise InternalError(
                f"nvcc must take the code of our kernels, but said: {_first_errors(done.stderr + done.stdout)}; "
                "please report this with the model"
            )
        return result.read_bytes(), list(usages(done.stderr + done.stdout))


def usages(report: str) -> Iterable[Usage]:
    """Read what `ptxas -v` reported: three lines a function."""
    pattern = re.compile(
        r"Compiling entry function '(?P<function>\w+)' for '(?P<architecture>\w+)'\n"
        r".*\n\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, \d+ bytes spill loads\n"
        r".*Used (?P<registers>\d+) registers(?P<rest>.*)"
    )
    for found in pattern.finditer(report):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        yield Usage(
            found["function"],
            found["architecture"],
            registers=int(found["registers"]),
            shared=int(shared.group(1)) if shared else 0,
            stack=int(found["stack"]),
            spills=int(found["stores"]),
        )


def _first_errors(report: str) -> str:
    lines = [line for line in report.splitlines() if "error" in line]
    return " | ".join(lines[:3]) or report.strip()[:500] or "nothing"
