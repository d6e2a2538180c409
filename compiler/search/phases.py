"""What a strategy is made of: phases, each a change of a Program with options that a search may choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from .. import __version__
from ..errors import InvalidInput
from ..learn.batches import Source
from ..learn.config import TrainConfig
from ..program import Program
from ..progress import Progress
from ..target import Target
from .digests import digest_of
from .quality import Evaluate
from .ranges import Choice, Range

Options = Mapping[str, Any]
"""What a phase is told, by name."""
Candidate = Mapping[str, Any]
"""What a strategy is told: options by "phase.option"."""
Train = Callable[[torch.nn.Module], torch.nn.Module]
"""A user's own training: takes a module that computes what the model does, and returns it trained."""


@dataclass(frozen=True)
class Task:
    """What is to be made better, and with what.

    `evaluate` says how good a model is. `calibration` are inputs, `train` batches of (inputs, target) or a function
    that trains a module; without them phases that need one are left out. `learning` is what phases that train start
    from: augmentation and the like. `teacher` is what they learn from.
    """

    original: Program
    target: Target
    evaluate: Evaluate
    calibration: Sequence[Any] = ()
    train: Iterable[Any] | Train | None = None
    loss: Callable[[Any, Any], Any] | None = None
    learning: TrainConfig | None = None
    teacher: Program | None = None
    seed: int = 0
    progress: Progress = field(default=lambda stage: None)

    @property
    def gives(self) -> set[str]:
        """Which kinds of data there are, as `Phase.needs` names them."""
        return {
            name
            for name, is_given in (("calibration", self.calibration), ("train", self.train is not None))
            if is_given
        }

    @cached_property
    def digests(self) -> dict[str, str]:
        """A hash of each thing that is given. Raises InvalidInput for batches that cannot be trained on."""
        given = {
            "model": self.original,
            "target": str(self.target),
            "seed": self.seed,
            "calibration": list(self.calibration),
            "evaluate": self.evaluate,
            "loss": self.loss,
            "learning": self.learning,
            "fxpress": __version__,
        }
        found = {name: digest_of(value) for name, value in given.items()}
        by_function = self.train is None or callable(self.train)
        found["train"] = digest_of(self.train) if by_function else Source(self.train, self.seed).digest()
        return found

    def digest(self) -> str:
        """A hash of what Programs rest on: all that is given but how they are judged."""
        return digest_of({name: each for name, each in self.digests.items() if name != "evaluate"})


@dataclass(frozen=True)
class Phase:
    """One change. `run(program, options, task)` returns the changed Program, of which it makes nothing worse than told.

    `space` is what a search may choose, `off` the options with which nothing happens: then the Program stays as it is
    and is not looked at. `keeps_structure` phases change numbers only, so that time and size are known without them.
    What comes after one that `teaches` learns from its result. `needs` names the data without which the phase is left
    out: "calibration", "train".
    """

    name: str
    run: Callable[[Program, Options, Task], Program]
    space: Mapping[str, Range | Choice]
    off: Options = field(default_factory=dict)
    keeps_structure: bool = False
    teaches: bool = False
    needs: str = ""

    def __post_init__(self) -> None:
        unknown = set(self.off) - set(self.space)
        if unknown:
            raise InvalidInput(f"off of phase {self.name} must name options of its space, not {sorted(unknown)}")

    def options(self, candidate: Candidate) -> dict[str, Any]:
        """Its part of what a strategy is told."""
        prefix = f"{self.name}."
        return {key.removeprefix(prefix): value for key, value in candidate.items() if key.startswith(prefix)}

    def is_off(self, options: Options) -> bool:
        """Whether nothing happens with these options."""
        return bool(self.off) and all(options.get(name, value) == value for name, value in self.off.items())


@dataclass(frozen=True)
class Strategy:
    """Phases in order, and `first`, candidates to begin with; what those leave out is off."""

    name: str
    phases: tuple[Phase, ...]
    first: tuple[Candidate, ...] = ()

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise InvalidInput(f"phases of a strategy must have names of their own, not {names}")

    def fit(self, task: Task) -> tuple[Strategy, tuple[str, ...]]:
        """The strategy without phases that lack data, and what was left out and why."""
        kept = tuple(phase for phase in self.phases if not phase.needs or phase.needs in task.gives)
        notes = tuple(f"{phase.name}: left out, needs {phase.needs}=" for phase in self.phases if phase not in kept)
        names = {phase.name for phase in kept}
        first = []
        for candidate in self.first:
            fitting = {key: value for key, value in candidate.items() if key.split(".")[0] in names}
            if fitting not in first:
                first.append(fitting)
        return Strategy(self.name, kept, tuple(first)), notes

    def digest(self) -> str:
        """A hash of its phases: what they do, and what may be chosen."""
        return digest_of([(phase.name, phase.run, repr(phase.space), repr(phase.off)) for phase in self.phases])

    @property
    def space(self) -> dict[str, Range | Choice]:
        """What a search may choose, by "phase.option"."""
        return {f"{phase.name}.{name}": values for phase in self.phases for name, values in phase.space.items()}

    def complete(self, candidate: Candidate) -> dict[str, Any]:
        """The candidate with every option: those left out as in `off`, or the first of their space."""
        unknown = set(candidate) - set(self.space)
        if unknown:
            raise InvalidInput(f"candidate must name options of {sorted(self.space)}, not {sorted(unknown)}")
        found = {}
        for phase in self.phases:
            for name, values in phase.space.items():
                key = f"{phase.name}.{name}"
                lowest = values.options[0] if isinstance(values, Choice) else values.low
                found[key] = candidate.get(key, phase.off.get(name, lowest))
                if found[key] not in values:
                    raise InvalidInput(f"option {key} must be one of {values}, not {found[key]!r}")
        return found
