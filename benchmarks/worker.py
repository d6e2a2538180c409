"""Measures one model with all peers, in a process of its own: python worker.py REQUEST.json RESULT.json

A crash or the threads left behind by one model then cannot disturb the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import samples
import torch
from fidelity import fidelity
from fxpress.errors import CompilerError
from judge import Reference, arrays, judge, reference
from measure import interleave
from models import MODELS
from peers import OURS, PEERS, Fxpress, Peer, artifact_sizes
from quantized_files import Calibration
from quantized_peers import QUANTIZED_PEERS

CALIBRATION = 32  # inputs to calibrate with: what a latency needs, quality.py uses more
EVALUATION = 16  # inputs to compare outputs on

Inputs = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]

# What a peer raises when it cannot export, compile or run a model: recorded, as it is a result too.
FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OSError,
    ImportError,
    AssertionError,
    CompilerError,
)


def peak_memory() -> int:
    """The most bytes resident so far in this process plus, of its finished children, in the largest."""
    scopes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(scope).ru_maxrss * 1024 for scope in scopes)


def prepare(peer: Peer, model: Inputs, threads: int) -> dict[str, Any]:
    """Makes the peer ready; what that took, or why it failed."""
    reason = peer.available()
    if reason is not None:
        return {"failed": reason}
    start = time.perf_counter()
    try:
        module, args, kwargs = model
        peer.prepare(module, args, kwargs, threads)
        peer.call()
    except FAILURES as error:
        return {"failed": f"{type(error).__name__}: {str(error).strip()[:400]}"}
    entry: dict[str, Any] = {"prepare": time.perf_counter() - start}
    if isinstance(peer, Fxpress):
        entry["peak_memory"] = peak_memory()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.fxp"
            peer.artifact.save(path)
            entry["artifact"] = artifact_sizes(path)
    return entry


@contextlib.contextmanager
def holding(lock: str | None, operation: int) -> Iterator[None]:
    """Holds a lock file, if one is given: shared by work that only disturbs a measurement, alone to measure."""
    if lock is None:
        yield
        return
    with open(lock, "a") as file:
        fcntl.flock(file, operation)
        yield


def make(name: str, peer_names: list[str], dtype: str) -> dict[str, Peer]:
    """The peers, ours first, so that its memory is its own; those with 8-bit integers with inputs for calibration."""
    order = sorted(peer_names, key=lambda key: key != OURS)
    if dtype == "f32":
        return {key: PEERS[key]() for key in order}
    calibration = Calibration(samples.inputs(MODELS[name], "calibration", CALIBRATION), MODELS[name].kind)
    return {key: QUANTIZED_PEERS[key](calibration) for key in order}


def verdicts(name: str, model: Inputs, peers: dict[str, Any], expected: Reference, dtype: str) -> dict[str, Any]:
    """What is said of each peer's outputs: errors, why they are wrong if so, and with int8 the fidelity to float32."""
    judged = {key: judge(peer.outputs(), expected) for key, peer in peers.items()}
    if dtype == "f32":
        return {key: {"errors": verdict.errors, "wrong": verdict.reason} for key, verdict in judged.items()}
    cases = samples.inputs(MODELS[name], "evaluation", EVALUATION)
    with torch.inference_mode():
        singles = [arrays(model[0](*case))[0] for case in cases]
    found: dict[str, Any] = {}
    for key, peer in peers.items():
        outputs = [peer.run(case)[0] for case in cases]
        try:
            near = fidelity(outputs, singles)
        except ValueError as error:
            found[key] = {"wrong": str(error)}
        else:
            found[key] = {"wrong": near.reason, "fidelity": asdict(near)}
    return {key: {"errors": judged[key].errors, **entry} for key, entry in found.items()}


def measure(
    name: str, peer_names: list[str], dtype: str, threads: int, rounds: int, lock: str | None
) -> dict[str, Any]:
    """The `models` entry of the results for one model."""
    torch.set_num_threads(threads)
    with holding(lock, fcntl.LOCK_SH):
        peers = make(name, peer_names, dtype)
        model = MODELS[name].build()
        entries = {key: prepare(peer, model, threads) for key, peer in peers.items()}
        expected = reference(*model)
    running = {key: peer for key, peer in peers.items() if "failed" not in entries[key]}
    for key, verdict in verdicts(name, model, running, expected, dtype).items():
        entries[key] |= verdict
    calls = {key: peer.call for key, peer in running.items()}
    with holding(lock, fcntl.LOCK_EX):
        found = interleave(calls, rounds=rounds, threads=threads) if calls else None
    for key, latency in (found.latencies if found else {}).items():
        entries[key] |= asdict(latency)
    return {
        "suite": MODELS[name].suite,
        "reference_errors": expected.errors,
        "rounds": found.rounds if found else 0,
        "rejected": found.rejected if found else 0,
        "noisy": found.noisy if found else (),
        "peers": {key: entries[key] for key in peer_names},
    }


def main() -> None:
    request, result = map(Path, sys.argv[1:])
    Path(result).write_text(json.dumps(measure(**json.loads(request.read_text()))))


if __name__ == "__main__":
    main()
