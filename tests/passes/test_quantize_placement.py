"""Where integers are: what becomes int8, what stays float32 and why, what shares a scale, what a scope means."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.placement import place
from fxpress.passes.quantization.scheme import PRESETS, QuantConfig
from fxpress.passes.quantization.scopes import module_path
from fxpress.target import Target
from fxpress.testing import trace
from torch import nn

INT8 = PRESETS["int8"]
IMAGE = torch.randn(1, 4, 8, 8)


def placed(model, *inputs, config: QuantConfig = INT8, **scopes):
    model = model.eval() if isinstance(model, nn.Module) else model
    program = PassManager("default").run(trace(model, *inputs))
    return place(program, Target.parse("cpu"), config, **scopes)


def names(nodes):
    return sorted(re.sub(r"_\d+$", "", node.name) for node in nodes)


def conv(channels=4, size=3):
    return nn.Conv2d(4, channels, size, padding=size // 2)


def test_a_chain_of_layers_is_integer_but_its_result():
    found = placed(nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv()), IMAGE)
    assert names(found.layers) == ["conv"] * 3
    assert names(found.integer) == ["conv"] * 2
    assert names(found.quantized) == ["permute"]
    assert not found.left


class Residual(nn.Module):
    """The stream goes to layer norms, and to sums with what layers make of those."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return x


def test_a_residual_stream_that_norms_read_stays_float():
    found = placed(Residual(), torch.randn(2, 5, 8))
    assert not found.integer
    assert names(found.layers) == ["linear"] * 2
    assert names(found.quantized) == ["layer_norm"] * 2


class ResidualBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(), conv(), conv()

    def forward(self, x):
        x = self.a(x).relu()
        return self.c((self.b(x) + x).relu())


def test_a_residual_between_convolutions_is_integer():
    found = placed(ResidualBlock(), IMAGE)
    assert names(found.integer) == ["conv", "conv"]
    assert names(found.quantized) == ["permute"]


def test_nothing_is_quantised_only_to_be_dequantised():
    """No layer is near: additions, pools and functions stay as they are."""
    found = placed(lambda x: F.max_pool2d((x + x.flip(2)).relu(), 2).mean((2, 3)).sigmoid(), IMAGE)
    assert not found.integer
    assert not found.quantized


def test_functions_between_layers_and_float_follow_their_neighbours():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            y = self.a(x)
            return self.b(y * y.mean((2, 3), keepdim=True).sigmoid())

    found = placed(Gate(), IMAGE)  # products have no integer kernel: what they read is float32
    assert not found.integer
    assert names(found.quantized) == ["mul", "permute"]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(), conv(), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.c(F.max_pool2d(torch.cat((self.a(x).relu(), self.b(x)), 1), 2))


def test_concatenation_and_max_pool_share_a_scale():
    found = placed(Branches(), IMAGE)
    (shared,) = [names(values) for values in found.scale_sets if len(values) > 1]
    assert shared == ["cat", "conv", "conv", "max_pool"]
    assert names(found.integer) == ["cat", "conv", "conv", "max_pool"]


def test_pools_and_views_before_a_classifier():
    model = nn.Sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    found = placed(model, IMAGE)
    assert names(found.integer) == ["adaptive_avg_pool", "conv", "reshape"]
    assert [names(values) for values in found.scale_sets if len(values) > 1] == [["adaptive_avg_pool", "reshape"]]


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (nn.AdaptiveAvgPool2d(3), "its windows differ in size"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), "padding does not count in its windows"),
        (nn.AvgPool2d(2, divisor_override=3), "its divisor is not the window's size"),
        (nn.AvgPool2d(3, ceil_mode=True), "its last windows overhang"),
        (nn.AvgPool2d(2), None),
        (nn.AvgPool2d(2, divisor_override=4), None),
        (nn.AdaptiveAvgPool2d(4), None),
    ],
)
def test_average_pools(pool, reason):
    found = placed(nn.Sequential(conv(), pool, conv()), IMAGE)
    assert list(found.left.values()) == ([reason] if reason else [])
    assert ("adaptive_avg_pool" in names(found.integer) or "avg_pool" in names(found.integer)) is (reason is None)


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (lambda x, w: F.linear(x, w), (torch.randn(2, 4), torch.randn(3, 4)), None),
        (lambda x, w: F.conv2d(x, w), (IMAGE, torch.randn(2, 4, 1, 1)), None),
        (lambda x, y: F.linear(torch.add(F.linear(x, W), y, alpha=2), W), (torch.randn(2, 4),) * 2, None),
        (lambda x: F.linear(F.linear(x, W) + B, W).relu(), (torch.randn(2, 4),), None),
    ],
)
def test_what_has_no_integer_form_stays(function, inputs, reason):
    found = placed(function, *inputs)
    assert not {"add", "matmul", "bmm"} & set(names(found.integer))


