"""The Rewriter and @rewrite: what they change, what they refuse, what they remember."""

import pytest
import torch
from fxpress import Rewriter, rewrite
from fxpress.errors import InternalError, InvalidInput
from fxpress.pass_manager import PassManager
from fxpress.rewriter import Fuel
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


def relu_program():
    return trace(lambda x: torch.relu(x * torch.ones(3)), torch.randn(3)).clone()


def test_sweep_erases_new_nodes_that_nothing_uses():
    program = relu_program()
    text, relu = program.text(), program.results[0]
    rw = Rewriter(program)
    weight = rw.constant("weight", torch.ones(3))
    product = rw.call(aten.mul.Tensor, relu, weight, at=program.output_node)
    unused = rw.call(aten.neg.default, product, at=program.output_node)
    assert rw.touched >= {weight, product, unused}
    rw.sweep()
    assert program.text() == text
    assert all(map(rw.erased, (weight, product, unused)))
    assert not rw.erased(relu)
    assert (rw.made, rw.log) == ([], [])
    assert rw.touched.isdisjoint((weight, product, unused))


def test_sweep_keeps_what_is_used_and_old_nodes_without_users():
    program = relu_program()
    relu = program.results[0]
    rw = Rewriter(program)
    old = rw.call(aten.exp.default, relu, at=program.output_node)
    rw.made.clear()  # as if it had been there before
    kept = rw.call(aten.neg.default, relu, at=program.output_node)
    rw.output(kept)
    rw.sweep()
    assert not rw.erased(kept)
    assert not rw.erased(old)
    verify(program)


def test_finish_frees_constants_that_no_node_reads():
    program = relu_program()
    rw, relu = Rewriter(program), program.results[0]
    module = program.graph_module
    module.register_parameter("forgotten", torch.nn.Parameter(torch.ones(1)))
    rw.constant("unused", torch.ones(3))
    rw.output(rw.call(aten.add.Tensor, relu, rw.constant("used", torch.ones(3)), at=program.output_node))
    before = set(program.constants) - {"unused"}
    rw.finish()
    assert set(module._buffers) | set(module._parameters) == set(program.constants) == before
    assert "used" in before
    verify(program)


def test_erase_takes_what_dies_with_it_and_refuses_what_is_used():
    program = relu_program()
    rw, relu = Rewriter(program), program.results[0]
    with pytest.raises(InternalError, match=r"^%relu must have no users to be erased, not \['output'\]$"):
        rw.erase(relu)
    rw.output(program.placeholders[0])
    assert [node.op for node in program.nodes] == ["placeholder", "output"]
    lonely = rw.call(aten.neg.default, program.placeholders[0], at=program.output_node)
    rw.erase(lonely)
    assert rw.erased(lonely)
    assert rw.log[-1] == "%neg erased"
    verify(program)


def test_update_infers_anew_and_drops_old_operands():
    program = relu_program()
    rw, relu = Rewriter(program), program.results[0]
    rw.update(relu, rw.constant("row", torch.ones(5, 3)))
    assert tuple(relu.meta["val"].shape) == (5, 3)
    assert [node.name for node in program.nodes] == ["args_0", "row", "relu", "output"]
    assert rw.log == ["%relu: new operands of aten.relu.default"]


def test_fuel_is_counted_and_shared():
    program, fuel = relu_program(), Fuel(2)
    first, second = Rewriter(program, fuel), Rewriter(program, fuel)
    first.burn()
    assert (fuel.left, fuel.burned) == (1, 1)
    assert second.has_fuel()
    second.burn()
    assert not first.has_fuel()
    assert (fuel.left, fuel.burned) == (0, 2)


def test_fuel_without_end_is_only_counted():
    rw = Rewriter(relu_program())
    for _ in range(3):
        rw.burn()
    assert rw.has_fuel()
    assert (rw.fuel.left, rw.fuel.burned) == (None, 3)


def test_a_rule_that_changes_nothing_burns_nothing():
    manager = PassManager([drop_mul_one], fuel=1)
    after = manager.run(trace(lambda x: (x * 2) * 1, torch.randn(3)))
    assert op_counts(after) == {"mul": 1}
    assert (manager.fuel.left, manager.fuel.burned) == (0, 1)


def test_set_constant_changes_the_shape_under_the_same_name():
    weight, bias = torch.randn(4, 3), torch.randn(4)
    program = trace(lambda x: torch.nn.functional.linear(x, weight, bias), torch.randn(2, 3)).clone()
    rw = Rewriter(program)
    nodes = {tuple(program.constant(node).shape): node for node in program.nodes if node.op == "get_attr"}
    (linear,) = [node for node in program.nodes if node.op == "call_function"]
    names = set(program.constants)
    rw.set_constant(nodes[4, 3], weight[:2])
    rw.set_constant(nodes[(4,)], bias[:2])
    rw.update(linear, *linear.args)
    verify(program, only=rw.touched)
    x = torch.randn(2, 3)
    assert torch.equal(program.run(x), torch.nn.functional.linear(x, weight[:2], bias[:2]))
    assert set(program.constants) == names
    assert rw.log[0] == f"%{nodes[4, 3].name}: float32[4, 3] -> float32[2, 3]"
