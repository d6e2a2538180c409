"""CPUs: the instruction sets that kernels are emitted for, what this machine has, and the target that says both."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

from .errors import InvalidInput
from .target import Target

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Crossovers:
    """How much of a weight may be left where its sparse kernel was measured to be as fast as the dense one.

    Measured kernel against kernel on Intel's model 207, with some room for noise; benchmarks/sparse.py says what whole
    artifacts gain. Blocks are of what one step of the kernel reads: one input of so many outputs as a panel has, which
    are several vectors or one, `narrow`.
    """

    blocks: float
    narrow_blocks: float
    winograd_blocks: float  # where the dense kernel is Winograd's, which multiplies less
    masked: float  # of the elements, for a few rows and weights that come from memory
    masked_cached: float  # the same for weights that stay in the second caches
    integer_blocks: float  # of 8-bit integers, four inputs of so many outputs
    integer_masked: float  # of 8-bit integers, for a few rows and a weight that comes from memory


@dataclass(frozen=True)
class Isa:
    """A CPU instruction-set level: what kernels may emit and what a machine must have to run it.

    `lanes` is the number of float32 in one vector register, `registers` the number of vector registers.
    """

    name: str
    lanes: int
    registers: int
    mcpu: str
    features: frozenset[str]  # names as /proc/cpuinfo spells them
    crossovers: Crossovers


_AVX2 = frozenset({"avx", "avx2", "fma", "f16c", "bmi1", "bmi2"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

_AVX2_CROSSOVERS = Crossovers(
    blocks=0.85,
    narrow_blocks=0.7,
    winograd_blocks=0.4,
    masked=0.6,
    masked_cached=0.0,
    integer_blocks=0.75,
    integer_masked=0.0,
)
_AVX512_CROSSOVERS = replace(_AVX2_CROSSOVERS, integer_masked=0.6)

ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("avx2", 8, 16, "x86-64-v3", _AVX2, _AVX2_CROSSOVERS),
        Isa("avx512", 16, 32, "x86-64-v4", _AVX512, _AVX512_CROSSOVERS),
    )
}


@dataclass(frozen=True)
class Extension:
    """Instructions beyond a level that kernels may use where the machine has them; `flag` is as /proc/cpuinfo has it.

    An artifact requires only the extensions that its kernels were emitted with. `vendors` are those whose CPUs are fast
    at it, where not all are: only there is it taken without being asked for.
    """

    name: str
    isa: str
    flag: str
    attribute: str  # as LLVM spells it
    vendors: frozenset[str] | None = None  # as /proc/cpuinfo spells them

    def pays(self, flags: frozenset[str], vendor: str) -> bool:
        """Whether a machine with these CPU features, of this vendor, should use it."""
        return self.flag in flags and (self.vendors is None or vendor in self.vendors)


EXTENSIONS: dict[str, Extension] = {
    extension.name: extension
    for extension in (
        Extension("avxvnni", "avx2", "avx_vnni", "+avxvnni"),  # dot products of four 8-bit integers, 256-bit vectors
        Extension("vnni", "avx512", "avx512_vnni", "+avx512vnni"),  # the same in 512-bit vectors
        Extension("vbmi", "avx512", "avx512vbmi", "+avx512vbmi"),  # permutations of bytes
        Extension("vbmi2", "avx512", "avx512_vbmi2", "+avx512vbmi2"),  # bytes put where a mask has bits
        # Dot products of two bfloat16. Zen 4 does as many of them as float multiply-adds; Intel's cores a quarter (0.74
        # ns against 0.18 ns, model 207), so that floats are twice as fast there.
        Extension("bf16", "avx512", "avx512_bf16", "+avx512bf16", frozenset({"AuthenticAMD"})),
    )
}


@dataclass(frozen=True, kw_only=True)
class CpuTarget(Target):
    """A CPU, such as `cpu{isa=avx2,cores=4}`; what its text does not give is this machine's.

    `extensions` names what the machine has beyond `isa`, joined by "+", or is "none". `cores` are physical cores;
    `l1`, `l2` are bytes of data cache per core, `l3` bytes shared by all cores. A given isa is meant for other
    machines: it has no extensions unless they are given too.
    """

    kind: ClassVar[str] = "cpu"
    backend: ClassVar[str] = "tvm"
    isa: str = "avx2"
    extensions: str = "none"
    cores: int = 1
    l1: int = 32 * KIB
    l2: int = 1024 * KIB
    l3: int = 16 * 1024 * KIB

    def __post_init__(self) -> None:
        if self.isa not in ISAS:
            raise InvalidInput(f"target option isa must be one of {sorted(ISAS)}, not {self.isa!r}")
        known = [extension.name for extension in EXTENSIONS.values() if extension.isa == self.isa]
        for name in self.extensions.split("+"):
            if name not in (*known, "none"):
                raise InvalidInput(
                    f"target option extensions must be 'none' or some of {known} (with isa={self.isa}) joined by '+', "
                    f"not {self.extensions!r}"
                )
        for name in ("cores", "l1", "l2", "l3"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"target option {name} must be at least 1, not {getattr(self, name)}")

    @property
    def vector(self) -> Isa:
        """The instruction-set level that kernels are emitted for."""
        return ISAS[self.isa]

    @property
    def width_step(self) -> int:
        return self.vector.lanes

    def has(self, extension: str) -> bool:
        """Whether kernels may use that extension."""
        return extension in self.extensions.split("+")

    def options(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of_options(cls, options: Mapping[str, str]) -> CpuTarget:
        given: dict[str, object] = dict(host_options())
        known = {f.name for f in fields(cls)}
        if "isa" in options:
            given["extensions"] = "none"
        for name, value in options.items():
            if name not in known:
                raise InvalidInput(f"target option must be one of {sorted(known)}, not {name!r}")
            if name in ("isa", "extensions"):
                given[name] = value
            elif value.isdigit():
                given[name] = int(value)
            else:
                raise InvalidInput(f"target option {name} must be a positive integer, not {value!r}")
        return cls(**given)  # type: ignore[arg-type]


@functools.cache
def host_options() -> dict[str, object]:
    """Describe this machine: the best instruction-set level it has, its physical cores and its caches."""
    flags = cpu_features()
    names = [name for name, isa in ISAS.items() if isa.features <= flags]
    if not names:
        raise InvalidInput(
            "this machine's CPU must have AVX2 and FMA to be a default target; "
            "name another target, for example 'cpu{isa=avx2}', to compile for another machine"
        )
    vendor = cpu_vendor()
    extensions = [name for name, ext in EXTENSIONS.items() if ext.isa == names[-1] and ext.pays(flags, vendor)]
    options: dict[str, object] = {
        "isa": names[-1],
        "extensions": "+".join(extensions) or "none",
        "cores": physical_cores(),
    }
    for level, name in ((1, "l1"), (2, "l2"), (3, "l3")):
        size = _cache_bytes(level)
        if size:
            options[name] = size
    return options


@functools.cache
def cpu_features() -> frozenset[str]:
    """The instruction-set features of this machine's CPU, as /proc/cpuinfo spells them."""
    return frozenset(_cpu_info("flags").split())


def cpu_vendor() -> str:
    """Who made this machine's CPU, such as "GenuineIntel"; empty where that is unknown."""
    return _cpu_info("vendor_id").strip()


def cpu_name() -> str:
    """The model of this machine's CPU, such as "Intel(R) Xeon(R) Gold 6426Y"; what Python knows where it is unknown."""
    return _cpu_info("model name").strip() or platform.processor()


def _cpu_info(name: str) -> str:
    """What /proc/cpuinfo says of the first CPU under this name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    match = re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE)
    return match.group(1) if match else ""


@functools.cache
def physical_cores() -> int:
    """The number of physical cores this process may run on."""
    allowed = os.sched_getaffinity(0)
    seen = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            seen.add(
                ((topology / "physical_package_id").read_text().strip(), (topology / "core_id").read_text().strip())
            )
        except OSError:
            return len(allowed)
    return len(seen)


def _cache_bytes(level: int) -> int:
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if int((index / "level").read_text()) == level and (index / "type").read_text().strip() != "Instruction":
                size = (index / "size").read_text().strip()
                return int(size[:-1]) * KIB if size.endswith("K") else int(size)
        except (OSError, ValueError):
            continue
    return 0
