"""Units removed from small networks of every kind equal the masked original."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.masked import MaskedOriginal
from fxpress.passes.pruning.remove_units import Removal, RemoveUnits
from fxpress.passes.pruning.steps import prune_step, removable_groups
from fxpress.program import Program
from fxpress.testing import trace
from fxpress.verifier import verify
from torch import Tensor, nn

IMAGE, TOKENS = (2, 3, 8, 8), (2, 6, 16)
CLOSE = 1e-9
PIPELINES = ("", pytest.param("default{level=1}", marks=pytest.mark.slow), "default")


class Net(nn.Module):
    """Layers by name and a function that uses them."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(ic: int, oc: int, kernel: int = 3, **options) -> nn.Module:
    return nn.Conv2d(ic, oc, kernel, padding=kernel // 2, **options)


def batch_norm(channels: int) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias)
    return norm


def residual() -> nn.Module:
    def forward(m, x):
        y = m.norm(m.first(x)).relu()
        y = y + m.third(m.second(y).relu())
        return m.last(y)

    layers = dict(first=conv(3, 8), norm=batch_norm(8), second=conv(8, 12), third=conv(12, 8), last=conv(8, 4))
    return Net(forward, **layers)


def concatenation() -> nn.Module:
    def forward(m, x):
        y = torch.cat([m.left(x), x, m.right(x)], 1)
        a, b = m.both(m.norm(y)).split([3, 5], 1)
        return m.last(torch.cat([b, a], 1)) + m.last2(a)

    layers = dict(left=conv(3, 4), right=conv(3, 6), norm=batch_norm(13), both=conv(13, 8), last=conv(8, 2))
    return Net(forward, **layers, last2=conv(3, 2))


def depthwise() -> nn.Module:
    layers = (conv(3, 8, 1), batch_norm(8), nn.ReLU6(), conv(8, 16, groups=8), nn.Hardswish(), conv(16, 4, 1))
    return nn.Sequential(*layers)


def grouped() -> nn.Module:
    return nn.Sequential(conv(3, 16), conv(16, 32, groups=8), nn.ReLU(), conv(32, 8, groups=2), conv(8, 3, 1))


def shuffled() -> nn.Module:
    def forward(m, x):
        y = m.groups(m.first(x)).unflatten(1, (2, 6)).transpose(1, 2).flatten(1, 2)
        return m.last(y)

    return Net(forward, first=conv(3, 12), groups=conv(12, 12, groups=2), last=conv(12, 2))


def transposed() -> nn.Module:
    layers = (nn.ConvTranspose2d(3, 8, 2, 2), nn.PReLU(8), nn.ConvTranspose2d(8, 12, 2, 2, groups=4), conv(12, 2))
    return nn.Sequential(*layers)


def squeeze_excite() -> nn.Module:
    def forward(m, x):
        y = m.first(x)
        gate = m.grow(F.silu(m.shrink(F.adaptive_avg_pool2d(y, 1)))).sigmoid()
        return m.last(y * gate)

    return Net(forward, first=conv(3, 12), shrink=conv(12, 5, 1), grow=conv(5, 12, 1), last=conv(12, 2))


def flattened() -> nn.Module:
    layers = (conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 20), nn.ReLU(), nn.Linear(20, 5))
    return nn.Sequential(*layers)


def pixel_shuffle() -> nn.Module:
    return nn.Sequential(conv(3, 24), nn.PixelShuffle(2), conv(6, 5), nn.PixelUnshuffle(2), conv(20, 3))


def norms() -> nn.Module:
    layers = (conv(3, 12), nn.GroupNorm(4, 12), nn.ReLU(), conv(12, 8), nn.InstanceNorm2d(8, affine=True), conv(8, 2))
    return nn.Sequential(*layers)


def gated_mlp() -> nn.Module:
    def forward(m, x):
        a, b = m.up(m.norm(x)).chunk(2, -1)
        return x + m.down(F.silu(a) * b)

    return Net(forward, norm=nn.RMSNorm(16), up=nn.Linear(16, 40), down=nn.Linear(20, 16))


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attention(kind: str) -> nn.Module:
    """Self-attention with separate or merged layers for q, k and v, or fewer heads for k and v, after an embedding."""

    def forward(m, x):
        y = m.norm(m.stem(x))
        if kind in ("merged", "chunked"):
            if kind == "merged":
                q, k, v = m.qkv(y).reshape(2, 6, 3, 4, 5).permute(2, 0, 3, 1, 4).unbind(0)
            else:
                q, k, v = (heads(part, 4) for part in m.qkv(y).chunk(3, -1))
        else:
            q, k, v = heads(m.q(y), 4), heads(m.k(y), m.kinds), heads(m.v(y), m.kinds)
        if kind == "written":
            z = (q @ k.transpose(-1, -2) / 5**0.5).softmax(-1) @ v
        elif kind == "repeated":
            k, v = (x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(2, 4, 6, 5) for x in (k, v))
            z = F.scaled_dot_product_attention(q, k, v)
        else:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=kind == "gqa")
        return m.last(y + m.out(z.transpose(1, 2).flatten(2)))

    made = Net(
        forward, stem=nn.Linear(16, 12), norm=nn.LayerNorm(12), q=nn.Linear(12, 20), out=nn.Linear(20, 12),
        last=nn.Linear(12, 3), qkv=nn.Linear(12, 60),
    )  # fmt: skip
    made.kinds = 2 if kind in ("gqa", "repeated") else 4
    made.k, made.v = nn.Linear(12, 5 * made.kinds), nn.Linear(12, 5 * made.kinds)
    return made