W, B = torch.randn(4, 4), torch.randn(2, 1)


def test_reasons_are_given():
    found = placed(lambda x, w: F.linear(x @ w, W), torch.randn(2, 4), torch.randn(4, 4))
    assert list(found.left.values()) == ["products of computed values are not asked for (matmuls)"]
    table = nn.Embedding(10, 4)
    found = placed(nn.Sequential(table, nn.Linear(4, 4)), torch.zeros(1, 2, dtype=torch.int64))
    assert list(found.left.values()) == ["its table has fewer than 16384 elements"]
    refused = {node.name: "because" for node in found.layers}
    found = placed(nn.Sequential(table, nn.Linear(4, 4)), torch.zeros(1, 2, dtype=torch.int64), refused=refused)
    assert "because" in found.left.values()
    assert not found.layers


def test_products_of_computed_values_when_asked_for():
    found = placed(
        lambda x, w: F.linear(x @ w, W), torch.randn(2, 4), torch.randn(4, 4), config=QuantConfig(matmuls=True)
    )
    assert names(found.layers) == ["linear", "matmul"]
    assert names(found.quantized) == ["w", "x"] or len(found.quantized) == 2


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(), nn.Sequential(nn.ReLU(), conv()))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("scope", "count"),
    [
        ("body", 2),
        ("body.1", 1),
        ("body.1.1", 1),
        ("head", 1),
        ("conv", 2),
        ("fxpress.conv", 2),
        ("fxpress.linear.default", 1),
        (torch.ops.fxpress.conv.default, 2),
        (torch.ops.fxpress.linear, 1),
        (re.compile(r"^body\.\d$"), 1),
        (("head", "body.0"), 2),
    ],
)
def test_scopes(scope, count):
    ignored = placed(Nested(), IMAGE, ignore=scope)
    assert len(ignored.layers) == 3 - count
    assert list(ignored.left.values()).count("named in ignore") == count
    kept = placed(Nested(), IMAGE, only=scope)
    assert len(kept.layers) == count
    assert list(kept.left.values()).count("not named in only") == 3 - count


def test_a_scope_that_matches_nothing_lists_what_exists():
    with pytest.raises(InvalidInput) as error:
        placed(Nested(), IMAGE, ignore=["body", "tail", re.compile("x{9}")])
    text = str(error.value)
    assert text.startswith("ignore must match something that can be quantised, but 'tail', 'x{9}' does not; there are")
    assert "in body.1.1" in text
    assert "fxpress.conv.default" in text
    with pytest.raises(InvalidInput, match=r"^only must match .* but 'tail' does not; this model has no such op$"):
        placed(lambda x: x * 2, IMAGE, only="tail")
    with pytest.raises(
        InvalidInput, match=r"^a scope must be a node's name, an op, a module's path or a compiled reg.*3$"
    ):
        placed(Nested(), IMAGE, ignore=[3])


def test_module_paths_survive_passes():
    program = PassManager("default").run(trace(Nested().eval(), IMAGE))
    assert {module_path(node) for node in program.nodes if node.op == "call_function"} >= {"body.0", "body.1.1", "head"}
