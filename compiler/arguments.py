"""Reading a node's call by the names of its op's schema."""

from __future__ import annotations

from typing import Any

from torch.fx import Node


def arguments(node: Node) -> dict[str, Any]:
    """Every argument of an op call by its schema name, defaults filled in."""
    schema = node.target._schema
    values = {a.name: a.default_value if a.has_default_value() else None for a in schema.arguments}
    values.update(zip((a.name for a in schema.arguments), node.args, strict=False))
    values.update(node.kwargs)
    return values
