"""How long kernels take: measured in a process of its own where the target is this machine, else predicted."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from .cpu import CpuTarget, cpu_name, host_options
from .errors import CompilerError, InvalidInput
from .machine import this_machine
from .progress import Progress
from .runtime.container import replaced_file

How = Literal["measured", "predicted"]

SECONDS = 3.0  # spent on running kernels
FEWEST_A_LIBRARY = 8  # kernels for which it pays to generate code in a thread of its own
TIME_LIMIT = 120  # seconds after which a worker is given up
CLOCK = 2.5e9  # Hz that the prediction takes a core to run at
EFFICIENCY = 0.6  # part of its peak that the prediction takes a kernel to reach
CACHED_BYTES, FAR_BYTES = 20e9, 8e9  # bytes a second and core, from caches and from memory
CALL_SECONDS = 2e-6
_log = logging.getLogger("fxpress.kernel_times")


class CrashedKernel(CompilerError):
    """The process that timed kernels ended without an answer."""


@dataclass(frozen=True)
class KernelUse:
    """One kernel call: for which node, and what decides its time. Calls with equal `key` take equally long."""

    node: str
    key: str
    kernel: str
    flops: int
    bytes: int
    integer: bool


@dataclass(frozen=True)
class TimingCode:
    """A library whose function `run(table, begin, end)` makes `calls` calls on `memory` bytes for each table entry."""

    library: bytes
    calls: int
    memory: tuple[int, ...]


class HasKernels(Protocol):
    """A lowered Program that can be timed kernel by kernel, such as a backend's Lowered."""

    def kernel_uses(self) -> list[KernelUse]:
        """The kernel calls of a run, in order."""

    def timing_code(self, keys: Sequence[str]) -> TimingCode:
        """Code that calls kernels of these keys one by one."""


def is_this_machine(target: CpuTarget) -> bool:
    """Whether code for `target` runs here as it would there: the same instructions and cores."""
    here = host_options()
    return all(getattr(target, name) == here[name] for name in ("isa", "extensions", "cores"))


_BOOK: ContextVar[dict[str, float] | None] = ContextVar("_BOOK", default=None)


@contextlib.contextmanager
def written_down(times: dict[str, float]) -> Iterator[None]:
    """Inside, `times` are the measured seconds that any KernelTimes tells, by a hash of the kernel.

    Those that it holds already are told and not measured again; what is measured is added.
    """
    before = _BOOK.set(times)
    try:
        yield
    finally:
        _BOOK.reset(before)


