"""How far layers are off the original's: through renaming, fusing, narrowing and integers."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.program import Program
from fxpress.report.layer_errors import LayerError, layer_errors
from torch import Tensor, nn

ITEMS = [(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(n)),) for n in range(3)]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.norm(self.first(x))))


def captured(factor: float = 1.0) -> Program:
    """The Program, the results of whose first layer are `factor` times as large."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(factor)
    return fxpress.capture(model.eval(), ITEMS[0])


@pytest.fixture(scope="module")
def original() -> Program:
    return captured()


def errors_of(original: Program, changed: Program) -> dict[str, float | None]:
    found = layer_errors(original, changed, ITEMS)
    assert [row.nodes for row in found] == [("conv2d",), ("conv2d_1",), ("conv2d_2",), ("linear",)]
    assert found == tuple(LayerError.from_json(row.to_json()) for row in found)
    return {row.nodes[0]: row.error for row in found}


def test_the_original_is_off_by_rounding(original: Program) -> None:
    assert all(error is not None and 0 < error < 1e-6 for error in errors_of(original, original).values())


def test_integers_are_compared_as_the_numbers_that_they_stand_for(original: Program) -> None:
    quantized = fxpress.quantize(original, "int8", calibration=[x for (x,) in ITEMS])
    assert "conv2d" not in {node.name for node in quantized.nodes}  # names are others, and layers are fused
    assert all(error is not None and 1e-4 < error < 0.05 for error in errors_of(original, quantized).values())


def test_units_that_are_left_are_compared_with_themselves(original: Program) -> None:
    once = errors_of(original, fxpress.prune(original, 0.5))
    assert once["conv2d"] is not None
    assert once["conv2d"] < 1e-6  # it reads the image, of which nothing went
    assert once["conv2d_1"] is not None
    assert once["conv2d_1"] > 0.1
    twice = errors_of(original, fxpress.prune(fxpress.prune(original, 0.5), 0.5))
    assert twice["conv2d"] is not None
    assert twice["conv2d"] < 1e-6


def test_a_difference_that_is_known(original: Program) -> None:
    assert errors_of(original, captured(1.5))["conv2d"] == pytest.approx(0.5, abs=1e-6)


def test_layers_of_other_widths_have_no_error(original: Program) -> None:
    wider = errors_of(original, fxpress.PassManager("widen{ratio=2.0}").run(original))
    assert wider["conv2d_1"] is None
    assert wider["linear"] is not None
    assert wider["linear"] < 1e-6
