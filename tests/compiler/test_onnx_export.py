"""Programs as ONNX files with Q and DQ: ONNX Runtime computes the same, layer by layer within one step."""

from __future__ import annotations

import fxpress
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput, Unsupported
from fxpress.testing import trace
from torch import nn

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

aten, ops = torch.ops.aten, torch.ops.fxpress


def exported(program, path, *inputs):
    """What ONNX Runtime computes on the CPU."""
    fxpress.export_onnx(program, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in session.get_inputs()]
    return [torch.from_numpy(y) for y in session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))]


def integers(*shape, low=-128, high=128):
    return torch.randint(low, high, shape, dtype=torch.int8)


# Many numbers, and below scales whose quotients are not halves: what is rounded to the other side there is chance.
X, IMAGE, LAST = integers(40, 6), integers(1, 4, 7, 8), integers(1, 7, 8, 4)
WEIGHT, SCALE, BIAS = integers(5, 6, low=-127), torch.rand(5) * 0.01 + 1e-3, torch.randint(-999, 999, (5,)).int()
KERNEL, DEPTHWISE = integers(5, 4, 3, 3, low=-127), integers(4, 1, 3, 3, low=-127)
FOUR, FOUR_SCALES = BIAS[:4].clone(), SCALE[:4].clone()
TABLE = integers(256)
FINE, CLIPPED, ALL = (0.05, 3, 1.0, 0, 0.07, -5), (-5, 60), (-128, 127)
HEADS = integers(1, 2, 13, 8)


def geometry(groups=1):
    return [2, 1], [1, 0, 2, 1], [1, 1], groups


