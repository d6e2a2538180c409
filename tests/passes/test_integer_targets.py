"""Quantising for a systolic array: what it computes with integers, and what it refuses."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput, Unsupported
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.testing import op_counts
from torch import nn
from torch.nn import functional as F

TARGET = "systolic{rows=4,cols=4}"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.hardswish(self.second(x) + x)
        return self.last(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def quantized(model, *inputs, target=TARGET, **options):
    return fxpress.quantize(model.eval(), args=inputs, calibration=[inputs] * 2, target=target, **options)


def modes(program) -> set[str]:
    named = (
        (node, [a.name for a in node.target._schema.arguments]) for node in program.nodes if node.op == "call_function"
    )
    return {node.args[names.index("mode")] for node, names in named if "mode" in names}


def test_a_convolutional_network_is_integer_between_its_ends():
    program = quantized(Residual(), torch.randn(1, 3, 10, 10))
    assert modes(program) == {"I"}
    counts = op_counts(program)
    assert counts["quantized_conv"] == 2
    assert counts["quantize"] == counts["quantized_linear_float"] == 1
    assert "dequantize" not in counts


def test_it_gives_what_the_cpu_gives_with_the_same_config():
    model, x = Residual(), torch.randn(1, 3, 10, 10)
    here = quantized(model, x, target="cpu", config="int8-hardware")
    assert torch.equal(quantized(model, x).run(x), here.run(x))


def test_attention_becomes_products_with_zero_points_of_zero():
    program = quantized(Attention(), torch.randn(1, 6, 16))
    products = [node for node in program.nodes if "quantized_matmul" in str(node.target)]
    assert len(products) == 2
    for node in products:
        names = [argument.name for argument in node.target._schema.arguments]
        assert [node.args[names.index(name)] for name in ("a_zero", "b_zero")] == [0, 0]
    counts = op_counts(program)
    assert counts["softmax"] == 1
    assert not any("attention" in name for name in counts)


def test_embeddings_are_int8_rows():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.fc = nn.Embedding(1024, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.fc(self.words(x))

    ids = torch.arange(6)[None]
    assert op_counts(quantized(Words(), ids)) == {"quantized_embedding": 1, "quantize": 1, "quantized_linear_float": 1}


def test_only_additions_of_equal_shapes_are_integer():
    class Broadcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(F.relu(self.a(x) + self.a(x[:1] * 0.5)))

    program = quantized(Broadcast(), torch.randn(3, 4))
    assert "quantized_add" not in op_counts(program)
    (record,) = [record for record in program.history if record.name == "quantize-ops"]
    assert any("its operands differ in shape" in note for note in record.skipped)


@pytest.mark.parametrize("config", ["int8", "int8-gemmini", "int8-accurate", QuantConfig()])
def test_requantising_with_floats_is_refused(config):
    message = r"^mode of the config must be one of \['I'\] for a systolic target, not 'F'; use config='int8-hardware'$"
    with pytest.raises(InvalidInput, match=message):
        quantized(Residual(), torch.randn(1, 3, 10, 10), config=config)


@pytest.mark.parametrize("changes", [{"dynamic": True}, {"activation_bits": None}])
def test_float_activations_are_refused(changes):
    with pytest.raises(InvalidInput, match=r"^activations must be 8-bit integers with fixed scales for a systolic"):
        quantized(Residual(), torch.randn(1, 3, 10, 10), config=QuantConfig(mode="I", **changes))


@pytest.mark.parametrize("profitable", ["measure", "predict"])
def test_nothing_is_timed(profitable):
    with pytest.raises(Unsupported, match=r"^profitable must be 'off' and budget None for systolic targets"):
        quantized(Residual(), torch.randn(1, 3, 10, 10), profitable=profitable)
