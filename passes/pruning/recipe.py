"""What was chosen when a model was pruned: saved as JSON, and done again on the original model or on one like it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...api import as_program
from ...errors import InvalidInput
from ...instruments import ReportProgress
from ...pass_manager import PassManager, Verify
from ...program import Program
from ...progress import Progress, TerminalProgress
from ...rewriter import Pass
from ...runtime.container import replaced_file
from ...target import Target
from ..quantization.calibration import Calibration
from .replay import TRAINED, Replay, check_step, needs_data

FORMAT = 1
_log = logging.getLogger("fxpress.prune")


@dataclass(frozen=True)
class Recipe:
    """What `fxpress.prune` chose: `steps` are plain data, one for each pass that had a choice, in order.

    Groups, blocks and weights go by the names that `fxpress.capture` gives nodes, units by their numbers. Weights are
    not part of it: what was fitted to calibration data is fitted anew, and training is done by the caller again.
    """

    steps: tuple[Mapping[str, Any], ...]

    @staticmethod
    def of(program: Program) -> Recipe:
        """What was chosen when `program` was pruned, from its history. Raises InvalidInput when it was not."""
        steps = tuple(record.recipe for record in program.history if record.recipe)
        if not steps:
            raise InvalidInput("program must be the result of fxpress.prune, but nothing was chosen in its history")
        return Recipe(steps)

    def save(self, path: str | Path) -> None:
        """Write the recipe as JSON, whole or not at all."""
        text = json.dumps({"format": FORMAT, "steps": self.steps}, indent=1)
        with replaced_file(path) as file:
            file.write(text.encode())

    @staticmethod
    def load(path: str | Path) -> Recipe:
        """Read what `save` wrote. Raises InvalidInput, which says what is wrong, when the file holds something else."""
        try:
            document = json.loads(Path(path).read_bytes())
        except (ValueError, OSError) as error:
            raise InvalidInput(f"{path} must be a file written by Recipe.save, but: {error}") from error
        match document:
            case {"format": int(found), "steps": list(steps)} if found == FORMAT:
                for step in steps:
                    check_step(step, path)
                return Recipe(tuple(steps))
        raise InvalidInput(f"{path} must be a file written by Recipe.save with format {FORMAT}, but it is not")

    @property
    def needs_data(self) -> bool:
        """Whether it has weights that are fitted to calibration data."""
        return any(needs_data(step) for step in self.steps)

    def replay(
        self,
        model: torch.nn.Module | Callable[..., Any] | torch.export.ExportedProgram | Program,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        calibration: Iterable[Any] | None = None,
        calibration_items: int | None = None,
        target: str | Target = "cpu",
        recover: Callable[[Program, int], Program] | None = None,
        verify: Verify = "each",
        progress: Progress | None = None,
    ) -> Program:
        """Prune `model` as the recipe says.

        On the original that gives the same Program, bit for bit where no weights were fitted; those are fitted anew,
        which on the same data makes them the same up to rounding.

        `model`, `args` and `kwargs` are as for `fxpress.prune`; the model may have other weights, another batch or
        another resolution than the original. `calibration` is for recipes that fit weights, `recover(program, n)` for
        those with training: it is called where the Program was trained for the nth time.

        Raises InvalidInput where the model does not fit, which names the layer, what is expected and what was found,
        and where data or `recover` are missing.
        """
        if self.needs_data and calibration is None:
            raise InvalidInput("calibration must be given for a recipe that fits weights to it")
        if recover is None and any(step["pass"] == TRAINED for step in self.steps):
            raise InvalidInput(
                "recover must be given for a recipe with training, which it does not hold; "
                "recover=lambda program, n: program goes on without"
            )
        where = Target.parse(target)
        with TerminalProgress() if progress is None else contextlib.nullcontext(progress) as stage:
            stage("capture")

            def run(p: Pass | str, program: Program) -> Program:
                manager = PassManager([p], verify=verify, target=where, instruments=[ReportProgress(stage)])
                return manager.run(program)

            program = run("drop-dead-code", as_program(model, args, kwargs))
            data: Iterable[Any] = ()
            if calibration is not None:
                data = Calibration(calibration, program, count=calibration_items, progress=stage)
            replay = Replay(program, data, run, recover)
            for number, step in enumerate(self.steps):
                stage(f"replay: step {number + 1} of {len(self.steps)}")
                replay.step(step)
            return replay.program
