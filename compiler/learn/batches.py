"""Training data: any iterable of (inputs, target), checked batch by batch and read anew for every epoch."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import InvalidInput
from .randomness import randomness

AGAIN = "an iterator can be read only once; give a list, a DataLoader or another object with __iter__"


@dataclass(frozen=True)
class Batch:
    """What a model is called with, and what it should return.

    `targets` are pairs of a target and its share of the loss; the shares sum to 1. A target of None has no loss.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: tuple[tuple[Any, float], ...]

    @staticmethod
    def of(item: Any, number: int) -> Batch:
        """What item `number` of the data says. Raises InvalidInput where it is no (inputs, target)."""
        if not isinstance(item, tuple | list) or len(item) != 2:
            found = f"{len(item)} things" if isinstance(item, tuple | list) else type(item).__name__
            raise InvalidInput(
                f"batch {number} must be a pair (inputs, target), not {found}; without a target it is (inputs, None)"
            )
        inputs, target = item
        if isinstance(inputs, Tensor):
            return Batch((inputs,), {}, ((target, 1.0),))
        if isinstance(inputs, Mapping):
            return Batch((), dict(inputs), ((target, 1.0),))
        if isinstance(inputs, tuple | list):
            return Batch(tuple(inputs), {}, ((target, 1.0),))
        raise InvalidInput(
            f"inputs of batch {number} must be a tuple (positional arguments), a dict (keyword arguments) or a tensor, "
            f"not {type(inputs).__name__}"
        )

    @property
    def tensors(self) -> dict[int | str, Tensor]:
        """The inputs that are tensors, by position or name."""
        named: list[tuple[int | str, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        return {name: x for name, x in named if isinstance(x, Tensor)}

    def with_tensors(self, changed: Mapping[int | str, Tensor]) -> Batch:
        """The batch with other tensors for some inputs."""
        args = tuple(changed.get(i, x) for i, x in enumerate(self.args))
        return Batch(args, {name: changed.get(name, x) for name, x in self.kwargs.items()}, self.targets)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(*_to((self.args, self.kwargs, self.targets), device))

    def call(self, model: Callable[..., Any]) -> Any:
        """What the model returns for the inputs."""
        return model(*self.args, **self.kwargs)

    def digest(self) -> str:
        """A hash of all tensors and numbers."""
        sha = hashlib.sha256()
        for x in tree_leaves((self.args, dict(self.kwargs), self.targets)):
            if isinstance(x, Tensor):
                sha.update(f"{x.dtype}{tuple(x.shape)}".encode())
                sha.update(bytes_of(x))
            elif isinstance(x, bool | int | float | str):
                sha.update(repr(x).encode())
        return sha.hexdigest()


Use = Callable[[Batch], None]


def bytes_of(x: Tensor) -> bytes:
    """The tensor's numbers as they lie in memory, row by row."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _to(values: Any, device: torch.device) -> Any:
    return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, values)


class Source:
    """The batches of a training. Shuffling that draws global random numbers draws those of `seed` and the epoch."""

    def __init__(self, batches: Iterable[Any], seed: int) -> None:
        if isinstance(batches, Tensor | str | Mapping) or not isinstance(batches, Iterable):
            raise InvalidInput(f"batches must be an iterable of (inputs, target), not {type(batches).__name__}")
        with unread(batches), randomness(seed, "check"):
            is_iterator = iter(batches) is batches
        if is_iterator:
            raise InvalidInput(f"batches must be readable once an epoch, not {type(batches).__name__}; {AGAIN}")
        self._batches = batches
        self._seed = seed
        self.length = self._count()
        """Batches an epoch."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`, each checked. Use it inside `randomness(seed, "epoch", number)`."""
        if callable(set_epoch := getattr(self._batches, "set_epoch", None)):
            set_epoch(number)
        found = False
        for i, item in enumerate(self._batches):
            found = True
            yield Batch.of(item, i)
        if not found:
            raise InvalidInput("batches must yield at least one batch an epoch, not none; is the dataset empty?")

    def digest(self) -> str:
        """A hash of the batches of one epoch, which stay as if nobody had read them."""
        sha = hashlib.sha256()
        self.peek(None, lambda batch: sha.update(batch.digest().encode()))
        return sha.hexdigest()

    def peek(self, count: int | None, use: Use) -> None:
        """Use the first batches (None: all of an epoch), one after the other, as if nobody had read them."""
        with unread(self._batches), randomness(self._seed, "peek"):
            for batch in itertools.islice(self.epoch(0), count):
                use(batch)

    def generators_state(self) -> list[Tensor]:
        """The states of the generators that a DataLoader shuffles with."""
        return [generator.get_state() for generator in generators_of(self._batches)]

    def set_generators_state(self, states: list[Tensor]) -> None:
        """Let them go on from there."""
        for generator, state in zip(generators_of(self._batches), states, strict=True):
            generator.set_state(state)

    def _count(self) -> int:
        with contextlib.suppress(TypeError):  # what len() raises where there is none, as for IterableDataset
            return len(self._batches)  # type: ignore[arg-type]
        with unread(self._batches), randomness(self._seed, "count"):
            return sum(1 for _ in self._batches)


@contextlib.contextmanager
def unread(batches: Iterable[Any]) -> Iterator[None]:
    """Inside, batches may be read; afterwards they come in the order in which they would have come before."""
    states = [(generator, generator.get_state()) for generator in generators_of(batches)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def generators_of(batches: Iterable[Any]) -> list[torch.Generator]:
    """The generators that a DataLoader shuffles with."""
    samplers = [getattr(batches, name, None) for name in ("sampler", "batch_sampler")]
    holders = [batches, *samplers, *(getattr(sampler, "sampler", None) for sampler in samplers)]
    found = [getattr(holder, "generator", None) for holder in holders]
    return list(dict.fromkeys(x for x in found if isinstance(x, torch.Generator)))
