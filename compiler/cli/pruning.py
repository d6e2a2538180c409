"""`fxpress prune`: removes what matters least, writes a Program or an artifact, says what is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import as_program
from ..api import compile as compile_model
from ..program import Program
from ..progress import TerminalProgress
from ..pruning import prune
from .formatting import console, print_first, print_sizes
from .models import LoadedModel
from .quantizing import load_calibration, scopes_of

if TYPE_CHECKING:
    from ..passes.pruning.config import PruneConfig


def prune_to_file(
    loaded: LoadedModel,
    output: Path,
    *,
    config: str,
    calibration: str | None,
    ignore: Sequence[str],
    only: Sequence[str],
    target: str,
    calibration_items: int | None = None,
    sensitivity: Path | None = None,
    **changes: Any,
) -> None:
    """Prune and save: an artifact when `output` ends in .fxp, else the Program. Raises what `prune` raises."""
    from ..passes.pruning.config import config_of

    given = {name: value for name, value in changes.items() if value is not None}
    if "multiple" in given:
        given["multiple"] = _number_or_text(given["multiple"])
    chosen = config_of(_ratio_or_name(config), **given)
    data = None if calibration is None else load_calibration(calibration)
    with TerminalProgress() as progress:
        original = as_program(loaded.model, loaded.args, loaded.kwargs)
        program = prune(
            original, chosen, calibration=data, calibration_items=calibration_items, ignore=scopes_of(ignore),
            only=scopes_of(only), target=target, progress=progress,
        )  # fmt: skip
        if sensitivity is not None:
            progress("sensitivity")
            scopes = (scopes_of(ignore), scopes_of(only))
            _measure(original, program, chosen, data, calibration_items, scopes, sensitivity)
        if output.suffix == ".fxp":
            compile_model(program, target=target, progress=progress).save(output)
        else:
            program.save(output)
    _print_summary(original, program, output)


def _measure(
    original: Program,
    program: Program,
    config: PruneConfig,
    data: Iterable[Any] | None,
    count: int | None,
    scopes: tuple[list[Any], list[Any]],
    page: Path,
) -> None:
    from ..passes.pruning.pruning_sensitivity import measure_sensitivity
    from ..passes.quantization.calibration import Calibration

    items = Calibration.generate(original) if data is None else Calibration(data, original, count=count)
    found = measure_sensitivity(original, config, items, ignore=scopes[0], only=scopes[1])
    found.note(program)
    found.plot(page)
    console().print(found.text(), end="")
    console().print(f"wrote {page}")


def _number_or_text(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _ratio_or_name(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _print_summary(original: Program, program: Program, output: Path) -> None:
    out = console()
    print_sizes(out, original, program, output)
    records = [record for record in program.history if record.name == "remove-units"]
    left = [line for record in records for line in record.rewrites if not line.startswith("%")]
    stays = [reason for record in records for reason in record.skipped]
    for lines, style in ((left, None), (stays, "yellow")):
        print_first(out, lines, style)
