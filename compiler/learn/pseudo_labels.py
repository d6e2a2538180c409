"""Labels that a teacher gives to inputs without any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..progress import Progress
from .batches import AGAIN, Batch
from .programs import as_teacher, evaluating
from .randomness import randomness


class Labelled(NamedTuple):
    """What a teacher says of one batch: which inputs stay [n], the classes of those [kept]."""

    inputs: str  # their hash
    kept: Tensor
    classes: Tensor


class PseudoLabels:
    """Batches of (inputs, class), where the class is what the teacher says, of those inputs that it is sure of.

    `inputs` yields batches of inputs as for `fxpress.quantize`, the same ones each time it is read. An input stays when
    the teacher gives its class at least the probability `threshold`. Labels are made when they are first needed, once;
    batches in which no input stays are left out. `Together(labelled, PseudoLabels(...))` trains on both.

    Lee, "Pseudo-Label", 2013; with a larger teacher Xie et al., "Self-training with Noisy Student", arXiv:1911.04252.
    """

    def __init__(
        self, inputs: Iterable[Any], teacher: Any, *, threshold: float = 0.0, progress: Progress | None = None
    ) -> None:
        if iter(inputs) is inputs:
            raise InvalidInput(f"inputs must be readable again, not {type(inputs).__name__}; {AGAIN}")
        if not 0 <= threshold < 1:
            raise InvalidInput(f"threshold must be from 0 to below 1, not {threshold!r}")
        self._inputs = inputs
        self._teacher = as_teacher(teacher)
        self._threshold = threshold
        self._progress = progress or (lambda stage: None)
        self._labels: list[Labelled] | None = None

    @property
    def labels(self) -> list[Labelled]:
        """What the teacher says of each batch of inputs."""
        if self._labels is None:
            with randomness("pseudo-labels"), evaluating(self._teacher), torch.no_grad():
                self._labels = [self._label(item, number) for number, item in enumerate(self._inputs)]
            if not any(len(label.classes) for label in self._labels):
                count = sum(len(label.kept) for label in self._labels)
                raise InvalidInput(
                    f"teacher must be sure of some inputs, but gives none of {count} a class with probability "
                    f"{self._threshold}; lower threshold="
                )
        return self._labels

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for number, (item, label) in enumerate(zip(self._inputs, self.labels, strict=True)):
            batch = Batch.of((item, None), number)
            if batch.digest() != label.inputs:
                raise InvalidInput(
                    f"inputs must be the same each time they are read, but batch {number} is another than when it was "
                    "labelled; do not shuffle them"
                )
            if len(label.classes):
                batch = batch.with_tensors({name: x[label.kept.to(x.device)] for name, x in batch.tensors.items()})
                yield (dict(batch.kwargs) or batch.args), label.classes

    def __len__(self) -> int:
        return sum(bool(len(label.classes)) for label in self.labels)

    def _label(self, item: Any, number: int) -> Labelled:
        self._progress(f"label batch {number + 1}")
        batch = Batch.of((item, None), number)
        output = batch.call(self._teacher)
        if not isinstance(output, Tensor) or output.dim() != 2:
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InvalidInput(f"teacher must return one tensor [n, classes] to label inputs, not {found}")
        probability, classes = output.softmax(1).max(1)
        kept = probability >= self._threshold
        return Labelled(batch.digest(), kept.cpu(), classes[kept].cpu())


class Together:
    """The batches of several iterables in turns: labelled and pseudo-labelled ones count alike, however many there are.

    An epoch is as long as the longest; shorter ones are read again meanwhile.
    """

    def __init__(self, *parts: Iterable[Any]) -> None:
        if not parts or any(iter(part) is part for part in parts):
            raise InvalidInput(f"parts of Together must be readable again; {AGAIN}")
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts) * max(len(part) for part in self._parts)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        readers = [iter(part) for part in self._parts]
        ended = [False] * len(readers)
        while True:
            turn = []
            for i, part in enumerate(self._parts):
                item = next(readers[i], None)
                if item is None:
                    ended[i] = True
                    readers[i] = iter(part)
                    item = next(readers[i], None)
                if item is None:
                    raise InvalidInput(f"part {i} of Together must yield at least one batch, not none")
                if all(ended):
                    return
                turn.append(item)
            yield from turn
