"""The terms of distillation against their formulas, and that learning from a teacher helps where it must."""

import fxpress
import numpy as np
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.learn import (
    AttentionTransfer,
    FeatureDistillation,
    LogitDistillation,
    OutputDistillation,
    RelationDistillation,
    TrainConfig,
    train,
)
from torch import nn

LAYERS = {"a": "b"}


def term(distillation, student, teacher, pairs=()):
    return distillation.term((student, teacher), pairs, distillation.head(pairs))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1).mean()


def test_logits_are_compared_softened():
    student, teacher = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    wanted = 9 * kl(softmax(teacher.numpy() / 3), softmax(student.numpy() / 3))
    assert float(term(LogitDistillation(temperature=3.0), student, teacher)) == pytest.approx(wanted)


def test_gradient_of_logits_at_a_high_temperature_is_that_of_their_squared_difference():
    """Hinton et al., section 2.1: for logits of mean zero, 1 / classes of their difference."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in torch.randn(2, 5, 4).double())
    student.requires_grad_()
    term(LogitDistillation(temperature=1e4), student, teacher).backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 4 / 5, rtol=1e-3, atol=1e-6)


def test_outputs_are_compared_one_by_one():
    student, teacher = ({"x": torch.ones(2, 3), "y": torch.zeros(4)} for _ in range(2))
    teacher["y"] = torch.full((4,), 3.0)
    assert float(term(OutputDistillation(), student, teacher)) == 4.5


def test_features_of_other_widths_are_projected():
    pairs = [(torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)), (torch.randn(2, 7, 6), torch.randn(2, 7, 10))]
    distillation = FeatureDistillation(layers={"a": "b", "c": "d"})
    conv, linear = head = distillation.head(pairs)
    assert conv.weight.shape == (5, 3, 1, 1)
    assert linear.weight.shape == (10, 6)
    maps = nn.functional.avg_pool2d(torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], pairs[0][0]), 2)
    wanted = (((maps - pairs[0][1]) ** 2).mean() + ((pairs[1][0] @ linear.weight.T - pairs[1][1]) ** 2).mean()) / 2
    torch.testing.assert_close(distillation.term((None, None), pairs, head), wanted)


def test_features_of_the_same_width_are_compared_as_they_are():
    x = torch.randn(2, 3, 4, 4)
    assert not list(FeatureDistillation(layers=LAYERS).head([(x, x)]).parameters())
    assert float(term(FeatureDistillation(layers=LAYERS), None, None, [(x, x + 2)])) == pytest.approx(4)


def test_attention_is_where_maps_are_strong():
    student, teacher = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 4))
    maps = [(x**2).sum(1).reshape(3, -1) for x in (student, teacher)]
    unit = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    wanted = ((unit[0] - unit[1]) ** 2).sum(1).mean()
    pairs = [(torch.from_numpy(student), torch.from_numpy(teacher))]
    assert float(term(AttentionTransfer(layers=LAYERS), None, None, pairs)) == pytest.approx(wanted)
    scaled = [(pairs[0][0], 7 * pairs[0][0].repeat(1, 2, 1, 1))]
    assert float(term(AttentionTransfer(layers=LAYERS), None, None, scaled)) == pytest.approx(0, abs=1e-12)


def test_relations_of_tokens_are_compared_in_heads():
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 6)), np.random.default_rng(1).normal(size=(2, 5, 8))

    def relations(x, heads):
        parts = np.stack(np.split(x, heads, axis=2), 1)
        return softmax(parts @ parts.swapaxes(2, 3) / parts.shape[3] ** 0.5)

    wanted = kl(relations(teacher, 2), relations(student, 2))
    pairs = [(torch.from_numpy(student), torch.from_numpy(teacher))]
    assert float(term(RelationDistillation(layers=LAYERS, heads=2), None, None, pairs)) == pytest.approx(wanted)
    in_heads = [(pairs[0][0], pairs[0][1].reshape(2, 5, 4, 2).transpose(1, 2))]
    assert float(term(RelationDistillation(layers=LAYERS, heads=2), None, None, in_heads)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitDistillation(temperature=0), "temperature must be positive, not 0$"),
        (lambda: OutputDistillation(weight=-1), "weight of OutputDistillation must be positive, not -1$"),
        (lambda: FeatureDistillation(layers={}), "layers must be a dict from layers of the model .*, not {}$"),
        (lambda: RelationDistillation(layers=LAYERS, heads=0), "heads must be an integer of at least 1, not 0$"),
        (lambda: term(LogitDistillation(), torch.zeros(2, 3), torch.zeros(2, 4)),
         r"teacher must return what the model returns, \[2, 3\], not \[2, 4\]$"),
        (lambda: term(LogitDistillation(), torch.zeros(3), torch.zeros(3)), "model must return one tensor "),
        (lambda: term(AttentionTransfer(layers=LAYERS), 0, 0, [(torch.zeros(2, 3), torch.zeros(2, 3))]),
         "layers of AttentionTransfer must have values "),
        (lambda: term(FeatureDistillation(layers=LAYERS), 0, 0, [(torch.zeros(2, 3), torch.zeros(2, 4, 3))]),
         r"layers that are compared must have alike values, not \[2, 3\] and \[2, 4, 3\]$"),
        (lambda: term(RelationDistillation(layers=LAYERS, heads=4), 0, 0, [(torch.zeros(2, 3, 6),) * 2]),
         r"layers of RelationDistillation must have values \[n, tokens, a multiple of 4\], not \[2, 3, 6\]$"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        make()


def circles(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points in the plane; their class is whether they are far from the origin."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return x, (x.norm(dim=1) > 1.2).long()


def net(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


X, Y = circles(320, 1)
TEST_X, TEST_Y = circles(1000, 2)
CLEAN = [(X[i : i + 32], Y[i : i + 32]) for i in range(0, 320, 32)]
OPPOSED = [(x, torch.where(torch.arange(len(y)) % 2 == 0, y, 1 - y)) for x, y in CLEAN]  # half of the labels are wrong


def accuracy(f):
    return float((f(TEST_X).argmax(1) == TEST_Y).float().mean())


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    trained = train(net(32), CLEAN, TrainConfig(epochs=30, learning_rate=0.02)).model
    assert accuracy(trained) > 0.93
    return trained


def test_a_teacher_that_knows_helps_where_labels_say_nothing(teacher):
    torch.manual_seed(0)
    config, student = TrainConfig(epochs=15, learning_rate=0.02), net(12)
    alone = train(student, OPPOSED, config).model
    taught = train(student, OPPOSED, config, teacher=teacher).model
    assert accuracy(alone) < 0.8 < 0.88 < accuracy(taught)


@pytest.mark.parametrize(
    "distillation",
    [
        LogitDistillation(),
        OutputDistillation(),
        FeatureDistillation(layers={"2": "2", "4": "4"}, weight=5.0),
    ],
    ids=lambda x: type(x).__name__,
)
def test_students_learn_without_labels(teacher, distillation):
    torch.manual_seed(0)
    config = TrainConfig(epochs=15, learning_rate=0.02, distill=(distillation,))
    trained = train(net(12), [(x, None) for x, _ in CLEAN], config, teacher=teacher)
    assert accuracy(trained.model) > 0.88
    assert set(trained.curve[0].parts) == {type(distillation).__name__}


def test_layers_inside_programs_are_compared(teacher):
    """By the name of a node or the path of a module, between Programs of floats and of integers, and modules."""
    torch.manual_seed(0)
    student = fxpress.capture(net(12), (X[:1],))
    integers = fxpress.quantize(student, calibration=[(x[None],) for x in X[:20]])
    hidden = [node.name for node in integers.nodes if "quantized_linear" in str(node.target)][1]
    by_path = TrainConfig(epochs=1, distill=(FeatureDistillation(layers={"2": "2"}),))
    by_node = TrainConfig(epochs=1, distill=(FeatureDistillation(layers={hidden: "2"}),))
    wide = fxpress.capture(teacher, (X[:1],))
    losses = [
        train(student, CLEAN, by_path, teacher=teacher).curve[0].parts["FeatureDistillation"],
        train(student, CLEAN, by_path, teacher=wide).curve[0].parts["FeatureDistillation"],
        train(integers, CLEAN, by_node, teacher=wide).curve[0].parts["FeatureDistillation"],
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[2] == pytest.approx(losses[1], rel=0.2)  # other values to learn from: after the activation, rounded


def test_a_teacher_stays_as_it_was(teacher):
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    teacher.train()
    config = TrainConfig(epochs=1, distill=(FeatureDistillation(layers={"2": "2"}),))
    train(net(4), CLEAN, config, teacher=teacher)
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    assert all(part.training for part in teacher.modules())
    assert not any(part._forward_hooks for part in teacher.modules())
    teacher.eval()


@pytest.mark.parametrize(
    ("config", "teacher", "message"),
    [
        (TrainConfig(distill=(LogitDistillation(),)), None, "teacher must be given for LogitDistillation$"),
        (TrainConfig(), "resnet", "teacher must be a Program, a module or a callable, not str$"),
        (TrainConfig(), nn.Linear(2, 5), r"teacher must return what the model returns, \[32, 2\], not \[32, 5\]\n"),
        (TrainConfig(distill=(FeatureDistillation(layers={"2": "9"}),)), net(3),
         "layer of the teacher must be one of 0, 1, 2, 3, 4, not '9'$"),
        (TrainConfig(distill=(FeatureDistillation(layers={"deep": "2"}),)), net(3),
         "layer of the model must be one of 0, 1, 2, 3, 4, not 'deep'$"),
        (TrainConfig(distill=(FeatureDistillation(layers={"2": "2"}),)), lambda x: x,
         "teacher must be a Program or a module to compare layers, not function$"),
    ],
)  # fmt: skip
def test_teachers_that_do_not_fit_are_refused(config, teacher, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        train(net(4), CLEAN, config, teacher=teacher)
