"""How nested inputs and outputs are described without PyTorch: trees whose leaves are tensors."""

from __future__ import annotations

import dataclasses
import sys
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from keyword import iskeyword
from typing import Any

from ..errors import InvalidArtifact, InvalidInput

Constant = int | float | bool | str
_KINDS = ("leaf", "tuple", "list", "dict", "object", "namedtuple", "constant")


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
    """A tree of tuples, lists, dicts, objects (dataclasses) and named tuples over leaves (tensors) and constants (int,
    float, bool, str, None).

    `keys` names the children of a dict, an object or a named tuple; `name` is the class of the latter two, as
    `module.Class`.
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

        Tuples and lists stand for each other and for named tuples, and so do objects, named tuples and dicts with the
        same keys.
        Raises InvalidInput, naming the place, when `value` is not built like this structure.
        """
        leaves: list[Any] = []
        self._flatten(value, path, leaves)
        return leaves

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """Build the value from its leaves.

        Where this process has not imported the class, an object becomes `Outputs` and a named tuple another with the
        same fields.
        """
        return self._unflatten(iter(leaves))

    def to_json(self) -> Any:
        """This structure as JSON values."""
        if self.kind == "leaf":
            return "leaf"
        if self.kind == "constant":
            return {"kind": "constant", "value": self.value}
        data: dict[str, Any] = {"kind": self.kind, "items": [child.to_json() for child in self.children]}
        if self.kind in ("dict", "object", "namedtuple"):
            data["keys"] = list(self.keys)
        if self.kind in ("object", "namedtuple"):
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
            case {"kind": "namedtuple", "items": [*items], "keys": [*keys], "name": str(name)} if (
                len(keys) == len(items) and all(isinstance(key, str) for key in keys) and _is_class_name(name)
            ):
                return cls("namedtuple", tuple(map(cls.from_json, items)), tuple(keys), name)
        raise InvalidArtifact(f"a structure must have a kind out of {list(_KINDS)} and its items, not {data!r:.200}")

    def _places(self, path: str) -> Iterator[tuple[Structure, str]]:
        for index, child in enumerate(self.children):
            key = self.keys[index] if self.keys else index
            yield child, _place(path, key, self.kind)

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
        if self.kind in ("tuple", "list") or (self.kind == "namedtuple" and type(value) in (tuple, list)):
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
        if self.kind == "namedtuple":
            return _build_named_tuple(self.name, self.keys, items)
        named = dict(zip(self.keys, items, strict=True))
        return named if self.kind == "dict" else _build_object(self.name, named)


LEAF = Structure("leaf")


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
    kind = _named_kind(type(value))
    items = tuple(_describe(item, is_leaf, _place(path, key, kind), leaves) for key, item in fields.items())
    name = "" if kind == "dict" else f"{type(value).__module__}.{type(value).__qualname__}"
    return Structure(kind, items, tuple(fields), name)


def _place(path: str, key: str | int, kind: str) -> str:
    return f"{path}.{key}" if kind in ("object", "namedtuple") else f"{path}[{key!r}]"


def _named_kind(cls: type) -> str:
    if _tuple_fields(cls) is not None:
        return "namedtuple"
    return "object" if dataclasses.is_dataclass(cls) else "dict"


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """The named items of a mapping, a dataclass or a named tuple; None for anything else."""
    if isinstance(value, Mapping):  # Hugging Face outputs are mappings too: what is None is not among their keys
        return value
    names = _tuple_fields(type(value))
    if names is not None:
        return dict(zip(names, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _tuple_fields(cls: Any) -> tuple[str, ...] | None:
    """The fields of a named tuple's class, be it of `collections` or made in C, as `torch.return_types.max` is."""
    if not isinstance(cls, type) or not issubclass(cls, tuple):
        return None
    if hasattr(cls, "n_sequence_fields"):  # how Python marks those made in C
        return getattr(cls, "__match_args__", None)
    return getattr(cls, "_fields", None)


def _imported(name: str) -> Any:
    """What `module.Class` is in this process. A class is used only if the caller has imported it."""
    module, _, class_name = name.rpartition(".")
    return getattr(sys.modules.get(module), class_name, None)


def _build_object(name: str, items: dict[Any, Any]) -> Any:
    cls = _imported(name)
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        if items.keys() <= {field.name for field in dataclasses.fields(cls)}:
            return cls(**items)
    return Outputs(items)


def _build_named_tuple(name: str, keys: tuple[str | int, ...], items: list[Any]) -> Any:
    cls = _imported(name)
    if _tuple_fields(cls) != keys:
        cls = _similar_named_tuple(name.rpartition(".")[2], keys)
    return cls._make(items) if hasattr(cls, "_make") else cls(items)


@cache
def _similar_named_tuple(name: str, keys: tuple[str, ...]) -> Any:
    return namedtuple(name, keys, rename=True)


def _is_class_name(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.isidentifier() and not iskeyword(last)


def _shown(value: Any) -> str:
    """A value in a message: short ones as they are, long ones by their type."""
    text = repr(value) if value is None or type(value) in (int, float, bool, str) else type(value).__name__
    return text if len(text) <= 60 else type(value).__name__
