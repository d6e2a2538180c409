"""`fxpress quantize`: reads calibration data, quantises, writes a Program or an artifact, says what came out."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..api import as_program
from ..api import compile as compile_model
from ..errors import InvalidInput
from ..printer import op_name
from ..program import Program
from ..progress import TerminalProgress
from ..quantizing import quantize
from .formatting import console, print_first, print_sizes
from .models import LoadedModel
from .objects import find_object


def quantize_to_file(
    loaded: LoadedModel,
    output: Path,
    *,
    calibration: str | None,
    ignore: Sequence[str],
    only: Sequence[str],
    target: str,
    min_sqnr: float | None = None,
    **options: Any,
) -> None:
    """Quantise and save: an artifact when `output` ends in .fxp, else the Program. Raises what `quantize` raises."""
    from ..passes.quantization.budget import Budget

    data = None if calibration is None else load_calibration(calibration)
    budget = None if min_sqnr is None else Budget(min_sqnr=min_sqnr)
    with TerminalProgress() as progress:
        original = as_program(loaded.model, loaded.args, loaded.kwargs)
        program = quantize(
            original, calibration=data, ignore=scopes_of(ignore), only=scopes_of(only), target=target, budget=budget,
            progress=progress, **options,
        )  # fmt: skip
        if output.suffix == ".fxp":
            compile_model(program, target=target, progress=progress).save(output)
        else:
            program.save(output)
    _print_summary(original, program, output)


def load_calibration(source: str) -> Iterable[Any]:
    """The data that `source` names: an object (called if it is a function) of a Python file or module, or an .npz file.

    An .npz file holds one array an input, named like it, with the items along the first dimension. Raises InvalidInput.
    """
    path = Path(source)
    if path.suffix == ".npz":
        return list(_npz_items(path))
    found = find_object("calibration", source, ("a .npz file",))
    made = found() if callable(found) else found
    if not isinstance(made, Iterable):
        raise InvalidInput(f"{source} must give an iterable of inputs, not {type(made).__name__}")
    return made


def _npz_items(path: Path) -> Iterator[dict[str, torch.Tensor]]:
    try:
        with np.load(path) as arrays:
            columns = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path} must be an .npz file of arrays of numbers: {error}") from error
    lengths = {name: len(column) if column.dim() else 0 for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidInput(f"the arrays of {path} must have equally many items, not {lengths}")
    for index in range(max(lengths.values(), default=0)):
        yield {name: column[index] for name, column in columns.items()}


def scopes_of(texts: Sequence[str]) -> list[Any]:
    """Scopes as the command line writes them: /a regular expression/ between slashes, all else as it is."""
    return [_pattern(text[1:-1]) if re.fullmatch(r"/.+/", text) else text for text in texts]


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidInput(
            f"what stands between slashes must be a regular expression, not {text!r}: {error}"
        ) from error


def _print_summary(original: Program, program: Program, output: Path) -> None:
    out = console()
    print_sizes(out, original, program, output)
    kinds = [op_name(node.target).split(".")[1] for node in program.nodes if node.op == "call_function"]
    quantized = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds) if _is_quantized(kind)}
    out.print("  quantised ops: " + (", ".join(f"{count} {kind}" for kind, count in quantized.items()) or "none"))
    found, wanted = program.run_flat(*program.example_inputs), original.run_flat(*original.example_inputs)
    for index, (x, y) in enumerate(zip(found, wanted, strict=True)):
        if y.is_floating_point():
            out.print(f"  output {index}: {_signal_to_noise(x, y)} dB signal to noise on the example inputs")
    notes = [note for record in program.history if record.name == "quantize-ops" for note in record.skipped]
    print_first(out, notes, "yellow")


def _is_quantized(kind: str) -> bool:
    return kind.startswith(("quantized", "dynamic", "weight_only", "lookup", "narrow"))


def _signal_to_noise(found: torch.Tensor, wanted: torch.Tensor) -> str:
    signal, noise = wanted.double().square().sum(), (found.double() - wanted.double()).square().sum()
    return f"{float(10 * torch.log10(signal / noise)):.1f}"
