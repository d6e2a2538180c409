"""How nested inputs and outputs are described without PyTorch: trees whose leaves are tensors."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArtifact, InvalidInput

Constant = int | float | bool | str
_KINDS = ("leaf", "tuple", "list", "dict", "object", "constant")


@dataclass(frozen=True)
class TensorSpec:
    """What one tensor of an input or output must be: its name in messages, its dtype and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Raises InvalidArtifact when `data` is not what `to_json` returns."""
        match data:
            case {"name": str(name), "dtype": str(dtype), "shape": [*shape]} if all(
                type(n) is int and n >= 0 for n in shape
            ):
                return cls(name, dtype, tuple(shape))
        raise InvalidArtifact(f"a tensor spec must have a name, a dtype and a shape, not {data!r:.200}")


class Outputs(dict[Any, Any]):
    """A model's named outputs: a dict that also has attributes, integers and slices, as Hugging Face outputs have."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | slice):
            return self.to_tuple()[key]
        return super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getitem__(name)
        except KeyError:
            raise AttributeError(f"outputs must be one of {list(self)}, not {name!r}") from None

    def to_tuple(self) -> tuple[Any, ...]:
        """The outputs in order, without their names."""
        return tuple(self.values())


@dataclass(frozen=True)
class Structure:
    """A tree of tuples, lists, dicts and objects over leaves (tensors) and constants (int, float, bool, str, None).

    `keys` names the children of a dict or an object; `name` is an object's class, as `module.Class`.
    """

    kind: str
    children: tuple[Structure, ...] = ()
    keys: tuple[str | int, ...] = ()
    name: str = ""
    value: Constant | None = None

    @classmethod
    def of(cls, value: Any, is_leaf: Callable[[Any], bool], path: str = "value") -> tuple[Structure, list[Any]]:
        """Describe `value`; return the description and the leaves, in order.

        Raises InvalidInput, naming the place as `path[...]`, for a value of a type that has no description.
        """
        leaves: list[Any] = []
        return _describe(value, is_leaf, path, leaves), leaves

    @property
    def leaf_count(self) -> int:
        """The number of leaves."""
        return 1 if self.kind == "leaf" else sum(child.leaf_count for child in self.children)

    def paths(self, path: str = "value") -> list[str]:
        """The place of each leaf, such as `inputs['mask'][1]`, in order."""
        if self.kind == "leaf":
            return [path]
        return [leaf for child, place in self._places(path) for leaf in child.paths(place)]

    def flatten(self, value: Any, path: str = "value") -> list[Any]:
        """The leaves of `value`, in order.

        Tuples and lists stand for each other, and so do objects and dicts with the same keys.
        Raises InvalidInput, naming the place, when `value` is not built like this structure.
        """
        leaves: list[Any] = []
        self._flatten(value, path, leaves)
        return leaves

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """Build the value from its leaves; an object whose class this process has not imported becomes `Outputs`."""
        return self._unflatten(iter(leaves))

    def to_json(self) -> Any:
        """This structure as JSON values."""
        if self.kind == "leaf":
            return "leaf"
        if self.kind == "constant":
            return {"kind": "constant", "value": self.value}
        data: dict[str, Any] = {"kind": self.kind, "items": [child.to_json() for child in self.children]}
        if self.kind in ("dict", "object"):
            data["keys"] = list(self.keys)
        if self.kind == "object":
            data["name"] = self.name
        return data

    @classmethod
    def from_json(cls, data: Any) -> Structure:
        """Raises InvalidArtifact when `data` is not what `to_json` returns."""
        match data:
            case "leaf":
                return LEAF
            case {"kind": "constant", "value": (None | bool() | int() | float() | str()) as value}:
                return cls("constant", value=value)
            case {"kind": ("tuple" | "list") as kind, "items": [*items]}:
                return cls(kind, tuple(map(cls.from_json, items)))
            case {"kind": ("dict" | "object") as kind, "items": [*items], "keys": [*keys]} if len(keys) == len(
                items
            ) and all(isinstance(key, str | int) for key in keys):
                name = data.get("name", "")
                if isinstance(name, str):
                    return cls(kind, tuple(map(cls.from_json, items)), tuple(keys), name)
        raise InvalidArtifact(f"a structure must have a kind out of {list(_KINDS)} and its items, not {data!r:.200}")

    def _places(self, path: str) -> Iterator[tuple[Structure, str]]:
        for index, child in enumerate(self.children):
            key = self.keys[index] if self.keys else index
            yield child, f"{path}.{key}" if self.kind == "object" else f"{path}[{key!r}]"

    def _flatten(self, value: Any, path: str, leaves: list[Any]) -> None:
        if self.kind == "leaf":
            if value is None or isinstance(value, tuple | list | dict | str):
                raise InvalidInput(f"{path} must be a tensor, not {_shown(value)}")
            leaves.append(value)
        elif self.kind == "constant":
            if type(value) is not type(self.value) or value != self.value:
                raise InvalidInput(
                    f"{path} must be {self.value!r}, the value the model was compiled for, not {_shown(value)}; "
                    f"compile it again to change it"
                )
        else:
            items = self._items(value, path)
            for item, (child, place) in zip(items, self._places(path), strict=True):
                child._flatten(item, place, leaves)

    def _items(self, value: Any, path: str) -> Sequence[Any]:
        if self.kind in ("tuple", "list"):
            if not isinstance(value, tuple | list):
                raise InvalidInput(f"{path} must be a {self.kind} of {len(self.children)}, not {_shown(value)}")
            if len(value) != len(self.children):
                raise InvalidInput(f"{path} must have {len(self.children)} items, not {len(value)}")
            return value
        fields = _fields(value)
        if fields is None:
            wanted = "a dict" if self.kind == "dict" else f"a {self.name.rpartition('.')[2]}"
            raise InvalidInput(f"{path} must be {wanted} with {list(self.keys)}, not {_shown(value)}")
        absent = [key for key in self.keys if key not in fields]
        unknown = [key for key in fields if key not in self.keys and fields[key] is not None]
        if absent or unknown:
            raise InvalidInput(f"{path} must have the keys {list(self.keys)}, not {list(fields)}")
        return [fields[key] for key in self.keys]

    def _unflatten(self, leaves: Iterator[Any]) -> Any:
        if self.kind == "leaf":
            return next(leaves)
        if self.kind == "constant":
            return self.value
        items = [child._unflatten(leaves) for child in self.children]
        if self.kind == "tuple":
            return tuple(items)
        if self.kind == "list":
            return items
        named = dict(zip(self.keys, items, strict=True))
        return named if self.kind == "dict" else _build_object(self.name, named)


