"""`ignore=`, `only=` and `ratios=`: the layers that scopes name, whether they can lose units or not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch.fx import Node

from ...errors import InvalidInput
from ..quantization.scopes import Scope, select
from .groups import Groups

DONE = "pruned"


def layers_to_keep(groups: Groups, scopes: Scope | Sequence[Scope]) -> set[Node]:
    """The layers that `ignore` names, which may stay whole anyway. Raises InvalidInput for a scope that means none."""
    return select([*_free(groups), *_whole(groups)], scopes, "ignore", DONE)


def layers_to_prune(groups: Groups, scopes: Scope | Sequence[Scope], option: str) -> set[Node]:
    """The layers that `option` names. Raises InvalidInput for a scope that means none, or only such as stay whole."""
    free, whole = _free(groups), _whole(groups)
    chosen: set[Node] = set()
    for scope in scopes if isinstance(scopes, list | tuple | set | frozenset) else [scopes]:
        found = select([*free, *whole], scope, option, DONE)
        if found.isdisjoint(free):
            shown = repr(scope.pattern if isinstance(scope, re.Pattern) else scope)
            reasons = "\n".join(dict.fromkeys(whole[layer] for layer in whole if layer in found))
            raise InvalidInput(f"{option} must name layers that can lose units, but {shown} cannot:\n{reasons}")
        chosen |= found
    return chosen


def _free(groups: Groups) -> dict[Node, None]:
    return dict.fromkeys(layer for group in groups.removable for layer in group.layers)


def _whole(groups: Groups) -> dict[Node, str]:
    """The layers none of whose units can go, each with what stops it."""
    free = _free(groups)
    return {layer: b.details() for b in groups.blocked for layer in b.layers if layer not in free}
