"""`fxpress.learn.train`: one loop for Programs and modules, decided by a seed, that goes on after it was killed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..errors import InvalidInput
from ..progress import Progress, TerminalProgress
from ..search.quality import Evaluate, Quality
from .averaging import WeightAverage
from .batches import Batch, Source
from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig
from .identity import check_same, identity_of
from .losses import Loss
from .objective import Objective, check_finite
from .optimizers import optimizer_of
from .programs import M, as_model, as_module, evaluating, normalizers
from .randomness import randomness
from .result import CurvePoint, Trained
from .schedules import share_of_rate
from .statistics import estimate_statistics
from .stopping import Progression
from .threads import pytorch_threads

State = dict[str, Tensor]


def train(
    model: M,
    batches: Iterable[Any],
    config: TrainConfig | None = None,
    *,
    loss: Loss | None = None,
    teacher: Any = None,
    evaluate: Evaluate | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    device: str | torch.device | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Trained[M]:
    """Train a model: a Program, of floats or integers, or a torch.nn.Module. The model given stays as it is.

    `batches` yields (inputs, target) anew for every epoch: inputs are a tuple (positional arguments), a dict (keyword
    arguments) or a tensor, a target of None is for a `teacher` alone. `loss(output, target)` is by default
    cross-entropy for integer targets, mean squared error for float ones. `teacher` is a Program, a module or any
    callable with the model's inputs and outputs, which is learned from as `config.distill` says. `evaluate(f) -> float`
    (higher is better), or `fxpress.search.quality.Scores`, is asked after every epoch.

    Everything random follows `config.seed`, and the random states of PyTorch, numpy and Python stay as they were. With
    `checkpoint`, a file, the training is kept every `checkpoint_seconds` and at the end: called again with the same
    arguments after it was killed it goes on, and on a CPU with as many threads gives the same bits as if it had not
    been; called after it ended, it returns what it returned. `device` is where to train, by default where the model
    is; a trained Program is on the CPU. `threads` are PyTorch's meanwhile.

    Raises InvalidInput for data, targets, a teacher or a checkpoint that do not fit; Diverged, which is one, where the
    loss or a weight becomes NaN or infinite; what evaluate and loss raise.
    """
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise InvalidInput(f"config must be a TrainConfig, not {type(config).__name__}")
    if config.patience is not None and evaluate is None:
        raise InvalidInput(f"patience must be None without evaluate=, which it waits for, not {config.patience}")
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(TerminalProgress()) if progress is None else progress
        stack.enter_context(pytorch_threads(threads))
        stack.enter_context(torch.enable_grad())
        stage("train: prepare")
        with randomness(config.seed, "begin"):
            training = Training(model, batches, config, loss, teacher, evaluate, device, stack)
        training.run(None if checkpoint is None else Path(checkpoint), checkpoint_seconds, stage)
    return training.result(model)


class Training:
    """One training: its state, and what changes it. `stack` is open while it runs."""

    def __init__(
        self,
        model: Any,
        batches: Iterable[Any],
        config: TrainConfig,
        loss: Loss | None,
        teacher: Any,
        evaluate: Evaluate | None,
        device: str | torch.device | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.config = config
        self.module = as_module(model)
        self.device = torch.device(device) if device is not None else next(self.module.parameters()).device
        self.module.to(self.device)
        self.source = Source(batches, config.seed)
        first: list[Batch] = []
        self.source.peek(1, first.append)
        self.objective = Objective(self.module, config, loss, teacher, first[0], self.device, stack)
        self.evaluate = evaluate
        self.identity = identity_of(self.module, config, self.source.length, loss, teacher, evaluate)
        self.optimizer = optimizer_of([self.module, self.objective.heads], config)
        self.average = None if config.ema is None else WeightAverage(self.module, config.ema)
        self.progression = Progression(config.patience, config.noise)
        self.steps = config.steps or config.epochs * self.source.length
        self.step = self.epoch = 0
        self.done = 0
        """Batches of this epoch that were trained on."""
        self.has_ended = False
        """Whether this epoch's batches are through, and it is to be evaluated."""
        self.sums: dict[str, float] = {}
        self.curve: list[CurvePoint] = []
        self.kept: State = {}
        self.kept_step = 0
        self.kept_quality: float | None = None
        self.stopped = ""
        self.seconds = 0.0
        self._latest: Batch | None = None
        self._order: list[Tensor] = []

    def run(self, path: Path | None, seconds: float, stage: Progress) -> None:
        """Train to the end, from the checkpoint if there is one."""
        self._path, self._stage = path, stage
        self._clock = time.perf_counter()
        self._next_save = self._clock + seconds
        self._save_every = seconds
        latest = self._load(path)
        while not self.stopped:
            if not self.has_ended:
                self._train_epoch(latest)
                self.has_ended, latest = True, ""
                self._save()
            self._end_epoch()
            if self.stopped:
                self._save()

    def result(self, model: M) -> Trained[M]:
        """What was trained, for the model that was given."""
        self.module.load_state_dict(self.kept)
        trained = as_model(self.module, model)
        return Trained(trained, self.config, tuple(self.curve), self.kept_step, self.kept_quality, self.stopped)

    def _train_epoch(self, latest: str) -> None:
        """Train on what is left of this epoch; `latest` is the hash of the last batch that was trained on before."""
        self._order = self.source.generators_state()
        with randomness(self.config.seed, "epoch", self.epoch):
            for number, batch in enumerate(self.source.epoch(self.epoch)):
                if number < self.done:
                    if number == self.done - 1 and batch.digest() != latest:
                        raise InvalidInput(
                            f"batches must be those of the training that the checkpoint is of, but batch {number} of "
                            f"epoch {self.epoch + 1} is another one; delete the checkpoint to train anew"
                        )
                    continue
                if self.step >= self.steps:
                    break
                self._latest = batch
                with randomness(self.config.seed, "step", self.step):
                    self._train_step(batch, number)
                self.done, self.step = number + 1, self.step + 1
                if time.perf_counter() >= self._next_save:
                    self._save()

    def _train_step(self, batch: Batch, number: int) -> None:
        config = self.config
        rate = config.learning_rate * share_of_rate(config.schedule, self.step, self.steps, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.module.train()
        try:
            for change in config.augment:
                batch = change(batch)
            parts = self.objective.parts(batch.to(self.device))
        except Exception as error:
            error.add_note(f"in batch {number} of epoch {self.epoch + 1}, step {self.step + 1} of the training")
            raise
        loss = torch.stack(list(parts.values())).sum()
        found = {name: float(part.detach()) for name, part in parts.items()}
        check_finite(found, batch, f"at step {self.step + 1} (epoch {self.epoch + 1}, learning rate {rate:.3g})")
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        if config.clip_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.module, self.step)
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self._stage(f"train: step {self.step + 1} of {self.steps}, loss {sum(found.values()):.4g}")

    def _end_epoch(self) -> None:
        """Evaluate, note how it went, and see whether to go on."""
        config, quality = self.config, None
        if self.evaluate is not None:
            self._stage(f"evaluate: epoch {self.epoch + 1}")
            with self._for_use(), randomness(config.seed, "evaluate", self.epoch):
                quality = Quality.measure(self.evaluate, self._answer)
                if self.progression.add(quality) and config.keep == "best":
                    self._keep(quality.value)
        self.curve.append(self._point(quality))
        self.sums = {}
        self.epoch, self.done, self.has_ended = self.epoch + 1, 0, False
        is_last = self.step >= self.steps or (config.steps is None and self.epoch == config.epochs)
        if not is_last and self.progression.has_hope:
            return
        self.stopped = "finished" if is_last else "patience"
        if self.evaluate is None or config.keep == "last":
            with self._for_use():
                self._keep(None if quality is None else quality.value)

    def _point(self, quality: Quality | None) -> CurvePoint:
        parts = {name: value / self.done for name, value in self.sums.items()}
        return CurvePoint(
            epoch=self.epoch + 1,
            step=self.step,
            loss=sum(parts.values()),
            parts=parts,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            quality=None if quality is None else quality.value,
            low=None if quality is None else quality.low,
            high=None if quality is None else quality.high,
            seconds=self._elapsed(),
        )

    @contextlib.contextmanager
    def _for_use(self) -> Iterator[None]:
        """Inside, the module is in evaluation mode, with the average of weights where there is one."""
        with evaluating(self.module):
            if self.average is None:
                yield
                return
            live = self._state()
            self.average.write_to(self.module)
            estimate_statistics(self.module, normalizers(self.module), self.source.peek, self.device)
            yield
            self.module.load_state_dict(live)

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        """What `evaluate` calls: the module as it is, for inputs on any device."""
        batch = Batch(args, kwargs, ())
        devices = {x.device for x in batch.tensors.values()}
        with torch.no_grad():
            output = batch.to(self.device).call(self.module)
        home = devices.pop() if len(devices) == 1 else self.device
        return tree_map(lambda x: x.to(home) if isinstance(x, Tensor) else x, output)

    def _keep(self, quality: float | None) -> None:
        self.kept, self.kept_step, self.kept_quality = self._state(), self.step, quality

    def _state(self) -> State:
        return {name: x.detach().clone() for name, x in self.module.state_dict().items()}

    def _elapsed(self) -> float:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        return self.seconds

    def _save(self) -> None:
        if self._path is None:
            return
        position = {name: getattr(self, name) for name in _POSITION}
        order = self.source.generators_state() if self.has_ended else self._order
        state = {
            "identity": self.identity,
            "position": position | {"seconds": self._elapsed()},
            "curve": [vars(point) for point in self.curve],
            "module": self.module.state_dict(),
            "heads": self.objective.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.values,
            "progression": self.progression.state(),
            "kept": self.kept,
            "order": order,
            "latest": None if self._latest is None else self._latest.digest(),
        }
        save_checkpoint(self._path, state)
        self._next_save = time.perf_counter() + self._save_every

    def _load(self, path: Path | None) -> str:
        """Go on from a checkpoint; returns the hash of the last batch that was trained on."""
        state = None if path is None else load_checkpoint(path)
        if state is None:
            return ""
        check_same(state["identity"], self.identity, str(path))
        for name in (*_POSITION, "seconds"):
            setattr(self, name, state["position"][name])
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.module.load_state_dict(state["module"])
        self.objective.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load(state["average"])
        self.progression.load(state["progression"])
        self.kept = state["kept"]
        self.source.set_generators_state(state["order"])
        return str(state["latest"])


_POSITION = ("step", "epoch", "done", "has_ended", "sums", "kept_step", "kept_quality", "stopped")