LEAF = Structure("leaf")


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
                structure._flatten(given[name], name, leaves)
            elif structure.leaf_count:
                raise InvalidInput(f"argument {name!r} is missing: the model must be called with {self._usage()}")
        return leaves

    def _name_at(self, index: int) -> str | None:
        if index < len(self.positional):
            return self.positional[index]
        return f"args[{index}]" if index < len(self.args.children) else None

    def _usage(self) -> str:
        return "(" + ", ".join(name for name, structure in self.parameters() if structure.leaf_count) + ")"


def _describe(value: Any, is_leaf: Callable[[Any], bool], path: str, leaves: list[Any]) -> Structure:
    if is_leaf(value):
        leaves.append(value)
        return LEAF
    if value is None or type(value) in (int, float, bool, str):
        return Structure("constant", value=value)
    if type(value) in (tuple, list):
        items = tuple(_describe(item, is_leaf, f"{path}[{i}]", leaves) for i, item in enumerate(value))
        return Structure(type(value).__name__, items)
    fields = _fields(value)
    if fields is None or not all(type(key) in (str, int) for key in fields):
        raise InvalidInput(
            f"{path} must be a tensor, number, string, None, tuple, list, dict or dataclass, not {_shown(value)}"
        )
    kind = "object" if _is_object(type(value)) else "dict"
    items = tuple(
        _describe(item, is_leaf, f"{path}.{key}" if kind == "object" else f"{path}[{key!r}]", leaves)
        for key, item in fields.items()
    )
    name = f"{type(value).__module__}.{type(value).__qualname__}" if kind == "object" else ""
    return Structure(kind, items, tuple(fields), name)


def _is_object(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields"))


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """The named items of a mapping, a dataclass or a named tuple; None for anything else."""
    if isinstance(value, Mapping):  # Hugging Face outputs are mappings too: what is None is not among their keys
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _build_object(name: str, items: dict[Any, Any]) -> Any:
    module, _, class_name = name.rpartition(".")
    cls = getattr(sys.modules.get(module), class_name, None)  # a class is used only if the caller has imported it
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        if items.keys() <= {field.name for field in dataclasses.fields(cls)}:
            return cls(**items)
    elif isinstance(cls, type) and issubclass(cls, tuple) and getattr(cls, "_fields", None) == tuple(items):
        return cls(**items)
    return Outputs(items)


def _shown(value: Any) -> str:
    """A value in a message: short ones as they are, long ones by their type."""
    text = repr(value) if value is None or type(value) in (int, float, bool, str) else type(value).__name__
    return text if len(text) <= 60 else type(value).__name__
