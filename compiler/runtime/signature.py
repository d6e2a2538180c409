"""How a compiled model is called: which nested arguments its flat input tensors come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArtifact, InvalidInput
from .structure import Structure


@dataclass(frozen=True)
class Signature:
    """How a model is called: `args` (a tuple) and `kwargs` (a dict) as captured, and its parameters' names.

    `positional` names the parameters that may be passed by position, in order; the first of them are those of `args`.
    Leaves are numbered through `args`, then `kwargs`.
    """

    positional: tuple[str, ...]
    args: Structure
    kwargs: Structure

    def to_json(self) -> dict[str, Any]:
        return {
            "positional": list(self.positional),
            "args": self.args.to_json(),
            "kwargs": self.kwargs.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Signature:
        """Raises InvalidArtifact when `data` is not what `to_json` returns."""
        match data:
            case {"positional": [*names], "args": args, "kwargs": kwargs} if all(isinstance(n, str) for n in names):
                signature = cls(tuple(names), Structure.from_json(args), Structure.from_json(kwargs))
                if signature.args.kind == "tuple" and signature.kwargs.kind == "dict":
                    return signature
        raise InvalidArtifact(f"a signature must have positional, args and kwargs, not {data!r:.200}")

    @property
    def leaf_count(self) -> int:
        """The number of tensors a call takes."""
        return self.args.leaf_count + self.kwargs.leaf_count

    def parameters(self) -> list[tuple[str, Structure]]:
        """Name and structure of each captured argument, in order; one beyond the named ones is `args[i]`."""
        names = [
            self.positional[i] if i < len(self.positional) else f"args[{i}]" for i in range(len(self.args.children))
        ]
        return [
            *zip(names, self.args.children, strict=True),
            *zip(map(str, self.kwargs.keys), self.kwargs.children, strict=True),
        ]

    def leaf_names(self) -> list[str]:
        """The name of each leaf in messages, in order: `x`, `inputs['mask'][1]`."""
        return [path for name, structure in self.parameters() for path in structure.paths(name)]

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The leaves of a call, in order. An argument captured by position may be given by name and vice versa.

        Constants that were captured may be left out. Raises InvalidInput naming the argument that is missing,
        unknown, given twice or built differently.
        """
        parameters = self.parameters()
        names = [name for name, _ in parameters]
        given: dict[str, Any] = {}
        for index, value in enumerate(args):
            name = self._name_at(index)
            if name in names:
                given[name] = value
            elif value is not None or name is None:
                raise InvalidInput(f"the model must be called with {self._usage()}, not with {len(args)} by position")
        for name, value in kwargs.items():
            if name in given:
                raise InvalidInput(f"argument {name!r} must be given once, not both by position and by name")
            if name in names:
                given[name] = value
            elif value is not None or name not in self.positional:
                raise InvalidInput(f"argument must be one of {names}, not {name!r}")
        leaves: list[Any] = []
        for name, structure in parameters:
            if name in given:
                leaves += structure.flatten(given[name], name)
            elif structure.leaf_count:
                raise InvalidInput(f"argument {name!r} is missing: the model must be called with {self._usage()}")
        return leaves

    def _name_at(self, index: int) -> str | None:
        if index < len(self.positional):
            return self.positional[index]
        return f"args[{index}]" if index < len(self.args.children) else None

    def _usage(self) -> str:
        return "(" + ", ".join(name for name, structure in self.parameters() if structure.leaf_count) + ")"
