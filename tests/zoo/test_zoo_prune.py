"""Every model of the zoo can be pruned, and what is left computes what the masked original computes."""

from __future__ import annotations

import pytest
from fxpress.capturing import capture
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.masked import MaskedOriginal
from fxpress.passes.pruning.steps import prune_step, removable_groups
from fxpress.verifier import verify
from zoo import ZOO

pytest.importorskip("transformers", reason="the zoo needs transformers")

CLOSE = 1e-9
QUICK = ("mobilenet_v2", "swin", "llama")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ZOO]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_pruned_equals_the_masked_original(name):
    model, args, kwargs = ZOO[name]()
    program = capture(model, args, kwargs)
    groups = removable_groups(program)
    assert groups.removable, groups.details()
    for ratio in (0.25, 0.5):
        config = PruneConfig(ratio=ratio, importance="random")
        step = prune_step(program, groups, config, [], {group.name: group.size for group in groups.removable})
        small = PassManager([step]).run(program)
        verify(small)
        assert step.gone
        wanted = MaskedOriginal(program, step.removal).run_float64(*program.example_inputs)
        for found, expected in zip(run_float64(small, small.example_inputs), wanted, strict=True):
            assert relative_error(found, expected) < CLOSE
