"""Random attention, its heads laid out in every way that models use, pruned at random equals the masked original."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.masked import MaskedOriginal
from fxpress.passes.pruning.steps import prune_step, removable_groups
from fxpress.testing import trace
from fxpress.verifier import verify
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

CLOSE = 1e-9
LAYOUTS = ("separate", "chunked", "parts-heads", "heads-parts", "depth-last")
"""Three layers for q, k and v; one whose result is chunked, is [3, heads, depth], is [heads, 3, depth], or is
[depth, heads] for each of the three."""
GROUPED = ("gqa", "expanded", "repeated")
SCORES = ("op", "written", "biased")


class Attention(nn.Module):
    """Embedding, attention in a residual branch, a gated MLP in another, and a head that sums everything up."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.heads, self.depth, self.width = rng.choice((2, 3, 4)), rng.choice((2, 4)), rng.choice((6, 8, 12))
        self.layout, self.scores = rng.choice(LAYOUTS), rng.choice(SCORES)
        self.grouped = rng.choice(GROUPED) if self.heads == 4 and self.layout == "separate" else ""
        self.kinds = 2 if self.grouped else self.heads
        inner, few = self.heads * self.depth, self.kinds * self.depth
        self.table = nn.Embedding(13, self.width)
        self.norm = rng.choice((nn.LayerNorm, nn.RMSNorm))(self.width)
        self.qkv = nn.Linear(self.width, 3 * inner, bias=rng.random() < 0.5)
        self.q, self.k, self.v = (nn.Linear(self.width, n) for n in (inner, few, few))
        self.bias = nn.Parameter(torch.randn(self.heads, 9))
        self.out = nn.Linear(inner, self.width)
        self.scale = nn.Parameter(torch.rand(self.width) + 0.5)
        self.up, self.down = nn.Linear(self.width, 2 * 10), nn.Linear(10, self.width)
        self.last = nn.Linear(self.width, 3)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each [batch, heads, tokens, depth]."""
        heads, depth = self.heads, self.depth
        if self.layout == "separate":
            return tuple(y.unflatten(-1, (-1, depth)).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        y = self.qkv(x)
        if self.layout == "chunked":
            return tuple(part.unflatten(-1, (heads, depth)).transpose(1, 2) for part in y.chunk(3, -1))
        if self.layout == "parts-heads":
            return y.unflatten(-1, (3, heads, depth)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.layout == "heads-parts":
            return y.unflatten(-1, (heads, 3 * depth)).transpose(1, 2).chunk(3, -1)
        return tuple(part.unflatten(-1, (depth, heads)).permute(0, 3, 1, 2) for part in y.chunk(3, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = q.shape[2]
        if self.grouped == "expanded":
            k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for x in (k, v))
        elif self.grouped == "repeated":
            k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        if self.grouped == "gqa":
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        if self.scores == "op":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        near = torch.arange(n)[:, None] - torch.arange(n)[None] + 4
        bias = self.bias[:, near.flatten()].unflatten(-1, (n, n))  # a table looked up by distance, a row for each head
        if self.scores == "biased":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return (q @ k.transpose(-1, -2) * 0.5 + bias).softmax(-1) @ v

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        y = self.attend(*self.parts(self.norm(x))).transpose(1, 2).flatten(2)
        x = x + self.scale * self.out(y)
        a, b = self.up(x).split(10, -1)
        return self.last(x + self.down(F.silu(a) * b)).sum((1, 2))


def check(rng: random.Random) -> None:
    torch.manual_seed(rng.randrange(1 << 20))
    model = Attention(rng).eval()
    program = trace(model, torch.randint(0, 13, (rng.choice((1, 2)), 5)))
    program = PassManager(rng.choice(("drop-dead-code", "default"))).run(program)
    groups = removable_groups(program)
    sizes = {group.name: group.size for group in groups.removable}
    assert model.kinds in sizes.values(), groups.details()  # heads that share keys go together
    assert model.width in sizes.values()
    config = PruneConfig(ratio=rng.choice((0.3, 0.5, 0.7)), importance="random", seed=rng.randrange(99), multiple=1)
    step = prune_step(program, groups, config, [], sizes)
    small = PassManager([step]).run(program)
    verify(small)
    (found,) = run_float64(small, small.example_inputs)
    (wanted,) = MaskedOriginal(program, step.removal).run_float64(*program.example_inputs)
    assert relative_error(found, wanted) < CLOSE, groups.details()


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    phases = (Phase.explicit, Phase.generate)
    return settings(
        max_examples=count, derandomize=True, deadline=None, suppress_health_check=quiet, phases=phases
    )  # fmt: skip


RNGS = st.randoms(use_true_random=False)


@given(rng=RNGS)
@examples(6)
def test_pruned_attention_equals_the_masked_original(rng):
    check(rng)


@pytest.mark.slow
@given(rng=RNGS)
@examples(120)
def test_much_pruned_attention_equals_the_masked_original(rng):
    check(rng)
