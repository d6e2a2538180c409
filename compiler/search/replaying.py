"""`fxpress.search.replay`: the artifact of a point once more, from the recipe that the point has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..api import as_program, compile
from ..errors import InvalidInput
from ..learn.config import TrainConfig
from ..learn.threads import pytorch_threads
from ..program import Program
from ..progress import Progress
from ..runtime import Artifact
from ..target import Target
from .frontier import Point
from .phases import Strategy, Task
from .recipes import FORMAT, Recipe
from .store import Store, run_phases
from .trials import as_target_needs, items_of


def replay(
    recipe: Recipe | Point,
    model: torch.nn.Module | Callable[..., Any] | torch.export.ExportedProgram | Program,
    inputs: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    train: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    learning: TrainConfig | None = None,
    strategy: Strategy | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Make the artifact of a point again: the same, member for member, on the same machine.

    `recipe` is `Point.recipe`, or a Point; the other arguments are those of `fxpress.optimize`, `strategy` where it was
    not one of those with a name. What was measured is taken from the recipe, not measured again.

    Raises InvalidInput naming what is not as it was: of what was given, or of the members of the file.
    """
    from .strategies import strategy_of

    if isinstance(recipe, Point) and not recipe.recipe:
        raise InvalidInput(f"point must have a recipe, but number {recipe.number} was refused: {recipe.refused}")
    recipe = recipe.recipe if isinstance(recipe, Point) else recipe
    if not isinstance(recipe, Mapping) or recipe.get("format") != FORMAT:
        raise InvalidInput(f"recipe must be a Point.recipe of format {FORMAT}, not {recipe!r:.100}")
    stage = progress or (lambda name: None)
    stage("capture")
    program = as_program(model, inputs, kwargs)
    items = items_of(calibration, program)
    task = Task(
        program, Target.parse(recipe["target"]), _not_asked, items, train, loss, learning, seed=recipe["seed"],
        progress=stage,
    )  # fmt: skip
    different = sorted(name for name, digest in recipe["given"].items() if task.digests[name] != digest)
    if different:
        raise InvalidInput(
            f"replay must be given what the recipe rests on, but other are: {', '.join(different)}; a function is told "
            "from another by its source"
        )
    fitted, _ = strategy_of(recipe["strategy"] if strategy is None else strategy).fit(task)
    with tempfile.TemporaryDirectory(prefix="fxpress-replay-") as folder, pytorch_threads(recipe["threads"]):
        store = Store(Path(folder), recipe["measured"])
        program, _, steps = run_phases(fitted, recipe["candidate"], task, store, task.digest())
        artifact = compile(program if steps else as_target_needs(task), target=task.target, progress=stage)
    found = {name: member["sha256"] for name, member in artifact.manifest["members"].items()}
    unequal = sorted(name for name in {*found, *recipe["members"]} if found.get(name) != recipe["members"].get(name))
    if unequal:
        raise InvalidInput(
            f"recipe must be replayed on the machine and with the versions that it was made with (PyTorch "
            f"{recipe['torch']}, here {torch.__version__}), but these members of the artifact are other: "
            f"{', '.join(unequal)}"
        )
    return artifact


def _not_asked(model: Any) -> float:
    raise AssertionError("replaying judges nothing")
