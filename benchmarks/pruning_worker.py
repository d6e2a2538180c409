"""Measures a model against pruned ones, in a process of its own: python pruning_worker.py REQUEST.json RESULT.json"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fxpress
import torch
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.steps import removable_groups
from measure import interleave
from models import MODELS
from worker import FAILURES, holding

WHOLE = "unpruned"


def made(program: fxpress.Program, threads: int) -> tuple[Any, dict[str, Any]]:
    """An artifact, which has tested itself, and what it is: seconds to make, operations, bytes of constants."""
    start = time.perf_counter()
    artifact = fxpress.compile(program, num_threads=threads, verify="ends")
    layers = artifact.manifest["layers"]
    return artifact, {
        "prepare": time.perf_counter() - start,
        "flops": sum(layer["flops"] for layer in layers),
        "constants": artifact.manifest["memory"]["constants"],
    }


def pruned(program: fxpress.Program, config: PruneConfig, cache: Path) -> tuple[fxpress.Program, dict[str, Any]]:
    """The pruned Program, the share of all units that are left, and what pruning says of its budget."""
    start = time.perf_counter()
    small = fxpress.prune(program, config, verify="ends", cache=cache)
    before, after = (sum(group.size for group in removable_groups(each).removable) for each in (program, small))
    entry: dict[str, Any] = {"prune": time.perf_counter() - start, "left": after / before}
    if config.budget is not None:
        kind = config.budget.partition("=")[0]
        (entry["promise"],) = (x for x in small.history[-1].rewrites if x.startswith(f"{kind}: "))
    return small, entry


def measure(
    name: str, configs: dict[str, dict[str, Any]], threads: int, rounds: int, lock: str | None, cache: str
) -> dict[str, Any]:
    """The `models` entry of the results for one model; `configs` are options of PruneConfig by variant."""
    torch.set_num_threads(threads)
    shared, alone = fcntl.LOCK_SH, fcntl.LOCK_EX
    entries: dict[str, dict[str, Any]] = {}
    calls = {}
    with holding(lock, shared):
        model, args, kwargs = MODELS[name].build()
        program = fxpress.capture(model, args, kwargs)
    for variant, options in {WHOLE: {}, **configs}.items():
        with holding(lock, alone if "budget" in options else shared):
            try:
                small, entry = (
                    (program, {}) if variant == WHOLE else pruned(program, PruneConfig(**options), Path(cache))
                )
                artifact, more = made(small, threads)
            except FAILURES as error:
                entries[variant] = {"failed": f"{type(error).__name__}: {str(error).strip()[:400]}"}
                continue
        entries[variant] = entry | more
        calls[variant] = bound(artifact)
    with holding(lock, alone):
        found = interleave(calls, rounds=rounds, threads=threads)
    for variant, latency in found.latencies.items():
        entries[variant] |= asdict(latency)
    return {"rounds": found.rounds, "rejected": found.rejected, "noisy": found.noisy, "variants": entries}


def bound(artifact: Any) -> Any:
    """A call of an artifact on its sample inputs."""
    inputs = artifact.sample_inputs()
    return lambda: artifact.run_flat(*inputs)


def main() -> None:
    request, result = map(Path, sys.argv[1:])
    result.write_text(json.dumps(measure(**json.loads(request.read_text()))))


if __name__ == "__main__":
    main()
