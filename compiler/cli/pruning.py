"""`fxpress prune`: removes what matters least, writes a Program or an artifact, says what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import as_program
from ..api import compile as compile_model
from ..errors import InvalidInput
from ..program import Program
from ..progress import TerminalProgress
from ..pruning import prune
from ..report.pruned import WIDTHS, ZEROS, LayerZeros, final_zeros
from .formatting import console, print_first, print_sizes, zeros_table
from .models import LoadedModel
from .quantizing import load_calibration, scopes_of

if TYPE_CHECKING:
    from ..passes.pruning.config import PruneConfig

DEFAULT = "uniform"
"""The config of the command line when none is given."""


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
    cache: Path | None = None,
    recipe: Path | None = None,
    save_recipe: Path | None = None,
    sensitivity: Path | None = None,
    **changes: Any,
) -> None:
    """Prune and save: an artifact when `output` ends in .fxp, else the Program. Raises what `prune` raises."""
    from ..passes.pruning.config import config_of
    from ..passes.pruning.recipe import Recipe

    given = {name: value for name, value in changes.items() if value is not None}
    if "multiple" in given:
        given["multiple"] = _number_or_text(given["multiple"])
    chosen = config_of(_ratio_or_name(config), **given)
    data = None if calibration is None else load_calibration(calibration)
    with TerminalProgress() as progress:
        original = as_program(loaded.model, loaded.args, loaded.kwargs)
        if recipe is not None:
            options = {"config": config != DEFAULT, "ignore": ignore, "only": only, "sensitivity": sensitivity} | given
            _check_recipe_alone(options)
            program = Recipe.load(recipe).replay(
                original, calibration=data, calibration_items=calibration_items, target=target, progress=progress
            )
        else:
            program = prune(
                original, chosen, calibration=data, calibration_items=calibration_items, ignore=scopes_of(ignore),
                only=scopes_of(only), target=target, cache=cache, progress=progress,
            )  # fmt: skip
        if save_recipe is not None:
            Recipe.of(program).save(save_recipe)
        if sensitivity is not None:
            progress("sensitivity")
            scopes = (scopes_of(ignore), scopes_of(only))
            _measure(original, program, chosen, data, calibration_items, scopes, target, sensitivity)
        if output.suffix == ".fxp":
            compile_model(program, target=target, progress=progress).save(output)
        else:
            program.save(output)
    _print_summary(original, program, output)


def _check_recipe_alone(options: Mapping[str, Any]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise InvalidInput(f"{given[0]} must be left out with recipe, which says all that is chosen")


def _measure(
    original: Program,
    program: Program,
    config: PruneConfig,
    data: Iterable[Any] | None,
    count: int | None,
    scopes: tuple[list[Any], list[Any]],
    target: str,
    page: Path,
) -> None:
    from ..passes.pruning.pruning_sensitivity import measure_sensitivity
    from ..passes.quantization.calibration import Calibration

    items = Calibration.generate(original) if data is None else Calibration(data, original, count=count)
    found = measure_sensitivity(original, config, items, target=target, ignore=scopes[0], only=scopes[1])
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
    records = [record for record in program.history if record.name in (WIDTHS, ZEROS)]
    if zeros := final_zeros(LayerZeros.from_json(row) for x in records if x.name == ZEROS for row in x.decisions):
        out.print(zeros_table(zeros))
    left = [line for x in records if x.name == WIDTHS for line in x.rewrites if not line.startswith("%")]
    stays = [reason for record in records for reason in record.skipped]
    for lines, style in ((left, None), (stays, "yellow")):
        print_first(out, lines, style)
