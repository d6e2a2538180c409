"""A Program with a size that varies is captured, verified, printed, rewritten and run, but not compiled."""

import fxpress
import pytest
import torch
from fxpress.capturing import capture
from fxpress.errors import Unsupported
from fxpress.pass_manager import PassManager
from fxpress.verifier import verify
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        x = self.layer(self.patches(image).relu().flatten(2).transpose(1, 2))
        return self.head(x.mean(1)), x.reshape(image.shape[0] * 2, -1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Encoder().eval()


@pytest.fixture(scope="module")
def program(model):
    batch = torch.export.Dim("batch", min=2, max=64)
    return capture(model, (torch.randn(2, 3, 6, 6),), dynamic_shapes={"image": {0: batch}})


def test_verified_and_printed(program):
    verify(program)
    assert program.is_dynamic
    assert "%sym_size: int = aten.sym_size.int(%image, 0)\n" in program.text()
    assert "%mul: int = mul(%sym_size, 2)\n" in program.text()


@pytest.mark.parametrize("batch", [2, 5])
def test_rewritten_program_runs_in_every_size(model, program, batch):
    optimized = PassManager("default").run(program)
    assert optimized.history[-1].name == "pack-sparse"
    assert any(record.changed for record in optimized.history)
    image = torch.randn(batch, 3, 6, 6)
    for found, expected in zip(optimized.run(image), model(image), strict=True):
        torch.testing.assert_close(found, expected)


def test_compile_says_what_to_do(program):
    with pytest.raises(Unsupported, match=r"symbolic sizes cannot be compiled .* capture it without dynamic_shapes"):
        fxpress.compile(program)
