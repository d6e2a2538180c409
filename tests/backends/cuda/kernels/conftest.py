"""Kernels run by the evaluator of lowered TIR: no GPU is needed, and races and wrong addresses are found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fxpress.backends.cuda.architectures import ARCHITECTURES
from fxpress.backends.cuda.check import Report, evaluate
from fxpress.backends.cuda.codegen import device_module
from fxpress.backends.cuda.kernels.base import CudaKernel

RunKernel = Callable[..., Report]


@pytest.fixture
def run_kernel() -> RunKernel:
    """Run a kernel on arrays, outputs written in place; its launch must be what its TIR was written for."""

    def run(kernel: CudaKernel, *arrays: np.ndarray, architecture: str = "sm_80") -> Report:
        chosen = ARCHITECTURES[architecture]
        ((_, function),) = device_module({"kernel": kernel}, chosen).functions.items()
        report = evaluate(function, *arrays, architecture=chosen)
        launch = kernel.launch()
        assert (report.launch.grid, report.launch.block) == (launch.grid, (launch.threads, 1, 1))
        assert report.shared >= launch.shared
        return report

    return run
