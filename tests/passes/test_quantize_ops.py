"""Programs before and after quantisation: their text, their numbers, what they never contain."""

from __future__ import annotations

import re

import fxpress
import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.ops import fxpress as ops
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.scheme import PRESETS, QuantConfig
from fxpress.testing import op_counts, trace
from fxpress.verifier import verify
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

STATIC = ("int8", "int8-hardware", "int8-gemmini", "int8-accurate")


class SmallCnn(nn.Module):
    """Every op of a convolutional network that has an integer form."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish())
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.depthwise(self.stem(x))
        x = (self.left(x) + x).relu()
        x = torch.cat((F.max_pool2d(x, 2), F.avg_pool2d(self.right(x), 2)), 1)
        return self.head(x.mean((2, 3)))


class SmallTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1100, 16)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, ids):
        x = self.embedding(ids)
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT * 8**-0.5).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


def cnn():
    torch.manual_seed(0)
    return SmallCnn().eval(), [torch.randn(1, 3, 16, 16) for _ in range(4)]


def transformer():
    torch.manual_seed(0)
    return SmallTransformer().eval(), [torch.randint(0, 1100, (1, 6)) for _ in range(4)]


def quantized(model, items, config="int8", **options):
    first = items[0] if isinstance(items[0], tuple) else (items[0],)
    return fxpress.quantize(model, config, args=first, calibration=items, **options)


def signal_to_noise(program, model, items):
    found, wanted = (torch.cat([f(x).detach().double() for x in items]) for f in (program.run, model))
    return float(10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum()))


def text(program):
    """Without the constants' lines, whose order says nothing."""
    return "".join(line + "\n" for line in program.text().splitlines() if "= constant" not in line)


def rounded(program_text):
    """Scales to four digits: what a CPU's sums make of the last ones is not the point."""
    return re.sub(r"\d+\.\d{5,}(e-\d+)?", lambda match: f"{float(match[0]):.4g}", program_text)


def test_text_of_a_cnn(golden):
    model, items = cnn()
    fused = PassManager("default").run(trace(model, items[0]))
    golden(text(fused) + "\n" + rounded(text(quantized(model, items))))


def test_text_of_a_transformer(golden):
    model, items = transformer()
    fused = PassManager("default").run(trace(model, items[0]))
    golden(text(fused) + "\n" + rounded(text(quantized(model, items))))


@pytest.mark.parametrize("config", STATIC)
@pytest.mark.parametrize(("make", "least"), [(cnn, 28), (transformer, 28)])
def test_numbers_are_near(make, least, config):
    model, items = make()
    found = signal_to_noise(quantized(model, items, config), model, items)
    assert found > least - (8 if config == "int8-gemmini" else 0)


@pytest.mark.parametrize("make", [cnn, transformer])
def test_the_result_is_a_program_like_any_other(make, tmp_path):
    model, items = make()
    program = quantized(model, items)
    verify(program, level=2)
    assert PassManager("default").run(program).text() == program.text()
    program.save(tmp_path / "q.program")
    loaded = fxpress.Program.load(tmp_path / "q.program")
    assert loaded.text() == program.text()
    assert torch.equal(loaded.run(items[1]), program.run(items[1]))
    assert "quantized" in program.facts


def quantize_pairs(program):
    """Values that are quantised only to be dequantised, or the other way round."""
    pairs = {ops.quantize.default: ops.dequantize.default, ops.dequantize.default: ops.quantize.default}
    return [
        (node.name, user.name)
        for node in program.nodes
        for user in node.users
        if user.target is pairs.get(node.target, 0)
    ]


