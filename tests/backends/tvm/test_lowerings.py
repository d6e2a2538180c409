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
