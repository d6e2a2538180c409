"""Learning from a teacher: what it returns, what its layers compute, where they look, how they relate tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import InvalidInput
from ..search.ranges import Range, not_searched, search

Pair = tuple[Tensor, Tensor]
"""A value of the model and one of its teacher."""


@dataclass(frozen=True, kw_only=True)
class Distillation(ABC):
    """One way to learn from a teacher: a term that is added `weight` times to the loss."""

    weight: float = field(default=1.0, metadata=search(Range(0.1, 10.0, log=True)))

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InvalidInput(f"weight of {type(self).__name__} must be positive, not {self.weight!r}")

    @property
    def pairs(self) -> Mapping[str, str]:
        """The layers of the model that are compared, with those of the teacher."""
        return {}

    def head(self, pairs: Sequence[Pair]) -> nn.Module:
        """What is trained along with the model, made for the values of `pairs`."""
        return nn.Module()

    @abstractmethod
    def term(self, outputs: tuple[Any, Any], pairs: Sequence[Pair], head: nn.Module) -> Tensor:
        """What is to become small, from what model and teacher returned, and the values of `pairs`."""


@dataclass(frozen=True, kw_only=True)
class LogitDistillation(Distillation):
    """The teacher's probabilities of classes, softened: T^2 * KL(softmax(teacher / T) || softmax(model / T)).

    T is the `temperature`; classes are last. Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network",
    arXiv:1503.02531.
    """

    temperature: float = field(default=4.0, metadata=search(Range(1.0, 10.0)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise InvalidInput(f"temperature must be positive, not {self.temperature!r}")

    def term(self, outputs: tuple[Any, Any], pairs: Sequence[Pair], head: nn.Module) -> Tensor:
        (student, teacher), *more = matched(*outputs)
        if more or student.dim() < 2:
            raise InvalidInput("model must return one tensor [..., classes] of logits; use OutputDistillation")
        wanted = F.log_softmax(teacher / self.temperature, -1).flatten(0, -2)
        found = F.log_softmax(student / self.temperature, -1).flatten(0, -2)
        return F.kl_div(found, wanted, reduction="batchmean", log_target=True) * self.temperature**2


@dataclass(frozen=True, kw_only=True)
class OutputDistillation(Distillation):
    """The teacher's outputs themselves: their mean squared difference. For embeddings, values, and also logits.

    Ba & Caruana, "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184.
    """

    def term(self, outputs: tuple[Any, Any], pairs: Sequence[Pair], head: nn.Module) -> Tensor:
        return torch.stack([F.mse_loss(s, t) for s, t in matched(*outputs)]).mean()


@dataclass(frozen=True, kw_only=True)
class LayerDistillation(Distillation):
    """Compares values inside. `layers` are layers of the model with those of the teacher, named as `watched` says."""

    layers: Mapping[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.layers, Mapping) or not self.layers:
            raise InvalidInput(
                f"layers must be a dict from layers of the model to layers of the teacher, not {self.layers!r}"
            )

    @property
    def pairs(self) -> Mapping[str, str]:
        return self.layers


@dataclass(frozen=True, kw_only=True)
class FeatureDistillation(LayerDistillation):
    """What the teacher's layers compute, through a learned projection where widths differ; mean squared difference.

    Maps [n, channels, rows, columns] are projected by a 1x1 convolution, and the larger of two is averaged to the size
    of the smaller; others [n, ..., width] by a linear layer. Romero et al., "FitNets", arXiv:1412.6550.
    """

    def head(self, pairs: Sequence[Pair]) -> nn.Module:
        return nn.ModuleList([_projection(s, t) for s, t in pairs])

    def term(self, outputs: tuple[Any, Any], pairs: Sequence[Pair], head: nn.Module) -> Tensor:
        assert isinstance(head, nn.ModuleList)
        terms = []
        for (student, teacher), projection in zip(pairs, head, strict=True):
            s, t = same_size(projection(student), teacher)
            terms.append(F.mse_loss(s, t))
        return torch.stack(terms).mean()


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer(LayerDistillation):
    """Where the teacher's layers are strong: the squared distance of maps of activity, each of length 1.

    A map is the sum of squares over the channels of [n, channels, rows, columns]. Zagoruyko & Komodakis, "Paying More
    Attention to Attention", arXiv:1612.03928.
    """

    def term(self, outputs: tuple[Any, Any], pairs: Sequence[Pair], head: nn.Module) -> Tensor:
        return torch.stack([_attention_distance(s, t) for s, t in pairs]).mean()


@dataclass(frozen=True, kw_only=True)
class RelationDistillation(LayerDistillation):
    """How the teacher's tokens relate: KL of softmax(x x' / sqrt(width of a head)) over tokens, for `heads` heads.

    `layers` are projections to queries, keys or values [n, tokens, width], or nodes [n, heads, tokens, width of one].
    Widths, and heads of attention, of model and teacher may differ: both are divided anew into `heads`, which divides
    both widths. Wang et al., "MiniLMv2", arXiv:2012.15828.
    """

    heads: int = field(metadata=not_searched("the model has them"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.heads, int) and self.heads >= 1):
            raise InvalidInput(f"heads must be an integer of at least 1, not {self.heads!r}")

    def term(self, outputs: tuple[Any, Any], pairs: Sequence[Pair], head: nn.Module) -> Tensor:
        terms = []
        for student, teacher in pairs:
            found, wanted = (_relations(x, self.heads).flatten(0, -2) for x in (student, teacher))
            terms.append(F.kl_div(found, wanted, reduction="batchmean", log_target=True))
        return torch.stack(terms).mean()


def matched(student: Any, teacher: Any) -> list[Pair]:
    """Pairs of what model and teacher return. Raises InvalidInput where they are not alike."""
    found, wanted = tree_leaves(student), tree_leaves(teacher)
    if [_type(x) for x in found] != [_type(x) for x in wanted]:
        raise InvalidInput(
            f"teacher must return what the model returns, {', '.join(map(_type, found))}, "
            f"not {', '.join(map(_type, wanted))}"
        )
    return [(s, t) for s, t in zip(found, wanted, strict=True) if isinstance(s, Tensor) and s.is_floating_point()]


def same_size(student: Tensor, teacher: Tensor) -> Pair:
    """Maps of the same rows and columns; other values must have the same shape."""
    if student.dim() == 4 and teacher.dim() == 4 and student.shape[2:] != teacher.shape[2:]:
        size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
        student, teacher = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
    if student.shape != teacher.shape:
        raise InvalidInput(
            f"layers that are compared must have alike values, not {list(student.shape)} and {list(teacher.shape)}"
        )
    return student, teacher


def _projection(student: Tensor, teacher: Tensor) -> nn.Module:
    dim = 1 if student.dim() == 4 else -1
    if student.dim() != teacher.dim() or student.shape[dim] == teacher.shape[dim]:
        return nn.Identity()
    widths = student.shape[dim], teacher.shape[dim]
    return nn.Conv2d(*widths, 1, bias=False) if dim == 1 else nn.Linear(*widths, bias=False)


def _attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    if student.dim() != 4 or teacher.dim() != 4:
        raise InvalidInput(
            "layers of AttentionTransfer must have values [n, channels, rows, columns], "
            f"not {list(student.shape)} and {list(teacher.shape)}"
        )
    s, t = same_size(student.square().sum(1, keepdim=True), teacher.square().sum(1, keepdim=True))
    return (F.normalize(s.flatten(1)) - F.normalize(t.flatten(1))).square().sum(1).mean()


def _relations(x: Tensor, heads: int) -> Tensor:
    """Logarithms of how much each token relates to each, [n, heads, tokens, tokens]."""
    if x.dim() == 4:
        x = x.transpose(1, 2).flatten(2)
    if x.dim() != 3 or x.shape[2] % heads:
        raise InvalidInput(
            f"layers of RelationDistillation must have values [n, tokens, a multiple of {heads}], not {list(x.shape)}"
        )
    x = x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
    return F.log_softmax(x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5, -1)


def _type(x: Any) -> str:
    return str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__
