"""Nested inputs and outputs described without PyTorch."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from fxpress.errors import InvalidArtifact, InvalidInput
from fxpress.runtime.structure import LEAF, Outputs, Signature, Structure, TensorSpec
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
    assert rebuilt.paths("x") == structure.paths("x") or "object" in str(structure)


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


@pytest.mark.parametrize("name", ["subprocess.Popen", "builtins.print", "os.system", "builtins.dict"])
def test_an_artifact_cannot_name_any_class(name: str) -> None:
    structure = Structure("object", (LEAF,), ("args",), name)
    assert type(structure.unflatten(["x"])) is Outputs


@pytest.mark.parametrize("data", [None, 3, {}, {"kind": "tuple"}, {"kind": "dict", "items": ["leaf"], "keys": []}])
def test_malformed_json(data: object) -> None:
    with pytest.raises(InvalidArtifact, match=r"^a structure must have a kind"):
        Structure.from_json(data)
    with pytest.raises(InvalidArtifact, match=r"^a signature must have"):
        Signature.from_json(data)
    with pytest.raises(InvalidArtifact, match=r"^a tensor spec must have"):
        TensorSpec.from_json(data)


class TestSignature:
    """forward(ids, mask=None, *, scale=1.0) captured as forward(ids, mask=mask, scale=1.0)."""

    signature = Signature(
        ("ids", "mask", "labels"),
        Structure("tuple", (LEAF,)),
        Structure("dict", (LEAF, Structure("constant", value=1.0)), ("mask", "scale")),
    )

    def test_by_position_and_by_name(self) -> None:
        for args, kwargs in (
            ((1, 2), {}),
            ((1,), {"mask": 2}),
            ((), {"mask": 2, "ids": 1}),
            ((1, 2), {"scale": 1.0}),
            ((1, 2, None), {}),
            ((1, 2), {"labels": None}),
        ):
            assert self.signature.bind(args, kwargs) == [1, 2]

    @pytest.mark.parametrize(
        ("args", "kwargs", "message"),
        [
            ((1,), {}, r"^argument 'mask' is missing: the model must be called with \(ids, mask\)$"),
            ((), {"mask": 1}, r"^argument 'ids' is missing"),
            ((1, 2), {"ids": 1}, r"^argument 'ids' must be given once, not both by position and by name$"),
            ((1, 2), {"tokens": 1}, r"^argument must be one of \['ids', 'mask', 'scale'\], not 'tokens'$"),
            ((1, 2), {"labels": 1}, r"^argument must be one of \['ids', 'mask', 'scale'\], not 'labels'$"),
            ((1, 2, 3), {}, r"^the model must be called with \(ids, mask\), not with 3 by position$"),
            ((1, 2, None, None), {}, r"^the model must be called with \(ids, mask\), not with 4 by position$"),
            ((1, 2), {"scale": 2.0}, r"^scale must be 1\.0, the value the model was compiled for, not 2\.0; compile"),
        ],
    )
    def test_wrong_calls(self, args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidInput, match=message):
            self.signature.bind(args, kwargs)

    def test_more_arguments_than_names(self) -> None:
        signature = Signature(("x",), Structure("tuple", (LEAF, LEAF, LEAF)), Structure("dict"))
        assert signature.leaf_names() == ["x", "args[1]", "args[2]"]
        assert signature.bind((1, 2, 3), {}) == [1, 2, 3]

    def test_json(self) -> None:
        assert Signature.from_json(json.loads(json.dumps(self.signature.to_json()))) == self.signature
