"""How good a model is: measures that a search or a training can ask for, `Accuracy(batches)` and the like.

Each is an `evaluate` function: it takes a callable that is called like the model, and returns `Scores`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidInput
from .intervals import Array, mean
from .intervals import Evaluate as Evaluate
from .intervals import Model as Model
from .intervals import Quality as Quality
from .intervals import Scores as Scores


@dataclass(frozen=True)
class Measure(ABC):
    """A measure over batches of (inputs, labels), inputs as for calibration: tuples, dicts or single values."""

    batches: Iterable[tuple[Any, Any]]

    def __call__(self, model: Model) -> Scores:
        rows = [self.rows(_array(_first(call(model, inputs))), _array(labels)) for inputs, labels in self.batches]
        if not rows:
            raise InvalidInput("batches must hold at least one, not none; an iterator is used up after one pass")
        return Scores(np.concatenate(rows), self.summary)

    @abstractmethod
    def rows(self, outputs: Array, labels: Array) -> Array:
        """A row for each item. [batch, ...], [batch] -> [batch, ...]"""

    def summary(self, rows: Array) -> float:
        """What the rows amount to."""
        return mean(rows)


@dataclass(frozen=True)
class Accuracy(Measure):
    """The share of items whose label is among the `top` most likely classes."""

    top: int = 1

    def rows(self, outputs: Array, labels: Array) -> Array:
        best = np.argpartition(-outputs, self.top - 1, axis=-1)[..., : self.top]
        hit: Array = (best == labels[..., None]).any(-1).reshape(-1).astype(np.float64)
        return hit


@dataclass(frozen=True)
class _ByClass(Measure):
    """What is computed from pairs of predicted and true classes, averaged over the classes that occur."""

    def rows(self, outputs: Array, labels: Array) -> Array:
        return np.stack((outputs.argmax(-1).reshape(-1), labels.reshape(-1)), 1)

    def summary(self, rows: Array) -> float:
        found, true = rows.T
        return float(np.mean([self.of_class(found == c, true == c) for c in np.unique(true)]))

    @abstractmethod
    def of_class(self, found: Array, true: Array) -> float:
        """The number of one class, from masks of the items predicted and truly of it."""


@dataclass(frozen=True)
class Precision(_ByClass):
    """The share of right ones among the items predicted to be of a class; 0 where there are none."""

    def of_class(self, found: Array, true: Array) -> float:
        return float((found & true).sum() / max(int(found.sum()), 1))


@dataclass(frozen=True)
class Recall(_ByClass):
    """The share of items of a class that are found."""

    def of_class(self, found: Array, true: Array) -> float:
        return float((found & true).sum() / int(true.sum()))


@dataclass(frozen=True)
class F1(_ByClass):
    """The harmonic mean of precision and recall."""

    def of_class(self, found: Array, true: Array) -> float:
        return float(2 * (found & true).sum() / (found.sum() + true.sum()))


@dataclass(frozen=True)
class Auc(Measure):
    """The area under the curve of hits against false alarms for two classes: label 0 or 1, the score of 1 last.

    The chance that a random item of class 1 has the higher score (Mann & Whitney 1947; ties count half).
    """

    def rows(self, outputs: Array, labels: Array) -> Array:
        scores = outputs if outputs.ndim == 1 else outputs[..., -1] - (outputs[..., 0] if outputs.shape[-1] == 2 else 0)
        return np.stack((scores.reshape(-1).astype(np.float64), labels.reshape(-1)), 1)

    def summary(self, rows: Array) -> float:
        scores, true = rows[:, 0], rows[:, 1] > 0
        if true.all() or not true.any():
            return 0.5
        _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
        ones, zeros = int(true.sum()), int((~true).sum())
        return float((ranks[true].sum() - ones * (ones + 1) / 2) / (ones * zeros))


@dataclass(frozen=True)
class NegativePerplexity(Measure):
    """Minus exp of the mean surprise by the right tokens: labels [batch, tokens], outputs [batch, tokens, words]."""

    def rows(self, outputs: Array, labels: Array) -> Array:
        outputs = outputs.astype(np.float64)
        shifted = outputs - outputs.max(-1, keepdims=True)
        surprise = np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, labels[..., None], -1)[..., 0]
        means: Array = surprise.reshape(len(surprise), -1).mean(-1)
        return means

    def summary(self, rows: Array) -> float:
        return -float(np.exp(rows.mean()))


class Agreement:
    """How alike the model's outputs are to the original's, for data without labels: no more is known than inputs.

    `kind` is "cosine" of the first output's items, "top-1" for the share of equal classes, or "rank" for Spearman's
    correlation between the similarities of all pairs of items. The original runs once.
    """

    def __init__(self, original: Model, inputs: Iterable[Any], kind: str = "cosine") -> None:
        if kind not in _AGREEMENTS:
            raise InvalidInput(f"kind must be one of {sorted(_AGREEMENTS)}, not {kind!r}")
        self._kind = kind
        self._inputs = list(inputs)
        if not self._inputs:
            raise InvalidInput("inputs must hold at least one item, not none")
        self._wanted = self._outputs(original)

    def __call__(self, model: Model) -> Scores:
        rows, summary = _AGREEMENTS[self._kind]
        return Scores(rows(self._outputs(model), self._wanted), summary)

    def _outputs(self, model: Model) -> Array:
        return np.concatenate([_items(_array(_first(call(model, inputs)))) for inputs in self._inputs]).astype(
            np.float64
        )


def _items(output: Array) -> Array:
    return output.reshape(len(output), -1) if output.ndim else output.reshape(1, 1)


def _cosines(found: Array, wanted: Array) -> Array:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines: Array = (found * wanted).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return cosines


def _same_classes(found: Array, wanted: Array) -> Array:
    same: Array = (found.argmax(1) == wanted.argmax(1)).astype(np.float64)
    return same


def _both(found: Array, wanted: Array) -> Array:
    return np.stack((found, wanted), 1)


def _rank_correlation(rows: Array) -> float:
    """Spearman's correlation of the pairwise cosines of found and wanted items [items, 2, numbers]."""
    ranks = []
    above = np.triu_indices(len(rows), 1)
    if len(above[0]) < 2:
        raise InvalidInput(f"agreement by rank must see at least 3 items, not {len(rows)}")
    for side in (rows[:, 0], rows[:, 1]):
        unit = side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        ranks.append(np.argsort(np.argsort((unit @ unit.T)[above])))
    correlations: Array = np.asarray(np.corrcoef(ranks))
    return float(correlations[0, 1])


_AGREEMENTS: dict[str, tuple[Callable[[Array, Array], Array], Callable[[Array], float]]] = {
    "cosine": (_cosines, mean),
    "top-1": (_same_classes, mean),
    "rank": (_both, _rank_correlation),
}


def call(model: Model, inputs: Any) -> Any:
    """Call the model with one item of calibration: a tuple of arguments, a dict of them by name, or a single one."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _first(outputs: Any) -> Any:
    """The first output of a model with several."""
    if isinstance(outputs, dict):
        return next(iter(outputs.values()))
    return outputs[0] if isinstance(outputs, tuple | list) else outputs


def _array(value: Any) -> Array:
    detached = value.detach() if hasattr(value, "detach") else value
    return np.asarray(detached)
