"""Every op the TVM backend lowers, compiled and compared with PyTorch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fxpress
from fxpress.numerics import compare_outputs
from fxpress.testing import trace

sys.path.insert(0, str(Path(__file__).parent))
from ops import CASES


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    function, inputs = CASES[name]
    program = trace(function, *inputs)
    artifact = fxpress.compile(program, pipeline="", self_test=False)
    found = [torch.from_numpy(np.asarray(x)) for x in flat(artifact(*inputs))]
    expected = flat(function(*inputs))
    with torch.no_grad():
        reference = flat(function(*(x.double() if x.dtype == torch.float32 else x for x in inputs)))
    assert [(x.dtype, x.shape) for x in found] == [(x.dtype, x.shape) for x in expected]
    errors = compare_outputs(found, expected, reference)
    assert errors.acceptable, errors


def flat(value):
    if isinstance(value, (list, tuple)):
        return [x for item in value for x in flat(item)]
    return [value]
