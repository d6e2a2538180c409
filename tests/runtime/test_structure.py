"""Nested inputs and outputs described without PyTorch."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from fxpress.errors import InvalidArtifact, InvalidInput
from fxpress.runtime.structure import LEAF, Outputs, Structure, TensorSpec
from hypothesis import given, settings
from hypothesis import strategies as st


class Leaf:
    """Stands for a tensor."""


@dataclass
class Pair:
    first: Any
    second: Any = None


Point = namedtuple("Point", ["x", "y"])


def is_leaf(value: object) -> bool:
    return isinstance(value, Leaf)


constants = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3)
values = st.recursive(
    st.builds(Leaf) | constants,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(Point, inner, inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(values)
def test_describe_flatten_unflatten(value: object) -> None:
    structure, leaves = Structure.of(value, is_leaf)
    assert structure.leaf_count == len(leaves) == len(structure.paths("x"))
    assert structure.flatten(value) == leaves
    again = Structure.from_json(json.loads(json.dumps(structure.to_json())))
    assert again == structure
    rebuilt, same_leaves = Structure.of(again.unflatten(leaves), is_leaf)
    assert same_leaves == leaves
    assert rebuilt == structure


def test_paths() -> None:
    structure, _ = Structure.of({"mask": [Leaf(), Leaf()], "pair": Pair(Leaf())}, is_leaf)
    assert structure.paths("inputs") == ["inputs['mask'][0]", "inputs['mask'][1]", "inputs['pair'].first"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"^inputs must be a dict with \['mask', 'n'\], not None$"),
        ({"mask": [1, 2]}, r"^inputs must have the keys \['mask', 'n'\], not \['mask'\]$"),
        ({"mask": [1, 2], "n": 3, "k": 4}, r"^inputs must have the keys \['mask', 'n'\], not \['mask', 'n', 'k'\]$"),
        ({"mask": [1], "n": 3}, r"^inputs\['mask'\] must have 2 items, not 1$"),
        ({"mask": 1, "n": 3}, r"^inputs\['mask'\] must be a list of 2, not 1$"),
        ({"mask": [1, [2]], "n": 3}, r"^inputs\['mask'\]\[1\] must be a tensor, not list$"),
        ({"mask": [1, 2], "n": 4}, r"^inputs\['n'\] must be 3, the value the model was compiled for, not 4; compile"),
        ({"mask": [1, 2], "n": 3.0}, r"^inputs\['n'\] must be 3, .*not 3\.0; compile"),
    ],
)
def test_mismatches_name_the_place(value: object, message: str) -> None:
    structure, _ = Structure.of({"mask": [Leaf(), Leaf()], "n": 3}, is_leaf)
    with pytest.raises(InvalidInput, match=message):
        structure.flatten(value, "inputs")


def test_what_has_no_description() -> None:
    with pytest.raises(InvalidInput, match=r"^x\['a'\]\[0\] must be a tensor, number, .* or dataclass, not object$"):
        Structure.of({"a": [object()]}, is_leaf, "x")


def test_huggingface_outputs_come_back_as_they_were() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    leaf = Leaf()
    value = outputs.BaseModelOutput(last_hidden_state=leaf)
    structure, leaves = Structure.of(value, is_leaf)
    assert leaves == [leaf]
    rebuilt = structure.unflatten(leaves)
    assert type(rebuilt) is outputs.BaseModelOutput
    assert rebuilt.last_hidden_state is leaf


def test_outputs_of_unknown_classes() -> None:
    structure = Structure("object", (LEAF, LEAF), ("a", "b"), "absent_module.Output")
    outputs = structure.unflatten([1, 2])
    assert type(outputs) is Outputs
    assert (outputs.a, outputs["b"], outputs[0], outputs[:2], outputs[-1]) == (1, 2, 1, (1, 2), 2)
    assert outputs.to_tuple() == (1, 2)
    assert outputs == {"a": 1, "b": 2}
    with pytest.raises(AttributeError, match=r"^outputs must be one of \['a', 'b'\], not 'c'$"):
        _ = outputs.c
    assert structure.flatten(outputs) == [1, 2]


def test_named_tuples_are_tuples() -> None:
    point = Point(Leaf(), (Leaf(), 3))
    structure, leaves = Structure.of(point, is_leaf)
    assert structure.paths("p") == ["p.x", "p.y[0]"]
    assert structure.flatten(tuple(point)) == structure.flatten(point._asdict()) == leaves
    rebuilt = structure.unflatten(leaves)
    assert type(rebuilt) is Point
    assert rebuilt == point
    with pytest.raises(InvalidInput, match=r"^p must have 2 items, not 1$"):
        structure.flatten((1,), "p")
    with pytest.raises(InvalidInput, match=r"^p must be a Point with \['x', 'y'\], not 7$"):
        structure.flatten(7, "p")


def test_named_tuples_of_unknown_classes_have_the_same_fields() -> None:
    structure = Structure("namedtuple", (LEAF, LEAF), ("values", "indices"), "absent_module.sort")
    result = structure.unflatten([1, 2])
    assert type(result).__name__ == "sort"
    assert result == (1, 2)
    assert (result.values, result.indices) == (1, 2)
    assert type(structure.unflatten([3, 4])) is type(result)
    assert structure.flatten(result) == [1, 2]


def test_results_of_torch_functions() -> None:
    torch = pytest.importorskip("torch")
    value = torch.tensor([[3.0, 1.0]]).max(1)
    structure, leaves = Structure.of(value, torch.is_tensor)
    assert (structure.kind, structure.keys, structure.name) == (
        "namedtuple",
        ("values", "indices"),
        "torch.return_types.max",
    )
    rebuilt = structure.unflatten(leaves)
    assert type(rebuilt) is torch.return_types.max
    assert rebuilt.values is leaves[0]


def test_field_names_that_python_does_not_allow() -> None:
    renamed = namedtuple("Renamed", ["a", "class"], rename=True)
    for keys in (renamed._fields, ("a", "class"), ("a", "a"), ("a", "b; import os")):
        structure = Structure("namedtuple", (LEAF, LEAF), keys, "absent_module.Renamed")
        assert structure.unflatten([1, 2])._fields == ("a", "_1")


@pytest.mark.parametrize("name", ["subprocess.Popen", "builtins.print", "os.system", "builtins.dict"])
def test_an_artifact_cannot_name_any_class(name: str) -> None:
    assert type(Structure("object", (LEAF,), ("args",), name).unflatten(["x"])) is Outputs
    named = Structure("namedtuple", (LEAF,), ("args",), name).unflatten(["x"])
    assert (named, named._fields) == (("x",), ("args",))


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        {},
        {"kind": "tuple"},
        {"kind": "dict", "items": ["leaf"], "keys": []},
        {"kind": "namedtuple", "items": ["leaf"], "keys": ["x"]},
        {"kind": "namedtuple", "items": ["leaf"], "keys": ["x"], "name": "torch.not a name"},
        {"kind": "namedtuple", "items": ["leaf"], "keys": ["x"], "name": "torch.class"},
        {"kind": "namedtuple", "items": ["leaf"], "keys": [0], "name": "torch.max"},
    ],
)
def test_malformed_json(data: object) -> None:
    with pytest.raises(InvalidArtifact, match=r"^a structure must have a kind"):
        Structure.from_json(data)
    with pytest.raises(InvalidArtifact, match=r"^a tensor spec must have"):
        TensorSpec.from_json(data)
