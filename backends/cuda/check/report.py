"""What an evaluation found out about the speed of a kernel's accesses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .threads import Launch
from .traffic import Site


@dataclass(frozen=True)
class Traffic:
    """Accesses of one kind to one memory: what a warp's request takes, on average, and the least it could."""

    memory: str
    scope: str
    kind: str
    width: int
    requests: int
    transactions: int
    ideal: int

    @property
    def excess(self) -> float:
        """Transactions over the least possible: 1 is perfect, 32 is every lane on its own."""
        return self.transactions / self.ideal if self.ideal else 1.0


@dataclass(frozen=True)
class Report:
    """A kernel that ran without a violation: `shared` bytes of a block, `registers` bytes of a thread's arrays."""

    kernel: str
    launch: Launch
    shared: int
    registers: int
    sites: tuple[Site, ...]

    @property
    def traffic(self) -> list[Traffic]:
        """The sampled accesses by memory, kind and width; those of registers cost nothing and are left out."""
        groups: dict[tuple[str, str, str, int], list[Site]] = {}
        for site in self.sites:
            if site.requests:
                groups.setdefault((site.memory, site.scope, site.kind, site.width), []).append(site)
        return [
            Traffic(
                *key,
                _total(s.requests for s in sites),
                _total(s.transactions for s in sites),
                _total(s.ideal for s in sites),
            )
            for key, sites in groups.items()
        ]

    def excess(self, scope: str) -> float:
        """Sectors ("global") or passes over banks ("shared") of all sampled accesses over the least possible."""
        found = [each for each in self.traffic if each.scope == scope]
        ideal = sum(each.ideal for each in found)
        return sum(each.transactions for each in found) / ideal if ideal else 1.0

    def worst(self, scope: str) -> Traffic | None:
        """The accesses with the greatest excess."""
        found = [each for each in self.traffic if each.scope == scope]
        return max(found, key=lambda each: each.excess, default=None)

    def text(self) -> str:
        """A table, a line for each kind of access."""
        grid, block = ("x".join(map(str, each)) for each in (self.launch.grid, self.launch.block))
        lines = [
            f"{self.kernel}: {grid} blocks of {block} threads, {self.shared} bytes shared, "
            f"{self.registers} bytes of arrays a thread",
            f"{'memory':<20} {'access':<10} {'bytes':>5} {'requests':>8} {'a request':>9} {'least':>6} {'excess':>6}",
        ]
        for each in self.traffic:
            lines.append(
                f"{each.memory[:20]:<20} {each.kind:<10} {each.width:>5} {each.requests:>8} "
                f"{each.transactions / each.requests:>9.1f} {each.ideal / each.requests:>6.1f} {each.excess:>6.2f}"
            )
        return "\n".join(lines)


def _total(counts: Iterable[int]) -> int:
    return sum(counts)
