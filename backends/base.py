"""What a backend is: it says what it can take, lowers a Program, and builds an Artifact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch.fx import Node

from ..errors import Unsupported
from ..kernel_times import KernelUse, TimingCode
from ..memory_use import MemoryUse
from ..program import Program
from ..progress import Progress
from ..target import Target


@dataclass(frozen=True)
class Support:
    """Whether a backend can run a node and, if not, because of what."""

    supported: bool
    because: str = ""

    def __bool__(self) -> bool:
        return self.supported


YES = Support(True)


class Lowered(ABC):
    """A Program lowered for a target: it has text, and builds an artifact file."""

    @abstractmethod
    def text(self) -> str:
        """The lowered form, readable."""

    @abstractmethod
    def build(
        self, path: Path, reference: Program, *, bundle_runtime: bool = False, progress: Progress | None = None
    ) -> None:
        """Generate code and write the artifact to `path`; `progress` is told of each stage.

        `reference` is the Program as captured: the artifact's self-test expects what it computes.
        """

    def kernel_uses(self) -> list[KernelUse]:
        """The kernel calls of a run, in order. Raises Unsupported unless a subclass knows them."""
        raise Unsupported(f"{type(self).__name__} must know its kernels to be timed, but has none; use another backend")

    def memory_use(self) -> MemoryUse:
        """The bytes that the artifact will need. Raises Unsupported unless a subclass knows them."""
        raise Unsupported(f"{type(self).__name__} must know what memory it needs, but does not; use another backend")

    def timing_code(self, keys: Sequence[str]) -> TimingCode:
        """Code that calls kernels of these keys, all from `kernel_uses`, one by one."""
        raise Unsupported(f"{type(self).__name__} must have kernels to be timed, but has none; use another backend")


class Backend(ABC):
    """Lowers Programs for one kind of target."""

    name: ClassVar[str]

    @abstractmethod
    def supports(self, node: Node, target: Target) -> Support:
        """Whether this backend has code for `node`."""

    @abstractmethod
    def lower(self, program: Program, target: Target, *, fallback: str | None = None) -> Lowered:
        """Lower a Program. Raises Unsupported listing every node without code, unless `fallback` covers them."""
