"""One step of pruning: groups, scores, choice, and the pass that removes what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ...program import Program
from ...target import Target
from ..quantization.scopes import Scope
from .config import AUTO, PruneConfig
from .groups import Blocked, Group, Groups, find_groups
from .importance import score
from .named_layers import layers_to_keep, layers_to_prune
from .remove_units import Removal, RemoveUnits
from .selection import choose
from .widths import EXACT, Rounding

Scopes = Scope | Sequence[Scope]


def removable_groups(program: Program, ignore: Scopes = (), only: Scopes = ()) -> Groups:
    """The dependency groups, those that scopes leave out among the blocked. Raises InvalidInput."""
    found = find_groups(program)
    ignored = layers_to_keep(found, ignore)
    wanted = layers_to_prune(found, only, "only")
    kept, blocked = [], list(found.blocked)
    for group in found.removable:
        named = [layer for layer in group.layers if layer in ignored]
        if named or (wanted and not wanted.intersection(group.layers)):
            reason = "named in ignore" if named else "not named in only"
            axis = group.constants[0]
            node = (named or group.layers or [axis.node])[0]
            blocked.append(Blocked(tuple(group.constants), (axis,), node, reason, tuple(group.layers)))
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
    target: Target | None = None,
) -> RemoveUnits:
    """The pass that takes `program`, whose groups are `groups`, to where the schedule is after `step`.

    `original` is how many units each group had before the first step. What is left is rounded up as `target` likes it.
    Raises InvalidInput.
    """
    scores, ratios = score(program, groups, config, data), _own_ratios(groups, config)
    before = {group: original[group.name] for group in groups.removable}
    asked, chosen = (
        choose(scores, config, ratios=ratios, original=before, share=config.share(step), rounding=rounding)
        for rounding in (EXACT, Rounding.of(config, target))
    )
    if config.multiple == AUTO and not any(chosen.values()):
        chosen = asked  # a model too small for its widths to be rounded
    return RemoveUnits(Removal.of(groups, chosen, asked), held_notes(groups) if step == 1 else (), again=step > 1)


def held_notes(groups: Groups) -> tuple[tuple[str, str], ...]:
    """The constants that stay whole, by name, and why."""
    return tuple(
        (b.axes[0].node.name, f"dim {b.axes[0].dim} stays whole: %{b.node.name}: {b.reason}") for b in groups.blocked
    )


def _own_ratios(groups: Groups, config: PruneConfig) -> dict[Group, float]:
    found: dict[Group, float] = {}
    for scope, ratio in config.ratios.items():
        named = layers_to_prune(groups, scope, "ratios")
        found.update({group: ratio for group in groups.removable if named.intersection(group.layers)})
    return found