LAYERS = {
    "quantize": (lambda x: ops.quantize(x, 0.07, -5), torch.randn(50) * 5),
    "requantize": (lambda x: ops.requantize(x, 0.05, 3, 0.07, -5, -5, 60, "F"), X),
    "lookup": (lambda x: ops.lookup(x, TABLE), X),
    "conv": (
        lambda x: ops.quantized_conv(x, KERNEL, BIAS, None, SCALE, *FINE, *CLIPPED, *geometry(), "F", False), IMAGE,
    ),
    "conv, mode I, channels last": (
        lambda x: ops.quantized_conv(x, KERNEL, BIAS, None, SCALE, *FINE, *ALL, *geometry(), "I", True), LAST,
    ),
    "depthwise conv with residual": (
        lambda x: ops.quantized_conv(
            x, DEPTHWISE, FOUR, x, FOUR_SCALES, *(0.05, 3) * 2, 0.07, -5, *ALL, [1, 1], [1] * 4, [1, 1], 4, "F", True
        ),
        LAST,
    ),
    "linear": (lambda x: ops.quantized_linear(x, WEIGHT, BIAS, None, SCALE, *FINE, *CLIPPED, "F"), X),
    "linear of three dims with residual": (
        lambda x, r: ops.quantized_linear(x, WEIGHT, BIAS, r, SCALE, 0.05, 3, 0.1, 9, 0.07, -5, *ALL, "F"),
        integers(2, 17, 6), integers(2, 17, 5),
    ),
    "matmul": (
        lambda a, b: ops.quantized_matmul(a, b, 0.0531, 3, 0.0217, -7, 0.5, 4, *ALL, "F"),
        integers(2, 23, 6), integers(2, 6, 4),
    ),
    "add": (lambda a, b: ops.quantized_add(a, b, 0.0531, 3, 0.0217, -7, 0.0613, 4, *CLIPPED, "F"), X, integers(40, 6)),
    "avg_pool": (
        lambda x: ops.quantized_avg_pool(x, [3, 2], [2, 2], [1, 0], False, 0.0531, 3, 0.0417, 4, *ALL, "F", True), LAST,
    ),
    "max_pool": (lambda x: ops.quantized_max_pool(x, [3, 2], [2, 2], [1, 0], [1, 1], False, True), LAST),
    "attention": (
        lambda q: ops.quantized_attention(q, q, q, None, False, 0.3, False, 0.02, 0.02, 0, 0.02, 0, 0.015, 3), HEADS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_integer_layer_is_within_one_step(name, tmp_path):
    function, *inputs = LAYERS[name]
    program = trace(function, *inputs)
    (found,) = exported(program, tmp_path / "layer.onnx", *inputs)
    expected = program.run(*inputs)
    difference = (found.int() - expected.int()).abs()
    assert found.dtype == expected.dtype == torch.int8
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 0.05
    assert len(expected.unique()) > 4


NUMBERS, NOTHING = torch.tensor([0, 2, 1]), torch.empty(0)
ROWS, PACKED = torch.randn(3, 6), torch.randint(0, 256, (5, 3), dtype=torch.uint8)
GROUPS, ZEROS = torch.rand(5, 3) * 0.1 + 0.01, torch.randint(0, 16, (5, 3), dtype=torch.uint8)
FLOAT_LAYERS = {
    "dequantize": (lambda x: ops.dequantize(x, 0.05, 3), X),
    "conv_float": (
        lambda x: ops.quantized_conv_float(x, KERNEL, BIAS, None, SCALE, 0.05, 3, *geometry(), "silu", True), LAST,
    ),
    "linear_float": (
        lambda x, r: ops.quantized_linear_float(x, WEIGHT, BIAS, r, SCALE, 0.05, 3, "gelu"), X, torch.randn(40, 5),
    ),
    "matmul_float": (lambda a: ops.quantized_matmul_float(a, a, 0.05, 3, 0.02, -7), integers(2, 6, 6)),
    "embedding": (lambda i: ops.quantized_embedding(WEIGHT, SCALE, i), torch.tensor([[0, 4], [2, 2]])),
    "dynamic_linear": (lambda x: ops.dynamic_linear(x, WEIGHT, None, None, SCALE, "relu"), ROWS),
    "weight_only_linear": (
        lambda x: ops.weight_only_linear(x, WEIGHT, None, None, SCALE[:, None], None, 8, 6, "none"), ROWS,
    ),
    "weight_only_linear of 4 bits": (
        lambda x: ops.weight_only_linear(x, PACKED, BIAS.float(), None, GROUPS, None, 4, 2, "none"), ROWS,
    ),
    "weight_only_linear with zeros": (
        lambda x: ops.weight_only_linear(x, PACKED, None, None, GROUPS, ZEROS, 4, 2, "none"), ROWS,
    ),
    "codebook": (lambda x: x + ops.codebook(PACKED, torch.arange(256).float()), torch.randn(5, 3)),
    "splits": (lambda x: torch.cat([*x.split([2, 4], 1), x[:, 1:3], x.unbind(1)[0][:, None]], 1), ROWS),
    "moves": (lambda x: F.pad(x.expand(2, 3, 6)[1].T.unsqueeze(0), (1, 2, 0, 1), value=2.0), ROWS),
    "nothing before something": (lambda x: torch.cat([NOTHING, x], -1), ROWS),
    "arithmetic": (lambda x: torch.where(x > 0, 0 - x * 2, x.exp() / 3).clamp(-1, 0.5), ROWS),
    "sums and norms": (lambda x: x / x.norm(dim=1, keepdim=True) + x.sum(0), ROWS),
    "comparisons": (lambda i: torch.where(i != 2, 1.0, 0.0) + torch.where(i == 4, 2.0, 0.0) + ROWS[i].sum(1), NUMBERS),
    "activations": (lambda x: F.silu(x) + F.gelu(x) + F.hardswish(x) + torch.tanh(x) + F.hardsigmoid(x), ROWS),
    "norm, softmax and mean": (lambda x: F.layer_norm(x, (6,)).softmax(0).mean(1, keepdim=True), ROWS),
    "float attention": (
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), torch.randn(1, 2, 3, 8),
    ),
    "resize": (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), torch.randn(1, 2, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOAT_LAYERS)
def test_float_layer_agrees(name, tmp_path):
    function, *inputs = FLOAT_LAYERS[name]
    program = fxpress.PassManager("default").run(trace(function, *inputs))
    (found,) = exported(program, tmp_path / "layer.onnx", *inputs)
    expected = program.run(*inputs)
    assert torch.allclose(found, expected, rtol=1e-2 if "weight_only" in name else 1e-4, atol=1e-2)


def classifier():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.SiLU()),
        *(nn.Conv2d(16, 24, 1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)),
    ).eval()


@pytest.mark.parametrize("config", ["int8", "int8-hardware", "int8-gemmini"])
def test_classifier_has_the_same_top_1(config, tmp_path):
    images = [(torch.randn(1, 3, 16, 16),) for _ in range(20)]
    program = fxpress.quantize(classifier(), config, args=images[0], calibration=images[:8])
    for image in images:
        (found,) = exported(program, tmp_path / "classifier.onnx", *image)
        assert int(found.argmax()) == int(program.run(*image).argmax())


