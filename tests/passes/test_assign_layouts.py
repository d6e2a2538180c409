"""Layout assignment: which permutes are left, that numbers hold, and that no assignment is cheaper."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from fxpress.pass_manager import PassManager
from fxpress.passes.layout.order import to_channels_first, to_channels_last
from fxpress.passes.layout.problem import state_problem
from fxpress.program import Program
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

NORMALIZE = "normalize-conv,normalize-pool,normalize-linear,normalize-resize,normalize-group-norm"


def normalized(function, *shapes: tuple[int, ...]) -> Program:
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in shapes]
    return PassManager(NORMALIZE).run(trace(function.eval() if isinstance(function, nn.Module) else function, *inputs))


def assigned(function, *shapes: tuple[int, ...]) -> Program:
    return check_pass("assign-layouts", normalized(function, *shapes))


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def permutes(program: Program) -> int:
    return op_counts(program).get("permute", 0)


def test_program_text():
    w, g = weight(4, 3, 1, 1), weight(4, 1, 1)
    program = assigned(lambda x: F.relu(F.conv2d(x, w) * g).mean((2, 3)), (1, 3, 5, 6))
    calls = [line for line in program.text().splitlines() if " = constant" not in line]
    assert "\n".join(calls) == (
        "%args_0: float32[1, 3, 5, 6] = input\n"
        "%permute: float32[1, 5, 6, 3] = aten.permute.default(%args_0, [0, 2, 3, 1])\n"
        "%conv_1: float32[1, 5, 6, 4] = fxpress.conv.default(%permute, %lifted_tensor_0, None, None, "
        "[1, 1], [0, 0, 0, 0], [1, 1], 1, 'none', True)\n"
        "%mul_1: float32[1, 5, 6, 4] = aten.mul.Tensor(%conv_1, %lifted_tensor_1_channels_last)\n"
        "%relu_1: float32[1, 5, 6, 4] = aten.relu.default(%mul_1)\n"
        "%mean_1: float32[1, 4] = aten.mean.dim(%relu_1, [1, 2])\n"
        "return %mean_1"
    )


def test_program_without_kernels_is_left_alone():
    program = normalized(lambda x: (x.permute(0, 2, 3, 1) + 1).permute(0, 3, 1, 2), (1, 2, 3, 4))
    assert not PassManager("assign-layouts").run(program).history[-1].changed


def test_residual_block_needs_one_permute_at_each_end():
    w = weight(4, 4, 3, 3)

    def block(x):
        y = F.relu(F.conv2d(x, w, padding=1))
        return F.max_pool2d(F.conv2d(y, w, padding=1) + y, 2)

    assert permutes(assigned(block, (2, 4, 6, 6))) == 2


def test_squeeze_and_excite():
    w = weight(4, 4, 1, 1)

    def block(x):
        y = F.conv2d(x, w)
        scale = torch.sigmoid(F.conv2d(F.adaptive_avg_pool2d(y, 1), w))
        return (y * scale).mean((2, 3))

    assert permutes(assigned(block, (2, 4, 6, 6))) == 1


def test_squeeze_and_excite_by_linear_layers():
    w, dense = weight(4, 4, 1, 1), weight(4, 4)

    def block(x):
        y = F.conv2d(x, w)
        return (y * F.linear(y.mean((2, 3)), dense).reshape(2, 4, 1, 1)).flatten(2).amax(2)

    assert permutes(assigned(block, (2, 4, 6, 6))) == 1


def test_patch_embedding_is_a_view():
    w, norm = weight(8, 3, 4, 4), weight(8)

    def patches(x):
        return F.conv2d(x, w, stride=4).flatten(2).transpose(1, 2)

    program = assigned(lambda x: F.layer_norm(patches(x), (8,), norm), (1, 3, 8, 8))
    assert permutes(program) == 1


def test_tokens_to_picture_and_back():
    w, dense = weight(8, 1, 3, 3), weight(8, 8)

    def mixed_mlp(x):
        picture = F.linear(x, dense).transpose(1, 2).reshape(2, 8, 4, 5)
        return F.gelu(F.conv2d(picture, w, padding=1, groups=8).flatten(2).transpose(1, 2)) + x

    assert permutes(assigned(mixed_mlp, (2, 20, 8))) == 0


def test_convnext_block():
    w, dense = weight(8, 1, 7, 7), weight(8, 8)

    def block(x):
        y = F.conv2d(x, w, padding=3, groups=8).permute(0, 2, 3, 1)
        y = F.linear(F.layer_norm(y, (8,)), dense).permute(0, 3, 1, 2)
        return F.relu(x + y)

    assert permutes(assigned(lambda x: block(block(x)), (1, 8, 5, 5))) == 2


def test_unet_with_cat_and_resize():
    w, up = weight(4, 4, 3, 3), weight(4, 8, 3, 3)

    def unet(x):
        y = F.conv2d(x, w, padding=1)
        z = F.interpolate(F.conv2d(F.avg_pool2d(y, 2), w, padding=1), scale_factor=2, mode="bilinear")
        z = torch.cat([F.pad(z, (1, 0, 0, 1))[:, :, 1:, :-1], y], 1)
        return F.conv2d(z, up).softmax(1)

    program = assigned(unet, (1, 4, 6, 8))
    assert permutes(program) == 2
    assert "aten.softmax.int(%conv_5, 3)" in program.text()
    assert "aten.constant_pad_nd.default(%resize_1, [0, 0, 1, 0, 0, 1]" in program.text()


def test_one_dimension():
    w, positions = weight(8, 4, 3), weight(7, 8)
    program = assigned(lambda x: F.gelu(F.conv1d(x, w, padding=1)).permute(0, 2, 1) + positions, (1, 4, 7))
    assert permutes(program) == 1


def test_one_dimension_from_tokens_and_back():
    w = weight(8, 8, 3)
    program = assigned(lambda x: F.gelu(F.conv1d(x.transpose(1, 2), w, padding=1)).transpose(1, 2) + x, (1, 7, 8))
    assert permutes(program) == 0


def test_split_and_shuffle_of_channels():
    w = weight(6, 3, 1, 1)

    def branches(x):
        a, b, c = F.conv2d(x, w).split(2, 1)
        return torch.cat([c, a * b], 1).amax((2, 3))

    assert permutes(assigned(branches, (2, 3, 4, 5))) == 1


def test_lower_rank_activation_is_spread():
    w = weight(4, 4, 1, 1)
    program = assigned(lambda x, row: (F.conv2d(x, w) + row).mean((2, 3)), (1, 4, 8, 9), (9,))
    assert op_counts(program)["reshape"] == 1


def test_reshape_of_channels_keeps_the_traced_order():
    w = weight(4, 4, 1, 1)
    program = assigned(
        lambda x: F.conv2d(x, w).reshape(1, 2, 2, 5, 5).transpose(1, 2).reshape(1, 4, 5, 5), (1, 4, 5, 5)
    )
    assert permutes(program) == 3


def test_group_norm_and_transposed_convolution():
    w, gain = weight(4, 4, 2, 2), weight(4)

    def decoder(x):
        return F.conv_transpose2d(F.silu(F.group_norm(x, 2, gain, gain)), w, stride=2).amax((2, 3))

    assert permutes(assigned(decoder, (1, 4, 3, 5))) == 1


def test_input_with_one_channel_is_free():
    w = weight(4, 1, 3, 3)
    program = normalized(lambda x: F.conv2d(x, w).mean((2, 3)), (1, 1, 8, 8))
    problem = state_problem(program)
    assert problem.cost(problem.solve()) == 1


def test_several_consumers_share_one_permute():
    w = weight(4, 4, 1, 1)
    program = assigned(lambda x: torch.cat([F.conv2d(x, w), F.avg_pool2d(x, 1), F.conv2d(x, w)], 1), (1, 4, 5, 5))
    assert permutes(program) == 2


STEPS = ("conv", "pool", "relu", "scale", "add", "cat", "squeeze", "norm", "mix", "pad", "tokens")


@st.composite
def recipes(draw) -> list[tuple[str, int, int]]:
    count = draw(st.integers(1, 7))
    return [(draw(st.sampled_from(STEPS)), draw(st.integers(0, i)), draw(st.integers(0, i))) for i in range(count)]


class Random(nn.Module):
    """A graph made of steps over earlier values, all with 4 channels."""

    def __init__(self, recipe: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.recipe = recipe
        self.weights = nn.ParameterList(torch.randn(4, 4, 3, 3) * 0.3 for _ in recipe)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        values = [x]
        for (step, a, b), w in zip(self.recipe, self.weights, strict=True):
            values.append(self.step(step, values[a], values[b], w))
        return values[-1], values[len(values) // 2]

    def step(self, step: str, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        if step == "conv":
            return F.conv2d(x, w, padding=1)
        if step == "pool":
            return F.max_pool2d(x, 3, 1, 1)
        if step == "relu":
            return F.relu(x)
        if step == "scale":
            return x * self.scale
        if step == "add":
            return x + y
        if step == "cat":
            return torch.cat([x, y], 1)[:, 2:6]
        if step == "squeeze":
            return x * torch.sigmoid(y.mean((2, 3), keepdim=True))
        if step == "norm":
            return F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)
        if step == "mix":
            return x.reshape(x.shape[0], 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        if step == "pad":
            return F.pad(x, (1, 0, 0, 2))[:, :, 2:, :-1]
        return (x.flatten(2).transpose(1, 2) * 0.5).transpose(1, 2).reshape(x.shape)


@given(recipes(), st.integers(1, 2), st.sampled_from([1, 3, 5]))
def test_random_graphs(recipe, batch, size):
    program = normalized(Random(recipe), (batch, 4, size, size + 1))
    check_pass("assign-layouts", program)
    problem = state_problem(program)
    cheapest = problem.cost(problem.solve())
    nodes = sorted(problem.choices, key=lambda node: node.name)
    some = itertools.islice(itertools.product((False, True), repeat=len(nodes)), 512)
    others = [dict.fromkeys(nodes, True), *(dict(zip(nodes, each, strict=True)) for each in some)]
    assert cheapest <= min(map(problem.cost, others)) + 1e-6


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_orders(rank):
    x = torch.randn(*range(2, 2 + rank))
    assert torch.equal(x.permute(to_channels_last(rank)), x.movedim(1, -1))
    assert torch.equal(x.permute(to_channels_last(rank)).permute(to_channels_first(rank)), x)
