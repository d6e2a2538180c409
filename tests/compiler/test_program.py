"""A Program runs like the model, refuses what the model was not captured for, prints stably, and clones apart."""

from __future__ import annotations

import pytest
import torch
from fxpress import Program, Rewriter, capture
from fxpress.errors import InvalidInput
from fxpress.program import set_constant
from fxpress.testing import trace
from torch import nn

aten = torch.ops.aten


def linear() -> Program:
    torch.manual_seed(0)
    return trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.randn(4, 3))


def test_run_and_run_flat_agree():
    x, y = torch.randn(3), torch.randn(3)
    program = capture(lambda x, y: {"sum": x + y, "pair": (x - y, x * y)}, (y, x))
    nested = program.run(x, y)
    flat = program.run_flat(x, y)
    assert [list(tensor) for tensor in flat] == [list(x + y), list(x - y), list(x * y)]
    assert all(map(torch.equal, flat, program.outputs.flatten(nested)))
    assert torch.equal(program.run(y=y, x=x)["sum"], x + y)


def test_results_need_no_gradient():
    x = torch.randn(4, 3, requires_grad=True)
    assert not linear().run(x).requires_grad


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"^inputs must be the 1 tensors \(input\), not 0$"),
        ((torch.zeros(4, 3),) * 2, r"^inputs must be the 1 tensors \(input\), not 2$"),
        (
            (torch.zeros(4, 2),),
            r"^input must be float32\[4, 3\], not float32\[4, 2\]; the model was captured for that$",
        ),
        ((torch.zeros(12),), r"^input must be float32\[4, 3\], not float32\[12\]"),
        ((torch.zeros(4, 3).double(),), r"^input must be float32\[4, 3\], not float64\[4, 3\]"),
        ((torch.zeros(4, 3).int(),), r"^input must be float32\[4, 3\], not int32\[4, 3\]"),
        (([[0.0] * 3] * 4,), r"^input must be a tensor float32\[4, 3\], not list$"),
    ],
)
def test_run_flat_refuses(inputs, message):
    with pytest.raises(InvalidInput, match=message):
        linear().run_flat(*inputs)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"^argument 'input' is missing: the model must be called with \(input\)$"),
        ((torch.zeros(4, 3), torch.zeros(1)), {}, r"^the model must be called with \(input\), not with 2 by position$"),
        ((), {"image": torch.zeros(4, 3)}, r"^argument must be one of \['input'\], not 'image'$"),
        ((torch.zeros(3),), {}, r"^input must be float32\[4, 3\], not float32\[3\]"),
        ((1.0,), {}, r"^input must be a tensor float32\[4, 3\], not float$"),
    ],
)
def test_run_refuses(args, kwargs, message):
    with pytest.raises(InvalidInput, match=message):
        linear().run(*args, **kwargs)


def test_a_size_that_varies_may_vary_and_no_other():
    program = capture(lambda x: x * 2, (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    assert program.run(torch.ones(7, 3)).shape == (7, 3)
    with pytest.raises(InvalidInput, match=r"^x must be float32\[.+, 3\], not float32\[7, 4\]"):
        program.run(torch.ones(7, 4))


def test_nested_inputs_are_flat_in_order():
    def function(a, rest, *, scale):
        return a - rest["b"] * scale[0]

    a, b, scale = torch.randn(2), torch.randn(2), torch.randn(2)
    program = capture(function, (a, {"b": b}), {"scale": [scale]})
    assert [node.name for node in program.placeholders] == ["a", "rest_b", "scale_0"]
    assert torch.equal(program.run_flat(a, b, scale)[0], a - b * scale)
    with pytest.raises(InvalidInput, match=r"^rest\['b'\] must be float32\[2\], not float32\[3\]"):
        program.run(a, {"b": torch.zeros(3)}, scale=[scale])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool])
def test_other_dtypes(dtype):
    x = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    program = trace(lambda x: torch.where(x == x.flip(0), x, x.t()), x)
    (result,) = program.run_flat(x)
    assert result.dtype == dtype
    assert torch.equal(result, x.t())


def test_text_is_one_node_a_line_and_stable():
    program = linear()
    assert program.text() == (
        "%constant_0_weight: float32[2, 3] = constant\n"
        "%constant_0_bias: float32[2] = constant\n"
        "%input_1: float32[4, 3] = input\n"
        "%linear: float32[4, 2] = aten.linear.default(%input_1, %constant_0_weight, %constant_0_bias)\n"
        "%relu: float32[4, 2] = aten.relu.default(%linear)\n"
        "return %relu\n"
    )
    assert program.text() == linear().text() == program.clone().text()


def test_a_clone_changes_alone_and_shares_constants():
    program = linear()
    text, values = program.text(), [node.meta["val"] for node in program.nodes[:-1]]
    clone = program.clone()
    relu = clone.results[0]
    rw = Rewriter(clone)
    rw.replace(relu, rw.call(aten.neg.default, relu.args[0], at=relu))
    rw.constant("extra", torch.ones(2))
    clone.facts.add("changed")
    clone.nodes[0].meta["val"] = None
    assert clone.text() != text
    assert program.text() == text
    assert [node.meta["val"] for node in program.nodes[:-1]] == values
    assert (program.facts, program.history) == (set(), [])
    for name, tensor in program.constants.items():
        assert clone.constants[name].data_ptr() == tensor.data_ptr()
    assert torch.equal(clone.run(*program.example_inputs).neg().relu(), program.run(*program.example_inputs))


def test_constants_are_those_in_use_and_detached():
    program = linear().clone()
    program.graph_module.register_buffer("unused", torch.zeros(1))
    assert sorted(tensor.shape for tensor in program.constants.values()) == [(2,), (2, 3)]
    assert not any(tensor.requires_grad for tensor in program.constants.values())
    with pytest.raises(InvalidInput, match=r"^node %relu must be a constant, not call_function$"):
        program.constant(program.results[0])


def test_map_constants_leaves_the_original_alone():
    program = linear()
    zeroed = program.map_constants(torch.zeros_like)
    assert not any(tensor.any() for tensor in zeroed.constants.values())
    assert not zeroed.run(*program.example_inputs).any()
    assert all(tensor.any() for tensor in program.constants.values())


def test_set_constant_replaces_what_has_the_name():
    module = nn.Linear(2, 2)
    set_constant(module, "weight", torch.ones(1))
    set_constant(module, "bias", torch.ones(2))
    set_constant(module, "bias", torch.ones(3))
    assert [module.weight.tolist(), module.bias.tolist()] == [[1.0], [1.0] * 3]
    assert dict(module.named_parameters()) == {}
    with pytest.raises(InvalidInput, match=r"^constant name must be flat, not 'a\.b'$"):
        set_constant(module, "a.b", torch.ones(1))


def test_what_it_says_of_itself():
    program = linear()
    assert repr(program) == "<Program: 1 inputs, 2 ops, 2 constants>"
    assert [node.name for node in program.results] == ["relu"]
    assert not program.is_dynamic
