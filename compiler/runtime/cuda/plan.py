"""What an artifact's manifest says about its code for GPUs: functions, launches, and the architectures it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InvalidArtifact


@dataclass(frozen=True)
class Function:
    """How a function is launched: blocks, threads of a block, bytes of dynamic shared memory."""

    name: str
    grid: tuple[int, int, int]
    threads: int
    shared: int


@dataclass(frozen=True)
class Launch:
    """A call: the function's number, and for each operand the entry of the address table and bytes after its
    address."""

    function: int
    operands: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CudaPlan:
    """The launches of a run, and of what is prepared at load."""

    architectures: tuple[str, ...]
    functions: tuple[Function, ...]
    run: tuple[Launch, ...]
    prepare: tuple[Launch, ...]

    @classmethod
    def from_json(cls, data: Any, entries: int) -> CudaPlan:
        """Read the manifest's part; `entries` is the size of the address table. Raises InvalidArtifact."""
        try:
            plan = cls(
                tuple(map(str, data["architectures"])),
                tuple(map(_function, data["functions"])),
                tuple(map(_launch, data["run"])),
                tuple(map(_launch, data["prepare"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArtifact(f"manifest entry 'cuda' must say how kernels are launched: {error!r}") from error
        for launch in (*plan.run, *plan.prepare):
            known = 0 <= launch.function < len(plan.functions)
            if not known or any(not 0 <= entry < entries or offset < 0 for entry, offset in launch.operands):
                raise InvalidArtifact(
                    f"manifest entry 'cuda' must launch functions on memory that it has, not {launch}"
                )
        return plan

    def suits(self, capability: tuple[int, int]) -> bool:
        """Whether a device can run the code: machine code of its major version, or PTX that is not newer."""
        found = [divmod(int(name.removeprefix("sm_")), 10) for name in self.architectures]
        return (
            any(major == capability[0] and minor <= capability[1] for major, minor in found) or max(found) <= capability
        )


def _function(data: Mapping[str, Any]) -> Function:
    x, y, z = map(int, data["grid"])
    return Function(str(data["name"]), (x, y, z), int(data["threads"]), int(data["shared"]))


def _launch(data: Any) -> Launch:
    number, *operands = data
    return Launch(int(number), tuple((int(entry), int(offset)) for entry, offset in operands))
