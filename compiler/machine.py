"""Who computes on this machine: many processes at once, or one alone, which measures time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path


class Machine:
    """A machine on which this process computes and none that it knows of: whoever measures is alone already."""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process computes that shares this machine."""
        yield


class SharedMachine(Machine):
    """A machine that processes share which name the same `folder`: between them many compute, or one alone.

    Whoever computes does so `working()`, and says now and then that it can `give_way()`. Whoever wants to be
    `alone()` waits until each of the others has left or given way, and none goes on before that one is ready. A process
    that ends, however it ends, has left.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._room = open(folder / "working.lock", "w")  # held by those that compute together, or by the one alone
        self._turn = open(folder / "measuring.lock", "w")  # held by the one that waits to be alone: none enters then
        self._inside = self._is_alone = False

    def enter(self) -> None:
        """Begin to compute, once nobody measures or waits to."""
        fcntl.flock(self._turn, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        self._inside = True

    def leave(self) -> None:
        """Compute no more."""
        fcntl.flock(self._room, fcntl.LOCK_UN)
        self._inside = False

    def give_way(self) -> None:
        """Let those measure that wait for it, if this process computes and not alone."""
        if self._inside and not self._is_alone:
            self.leave()
            self.enter()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Inside, this process computes, and others may."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process computes that shares this machine."""
        if self._is_alone:
            yield
            return
        was_inside = self._inside
        self.leave()  # two that wait for each other to give way would wait for ever
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX)
        self._is_alone = True
        try:
            yield
        finally:
            self._is_alone, self._inside = False, was_inside
            fcntl.flock(self._room, fcntl.LOCK_SH if was_inside else fcntl.LOCK_UN)
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave for good."""
        self._room.close()
        self._turn.close()


_SHARED: ContextVar[SharedMachine | None] = ContextVar("fxpress_machine", default=None)


def this_machine() -> Machine:
    """The machine on which this process computes. Whatever measures time does so inside `this_machine().alone()`."""
    return _SHARED.get() or Machine()


def share(machine: SharedMachine) -> None:
    """From now on this thread computes on `machine`."""
    _SHARED.set(machine)
