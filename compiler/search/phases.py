"""What a strategy is made of: phases, each a change of a Program with options that a search may choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
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
from .ranges import Choice, Range, Space

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
    from: augmentation and the like. `teacher` is what they learn from. `cache` is a folder that keeps what is measured.
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
    cache: Path | None = None

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
        if self.train is None or callable(self.train):
            return found | {"train": digest_of(self.train)}
        return found | {"train": Source(self.train, self.seed).digest()}

    def digest(self) -> str:
        """A hash of what Programs rest on: all that is given but how they are judged."""
        return digest_of({name: each for name, each in self.digests.items() if name != "evaluate"})


def _suits_all(phase: Phase, task: Task) -> Phase:
    return phase


@dataclass(frozen=True)
class Phase:
    """One change. `run(program, options, task)` returns the changed Program, of which it makes nothing worse than told.

    `space` is what a search may choose, `defaults` what counts where a candidate says nothing, and `off` the options
    with which nothing happens, which may lie outside the space: then the Program stays as it is and is not looked at.
    `when` says of an option which values of another one it is for: with others it is not chosen, and `run` does not get
    it. `keeps_structure` phases change numbers only, so that time and size are known without them. What comes after one
    that `teaches` learns from its result. `needs` names the data without which the phase is left out: "calibration",
    "train". `suit(phase, task)` returns the phase with what makes sense for the model, or why there is nothing.
    """

    name: str
    run: Callable[[Program, Options, Task], Program]
    space: Space
    off: Options = field(default_factory=dict)
    defaults: Options = field(default_factory=dict)
    when: Mapping[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    keeps_structure: bool = False
    teaches: bool = False
    needs: str = ""
    suit: Callable[[Phase, Task], Phase | str] = _suits_all

    def __post_init__(self) -> None:
        unknown = set(self.off) - set(self.space)
        if unknown:
            raise InvalidInput(f"off of phase {self.name} must name options of its space, not {sorted(unknown)}")

    def options(self, candidate: Candidate) -> dict[str, Any]:
        """Its part of what a strategy is told."""
        prefix = f"{self.name}."
        return {key.removeprefix(prefix): value for key, value in candidate.items() if key.startswith(prefix)}

    def told(self, candidate: Candidate) -> dict[str, Any]:
        """Its part of a complete candidate, without options that are for other values of others."""
        options = self.options(candidate)
        return {name: value for name, value in options.items() if self.asks(name, options)}

    def asks(self, name: str, options: Options) -> bool:
        """Whether an option counts, given those that it depends on."""
        other, values = self.when.get(name, ("", ()))
        return other not in self.space or (options.get(other) in values and self.asks(other, options))

    def default(self, name: str) -> Any:
        """What an option is where a candidate says nothing."""
        values = self.space[name]
        given = self.off.get(name, self.defaults.get(name))
        if given is not None:
            return given
        return values.options[0] if isinstance(values, Choice) else values.low

    def is_off(self, options: Options) -> bool:
        """Whether nothing happens with these options."""
        return bool(self.off) and all(options.get(name, value) == value for name, value in self.off.items())

    def fit(self, task: Task) -> Phase | str:
        """The phase as it suits the task, or why it is left out."""
        return f"needs {self.needs}=" if self.needs and self.needs not in task.gives else self.suit(self, task)

    def without(self, *names: str) -> Phase:
        """The phase without some options."""

        def kept(part: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in part.items() if name not in names}

        when = {name: on for name, on in kept(self.when).items() if on[0] not in names}
        return replace(self, space=kept(self.space), off=kept(self.off), when=when)


@dataclass(frozen=True)
class Strategy:
    """Phases in order, and `first`, candidates to begin with; what those leave out is off.

    `untrained` are those to begin with where nothing is trained: models bear less then.
    """

    name: str
    phases: tuple[Phase, ...]
    first: tuple[Candidate, ...] = ()
    untrained: tuple[Candidate, ...] = ()

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise InvalidInput(f"phases of a strategy must have names of their own, not {names}")

    def fit(self, task: Task) -> tuple[Strategy, tuple[str, ...]]:
        """The strategy without phases that lack data or have nothing to do, and what is left out and why."""
        fitted = {phase.name: phase.fit(task) for phase in self.phases}
        kept = {name: phase for name, phase in fitted.items() if not isinstance(phase, str)}
        notes = tuple(f"{name}: left out, {why}" for name, why in fitted.items() if isinstance(why, str))
        fitting = Strategy(self.name, tuple(kept.values()))
        begin = self.first if "train" in task.gives else self.untrained or self.first
        first = [_suiting(candidate, self.space, fitting.space) for candidate in begin]
        unique = tuple(candidate for n, candidate in enumerate(first) if candidate not in first[:n])
        return replace(fitting, first=unique), notes

    def digest(self) -> str:
        """A hash of its phases: what they do, and what may be chosen."""
        return digest_of([(p.name, p.run, repr(p.space), repr(p.off), repr(p.when)) for p in self.phases])

    @property
    def space(self) -> dict[str, Range | Choice]:
        """What a search may choose, by "phase.option"."""
        return {f"{phase.name}.{name}": values for phase in self.phases for name, values in phase.space.items()}

    def complete(self, candidate: Candidate) -> dict[str, Any]:
        """The candidate with every option: those left out as in `off`, or by default."""
        unknown = set(candidate) - set(self.space)
        if unknown:
            raise InvalidInput(f"candidate must name options of {sorted(self.space)}, not {sorted(unknown)}")
        found = {}
        for phase in self.phases:
            for name, values in phase.space.items():
                key = f"{phase.name}.{name}"
                found[key] = candidate.get(key, phase.default(name))
                if found[key] not in values and found[key] != phase.default(name):
                    raise InvalidInput(f"option {key} must be one of {values}, not {found[key]!r}")
        return found

    def canonical(self, candidate: Candidate) -> dict[str, Any]:
        """The complete candidate with options that change nothing as they are by default: those of phases that are off,
        and those that are for other values of others."""
        complete = self.complete(candidate)
        found: dict[str, Any] = {}
        for phase in self.phases:
            if not phase.is_off(phase.options(complete)):
                found |= {f"{phase.name}.{name}": value for name, value in phase.told(complete).items()}
        return self.complete(found)


def _suiting(candidate: Candidate, before: Space, after: Space) -> Candidate:
    """The candidate of a space that became a smaller one: without options that went, values the nearest."""
    return {
        key: after[key].nearest(value) if key in after and value in before.get(key, ()) else value
        for key, value in candidate.items()
        if key in after or key not in before
    }
