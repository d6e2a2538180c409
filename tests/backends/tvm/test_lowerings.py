"""Every op the TVM backend lowers, compiled and compared with PyTorch."""

import copy

import fxpress
import numpy as np
import pytest
import torch
from fxpress.numerics import compare_outputs
from fxpress.testing import trace
from lowering_cases import CASES, MODULES


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    function, inputs = CASES[name]
    check(trace(function, *inputs), function, inputs, "")


@pytest.mark.parametrize("target", ["cpu", "cpu{isa=avx2}"])
@pytest.mark.parametrize("name", MODULES)
def test_module(name, target):
    module, inputs = MODULES[name]
    program = trace(module, *inputs)

    def reference(*args):
        wide = any(x.dtype == torch.float64 for x in args)
        return (copy.deepcopy(module).double() if wide else module)(*args)

    check(program, reference, inputs, "default", target)


def check(program, function, inputs, pipeline, target="cpu"):
    artifact = fxpress.compile(program, pipeline=pipeline, target=target, self_test=False)
    found = [torch.from_numpy(np.asarray(x)) for x in flat(artifact(*inputs))]
    with torch.no_grad():
        expected = flat(function(*inputs))
        reference = flat(function(*(x.double() if x.dtype == torch.float32 else x for x in inputs)))
    assert [(x.dtype, x.shape) for x in found] == [(x.dtype, x.shape) for x in expected]
    errors = compare_outputs(found, expected, reference)
    assert errors.acceptable, errors


def flat(value):
    if isinstance(value, (list, tuple)):
        return [x for item in value for x in flat(item)]
    return [value]


def test_results_seen_through_views_are_computed_in_the_outputs():
    def model(x):
        return (x * 2).reshape(6, 4).permute(1, 0), (x * 3).reshape(24, 1, 1).permute(1, 2, 0), x.reshape(24)

    x = torch.randn(2, 3, 4)
    artifact = fxpress.compile(model, (x,))
    for found, expected in zip(artifact(x), model(x), strict=True):
        assert torch.equal(found, expected)
    copied = [line for line in artifact.text().splitlines() if "copy: output" in line]
    assert [line.split("copy: output ")[1][0] for line in copied] == ["0", "2"]
