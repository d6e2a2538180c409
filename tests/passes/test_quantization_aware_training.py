"""Training of quantised Programs: the forward pass is the integers, gradients are LSQ's, and nothing collapses."""

from __future__ import annotations

import fxpress
import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput, InvalidProgram, Unsupported
from fxpress.passes.quantization import trainable
from fxpress.passes.quantization.straight_through import Step, rounded, slopes
from fxpress.testing import op_counts, trace
from torch import nn

ops = torch.ops.fxpress

MODES = ("int8", "int8-hardware")


def steps_of(module, inputs, count=3, lr=1e-2):
    """Train towards zeros for a few steps of plain gradient descent."""
    optimizer = torch.optim.SGD(module.parameters(), lr)
    for _ in range(count):
        optimizer.zero_grad()
        module(*inputs).square().mean().backward()
        optimizer.step()
    return module


class Mixed(nn.Module):
    """A residual sum, a table, a concatenation, both pools, and float ops behind the integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.head, self.last = nn.Linear(16, 6), nn.LayerNorm(6)

    def forward(self, x):
        x = F.relu6(self.norm(self.first(x)))
        y = F.relu(self.second(F.silu(self.depthwise(x))) + x)
        y = F.max_pool2d(torch.cat([x, y], 1), 2)
        return self.last(self.head(F.adaptive_avg_pool2d(y, 1).flatten(1)))


def quantized(model, *shape, config="int8", **options):
    data = [(torch.randn(shape),) for _ in range(4)]
    return fxpress.quantize(model.eval(), config, args=data[0], calibration=data, **options)


@pytest.mark.parametrize("config", [*MODES, "int8-gemmini"])
def test_forward_is_the_program_before_and_after_training(config):
    program = quantized(Mixed(), 2, 3, 8, 8, config=config)
    module, x = trainable(program), torch.randn(2, 3, 8, 8)
    assert torch.equal(module.train()(x), program.run(x))
    before = module(x)
    steps_of(module, (x,), 5)
    after = module.eval()(x)
    assert not torch.equal(before, after)
    assert torch.equal(module.train()(x), after)  # there is no difference between training and use
    converted = module.convert()
    for each in (x, torch.randn(2, 3, 8, 8) * 3):
        assert torch.equal(converted.run(each), module(each))
    assert op_counts(converted) == op_counts(program)


def test_transformer_layer():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    program = quantized(layer, 2, 5, 16)
    module, x = trainable(program), torch.randn(2, 5, 16)
    assert torch.equal(module(x), program.run(x))
    assert torch.equal(steps_of(module, (x,)).convert().run(x), module(x))


def test_rows_quantised_at_run_time():
    program = quantized(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)), 3, 8, config="int8-dynamic")
    assert "dynamic_linear" in op_counts(program)
    module, x = trainable(program), torch.randn(3, 8)
    assert torch.equal(module(x), program.run(x))
    assert torch.equal(steps_of(module, (x,)).convert().run(x), module(x))


def test_every_parameter_gets_a_gradient():
    module = trainable(quantized(Mixed(), 2, 3, 8, 8))
    (module(torch.randn(2, 3, 8, 8)) * torch.randn(2, 6)).sum().backward()
    missing = [name for name, p in module.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert missing == []


def test_converted_program_compiles():
    x = torch.randn(1, 3, 8, 8)
    module = steps_of(trainable(quantized(Mixed(), 1, 3, 8, 8)), (x,))
    assert torch.allclose(fxpress.compile(module.convert())(x), module(x), rtol=1e-3, atol=1e-4)


def test_batch_may_have_another_size():
    program = quantized(Mixed(), 1, 3, 8, 8)
    images = torch.randn(5, 3, 8, 8)
    expected = torch.cat([program.run(image[None]) for image in images])
    assert torch.allclose(trainable(program)(images), expected, atol=1e-5)


def test_batch_of_a_program_that_fixes_it_is_refused():
    program = quantized(nn.Sequential(nn.Linear(6, 3), nn.Softmax(0)), 2, 6)
    with pytest.raises(InvalidInput, match=r"^inputs must have the batch size of the capture"):
        trainable(program)(torch.randn(4, 6))


def test_batch_that_does_not_divide_is_refused():
    program = quantized(nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1)), 2, 6)
    with torch.no_grad():
        assert trainable(program)(torch.randn(3, 6)).shape == (6, 2)
    program = quantized(nn.Sequential(nn.Flatten(0), nn.Linear(12, 3)), 2, 6)
    with pytest.raises(InvalidInput, match=r"^the batch must be a multiple of that of the capture, 2, not 3$"):
        trainable(program)(torch.randn(3, 6))


def test_other_sizes_are_refused():
    module = trainable(quantized(nn.Linear(6, 3), 2, 6))
    with pytest.raises(InvalidInput, match=r"^inputs must be float32\[2, 6\] but for one size of batch, not float32"):
        module(torch.randn(2, 7))


def test_state_is_saved_and_loaded():
    program, x = quantized(Mixed(), 2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    trained = steps_of(trainable(program), (x,))
    other = trainable(program)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other(x), trained(x))


@pytest.mark.parametrize("ranges", ["observed", "fixed"])
def test_scales_that_are_not_learned(ranges):
    program, x = quantized(Mixed(), 2, 3, 8, 8), 4 * torch.randn(2, 3, 8, 8)
    module = trainable(program, ranges=ranges)
    assert not any("log_ratio" in name for name, _ in module.named_parameters())
    start = module.steps["quantize"].start.clone()
    steps_of(module.train(), (x,), 20)
    end = module.steps["quantize"].start
    if ranges == "fixed":
        assert torch.equal(start, end)
    else:  # values are four times as large as in calibration
        assert 1.5 * start < end < 6 * start
    observed = module.eval()(x)
    assert torch.equal(module(x), observed)
    assert torch.equal(module.convert().run(x), observed)


def test_weights_with_one_scale_keep_one():
    program, x = quantized(Mixed(), 2, 3, 8, 8, config="int8-gemmini"), torch.randn(2, 3, 8, 8)
    converted = steps_of(trainable(program), (x,)).convert()
    scales = [t for name, t in converted.constants.items() if "scale" in name and t.dtype == torch.float32]
    assert scales
    assert all(bool((scale == scale[0]).all()) for scale in scales)


def test_scales_next_to_a_table_stay():
    module = trainable(quantized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1)), 1, 3, 4, 4))
    fixed = [name for name, step in module.steps.items() if step.log_ratio is None]
    assert set(fixed) == {"quantized_conv", "lookup"}


def test_equal_constants_of_different_layers_are_trained_apart():
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.LayerNorm(6))
    module = trainable(quantized(model, 2, 6))
    assert {"constant_0_bias", "constant_0_bias_1"} <= set(module.floats)


def test_gradient_of_rounding_is_that_of_lsq():
    scale = torch.tensor([0.5], requires_grad=True)
    x = torch.tensor([[0.6, -0.1, 9.0, -9.0]], requires_grad=True)  # 1.2 and -0.2 steps, and beyond both limits
    integers = (x / scale).round().clamp(-4, 3).detach()
    y = rounded(x, scale, integers, -4, 3)
    assert y.tolist() == [[0.5, 0, 1.5, -2]]
    y.backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    assert x.grad.tolist() == [[1, 10, 0, 0]]
    expected = (-0.2 * 1 + 0.2 * 10 + 3 * 100 - 4 * 1000) / (4 * 4) ** 0.5
    assert scale.grad.item() == pytest.approx(expected)


def test_step_starts_exactly_stays_positive_and_moves_by_the_learning_rate_at_most():
    step = Step(torch.tensor([0.3]), learned=True)
    assert torch.equal(step(), torch.tensor([0.3]))
    step().backward(torch.tensor([1e6]))
    assert step.log_ratio.grad.item() == pytest.approx(1)
    optimizer = torch.optim.SGD(step.parameters(), 0.1)
    for _ in range(100):
        optimizer.step()
    assert 0 < step().item() < 1e-3


def test_slope_of_a_table():
    table = (2 * torch.arange(-128, 128)).clamp(-128, 127).to(torch.int8)
    slope = slopes(table)
    assert slope[128 - 63 : 128 + 62].eq(2).all()
    assert slope[0] == slope[-1] == 0


def synthetic(count, seed):
    """Ten smooth patterns with much noise."""
    patterns = F.interpolate(torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(0)), 12, mode="bilinear")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    return patterns[labels] + 1.5 * torch.randn(count, 1, 12, 12, generator=generator), labels


class Inverted(nn.Sequential):
    """A block of MobileNetV2."""

    def __init__(self, ic, oc, stride):
        width = 3 * ic
        super().__init__(
            *(nn.Conv2d(ic, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            *(nn.BatchNorm2d(width), nn.ReLU6(), nn.Conv2d(width, oc, 1, bias=False), nn.BatchNorm2d(oc)),
        )
        self.has_shortcut = ic == oc and stride == 1

    def forward(self, x):
        return super().forward(x) + x if self.has_shortcut else super().forward(x)


def fit(model, epochs, lr):
    images, labels = synthetic(768, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    model.train()
    for _ in range(epochs):
        for part in torch.arange(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model):
    images, labels = synthetic(600, 2)
    return float((model(images).argmax(1) == labels).float().mean())


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    stem = (nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    return fit(nn.Sequential(*stem, Inverted(8, 8, 1), Inverted(8, 12, 2), *head), 6, 5e-3)


def test_small_network_does_not_collapse(classifier):
    """After each epoch: depthwise layers with folded batch norms are where training has destroyed networks."""
    images, _ = synthetic(32, 3)
    data = [(image[None],) for image in images]
    module = trainable(fxpress.quantize(classifier, args=data[0], calibration=data))
    floating, calibrated = accuracy(classifier), accuracy(module)
    assert calibrated > floating - 0.02
    for _ in range(2):
        assert accuracy(fit(module, 1, 2e-3)) >= calibrated - 0.01
    assert accuracy(module) >= calibrated
    assert torch.equal(module.convert().run(images[:1]), module(images[:1]))


def test_training_repairs_ranges_that_calibration_got_wrong(classifier):
    image, _ = synthetic(1, 3)
    module = trainable(fxpress.quantize(classifier, args=(image,), calibration=[(0.3 * image,)]))
    calibrated = accuracy(module)
    assert calibrated < accuracy(classifier) - 0.2
    assert accuracy(fit(module, 2, 2e-3)) > calibrated + 0.2


def test_program_must_be_quantised():
    with pytest.raises(InvalidInput, match=r"^program must be a quantised Program, but it holds no int8 op"):
        trainable(trace(torch.relu, torch.randn(3)))


def test_ranges_must_be_known():
    with pytest.raises(InvalidInput, match=r"^ranges must be one of \['learned', 'observed', 'fixed'\], not 'free'$"):
        trainable(quantized(nn.Linear(6, 3), 2, 6), ranges="free")


def test_ops_without_a_gradient_are_listed():
    program = trace(lambda x: ops.dequantize(ops.quantize(x, 0.1, 0).sort().values, 0.1, 0), torch.randn(4))
    with pytest.raises(Unsupported, match=r"^these ops on int8 values cannot be trained; .*\n- %\w+: aten\.sort"):
        trainable(program)


def test_scales_that_disagree_are_an_error():
    program = trace(lambda x: ops.dequantize(ops.quantize(x, 0.1, 0), 0.2, 0), torch.randn(4))
    with pytest.raises(InvalidProgram, match=r"^%quantize must have one scale and zero point"):
        trainable(program)


def test_diverged_parameters_are_refused():
    module = trainable(quantized(nn.Linear(6, 3), 2, 6))
    with torch.no_grad():
        next(iter(module.layers.values())).weight[0, 0] = torch.nan
    with pytest.raises(InvalidInput, match=r"^layers\.\S+\.weight must hold finite numbers"):
        module.convert()


def test_sums_that_no_longer_fit_are_refused():
    module = trainable(quantized(nn.Linear(6, 3), 2, 6))
    with torch.no_grad():
        next(iter(module.layers.values())).bias.fill_(1e6)
    with pytest.raises(
        InvalidInput, match=r"^sums of %quantized_linear_float must fit 32 bits, but training made them"
    ):
        module.convert()


def test_observed_scales_need_not_cover_what_relu_cuts_off():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        layer[0].bias -= 1.0  # most of what relu sees is negative
    images = [torch.randn(1, 1, 12, 12) for _ in range(4)]
    program = fxpress.quantize(layer, args=(images[0],), calibration=images, profitable="off")
    module = trainable(program, ranges="observed").train()
    before = {name: step().clone() for name, step in module.steps.items()}
    for _ in range(5):
        module(images[0])
    for name, step in module.steps.items():
        assert float(step()) <= 1.01 * float(before[name])  # calibration saw this image already
