"""What tests of executors have workers do."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import fxpress
import torch
from fxpress.machine import this_machine
from fxpress.search.footprint import Footprint
from fxpress.search.objectives import objectives_of
from fxpress.search.phases import Phase, Strategy, Task
from fxpress.search.ranges import Choice
from fxpress.search.store import Store
from fxpress.search.trials import Trials
from fxpress.target import Target
from torch import nn

INPUTS = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
OBJECTIVES = objectives_of(("quality", "size"))
LONGEST = 60
"""Seconds after which what is waited for will not come."""


def small_model():
    torch.manual_seed(0)
    return nn.Linear(16, 4).eval()


class Refused(Exception):
    """An error that cannot be made from what pickle knows of it."""

    def __init__(self, what, *, why):
        super().__init__(f"{what}: {why}")
        self.why = why


def write(log, what):
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {what}\n")


def lines(log):
    return [line.split() for line in Path(log).read_text().splitlines()] if Path(log).exists() else []


def act(program, options, task, log):
    """What a worker may do: raise, die, or work until another has measured something."""
    if options["what"] == "raise":
        raise Refused("candidate", why="it asked for it")
    if options["what"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if options["what"] == "work":
        before, end = len(lines(log)), time.monotonic() + LONGEST
        write(log, "work")
        while ["measured"] not in [words[1:] for words in lines(log)[before:]] and time.monotonic() < end:
            write(log, "work")
            time.sleep(0.002)
            task.progress("work")
        write(log, "work")
    return program


def meter(path, log):
    """Takes its time, in which nobody may write `work`."""
    with this_machine().alone():
        write(log, "measures")
        time.sleep(0.05)
        write(log, "measured")
    return Footprint(path.stat().st_size, 1.0, 1.0, 0.0, 1, 1, 1.0)


def trials_of(folder, log):
    acting = Phase(
        "act", partial(act, log=log), {"what": Choice(("no", "yes", "work", "raise", "die"))}, off={"what": "no"}
    )
    task = Task(fxpress.capture(small_model(), (INPUTS,)), Target.parse("cpu"), lambda f: float(f(INPUTS).shape[0]))
    measure = partial(meter, log=str(log))
    return Trials(Strategy("acting", (acting,)), task, Store(folder), OBJECTIVES, {}, meter=measure)