def torch_attention() -> nn.Module:
    return Net(lambda m, x: m.attention(x, x, x)[0], attention=nn.MultiheadAttention(16, 4, batch_first=True))


def recurrent(kind: type[nn.Module]) -> nn.Module:
    def forward(m, x):
        y, _ = m.layers(m.stem(x))
        return m.last(y)

    layers = kind(10, 8, num_layers=2, batch_first=True, bidirectional=True)
    return Net(forward, stem=nn.Linear(16, 10), layers=layers, last=nn.Linear(16, 3))


def layer_scale() -> nn.Module:
    """A block of ConvNeXt."""

    def forward(m, x):
        y = m.stem(x)
        z = m.norm(m.depthwise(y).permute(0, 2, 3, 1))
        z = m.shrink(F.gelu(m.grow(z))) * m.scale.weight
        return m.last(y + z.permute(0, 3, 1, 2))

    layers = dict(stem=conv(3, 8), depthwise=conv(8, 8, 7, groups=8), norm=nn.LayerNorm(8), scale=nn.RMSNorm(8))
    nn.init.uniform_(layers["scale"].weight, 0.5, 1.5)
    return Net(forward, **layers, grow=nn.Linear(8, 24), shrink=nn.Linear(24, 8), last=conv(8, 2))


def windows() -> nn.Module:
    """A block of Swin: shifted windows, and a bias for each head from a table that is looked up by distance."""

    def forward(m, x):
        y = m.stem(x).permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
        y = y.reshape(2, 2, 4, 2, 4, 12).permute(0, 1, 3, 2, 4, 5).reshape(8, 16, 12)
        bias = m.table.weight[near.flatten()].view(16, 16, 4).permute(2, 0, 1)
        q, k, v = (heads(layer(y), 4) for layer in (m.q, m.k, m.v))
        z = m.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None]).transpose(1, 2).flatten(2))
        z = z.reshape(2, 2, 2, 4, 4, 12).permute(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 12).roll((2, 2), (1, 2))
        corners = [z[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return m.merge(m.norm(torch.cat(corners, -1)))

    near = torch.arange(16)[:, None] - torch.arange(16)[None] + 15
    parts = {name: nn.Linear(12, 12) for name in ("q", "k", "v", "out")}
    table, norm, merge = nn.Embedding(31, 4), nn.LayerNorm(48), nn.Linear(48, 5)
    return Net(forward, stem=conv(3, 12), **parts, table=table, norm=norm, merge=merge)


def embedded() -> nn.Module:
    """Tokens of a table that is the last weight, too, and weights that are multiplied from the right, as in GPT-2."""

    def forward(m, x):
        y = m.table(x[:, :, 0].sign().long() + 1) + m.places.weight[: x.shape[1]]
        z = torch.addmm(m.up.bias, m.norm(y).flatten(0, 1), m.up.weight.t())
        y = y + (F.gelu(z) @ m.down.weight.t()).unflatten(0, (2, 6))
        return F.linear(y, m.table.weight)

    tables = dict(table=nn.Embedding(3, 12), places=nn.Embedding(9, 12))
    return Net(forward, **tables, norm=nn.LayerNorm(12), up=nn.Linear(12, 30), down=nn.Linear(30, 12, bias=False))


def looked_up() -> nn.Module:
    """Tokens are gathered, added to others by their numbers, and repeated along channels."""

    def forward(m, x):
        y, numbers = m.first(x), torch.tensor([3, 0, 0, 5])[None, :, None].expand(2, 4, 8)
        y = y.scatter_add(1, numbers, m.second(x)[:, :4]) + y.gather(1, numbers).sum(1, keepdim=True)
        return m.last(y.repeat(1, 2, 3))

    return Net(forward, first=nn.Linear(16, 8), second=nn.Linear(16, 8), last=nn.Linear(24, 3))


def projected() -> nn.Module:
    def forward(m, x):
        return m.last(m.layers(m.stem(x))[0])

    layers = nn.LSTM(10, 8, num_layers=2, batch_first=True, bidirectional=True, proj_size=4)
    return Net(forward, stem=nn.Linear(16, 10), layers=layers, last=nn.Linear(8, 3))


NETWORKS = {
    "residual": (residual, IMAGE),
    "concatenation": (concatenation, IMAGE),
    "depthwise": (depthwise, IMAGE),
    "grouped": (grouped, IMAGE),
    "shuffled": (shuffled, IMAGE),
    "transposed": (transposed, IMAGE),
    "squeeze_excite": (squeeze_excite, IMAGE),
    "flattened": (flattened, IMAGE),
    "pixel_shuffle": (pixel_shuffle, IMAGE),
    "norms": (norms, IMAGE),
    "layer_scale": (layer_scale, IMAGE),
    "windows": (windows, IMAGE),
    "gated_mlp": (gated_mlp, TOKENS),
    "embedded": (embedded, TOKENS),
    "looked_up": (looked_up, TOKENS),
    "projected": (projected, TOKENS),
    "gru": (lambda: recurrent(nn.GRU), TOKENS),
    "lstm": (lambda: recurrent(nn.LSTM), TOKENS),
    "torch_attention": (torch_attention, TOKENS),
    **{
        f"attention-{kind}": ((lambda kind=kind: attention(kind)), TOKENS)
        for kind in ("separate", "merged", "chunked", "written", "gqa", "repeated")
    },
}
"""Each with its input's shape."""


def program_of(name: str, pipeline: str = "") -> Program:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    return PassManager(pipeline).run(trace(make().eval(), torch.randn(shape)))


def pruned(program: Program, config: PruneConfig) -> tuple[Program, Removal]:
    groups = removable_groups(program)
    step = prune_step(program, groups, config, [], {group.name: group.size for group in groups.removable})
    return PassManager([step]).run(program), step.removal


def parameters(program: Program) -> int:
    return sum(x.numel() for x in program.constants.values())


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_masked_original(name, pipeline):
    program = program_of(name, pipeline)
    for seed in range(2):
        small, removal = pruned(program, PruneConfig(importance="random", seed=seed))
        verify(small)
        assert removal.gone
        (found,) = run_float64(small, small.example_inputs)
        (wanted,) = MaskedOriginal(program, removal).run_float64(*program.example_inputs)
        assert relative_error(found, wanted) < CLOSE
        (whole,) = run_float64(program, program.example_inputs)
        assert relative_error(found, whole) > 1e-3, "what was removed made no difference: the test says nothing"


@pytest.mark.parametrize("name", NETWORKS)
def test_is_much_smaller_and_still_prunable(name):
    program = program_of(name)
    small, _ = pruned(program, PruneConfig())
    assert parameters(small) < 0.72 * parameters(program)
    again, _ = pruned(small, PruneConfig(ratio=0.3))
    assert again.run_flat(*program.example_inputs)[0].shape == program.run_flat(*program.example_inputs)[0].shape


def test_constants_and_numbers_of_indices_change_together():
    program = program_of("attention-merged")
    groups = removable_groups(program)
    (group,) = [group for group in groups.removable if group.layers[0].name == "linear_1"]
    assert group.size == 4
    removal = Removal.of(groups, {group: [1, 3]})
    small = PassManager([RemoveUnits(removal)]).run(program)
    assert small.constants["qkv_weight"].shape == (30, 12)
    rows = program.constants["qkv_weight"].reshape(3, 4, 5, 12)[:, [0, 2]].reshape(30, 12)
    assert torch.equal(small.constants["qkv_weight"], rows)
    assert "aten.reshape.default(%linear_1, [2, 6, 3, 2, 5])" in small.text()
    record = small.history[-1]
    assert record.name == "remove-units"
    assert f"{group.name}: 2 of 4 units left" in record.rewrites


def test_nothing_to_remove_changes_nothing():
    program = program_of("residual")
    groups = removable_groups(program)
    same = PassManager([RemoveUnits(Removal.of(groups, {group: [] for group in groups.removable}))]).run(program)
    assert same.text() == program.text()


def test_every_group_keeps_a_unit():
    groups = removable_groups(program_of("residual"))
    group = groups.removable[0]
    with pytest.raises(InvalidInput, match=rf"^group {group.name} must keep at least one of its {group.size} units"):
        Removal.of(groups, {group: range(group.size)})


def test_needs_a_removal():
    with pytest.raises(InvalidInput, match=r"^remove-units must be given a Removal, which fxpress\.prune makes"):
        PassManager("remove-units").run(program_of("residual"))


def test_half_precision_keeps_its_dtype():
    torch.manual_seed(0)
    program = trace(flattened().eval().to(torch.bfloat16), torch.randn(IMAGE, dtype=torch.bfloat16))
    small, removal = pruned(program, PruneConfig())
    assert all(x.dtype == torch.bfloat16 for x in small.constants.values())
    (found,), (wanted,) = (
        small.run_flat(*small.example_inputs),
        MaskedOriginal(program, removal).run_flat(*program.example_inputs),
    )
    assert relative_error(found, wanted) < 0.02
