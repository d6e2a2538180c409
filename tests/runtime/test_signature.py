"""Calls bound to signatures: by position, by name, and wrong ones.

SIGNATURE is forward(ids, mask=None, labels=None, *, scale=1.0) captured as forward(ids, mask=mask, scale=1.0).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from fxpress.errors import InvalidArtifact, InvalidInput
from fxpress.runtime.signature import Signature
from fxpress.runtime.structure import LEAF, Structure

SIGNATURE = Signature(
    ("ids", "mask", "labels"),
    Structure("tuple", (LEAF,)),
    Structure("dict", (LEAF, Structure("constant", value=1.0)), ("mask", "scale")),
)
NOTHING_NAMED = {"kind": "dict", "items": [], "keys": []}


def test_by_position_and_by_name() -> None:
    for args, kwargs in (
        ((1, 2), {}),
        ((1,), {"mask": 2}),
        ((), {"mask": 2, "ids": 1}),
        ((1, 2), {"scale": 1.0}),
        ((1, 2, None), {}),
        ((1, 2), {"labels": None}),
    ):
        assert SIGNATURE.bind(args, kwargs) == [1, 2]


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
def test_wrong_calls(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        SIGNATURE.bind(args, kwargs)


def test_more_arguments_than_names() -> None:
    signature = Signature(("x",), Structure("tuple", (LEAF, LEAF, LEAF)), Structure("dict"))
    assert signature.leaf_names() == ["x", "args[1]", "args[2]"]
    assert signature.bind((1, 2, 3), {}) == [1, 2, 3]


def test_json() -> None:
    assert Signature.from_json(json.loads(json.dumps(SIGNATURE.to_json()))) == SIGNATURE


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"positional": ["x"], "args": "leaf", "kwargs": NOTHING_NAMED},
        {"positional": [1], "args": {"kind": "tuple", "items": []}, "kwargs": NOTHING_NAMED},
    ],
)
def test_malformed_signature(data: object) -> None:
    with pytest.raises(InvalidArtifact, match=r"^a signature must have positional, args and kwargs"):
        Signature.from_json(data)
