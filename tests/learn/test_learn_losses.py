import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.learn.losses import default_loss

OUTPUT = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])


def test_integer_targets_are_classes():
    wanted = -(OUTPUT.softmax(1)[0, 0].log() + OUTPUT.softmax(1)[1, 2].log()) / 2
    for dtype in (torch.int64, torch.int32, torch.uint8):
        torch.testing.assert_close(default_loss(OUTPUT, torch.tensor([0, 2], dtype=dtype)), wanted)


def test_label_smoothing_gives_all_classes_a_share():
    target = torch.tensor([0, 2])
    soft = 0.7 * F.one_hot(target, 3) + 0.3 / 3
    wanted = -(soft * OUTPUT.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(default_loss(OUTPUT, target, 0.3), wanted)


def test_classes_of_tokens_may_be_last_or_second():
    output, target = torch.randn(4, 5, 7), torch.randint(7, (4, 5))
    wanted = F.cross_entropy(output.reshape(20, 7), target.reshape(20))
    torch.testing.assert_close(default_loss(output, target), wanted)
    torch.testing.assert_close(default_loss(output.transpose(1, 2), target), wanted)


def test_float_targets_are_values():
    target = torch.ones(2, 3, dtype=torch.float64)
    torch.testing.assert_close(default_loss(OUTPUT, target), ((OUTPUT - 1) ** 2).mean())


def test_ignored_classes_have_no_loss():
    torch.testing.assert_close(default_loss(OUTPUT, torch.tensor([0, -100])), -OUTPUT[:1].log_softmax(1)[0, 0])


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        (OUTPUT, torch.tensor([True, False]), r"target must be integers .* not torch.bool;"),
        (OUTPUT, torch.tensor([0, 3]), r"target must be classes from 0 to 2, .* not 0 to 3$"),
        (OUTPUT, torch.tensor([-1, 2]), r"target must be classes from 0 to 2, .* not -1 to 2$"),
        (OUTPUT, torch.tensor([[0], [1]]), r"target of classes must be outputs \[2, 3\] without .*, not \[2, 1\];"),
        (OUTPUT, torch.zeros(2), r"target must be \[2, 3\], as the outputs are, not \[2\]$"),
        (OUTPUT, [0, 1], "target must be a tensor, not list; give loss= for other targets$"),
        ({"logits": OUTPUT}, torch.tensor([0, 2]), "loss must be given for a model that returns dict, not one tensor$"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit_are_refused(output, target, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        default_loss(output, target)


def test_smoothing_of_values_is_refused():
    with pytest.raises(InvalidInput, match=r"^label_smoothing must be 0 where targets are floats, not 0.1$"):
        default_loss(OUTPUT, OUTPUT, 0.1)
