"""The emitter: what it prints, and what it refuses."""

from __future__ import annotations

import pytest
from fxpress.backends.systolic.rtl.verilog import Module, Signal, bits_for, concat, constant, repeat, select
from fxpress.errors import InternalError


def counter() -> Module:
    module = Module("counter", "Counts what it is told to.")
    module.input("step", 4)
    value = module.output_register("value", 8)
    module.comment("it wraps")
    module.clocked("value <= value + {4'd0, step};")
    module.delay(value.part(7, 1), 3, "late")
    return module


def test_a_module_prints_as_verilog() -> None:
    assert counter().verilog() == (
        "// Counts what it is told to.\n"
        "module counter (\n"
        "  input wire clock,\n"
        "  input wire [3:0] step,\n"
        "  output reg [7:0] value\n"
        ");\n"
        "\n"
        "  // it wraps\n"
        "  always @(posedge clock) begin\n"
        "    value <= value + {4'd0, step};\n"
        "  end\n"
        "  reg [2:0] late_line;\n"
        "  wire late = late_line[0];\n"
        "  always @(posedge clock) late_line <= {value[7], late_line[2:1]};\n"
        "endmodule\n"
    )


def test_an_instance_brings_its_module_into_the_design() -> None:
    outer = Module("outer", "A counter inside.")
    step = outer.input("step", 4)
    outer.output("value", 8)
    outer.instance(counter(), "inner", step=step, value=outer["value"])
    design = outer.design()
    assert list(design) == ["counter.v", "outer.v"]
    assert "  counter inner (\n    .clock(clock),\n    .step(step),\n    .value(value)\n  );\n" in design["outer.v"]


@pytest.mark.parametrize(
    ("connections", "message"),
    [
        ({"step": constant(1, 4)}, r"^connections of counter in outer must be its ports; check \['value'\]$"),
        ({"step": constant(1, 3), "value": None}, r"^port step of counter has 4 bits, not 3: 3'd1 in outer$"),
    ],
)
def test_a_wrong_connection_is_refused(connections: dict[str, Signal | None], message: str) -> None:
    outer = Module("outer", "A counter inside.")
    with pytest.raises(InternalError, match=message):
        outer.instance(counter(), "inner", **connections)


@pytest.mark.parametrize("name", ["table", "clock", "Value", "2x", ""])
def test_a_name_must_be_new_and_legal(name: str) -> None:
    with pytest.raises(InternalError, match=rf"^name in module m must be new and legal, not '{name}'$"):
        Module("m", "Names.").wire(name)


def test_widths_are_checked() -> None:
    module = Module("m", "Widths.")
    wide = module.wire("wide", 8)
    with pytest.raises(InternalError, match=r"^m\.narrow has 4 bits and cannot be driven by 8 bits: wide$"):
        module.wire("narrow", 4, wide)
    with pytest.raises(InternalError, match=r"^part of wide must lie in its 8 bits, not 4 bits from 6$"):
        wide.part(6, 4)
    with pytest.raises(InternalError, match=r"^signal other must be declared in module m before it is used$"):
        module["other"]


def test_two_modules_of_one_name_must_be_equal() -> None:
    outer = Module("outer", "Two of one name.")
    for width in (1, 2):
        inner = Module("inner", "It differs.")
        inner.wire("x", width)
        if width == 1:
            outer.instance(inner, "first")
            continue
        with pytest.raises(InternalError, match=r"^module inner must be one thing, not two$"):
            outer.instance(inner, "second")


def test_expressions_know_their_widths() -> None:
    a, b = Signal("a", 3), Signal("b", 2)
    assert (str(concat(a, b)), concat(a, b).width) == ("{a, b}", 5)
    assert (str(repeat(b, 4)), repeat(b, 4).width) == ("{4{b}}", 8)
    assert str(constant(-1, 8)) == "8'd255"
    assert str(a.part(1, 1)) == "a[1]"
    assert str(a.part(0, 3)) == "a"
    assert select(b, [a, a, constant(5, 3)]) == "b == 2'd0 ? a : b == 2'd1 ? a : 3'd5"
    assert [bits_for(n) for n in (1, 2, 3, 4, 5, 256, 257)] == [1, 1, 2, 2, 3, 8, 9]
