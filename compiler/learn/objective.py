"""What training makes small: the loss on targets, and terms for what a teacher does."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Diverged, InvalidInput
from ..program import Program
from .batches import Batch
from .config import TrainConfig
from .distillation import Distillation, LogitDistillation, OutputDistillation, Pair
from .losses import Loss, default_loss
from .programs import as_teacher, evaluating, watched

TARGET = "target"


def check_finite(parts: Mapping[str, float], batch: Batch, where: str) -> None:
    """Raise Diverged where a part of the loss is NaN or infinite, or InvalidInput where the batch's inputs are."""
    if all(map(math.isfinite, parts.values())):
        return
    broken = [name for name, x in batch.tensors.items() if x.is_floating_point() and not bool(x.isfinite().all())]
    if broken:
        raise InvalidInput(f"input {broken[0]!r} must hold finite numbers, not NaN or infinity {where}; mend the data")
    listed = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
    raise Diverged(
        f"loss must be finite, not {listed} {where}; lower learning_rate, warm up for longer (warmup=) "
        "or limit gradients (clip_norm=1.0)"
    )


class Objective:
    """The parts of the loss for a module, which is watched, and its teacher, which is in evaluation mode, in `stack`.

    `first` is a batch to learn shapes from.
    """

    def __init__(
        self,
        module: nn.Module,
        config: TrainConfig,
        loss: Loss | None,
        teacher: Any,
        first: Batch,
        device: torch.device,
        stack: contextlib.ExitStack,
    ) -> None:
        if loss is not None and config.label_smoothing:
            raise InvalidInput(f"label_smoothing must be 0 with a loss= of your own, not {config.label_smoothing}")
        if teacher is None and config.distill:
            raise InvalidInput(f"teacher must be given for {type(config.distill[0]).__name__}")
        self._config = config
        self._loss = loss
        self._module = module
        self._teacher = None if teacher is None else as_teacher(teacher)
        self.terms = self._terms(first)
        self.heads = nn.ModuleList()
        """What is trained along with the module."""
        if self._teacher is None:
            return
        if isinstance(teacher, Program) and isinstance(self._teacher, nn.Module):
            self._teacher.to(device)
        terms = self.terms.values()
        layers = [pair for term in terms for pair in term.pairs.items()]
        self._found = stack.enter_context(watched(module, [mine for mine, _ in layers], "model"))
        self._wanted = stack.enter_context(watched(self._teacher, [theirs for _, theirs in layers], "teacher"))
        stack.enter_context(evaluating(self._teacher))
        with torch.no_grad(), evaluating(module):
            self._call(first.to(device))
            self.heads = nn.ModuleList(term.head(self._pairs(term)) for term in terms).to(device)

    def parts(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss by name, with their weights; their sum is the loss."""
        output, wanted = self._call(batch)
        parts = {}
        targets = [(target, share) for target, share in batch.targets if target is not None]
        if targets:
            weight = self._config.target_weight if self.terms else 1.0
            shares = [share * self._on_target(output, target) for target, share in targets]
            parts[TARGET] = weight * torch.stack(shares).sum()
        for (name, term), head in zip(self.terms.items(), self.heads, strict=True):
            parts[name] = term.weight * term.term((output, wanted), self._pairs(term), head)
        if not parts:
            raise InvalidInput("target must not be None where there is no teacher to learn from; give teacher=")
        return parts

    def _terms(self, first: Batch) -> dict[str, Distillation]:
        chosen = self._config.distill
        if self._teacher is not None and not chosen:
            target = first.targets[0][0]
            is_class = isinstance(target, Tensor) and not target.is_floating_point()
            chosen = (LogitDistillation() if is_class else OutputDistillation(),)
        terms: dict[str, Distillation] = {}
        for term in chosen:
            name = type(term).__name__
            same = sum(other.split()[0] == name for other in terms)
            terms[f"{name} {same + 1}" if same else name] = term
        return terms

    def _call(self, batch: Batch) -> tuple[Any, Any]:
        output = batch.call(self._module)
        if self._teacher is None:
            return output, None
        with torch.no_grad():
            return output, batch.call(self._teacher)

    def _pairs(self, term: Distillation) -> list[Pair]:
        pairs = []
        for mine, theirs in term.pairs.items():
            for values, name, role in ((self._found, mine, "model"), (self._wanted, theirs, "teacher")):
                if name not in values:
                    raise InvalidInput(f"layer {name!r} of the {role} must be used by every call, but was not")
            pairs.append((self._found[mine], self._wanted[theirs]))
        return pairs

    def _on_target(self, output: Any, target: Any) -> Tensor:
        if self._loss is None:
            return default_loss(output, target, self._config.label_smoothing)
        found = self._loss(output, target)
        if not isinstance(found, Tensor) or found.numel() != 1:
            what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InvalidInput(f"loss must return a tensor with one number, not {what}")
        if not found.requires_grad:
            raise InvalidInput("loss must depend on the outputs, but what it returned has no gradient")
        return found.reshape(())
