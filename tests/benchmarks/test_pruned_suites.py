"""Every model of the suites can be pruned, and what is left computes what the masked original computes."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="the suites need transformers")

from fxpress.capturing import capture
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.groups import Group, Groups
from fxpress.passes.pruning.masked import MaskedOriginal
from fxpress.passes.pruning.steps import prune_step, removable_groups
from models import MODELS

CLOSE = 1e-9
"""In float64 nothing but rounding is left, of sums in another order."""
QUICK = ("mlp-3x64", "lenet", "resnet-8")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]

HEADS = {"vit-base": 12, "bert-base": 12, "minilm-b1": 6, "minilm-b8": 6, "whisper-tiny-encoder": 4, "swin-tiny": 12}
"""How many layers of attention lose heads. GPT-2 returns all keys and values, whose heads are therefore outputs."""
SINGLE = {"segformer-b0": 6}
"""The same where some layers have one head, which loses depth."""
HIDDEN = {
    "vit-base": 12, "bert-base": 12, "minilm-b1": 6, "minilm-b8": 6, "gpt2-prefill": 12, "whisper-tiny-encoder": 4,
    "swin-tiny": 12, "segformer-b0": 8, "convnext-tiny": 18,
}  # fmt: skip
"""How many blocks lose hidden units of their own."""


def program_of(name: str):
    model, args, kwargs = MODELS[name].build()
    return PassManager("drop-dead-code", verify="off").run(capture(model, args, kwargs))


def is_heads(group: Group) -> bool:
    return group.width > 1


def is_hidden(group: Group, groups: Groups) -> bool:
    """Whether one layer alone reads the units, which are not heads."""
    readers = {axis.node for _, axis in groups.contracted if axis in group.units}
    return len(readers) == 1 and group.width == 1 and group.size > 64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_pruned_equals_the_masked_original(name):
    program = program_of(name)
    groups = removable_groups(program)
    heads = sum(map(is_heads, groups.removable))
    hidden = sum(is_hidden(group, groups) for group in groups.removable)
    assert name not in HEADS or heads == HEADS[name]
    assert name not in SINGLE or heads == SINGLE[name]
    assert name not in HIDDEN or hidden >= HIDDEN[name]
    for ratio in (0.25, 0.5):
        config = PruneConfig(ratio=ratio, importance="random", multiple=1)
        step = prune_step(program, groups, config, [], {group.name: group.size for group in groups.removable})
        small = PassManager([step]).run(program)
        assert sum(x.numel() for x in small.constants.values()) < sum(x.numel() for x in program.constants.values())
        wanted = MaskedOriginal(program, step.removal).run_float64(*program.example_inputs)
        for found, expected in zip(run_float64(small, small.example_inputs), wanted, strict=True):
            assert relative_error(found, expected) < CLOSE