@pytest.mark.parametrize("config", ["int8", "int8-dynamic", "int8-weights", "int4-weights"])
def test_transformer_layer(config, tmp_path):
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, activation="gelu").eval()
    data = [(torch.randn(1, 7, 32),) for _ in range(4)]
    program = fxpress.quantize(layer, config, args=data[0], calibration=data if config == "int8" else None)
    (found,) = exported(program, tmp_path / "layer.onnx", *data[1])
    expected = program.run(*data[1])
    assert float((found - expected).norm() / expected.norm()) < 1e-2


def test_weights_are_int8_with_a_scale_for_each_channel(tmp_path):
    image = torch.randn(1, 3, 16, 16)
    program = fxpress.quantize(classifier(), args=(image,), calibration=[(image,)])
    fxpress.export_onnx(program, tmp_path / "classifier.onnx")
    graph = onnx.load(tmp_path / "classifier.onnx").graph
    shapes = {tuple(x.dims) for x in graph.initializer if x.data_type == onnx.TensorProto.INT8 and len(x.dims) > 1}
    assert shapes == {(16, 3, 3, 3), (16, 1, 3, 3), (24, 16, 1, 1), (10, 24)}
    assert all(x.data_type != onnx.TensorProto.FLOAT or len(x.dims) < 2 for x in graph.initializer)
    assert [x.name for x in graph.output] == ["output_0"]
    transposes = [node for node in graph.node if node.op_type == "Transpose"]
    assert len(transposes) <= 2  # layers pass channels-first values on to each other


def test_all_that_cannot_be_exported_is_listed(tmp_path):
    program = trace(lambda x: torch.cumsum(x, 0) + torch.sort(x, 0).values, torch.randn(3))
    path = tmp_path / "model.onnx"
    with pytest.raises(Unsupported, match=r"(?s)^2 node\(s\) cannot be exported to ONNX:\n.*cumsum.*\n.*sort"):
        fxpress.export_onnx(program, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("function", "x", "reason"),
    [
        (lambda x: F.adaptive_avg_pool2d(x, 3), torch.randn(1, 2, 7, 7), "its windows differ in size"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), torch.randn(1, 2, 4, 4), "it has a divisor of its own"),
        (lambda x: F.interpolate(x, size=9, mode="bicubic"), torch.randn(1, 2, 4, 4), "its mode is bicubic"),
        (lambda x: x.norm(1, dim=0), ROWS, "it is of order 1, or over all dims"),
        (lambda x: x[:, NUMBERS], ROWS, "it has other than one index, the first"),
        (lambda x: x.sum(), ROWS, "it changes the type, or is over all"),
        (lambda x: x.to(torch.complex64), torch.randn(3), "ONNX files of ours have no torch.complex64"),
        (
            lambda q: ops.quantized_attention(q, q, q, None, True, 0.3, False, 0.02, 0.02, 0, 0.02, 0, 0.015, 3),
            HEADS, "it is causal, or has fewer heads of keys",
        ),
        (
            lambda x: ops.quantized_linear_float(X, WEIGHT, BIAS, None, x, 0.1, 0, "none"), SCALE,
            "its weight_scale is computed",
        ),
        (
            lambda x: ops.weight_only_linear(x, PACKED, None, None, GROUPS, None, 4, 2, "none"), ROWS[:, :5],
            "its rows have an odd number of 4-bit weights",
        ),
    ],
)  # fmt: skip
def test_forms_that_onnx_lacks_are_refused(function, x, reason, tmp_path):
    program = fxpress.PassManager("normalize-pool,normalize-resize").run(trace(function, x))
    with pytest.raises(Unsupported, match=f": {reason}$"):
        fxpress.export_onnx(program, tmp_path / "model.onnx")


def test_sizes_that_vary_are_refused(tmp_path):
    dim = torch.export.Dim("n", min=2)
    program = fxpress.capture(nn.ReLU(), (torch.randn(3, 2),), dynamic_shapes=({0: dim},))
    with pytest.raises(InvalidInput, match=r"^program must have fixed sizes to become an ONNX file"):
        fxpress.export_onnx(program, tmp_path / "model.onnx")
