"""The Rewriter and @rewrite: what they change, what they refuse, what they remember."""

import pytest
import torch
from fxpress import Rewriter, rewrite
from fxpress.errors import InternalError, InvalidInput
from fxpress.pass_manager import PassManager
from fxpress.testing import check_pass, op_counts, trace
from fxpress.verifier import verify

aten = torch.ops.aten


@rewrite(aten.mul.Tensor)
def drop_mul_one(node, rw):
    """x * 1  ->  x"""
    x, scale = node.args
    if scale != 1 or x.meta["val"].dtype != node.meta["val"].dtype:
        return
    rw.replace(node, x)


def test_rule_fires_until_nothing_changes():
    after = check_pass(drop_mul_one, trace(lambda x: (x * 1 * 1).relu(), torch.randn(2, 3)))
    assert op_counts(after) == {"relu": 1}


def test_guard_keeps_what_changes_the_dtype():
    before = trace(lambda x: x * 1.0, torch.arange(3))
    assert check_pass(drop_mul_one, before).text() == before.text()


def test_rule_needs_a_root_and_a_docstring():
    with pytest.raises(InvalidInput, match=r"^rule nothing must name at least one op"):
        rewrite(name="nothing")(lambda node, rw: None)

    def silent(node, rw): ...

    with pytest.raises(InvalidInput, match=r"^rule silent must have a docstring"):
        rewrite(aten.relu.default)(silent)


def test_replace_refuses_another_type():
    @rewrite(aten.relu.default)
    def to_sum(node, rw):
        """relu(x)  ->  sum(x), which is wrong"""
        rw.replace(node, rw.call(aten.sum.default, node.args[0], at=node))

    with pytest.raises(InternalError, match=r"^%relu: float32\[2, 3\] replaced by %sum_1: float32\[\]") as caught:
        PassManager([to_sum]).run(trace(torch.relu, torch.randn(2, 3)))
    assert caught.value.__notes__ == ["in pass 'to-sum' after [nothing]"]


def test_a_rule_that_never_ends_is_stopped():
    @rewrite(aten.neg.default)
    def negate_again(node, rw):
        """-x  ->  -x, again and again"""
        rw.replace(node, rw.call(aten.neg.default, node.args[0], at=node))

    with pytest.raises(InternalError, match=r"^pass negate-again still rewrites after 100 rounds"):
        PassManager([negate_again]).run(trace(torch.neg, torch.randn(2)))


def test_call_computes_the_fake_value_and_keeps_provenance():
    program = trace(torch.nn.Sequential(torch.nn.ReLU()), torch.randn(2, 3)).clone()
    rw, relu = Rewriter(program), program.results[0]
    node = rw.call(aten.sum.dim_IntList, relu.args[0], [1], at=relu)
    assert tuple(node.meta["val"].shape) == (2,)
    assert node.meta["source"] == relu.meta["source"]


def test_call_with_wrong_operands_leaves_the_graph_alone():
    program = trace(torch.relu, torch.randn(2, 3)).clone()
    text, relu = program.text(), program.results[0]
    with pytest.raises(RuntimeError) as caught:
        Rewriter(program).call(aten.mm.default, relu.args[0], relu.args[0], at=relu)
    assert "while adding aten.mm.default before %relu" in caught.value.__notes__
    assert program.text() == text


def test_constants_get_unique_names():
    program = trace(torch.relu, torch.randn(2)).clone()
    rw = Rewriter(program)
    names = [rw.constant("w", torch.ones(i)).target for i in (1, 2, 3)]
    assert names == ["w", "w_1", "w_2"]


def test_replace_drops_what_dies_with_it():
    program = trace(lambda x: torch.relu(x * torch.ones(3)), torch.randn(3)).clone()
    relu = program.results[0]
    Rewriter(program).replace(relu, program.placeholders[0])
    assert [n.op for n in program.nodes] == ["placeholder", "output"]
    verify(program)


def test_skips_are_recorded():
    @rewrite(aten.relu.default)
    def look_only(node, rw):
        """relu(x)  ->  relu(x), with a reason"""
        rw.skip(node, "it is fine as it is")

    program = PassManager([look_only]).run(trace(torch.relu, torch.randn(2)))
    assert program.history[0].skipped == ("%relu: it is fine as it is",)
    assert not program.history[0].changed


def test_a_pass_that_goes_around_the_rewriter_is_caught():
    @rewrite(aten.relu.default)
    def sneaky(node, rw):
        """relu(x)  ->  neg(x), behind the Rewriter's back"""
        node.target = aten.neg.default

    with pytest.raises(InternalError, match=r"^pass sneaky changed the graph without the Rewriter"):
        PassManager([sneaky]).run(trace(torch.relu, torch.randn(2)))
