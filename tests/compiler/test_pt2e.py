"""Programs that torchao's PT2E quantizers annotated compile to integer ops, with the scales that they chose."""

from __future__ import annotations

import warnings

import fxpress
import fxpress.errors
import pytest
import torch
import torch.nn.functional as F
from fxpress.capturing import from_exported
from fxpress.passes.quantization.training import trainable
from fxpress.testing import op_counts
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e", reason="needs torchao")
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack


class Residual(nn.Module):
    """Convolutions with what comes after them: batch norm, relu, hardswish, a sum, pools and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.pointwise = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.pointwise(F.hardswish(self.depthwise(x))) + x)
        return self.head(F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 1).flatten(1))


def quantizer(kind, dynamic):
    if kind == "x86":
        chosen = x86.X86InductorQuantizer()
        return chosen.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=dynamic))
    chosen = xnnpack.XNNPACKQuantizer()
    return chosen.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))


def converted(kind, model, inputs, dynamic=False):
    """What torchao makes of the model, exported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = quantizer(kind, dynamic)
        prepared = pt2e.prepare_pt2e(torch.export.export(model.eval(), inputs[0]).module(), chosen)
        for each in inputs:
            prepared(*each)
        return torch.export.export(pt2e.convert_pt2e(prepared), inputs[0])


@pytest.fixture
def images():
    return [(torch.randn(1, 3, 12, 12),) for _ in range(4)]


@pytest.mark.parametrize(
    ("kind", "ops"),
    [
        (
            "x86",
            {"quantized_conv": 1, "quantized_conv_float": 2, "quantized_linear_float": 1, "max_pool": 1,
             "adaptive_avg_pool": 1, "quantize": 3, "dequantize": 1},
        ),
        (
            "xnnpack",
            {"quantized_conv": 3, "lookup": 1, "quantized_add": 1, "quantized_max_pool": 1, "quantized_avg_pool": 1,
             "quantized_linear": 1, "quantize": 1, "dequantize": 1},
        ),
    ],
)  # fmt: skip
def test_convolutional_network(kind, ops, images):
    exported = converted(kind, Residual(), images)
    program = fxpress.PassManager("default").run(from_exported(exported))
    found = op_counts(program)
    assert {name: found.get(name) for name in ops} == ops
    assert not any(name.startswith("conv") or name == "linear" for name in found)
    artifact = fxpress.compile(exported)
    for (image,) in images:
        expected = exported.module()(image).detach()
        # -128, which our weights do not have, and sums that torchao rounds as floats: a step of the result
        assert float((artifact(image) - expected).abs().max()) < 0.02 * float(expected.abs().max())
        assert torch.allclose(artifact(image), program.run(image), rtol=1e-5, atol=1e-6)


def test_transformer_layer():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    inputs = [(torch.randn(1, 6, 16),) for _ in range(4)]
    exported = converted("x86", model, inputs)
    program = fxpress.PassManager("default").run(from_exported(exported))
    counts = op_counts(program)
    assert counts["quantized_linear_float"] == 2  # torchao leaves attention alone
    expected, found = exported.module()(*inputs[0]).detach(), program.run(*inputs[0])
    assert float((found - expected).norm()) < 0.02 * float(expected.norm())


def test_result_trains_and_converts(images):
    """A foreign program is a quantised Program like any other."""
    program = fxpress.PassManager("default").run(from_exported(converted("xnnpack", Residual(), images)))
    module = trainable(program)
    assert torch.equal(module(*images[1]), program.run(*images[1]))


def test_dynamic_quantisation_is_refused():
    exported = converted("x86", nn.Sequential(nn.Linear(4, 4)), [(torch.randn(2, 4),)], dynamic=True)
    with pytest.raises(fxpress.errors.Unsupported, match=r"quantized_decomposed\.choose_qparams"):
        fxpress.compile(exported)
