"""The verifier on graphs broken by hand: each level finds its violations and says what to do."""

import pytest
import torch
from fxpress import Pass, PassManager
from fxpress.errors import InternalError, InvalidProgram
from fxpress.rewriter import rewrite
from fxpress.testing import trace
from fxpress.verifier import verify, verify_numbers

aten = torch.ops.aten


def program():
    return trace(lambda x, w: torch.relu(x @ w), torch.randn(2, 3), torch.randn(3, 4)).clone()


def test_a_good_program_passes():
    verify(program())


def test_missing_fake_value():
    broken = program()
    del broken.results[0].meta["val"]
    with pytest.raises(InvalidProgram, match=r'%relu: expected a fake value in meta\["val"\], found none'):
        verify(broken)


def test_wrong_recorded_type_is_found_by_level_2_only():
    broken = program()
    relu = broken.results[0]
    relu.meta["val"] = relu.meta["val"].new_empty((5, 5))
    verify(broken, level=1)
    with pytest.raises(InvalidProgram, match=r"%relu: expected float32\[2, 4\], found float32\[5, 5\]"):
        verify(broken)


def test_operands_that_do_not_fit():
    broken = program()
    matmul = broken.results[0].args[0]
    matmul.args = (matmul.args[1], matmul.args[1])
    with pytest.raises(InvalidProgram, match=r"expected operands that aten.matmul.default accepts"):
        verify(broken)


def test_mutating_op():
    broken = program()
    broken.results[0].target = aten.relu_.default
    with pytest.raises(InvalidProgram, match=r"expected a functional op, found aten.relu_.default"):
        verify(broken)


def test_foreign_callable():
    broken = program()
    broken.results[0].target = torch.relu
    with pytest.raises(InvalidProgram, match=r"expected an OpOverload, found relu"):
        verify(broken)


def test_constant_changed_behind_its_node():
    ones = torch.ones(3)
    broken = trace(lambda x: x + ones, torch.randn(3)).clone()
    (name,) = broken.constants
    broken.graph_module._buffers[name] = torch.ones(4)
    with pytest.raises(InvalidProgram, match=r"expected float32\[3\], found float32\[4\]"):
        verify(broken)


def test_use_before_definition():
    broken = program()
    relu = broken.results[0]
    first = broken.placeholders[0]
    first.prepend(relu)
    with pytest.raises(InvalidProgram, match=r"%relu: expected operand %matmul defined before its use"):
        verify(broken)


def test_all_violations_are_listed_at_once():
    broken = trace(lambda x: x.relu().neg().abs(), torch.randn(2)).clone()
    for size, node in enumerate(broken.nodes, start=5):
        if node.op == "call_function":
            node.meta["val"] = node.meta["val"].new_empty(size)
    with pytest.raises(InvalidProgram, match=r"^the program breaks 3 invariant\(s\):"):
        verify(broken)


def test_exact_pass_must_keep_the_bits():
    @rewrite(aten.mul.Tensor)
    def wrong(node, rw):
        """x * c  ->  x + c, which is wrong"""
        rw.replace(node, rw.call(aten.add.Tensor, *node.args, at=node))

    with pytest.raises(InvalidProgram, match=r"^output 0 must have the same bits after an exact pass") as caught:
        PassManager([wrong], numerics=True).run(trace(lambda x: x * 3, torch.randn(4)))
    assert "in pass 'wrong'" in caught.value.__notes__[0]


def test_reassociating_pass_is_judged_against_float64():
    before = trace(lambda x: x.sum(), torch.randn(1000))
    reordered = trace(lambda x: x.flip(0).sum(), torch.randn(1000))
    wrong = trace(lambda x: x.sum() * 1.001, torch.randn(1000))
    verify_numbers(before, reordered, "reassociating", before.example_inputs)
    with pytest.raises(InvalidProgram, match=r"^outputs are further from float64 than reassociation explains"):
        verify_numbers(before, wrong, "reassociating", before.example_inputs)


def test_failing_verification_names_the_pass():
    class Break(Pass):
        """Set a wrong type through the graph and log it."""

        name = "break"

        def run(self, program, rw):
            node = program.results[0]
            node.meta["val"] = node.meta["val"].new_empty(7)
            rw.log.append("broken")
            rw.touched.add(node)

    with pytest.raises(InvalidProgram) as caught:
        PassManager([Break()]).run(program())
    assert not isinstance(caught.value, InternalError)
    assert "in pass 'break' after [nothing]" in caught.value.__notes__
