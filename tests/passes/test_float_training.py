"""Training of Programs of floats: as PyTorch trains the model, and what pruning made zero stays so."""

from __future__ import annotations

import fxpress
import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.passes.pruning.config import PruneConfig
from torch import Tensor, nn

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """Batch norm, a weight that two layers share, a token that is no layer's weight, buffers that are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, momentum=0.3)
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 4)
        self.second.weight = self.first.weight
        self.token = nn.Parameter(torch.randn(1, 8))
        self.register_buffer("mean", torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x - self.mean))).mean((2, 3))
        x = self.second(F.relu(self.first(x)))
        return self.head(torch.cat([x, self.token.expand(len(x), 8)], 1))


def model() -> Shared:
    torch.manual_seed(0)
    return Shared().eval()


def descend(module: nn.Module, steps: int = 3, rate: float = 1e-2, **options: float) -> nn.Module:
    """Train towards ones."""
    optimizer = torch.optim.SGD(module.parameters(), rate, **options)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (module(X) - 1).square().mean().backward()
        optimizer.step()
    return module.eval()


def test_it_is_trained_as_the_model_is():
    reference = model()
    module = fxpress.trainable(fxpress.capture(reference, (X,)))
    names = [name.replace("first.weight", "second.weight") for name, _ in reference.named_parameters()]
    assert sorted(module.weights) == sorted(name.replace(".", "_") for name in names)
    assert torch.equal(module.eval()(X), reference(X))
    descend(module, momentum=0.9)
    descend(reference, momentum=0.9)
    torch.testing.assert_close(module(X), reference(X))
    trained = module.convert()
    assert torch.equal(trained.run(X), module(X))
    torch.testing.assert_close(trained.constants["norm_running_var"], reference.norm.running_var)
    assert torch.equal(trained.constants["mean"], reference.mean)
    assert trained.history[-1].name == "write-trained-floats"


def test_other_batches_than_that_of_the_capture():
    reference = model()
    module = fxpress.trainable(fxpress.capture(reference, (X[:1],))).eval()
    torch.testing.assert_close(module(X), reference(X))
    with pytest.raises(InvalidInput, match=r"^inputs must be float32\[1, 1, 8, 8\] but for one size of batch, not"):
        module(torch.randn(6, 1, 9, 9))
    summed = fxpress.trainable(fxpress.capture(nn.Sequential(nn.Linear(8, 2), nn.Softmax(0)), (X[0, 0],)))
    with pytest.raises(InvalidInput, match=r"^inputs must have the batch size of the capture"):
        summed(torch.randn(3, 8))


def test_the_program_does_not_change():
    program = fxpress.capture(model(), (X,))
    before = program.run(X)
    descend(fxpress.trainable(program))
    assert torch.equal(program.run(X), before)


@pytest.mark.parametrize("keep_zeros", [True, False])
def test_zeros_stay_where_they_are_wanted(keep_zeros):
    sparse = fxpress.prune(model(), PruneConfig(pattern="2:4"), args=(X,))
    module = descend(fxpress.trainable(sparse, keep_zeros=keep_zeros), weight_decay=0.1, momentum=0.9)
    weight, trained = sparse.constants["second_weight"], module.convert().constants["second_weight"]
    assert bool((trained[weight == 0] == 0).all()) is keep_zeros
    assert not torch.equal(trained, weight)


def test_weights_that_are_all_zero_learn():
    reference = model()
    nn.init.zeros_(reference.head.weight)
    trained = descend(fxpress.trainable(fxpress.capture(reference, (X,)))).convert()
    assert trained.constants["head_weight"].any()


def test_a_training_goes_on_from_its_state():
    program = fxpress.capture(model(), (X,))
    first, second = descend(fxpress.trainable(program)), fxpress.trainable(program).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(X), second(X))


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(InvalidInput, match=r"^program must be a Program, not Shared; use fxpress.capture"):
        fxpress.trainable(model())
    with pytest.raises(InvalidInput, match=r"^program must hold weights to train, but it has none"):
        fxpress.trainable(fxpress.capture(nn.ReLU(), (X,)))
    integers = fxpress.quantize(model(), args=(X,), calibration=[X], profitable="off")
    with pytest.raises(InvalidInput, match=r"^program must compute with floats, but %\w+ is fxpress\.quantize.*; use"):
        fxpress.trainable(integers)


def test_numbers_that_are_not_finite_are_refused():
    module = fxpress.trainable(fxpress.capture(model(), (X,)))
    with torch.no_grad():
        module.weights["head_bias"].fill_(torch.nan)
    with pytest.raises(InvalidInput, match=r"^head_bias must hold finite numbers, not NaN or infinity; lower the"):
        module.convert()


def test_recurrent_layers_train():
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x[:, 0])[0][:, -1])

    module = fxpress.trainable(fxpress.capture(Recurrent().eval(), (X,)))
    assert len(module.weights) == 6
    before = (module(X) - 1).square().mean()
    descend(module, steps=20, rate=0.1)
    assert (module(X) - 1).square().mean() < 0.5 * before