class KernelTimes:
    """Seconds of kernels, each measured once. `cache` is a folder that keeps them for other processes.

    `how` is what a caller gets: "measured" needs a target that is this machine; anything else is "predicted" from
    operations and bytes. A worker that crashes or hangs is logged, and its kernels are predicted from then on.
    """

    def __init__(
        self,
        target: CpuTarget,
        how: How = "measured",
        *,
        cache: Path | None = None,
        progress: Progress | None = None,
        seconds: float = SECONDS,
    ) -> None:
        if how not in ("measured", "predicted"):
            raise InvalidInput(f"how must be 'measured' or 'predicted', not {how!r}")
        self.target = target
        self.how: How = how if is_this_machine(target) else "predicted"
        self._known: dict[str, float] = {}
        self._path = None if cache is None or self.how == "predicted" else cache / f"kernels-{_machine(target)}.json"
        self._progress = progress or (lambda stage: None)
        self._seconds = seconds
        if self._path is not None:
            self._known = _read(self._path)

    def of(self, *programs: HasKernels) -> list[list[tuple[KernelUse, float]]]:
        """For each lowered Program its kernel calls with their seconds, in order."""
        uses = [lowered.kernel_uses() for lowered in programs]
        book = _BOOK.get()
        self._known |= book or {}
        if self.how == "measured":
            try:
                self._measure(programs, uses)
            except CrashedKernel as error:
                _log.warning("kernel times are predicted, not measured: %s", error)
                self.how = "predicted"
        if self.how == "predicted":
            return [[(use, predicted_seconds(use, self.target)) for use in each] for each in uses]
        if book is not None:
            book |= {key: self._known[key] for key in (self._hash(use.key) for each in uses for use in each)}
        return [[(use, self._known[self._hash(use.key)]) for use in each] for each in uses]

    def _measure(self, programs: Sequence[HasKernels], uses: Sequence[Sequence[KernelUse]]) -> None:
        jobs: list[tuple[HasKernels, list[str]]] = []
        seen = set(self._known)
        for lowered, each in zip(programs, uses, strict=True):
            missing = [key for key in dict.fromkeys(use.key for use in each) if self._hash(key) not in seen]
            seen.update(map(self._hash, missing))
            parts = min(self.target.cores, -(-len(missing) // FEWEST_A_LIBRARY))
            jobs += [(lowered, missing[start::parts]) for start in range(parts)]
        if not jobs:
            return
        self._progress(f"code of {sum(len(keys) for _, keys in jobs)} kernels to be measured")
        with ThreadPoolExecutor(self.target.cores) as pool:
            codes = list(pool.map(lambda job: job[0].timing_code(job[1]), jobs))
        self._progress("measuring kernels")
        with this_machine().alone():
            times = _run_worker(codes, self.target.cores, self._seconds)
        for (_, keys), seconds in zip(jobs, times, strict=True):
            self._known |= {self._hash(key): value for key, value in zip(keys, seconds, strict=True)}
        if self._path is not None:
            _write(self._path, _read(self._path) | self._known)

    @staticmethod
    def _hash(key: str) -> str:
        return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def predicted_seconds(use: KernelUse, target: CpuTarget) -> float:
    """What a simple model says: the slower of arithmetic at 0.6 of the peak and memory traffic, and a call's cost."""
    products = 2.0 * target.vector.lanes * 2  # two vectors of multiply-adds a cycle
    if use.integer:
        products *= 4 if target.has("vnni") or target.has("avxvnni") else 2
    arithmetic = use.flops / (products * CLOCK * target.cores * EFFICIENCY)
    cached = use.bytes <= target.l2 * target.cores
    traffic = use.bytes / ((CACHED_BYTES if cached else FAR_BYTES) * target.cores)
    return CALL_SECONDS + max(arithmetic, traffic)


def _run_worker(codes: Sequence[TimingCode], threads: int, seconds: float) -> list[list[float]]:
    with tempfile.TemporaryDirectory(prefix="fxpress-") as folder:
        libraries = []
        for number, code in enumerate(codes):
            path = Path(folder) / f"{number}.so"
            path.write_bytes(code.library)
            libraries.append({"path": str(path), "calls": code.calls})
        memory = [max(sizes) for sizes in zip(*(code.memory for code in codes), strict=True)]
        job = Path(folder) / "job.json"
        job.write_text(json.dumps({"libraries": libraries, "memory": memory, "threads": threads, "seconds": seconds}))
        command = [sys.executable, "-m", "fxpress.runtime.kernel_timing", str(job)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise CrashedKernel(f"timing kernels must end within {TIME_LIMIT} s, but did not") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CrashedKernel(f"the process that times kernels must end well, not with status {done.returncode}: {last}")
    found: list[list[float]] = json.loads(done.stdout)
    return found


def _machine(target: CpuTarget) -> str:
    """A hash of what kernel times depend on besides the kernel: CPU, threads, and the code of the backend."""
    sha = hashlib.sha256(f"{target} {cpu_name()} {platform.machine()}".encode())
    backends = importlib.util.find_spec(".backends", __package__)
    for folder in (backends and backends.submodule_search_locations) or ():
        for file in sorted(Path(folder).rglob("*.py")):
            sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


def _read(path: Path) -> dict[str, float]:
    """The times in a file; none when it is missing or not what `_write` writes, which is logged."""
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s holds no kernel times and is written anew: %r", path, error)
        return {}


def _write(path: Path, times: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(json.dumps(times).encode())
