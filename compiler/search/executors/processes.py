"""`executor="processes"`: several trials at a time, each in a process on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Pipe, wait
from typing import Any

import torch

from ...errors import InvalidInput
from ...machine import SharedMachine
from ...progress import Progress
from ..frontier import Point
from ..trials import Trial, Trials
from .board import Board
from .executor import Executor
from .wire import pack, pack_trials, value_from

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ProcessExecutor(Executor):
    """Runs each trial in one of `workers` processes, by default as many as there are cores, which share these.

    While one of them measures a footprint, or the time of kernels, the others and this process stand still: they wait
    at the next stage that they tell, or until `evaluate` or a function that trains returns. Each has PyTorch use an
    equal part of the cores, and no more threads than here. A trial whose process ends, as when memory runs out, is
    refused, and another process takes its place. The processes end with this one, however it ends.
    """

    def __init__(self, workers: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0))
        self.workers = cores if workers is None else workers
        self.threads = max(1, min(torch.get_num_threads(), cores // self.workers))
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Trial] = {}
        self._machine: SharedMachine | None = None

    def begin(self, trials: Trials, progress: Progress) -> None:
        self._packed = pack_trials(trials)
        self._folder = trials.store.folder
        self._board = Board(progress)
        self._machine = SharedMachine(self._folder)
        self._machine.enter()
        progress(f"start {self.workers} workers")
        self._start(self.workers)

    def submit(self, trial: Trial) -> None:
        if not self._idle:
            self._start(1)
        worker = self._idle.pop()
        self._busy[worker] = trial
        worker.send(pack(trial))
        self._board.show(trial)

    def finished(self) -> Point:
        assert self._machine is not None
        self._machine.leave()  # this process computes nothing while it waits
        try:
            while True:
                ready = wait([worker.connection for worker in self._busy])
                point = self._heard([worker for worker in self._busy if worker.connection in ready])
                if point is not None:
                    return point
        finally:
            self._machine.enter()

    def end(self) -> None:
        for worker in (*self._idle, *self._busy):
            worker.close()
        self._idle, self._busy = [], {}
        if self._machine is not None:
            self._machine.close()
            self._machine = None

    def _start(self, count: int) -> None:
        """More workers, as soon as they are ready: what they do before that is computing, too."""
        workers = [_Worker(self.threads) for _ in range(count)]
        self._idle += workers
        for worker in workers:
            worker.send(self._folder, self._packed)
        for worker in workers:
            match worker.receive():
                case "ready", _:
                    pass
                case _, outcome:
                    value_from(outcome)
                case None:
                    raise InvalidInput(f"workers must be able to start, but one {worker.ending()}")

    def _heard(self, workers: list[_Worker]) -> Point | None:
        """The Point of one of the workers that say something, if it is that."""
        for worker in workers:
            trial = self._busy[worker]
            message = worker.receive()
            if message is not None and message[0] == "stage":
                self._board.show(trial, message[1])
                continue
            del self._busy[worker]
            self._board.remove(trial)
            if message is not None:
                self._idle.append(worker)
                point: Point = value_from(message[1])
                return point
            worker.close()
            if not trial.number:
                raise InvalidInput(f"model must run in a worker, but while the original did, it {worker.ending()}")
            return trial.refused(f"its worker {worker.ending()}")
        return None


class _Worker:
    """A process that runs process_worker.py. In a session of its own: Ctrl-C is for the search, which ends it."""

    def __init__(self, threads: int) -> None:
        self.connection, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fxpress.search.executors.process_worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(_THREADS, str(threads)),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.send(sys.path, threads)

    def send(self, *messages: object) -> None:
        """Send messages to the process; one that has ended hears nothing, which `receive` tells."""
        try:
            for message in messages:
                self.connection.send(message)
        except BrokenPipeError:
            pass

    def receive(self) -> tuple[str, Any] | None:
        """What it says next, "ready", "stage" and a text, or "outcome" and bytes; None when it has ended."""
        try:
            found: tuple[str, Any] = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None
        return found

    def ending(self) -> str:
        """How it ended."""
        status = self._process.wait()
        if status >= 0:
            return f"ended with status {status}"
        name = signal.Signals(-status).name
        return f"was ended by {name}{', as when memory runs out' if name == 'SIGKILL' else ''}"

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.kill()
        self._process.wait()
