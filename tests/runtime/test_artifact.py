"""Artifacts: written, loaded, called, tested."""

from __future__ import annotations

import fxpress.runtime
import numpy as np


def test_round_trip(toy) -> None:
    artifact = fxpress.runtime.load(toy.path)
    x = toy.inputs()
    np.testing.assert_allclose(artifact(x), toy.expected(x), rtol=1e-5)