class Random(nn.Module):
    """A chain of random steps, some of them with integer forms, with a residual from anywhere."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in steps)

    def forward(self, x):
        values = [x]
        for (kind, other), conv in zip(self.steps, self.convs, strict=True):
            y, z = values[-1], values[other % len(values)]
            values.append(
                {
                    "conv": lambda y=y, conv=conv: conv(y),
                    "relu": lambda y=y: y.relu(),
                    "silu": lambda y=y: F.silu(y),
                    "add": lambda y=y, z=z: y + z,
                    "mul": lambda y=y, z=z: y * z.sigmoid(),
                    "max": lambda y=y: F.max_pool2d(y, 3, 1, 1),
                    "avg": lambda y=y: F.avg_pool2d(y, 3, 1, 1),
                    "cat": lambda y=y, z=z: torch.cat((y, z), 1)[:, 1:5],
                    "norm": lambda y=y: F.layer_norm(y, y.shape[1:]),
                }[kind]()
            )
        return values[-1], values[len(values) // 2]


KINDS = ["conv", "conv", "conv", "relu", "silu", "add", "mul", "max", "avg", "cat", "norm"]


@given(
    steps=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5)), min_size=2, max_size=8),
    config=st.sampled_from(["int8", "int8-hardware", "int8-gemmini"]),
)
def test_random_graphs(steps, config):
    torch.manual_seed(len(steps))
    model = Random(steps).eval()
    items = [torch.randn(1, 4, 6, 6) for _ in range(2)]
    program = quantized(model, items, config)
    assert quantize_pairs(program) == []
    assert PassManager("default").run(program).text() == program.text()
    for found, wanted in zip(program.run(items[0]), model(items[0]), strict=True):
        noise = (found - wanted.detach()).square().sum()
        assert noise <= 10 ** (-1.2) * wanted.detach().square().sum() + 1e-12


def test_a_relu_goes_into_the_sum_before_it():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.a(x).relu()
            return self.b((F.max_pool2d(x, 3, 1, 1) + x).relu())

    program = quantized(Sum().eval(), [torch.randn(1, 4, 6, 6)])
    assert op_counts(program)["quantized_add"] == 1
    assert "lookup" not in op_counts(program)


def test_a_value_with_users_of_both_kinds_is_converted_once():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))

        def forward(self, x):
            y = self.a(x)
            return self.b(y), self.c(y), y

    counts = op_counts(quantized(Both().eval(), [torch.randn(1, 4, 6, 6)]))
    assert counts["quantized_conv_float"] == 3
    assert counts["quantize"] == 2
    assert "dequantize" not in counts


def test_a_layer_whose_sums_could_overflow_stays_float():
    layer = nn.Linear(140_000, 2)
    nn.init.constant_(layer.weight, 1.0)
    program = quantized(layer.eval(), [torch.rand(1, 140_000)])
    assert "linear" in op_counts(program)
    (record,) = [record for record in program.history if record.name == "quantize-ops"]
    assert re.search(r"stays float32: its sums could reach \d{10}, more than 32 bits hold", record.skipped[0])


def test_a_constant_residual():
    constant, weight = torch.randn(1, 4), torch.randn(4, 4)
    function = lambda x: F.linear(F.linear(x, weight) + constant, weight)  # noqa: E731
    program = quantized(function, [torch.randn(1, 4) for _ in range(4)])
    assert signal_to_noise(program, function, [torch.randn(1, 4)]) > 25


def test_values_that_are_always_zero_stay_zero():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    nn.init.constant_(model[0].bias, -100.0)
    program = quantized(model, [torch.rand(2, 4)])
    assert torch.allclose(program.run(torch.rand(2, 4)), model[2].bias.expand(2, 3), rtol=1e-4)


def test_matmuls_of_computed_values():
    function = lambda x, y: (x @ y) @ y  # noqa: E731
    items = [(torch.randn(2, 5, 5), torch.randn(2, 5, 5)) for _ in range(4)]
    program = quantized(function, items, QuantConfig(matmuls=True))
    assert op_counts(program) == {"quantize": 2, "quantized_matmul": 1, "quantized_matmul_float": 1}


@pytest.mark.parametrize("name", ["int8-weights", "int4-weights", "int8-dynamic"])
def test_layers_with_float_activations(name):
    model, items = transformer()
    program = fxpress.quantize(model, name, args=(items[0],))
    op = "dynamic_linear" if name == "int8-dynamic" else "weight_only_linear"
    assert op_counts(program)[op] == 4
    assert "quantize" not in op_counts(program)
    assert signal_to_noise(program, model, items) > (15 if name == "int4-weights" else 30)
    program = fxpress.quantize(cnn()[0], name, args=(cnn()[1][0],))
    (record,) = [record for record in program.history if record.name == "quantize-ops"]
    assert any("only linear layers have kernels with integer weights" in reason for reason in record.skipped)


def test_presets_differ_where_they_say():
    model, items = cnn()
    texts = {name: quantized(model, items, name).text() for name in STATIC}
    assert "'I'" in texts["int8-hardware"]
    assert "'I'" not in texts["int8"]
    assert PRESETS["int8-gemmini"].symmetric
    gemmini = quantized(model, items, "int8-gemmini")
    for node in gemmini.nodes:
        if node.target is ops.quantize.default:
            assert node.args[2] == 0
    scales = [value for name, value in gemmini.constants.items() if name.endswith("_scale")]
    assert scales
    assert all(len(set(scale.tolist())) == 1 for scale in scales)


def test_the_pass_needs_a_plan():
    with pytest.raises(InvalidInput, match=r"^quantize-ops must be given a Plan, which fxpress\.quantize makes"):
        PassManager("quantize-ops").run(trace(torch.relu, torch.randn(2)))
