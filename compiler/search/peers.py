"""Other people's models, beside which a search's are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidInput
from .objectives import OBJECTIVES

Peers = Mapping[str, Mapping[str, float]]
"""What peers have of objectives, by their names: {"OpenVINO int8": {"quality": 0.91, "latency": 2e-3, "size": 4e6}}."""


def check_peers(peers: Any) -> dict[str, dict[str, float]]:
    """The peers as plain data. Raises InvalidInput for unknown objectives and for what is no positive number."""
    if not isinstance(peers, Mapping) or not all(isinstance(peer, Mapping) and peer for peer in peers.values()):
        raise InvalidInput(f'peers must be like {{"name": {{"quality": 0.9, "latency": 2e-3}}}}, not {peers!r}')
    for name, peer in peers.items():
        for objective, value in peer.items():
            if objective not in OBJECTIVES:
                raise InvalidInput(f"peer {name!r} must have objectives among {sorted(OBJECTIVES)}, not {objective!r}")
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or (value <= 0 and objective != "quality"):
                kind = "a finite number" if objective == "quality" else "a positive number"
                raise InvalidInput(f"{objective} of peer {name!r} must be {kind}, not {value!r}")
    return {str(name): {key: float(value) for key, value in peer.items()} for name, peer in peers.items()}
