"""Averages of weights against their formula, and statistics of batch norms that belong to them."""

import fxpress
import pytest
import torch
from fxpress.learn import Batch, TrainConfig, WeightAverage, train
from fxpress.learn.programs import as_module, normalizers
from fxpress.learn.statistics import estimate_statistics
from torch import nn

X = torch.randn(96, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
Y = (X.mean((1, 2, 3)) > 1).long()
BATCHES = [(X[i : i + 32], Y[i : i + 32]) for i in range(0, 96, 32)]


def net():
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 2)
    return nn.Sequential(*layers)


def test_the_average_is_the_sum_of_weights_with_falling_shares():
    module = nn.Linear(1, 1, bias=False)
    weights = torch.randn(31, dtype=torch.float64).tolist()
    module.to(torch.float64).weight.data.fill_(weights[0])
    average, shares = WeightAverage(module, 0.8), [1.0]
    for step, weight in enumerate(weights[1:]):
        module.weight.data.fill_(weight)
        average.update(module, step)
        decay = min(0.8, (1 + step) / (10 + step))
        shares = [share * decay for share in shares] + [1 - decay]
    wanted = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    assert sum(shares) == pytest.approx(1)
    assert float(average.values["weight"]) == pytest.approx(wanted)
    average.write_to(module)
    assert float(module.weight.detach()) == pytest.approx(wanted)


def statistics_of(f, batch_mean):
    """The mean and the variance of what the first convolution computes, averaged over batches."""
    found = [(y.mean((0, 2, 3)), y.var((0, 2, 3))) for y in (f(x) for x, _ in batch_mean)]
    return [torch.stack(x).mean(0) for x in zip(*found, strict=True)]


def read(count, use):
    for item in BATCHES[:count]:
        use(Batch.of(item, 0))


def test_statistics_are_the_means_of_those_of_batches():
    module = net()
    module[1].momentum = None
    estimate_statistics(module, normalizers(module), read, torch.device("cpu"))
    with torch.no_grad():
        mean, variance = statistics_of(module[0], BATCHES)
    torch.testing.assert_close(module[1].running_mean, mean)
    torch.testing.assert_close(module[1].running_var, variance)
    assert module[1].momentum is None
    assert not any(part.training for part in module.modules())


def test_statistics_of_programs_are_estimated_alike():
    torch.manual_seed(0)
    model = net().eval()
    module = as_module(fxpress.capture(model, (X[:1],)))
    for each in (model, module):
        estimate_statistics(each, normalizers(each), read, torch.device("cpu"))
    mean, variance = module.statistics.buffers()
    torch.testing.assert_close(mean, model[1].running_mean)
    torch.testing.assert_close(variance, model[1].running_var)


def test_averaged_models_have_statistics_of_their_own():
    """After training with large steps neither the last statistics nor their average fit the average of the weights."""
    trained = train(net(), BATCHES, TrainConfig(epochs=4, learning_rate=0.05, ema=0.9)).model
    with torch.no_grad():
        mean, variance = statistics_of(trained[0], BATCHES)
    torch.testing.assert_close(trained[1].running_mean, mean)
    torch.testing.assert_close(trained[1].running_var, variance)


def test_training_goes_on_with_the_weights_not_with_their_average():
    """Evaluating the average between epochs changes nothing in what follows."""
    config = TrainConfig(epochs=3, ema=0.9, keep="last")
    plain = train(net_of_seed(), BATCHES, config).model
    evaluated = train(net_of_seed(), BATCHES, config, evaluate=lambda f: float(f(X).sum())).model
    for name, x in plain.state_dict().items():
        assert torch.equal(x, evaluated.state_dict()[name]), name


def net_of_seed():
    torch.manual_seed(1)
    return net()
