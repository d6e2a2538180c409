"""The PassManager: order checks, records, fuel and bisection, instruments, reproducers."""

import json

import pytest
import torch
from fxpress import Pass, PassManager, rewrite
from fxpress.capturing import capture
from fxpress.errors import InvalidInput, InvalidProgram
from fxpress.instruments import DumpDirectory, Instrument, PrintChanged, Reproducer
from fxpress.pass_manager import bisect
from fxpress.testing import op_counts, reproduce, trace

aten = torch.ops.aten


@rewrite(aten.neg.default)
def neg_to_mul(node, rw):
    """-x  ->  x * -1"""
    rw.replace(node, rw.call(aten.mul.Tensor, node.args[0], -1, at=node))


@rewrite(aten.mul.Tensor)
def break_mul(node, rw):
    """x * -1  ->  x + -1, which is wrong"""
    rw.replace(node, rw.call(aten.add.Tensor, *node.args, at=node))


class Needs(Pass):
    """Needs a fact."""

    name = "needs"
    requires = ("polished",)

    def run(self, program, rw): ...


class Makes(Pass):
    """Makes a fact."""

    name = "makes"
    establishes = ("polished",)

    def run(self, program, rw): ...


def negations():
    return trace(lambda x: -(-(-x)), torch.randn(4))


def test_run_leaves_the_original_alone_and_records():
    before = negations()
    text = before.text()
    after = PassManager([neg_to_mul]).run(before)
    assert before.text() == text
    assert op_counts(after) == {"mul": 3}
    (record,) = after.history
    assert (record.name, len(record.rewrites), record.changed) == ("neg-to-mul", 3, True)
    assert record.text == after.text()


def test_order_is_checked_before_anything_runs():
    with pytest.raises(
        InvalidInput, match=r"^the pipeline's order is wrong:\n- needs requires 'polished'; put makes before it"
    ):
        PassManager([Needs(), Makes()]).run(negations())
    assert [r.name for r in PassManager([Makes(), Needs()]).run(negations()).history] == ["makes", "needs"]


def test_facts_stay_with_the_program():
    program = PassManager([Makes()]).run(negations())
    assert PassManager([Needs()]).run(program).facts == {"polished"}


def test_unknown_verify_mode():
    with pytest.raises(InvalidInput, match=r"^verify must be 'each', 'ends' or 'off', not 'often'$"):
        PassManager([], verify="often")


def test_fuel_stops_after_so_many_rewrites():
    for fuel in range(4):
        assert op_counts(PassManager([neg_to_mul], fuel=fuel).run(negations())).get("mul", 0) == fuel


def test_bisect_names_the_first_bad_rewrite():
    before = negations()
    expected = before.run_flat(*before.example_inputs)[0]

    def is_good(program):
        return torch.equal(program.run_flat(*before.example_inputs)[0], expected)

    found = bisect(before, [neg_to_mul, break_mul], is_good)
    assert found.startswith("rewrite 4: pass break-mul: %")
    assert "aten.mul.Tensor -> aten.add.Tensor" in found


def test_bisect_needs_a_bad_result():
    with pytest.raises(InvalidInput, match=r"^bisect needs a pipeline whose result is bad"):
        bisect(negations(), [neg_to_mul], lambda program: True)


def test_print_changed_shows_a_diff(capsys):
    PassManager([neg_to_mul], instruments=[PrintChanged()]).run(trace(torch.neg, torch.randn(2)))
    shown = capsys.readouterr().out
    assert "-%neg: float32[2] = aten.neg.default(%args_0)" in shown
    assert "= aten.mul.Tensor(%args_0, -1)" in shown


def test_dump_directory_holds_what_changed(tmp_path):
    PassManager([Makes(), neg_to_mul], instruments=[DumpDirectory(tmp_path)]).run(negations())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00-start.txt", "02-neg-to-mul.txt", "timing.json"]
    assert [row["pass"] for row in json.loads((tmp_path / "timing.json").read_text())] == ["makes", "neg-to-mul"]


def test_an_instrument_can_leave_a_pass_out():
    class Without(Instrument):
        def should_run(self, p, program):
            return p.name != "neg-to-mul"

    assert op_counts(PassManager([neg_to_mul], instruments=[Without()]).run(negations())) == {"neg": 3}


class Fails(Pass):
    """Fail."""

    name = "drop-identity"

    def run(self, program, rw):
        raise ValueError("as asked")


def test_a_reproducer_that_cannot_be_written_does_not_hide_the_failure(tmp_path):
    dynamic = capture(torch.nn.ReLU(), (torch.randn(4, 3),), dynamic_shapes=({0: torch.export.Dim("n")},))
    manager = PassManager([Fails()], instruments=[Reproducer(tmp_path / "failure.zip")])
    with pytest.raises(ValueError, match="as asked") as caught:
        manager.run(dynamic)
    assert any("no reproducer written: a Program with symbolic sizes" in note for note in caught.value.__notes__)


def test_reproducer_repeats_the_failure(tmp_path):
    path = tmp_path / "failure.zip"
    manager = PassManager([Fails()], numerics=True, instruments=[Reproducer(path)])
    with pytest.raises(ValueError, match="as asked") as caught:
        manager.run(negations())
    assert any("reproducer written" in note for note in caught.value.__notes__)
    assert op_counts(reproduce(path)) == {"neg": 3}


def test_numerics_catches_what_types_do_not():
    with pytest.raises(InvalidProgram):
        PassManager([neg_to_mul, break_mul], numerics=True).run(negations())
