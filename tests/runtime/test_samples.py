"""Samples, their recipes, and the safetensors bytes they travel in."""

from __future__ import annotations

import fxpress.runtime.tensor_file as tensor_file
import numpy as np
import pytest
import safetensors.numpy
from fxpress.errors import InvalidArtifact
from fxpress.runtime.samples import Recipe, Samples, choose_inputs, make_inputs, relative_error
from fxpress.runtime.structure import TensorSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(DTYPES).flatmap(lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, min_side=0)))))
def test_safetensors_can_be_read_by_its_own_library(arrays: list[np.ndarray]) -> None:
    tensors = {f"t{i}": array for i, array in enumerate(arrays)}
    data = tensor_file.save_tensors(tensors)
    for read in (tensor_file.load_tensors(data), safetensors.numpy.load(data)):
        assert read.keys() == tensors.keys()
        for name, array in tensors.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("data", [b"", b"\x05", b"\xff" * 8 + b"{}", b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{"])
def test_malformed_safetensors(data: bytes) -> None:
    with pytest.raises(InvalidArtifact, match=r"^samples must be a safetensors file"):
        tensor_file.load_tensors(data)


def test_offsets_outside_the_file() -> None:
    data = tensor_file.save_tensors({"a": np.zeros(4, np.float32)})
    with pytest.raises(InvalidArtifact, match=r"data offsets must lie within 8 bytes, not 0 to 16"):
        tensor_file.load_tensors(data[:-8])


def test_recipes_make_the_same_numbers_everywhere() -> None:
    image = Recipe(7, -2.0, 3.0).make(TensorSpec("x", "float32", (2, 3)))
    np.testing.assert_array_equal(
        image,
        np.float32(
            [
                [1.1254773139953613, 2.4860689640045166, 1.8784284591674805],
                [-0.8739640712738037, -0.4991685748100281, 2.367767333984375],
            ]
        ),
    )
    tokens = Recipe(7, 0, 9).make(TensorSpec("ids", "int64", (1000,)))
    assert tokens.dtype == np.int64
    assert set(tokens.tolist()) == set(range(10))


def test_large_inputs_become_recipes_with_their_range() -> None:
    specs = [TensorSpec("image", "float32", (1, 3, 224, 224)), TensorSpec("ids", "int64", (1, 16))]
    image = np.random.default_rng(0).normal(size=specs[0].shape).astype(np.float32)
    image[0, 0, 0, 0] = np.inf
    ids = np.arange(16).reshape(1, 16)
    chosen = choose_inputs(specs, [image, ids])
    assert chosen[1] is ids
    made, same_ids = make_inputs(chosen, specs)
    assert same_ids is ids
    assert made.shape == image.shape
    assert made.dtype == image.dtype
    finite = image[np.isfinite(image)]
    assert finite.min() <= made.min() < -3
    assert 3 < made.max() <= finite.max()


def test_samples_stay_small_and_still_tell_outputs_apart() -> None:
    specs = [TensorSpec("x", "float32", (1, 3, 224, 224))]
    outputs = [np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in enumerate((3, 1_000_000, 50_000))]
    samples = Samples.of(choose_inputs(specs, [np.ones(specs[0].shape, np.float32)]), outputs)
    data = samples.to_bytes()
    assert len(data) < 256 << 10
    again = Samples.load(data, samples.to_json())
    assert again.errors(outputs) == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(again.make_inputs(specs)[0], samples.make_inputs(specs)[0])
    outputs[1] = outputs[1] * np.float32(1.001)
    assert again.errors(outputs)[1] == pytest.approx(1e-3, rel=0.01)


def test_samples_with_missing_tensors() -> None:
    samples = Samples.of([np.zeros(3, np.float32)], [np.zeros(3, np.float32)])
    with pytest.raises(InvalidArtifact, match=r"^samples must be described by inputs and steps"):
        Samples.load(samples.to_bytes(), {"inputs": [None, None], "steps": [1]})


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([3.0, 5.0], [3.0, 4.0], 0.2),
        ([0.5], [0.0], 0.5),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0, 1.0], [np.nan, 1.0], np.inf),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([1, 2], [1, 2], 0.0),
        ([1, 3], [1, 2], np.inf),
        ([], [], 0.0),
    ],
)
def test_relative_error(found: list[float], expected: list[float], error: float) -> None:
    assert relative_error(np.array(found), np.array(expected)) == pytest.approx(error)
