"""What a kernel may not do. Each violation names the kernel, the statement, the thread and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import CompilerError


@dataclass(frozen=True)
class Place:
    """Where a kernel was when it broke a rule: a line of its TIR, a block and a thread of that block."""

    kernel: str
    line: int
    text: str
    block: tuple[int, int, int] | None = None
    thread: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        who = "" if self.block is None else f" block {self.block}"
        who += "" if self.thread is None else f" thread {self.thread}"
        return f"kernel {self.kernel}, line {self.line}{who}: {self.text}"


class Violation(CompilerError):
    """A kernel did what no CUDA kernel may do.

    The message is a rule of the form "<thing> must be <expected>, not <found>", the remedy, and the place.
    """

    def __init__(self, rule: str, remedy: str, place: Place) -> None:
        super().__init__(f"{rule}; {remedy}\n  in {place}")
        self.place = place


class OutOfBounds(Violation):
    """An access outside the memory that it names."""


class Misaligned(Violation):
    """A vector access, a copy or a matrix row at an address that is no multiple of what it requires."""


class Uninitialised(Violation):
    """A value was used that nothing had written."""


class Race(Violation):
    """Two threads met in one address with nothing that orders them, and at least one wrote."""


class DivergentBarrier(Violation):
    """Not all threads that a barrier, a shuffle or a matrix instruction needs came to it."""


class LimitExceeded(Violation):
    """The launch asks for more than the architecture has."""


class InvalidOperand(Violation):
    """An operand that the instruction does not allow."""


class UnknownConstruct(Violation):
    """TIR that the evaluator has no definition of."""
