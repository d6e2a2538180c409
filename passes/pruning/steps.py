"""One step of pruning: groups, scores, choice, and the pass that removes what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...program import Program
from ..quantization.scopes import Scope, select
from .config import PruneConfig
from .groups import Blocked, Group, Groups, find_groups
from .importance import score
from .remove_units import Removal, RemoveUnits
from .selection import choose

Scopes = Scope | Sequence[Scope]


def removable_groups(program: Program, ignore: Scopes = (), only: Scopes = ()) -> Groups:
    """The dependency groups, those that scopes leave out among the blocked. Raises InvalidInput."""
    found = find_groups(program)
    layers = [layer for group in found.removable for layer in group.layers]
    ignored = select(layers, ignore, "ignore", "pruned") if ignore else set()
    wanted = select(layers, only, "only", "pruned") if only else set(layers)
    kept, blocked = [], list(found.blocked)
    for group in found.removable:
        named = [layer for layer in group.layers if layer in ignored]
        if named or (only and not wanted.intersection(group.layers)):
            reason = "named in ignore" if named else "not named in only"
            axis = group.constants[0]
            blocked.append(Blocked(tuple(group.constants), (axis,), (named or group.layers or [axis.node])[0], reason))
        else:
            kept.append(group)
    return replace(found, removable=tuple(kept), blocked=tuple(blocked))


def prune_step(
    program: Program,
    groups: Groups,
    config: PruneConfig,
    data: Iterable[Sequence[Tensor]],
    original: Mapping[str, int],
    step: int = 1,
) -> RemoveUnits:
    """The pass that takes `program`, whose groups are `groups`, to where the schedule is after `step`.

    `original` is how many units each group had before the first step. Raises InvalidInput.
    """
    chosen = choose(
        score(program, groups, config, data),
        config,
        ratios=_own_ratios(groups, config),
        original={group: original[group.name] for group in groups.removable},
        share=config.share(step),
    )
    held = [
        (b.axes[0].node.name, f"dim {b.axes[0].dim} stays whole: %{b.node.name}: {b.reason}") for b in groups.blocked
    ]
    return RemoveUnits(Removal.of(groups, chosen), tuple(held) if step == 1 else ())


def _own_ratios(groups: Groups, config: PruneConfig) -> dict[Group, float]:
    layers: list[Any] = [layer for group in groups.removable for layer in group.layers]
    found: dict[Group, float] = {}
    for scope, ratio in config.ratios.items():
        named = select(layers, scope, "ratios", "pruned")
        found.update({group: ratio for group in groups.removable if named.intersection(group.layers)})
    return found
