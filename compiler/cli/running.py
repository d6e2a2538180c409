"""`fxpress run` and `fxpress bench`: need no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ..errors import InvalidInput
from ..report.quantities import time_text
from ..report.timing import measure
from ..runtime import Artifact, load
from ..runtime.structure import Structure
from .formatting import console


def run_artifact(path: Path, inputs: Sequence[str], output: Path | None, threads: int | None) -> None:
    """Run an artifact once on `[name=]file.npy` inputs or its samples; print the outputs or write them to a .npz.

    The arrays of the .npz are named by their place in the model's outputs: `output`, `output[0]`, `output.logits`.
    """
    artifact = load(path, num_threads=threads)
    tensors = artifact.run_flat(*_input_tensors(artifact, inputs))
    names = Structure.from_json(artifact.manifest["outputs"]).paths("output")
    outputs = dict(zip(names, tensors, strict=True))
    if output is not None:
        try:
            np.savez(output, **outputs)
        except OSError as error:
            raise InvalidInput(
                f"outputs must go to a file that can be written, not {str(output)!r}: {error}"
            ) from error
    _print_outputs(outputs)


def bench_artifact(path: Path, threads: int | None, seconds: float, *, as_json: bool) -> None:
    """Time calls of an artifact on its samples for `seconds` and print what was found."""
    artifact = load(path, num_threads=threads)
    inputs = artifact.sample_inputs()
    timing = measure(lambda: artifact.run_flat(*inputs), seconds)
    if as_json:
        print(json.dumps({"threads": artifact.num_threads, **timing.to_json()}))
        return
    out = console()
    out.print(time_text(timing.median), style="bold", end=" ")
    out.print(
        f"median of {timing.calls} calls on {artifact.num_threads} threads"
        f"  (10% {time_text(timing.p10)}, 90% {time_text(timing.p90)}, spread {timing.spread:.0%})"
    )


def _input_tensors(artifact: Artifact, inputs: Sequence[str]) -> list[Any]:
    """The arrays of the files, in the order of the artifact's inputs; the samples when no file is given."""
    if not inputs:
        return artifact.sample_inputs()
    names = [spec.name for spec in artifact.inputs]
    given: dict[str, Any] = {}
    for index, text in enumerate(inputs):
        name, equals, file = text.partition("=")
        if not equals:
            if index >= len(names):
                raise InvalidInput(f"inputs must be at most {len(names)}, not {len(inputs)}")
            name, file = names[index], text
        if name not in names:
            raise InvalidInput(f"input must be one of {names}, not {name!r}")
        if name in given:
            raise InvalidInput(f"input {name!r} must be given once, not several times")
        given[name] = _load_array(file)
    missing = [name for name in names if name not in given]
    if missing:
        raise InvalidInput(f"every input must be given; missing: {', '.join(missing)}")
    return [given[name] for name in names]


def _load_array(file: str) -> Any:
    try:
        with open(file, "rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"input must be a .npy file, not {file!r}: {error}") from error


def _print_outputs(outputs: dict[str, Any]) -> None:
    table = Table("output", "dtype", "shape", "min", "mean", "max", "first values", box=None)
    for name, value in outputs.items():
        numbers = np.asarray(value)
        statistics = [f"{f(numbers):.6g}" if numbers.size else "" for f in (np.min, np.mean, np.max)]
        first = " ".join(f"{x:.6g}" for x in numbers.ravel()[:4])
        table.add_row(name, str(numbers.dtype), "x".join(map(str, numbers.shape)), *statistics, first)
    console().print(table)
