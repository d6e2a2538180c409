"""A lane of the vector unit: the arithmetic of a VECTOR for one channel, a result a cycle."""

from __future__ import annotations

from ..architecture import TABLE_ENTRIES, Architecture
from .cell import BYTE, SUM_BITS
from .verilog import Module, Signal, bits_for, concat, constant

MULTIPLIER_BITS = 25  # multipliers lie in (-2^24, 2^24)
SHIFT_BITS = 6
WIDE_BITS = 60  # holds a 32-bit number times a multiplier, a residual's product and half a step of the shift
TABLE_BITS = 4


def lane(architecture: Architecture) -> Module:
    """Stages from the slot on: 2 choose the input, 3 reduce, 4 bias, 5 products, 6 sum, 7 shift, 8 clip, 9 table.

    Inputs named `..._at_n` belong to the slot that is in stage n; the others keep their values during an instruction.
    """
    columns = architecture.columns
    wide, product_bits, residual_bits = WIDE_BITS, SUM_BITS + MULTIPLIER_BITS, BYTE + 1 + MULTIPLIER_BITS
    module = Module("systolic_lane", "One lane of the vector unit: reduce, requantise, look up.")
    module.input("activation_at_2", BYTE, signed=True)
    module.input("accumulator_at_2", SUM_BITS, signed=True)
    module.input("from_activations_at_2")
    module.input("first_at_3")
    module.input("holds_at_3")
    module.input("bias_at_4", SUM_BITS, signed=True)
    module.input("multiplier_at_5", MULTIPLIER_BITS, signed=True)
    module.input("residual_multiplier_at_5", MULTIPLIER_BITS, signed=True)
    module.input("shift_at_6", SHIFT_BITS)
    module.input("shift_at_7", SHIFT_BITS)
    for name in ("takes_greatest", "requantize", "add_residual", "use_table"):
        module.input(name)
    for name in ("zero", "low", "high", "residual_zero"):
        module.input(name, BYTE, signed=True)

    def stage(name: str, width: int, expression: str) -> Signal:
        register = module.register(name, width, signed=True)
        module.clocked(f"{register} <= {expression};")
        return register

    module.comment("stage 2: the input and the residual")
    stage("value", SUM_BITS, f"from_activations_at_2 ? {_widen('activation_at_2', BYTE, SUM_BITS)} : accumulator_at_2")
    stage("residual_at_3", BYTE, "activation_at_2")
    module.comment("stage 3: sum or maximum of the window; a slot that brings only the residual holds it")
    module.register("reduced", SUM_BITS, signed=True)
    module.wire("greatest", SUM_BITS, "value > reduced ? value : reduced", signed=True)
    module.clocked("""
        if (first_at_3) reduced <= value;
        else if (!holds_at_3) reduced <= takes_greatest ? greatest : reduced + value;
    """)
    stage("residual_at_4", BYTE, "residual_at_3")
    module.comment("stage 4: bias and zero point")
    stage("biased", SUM_BITS, "requantize ? reduced + bias_at_4 : reduced")
    difference = f"{_widen('residual_at_4', BYTE, BYTE + 1)} - {_widen('residual_zero', BYTE, BYTE + 1)}"
    stage("difference", BYTE + 1, difference)
    module.comment("stage 5: products")
    stage("product", product_bits, "biased * multiplier_at_5")
    stage("residual_product", residual_bits, "difference * residual_multiplier_at_5")
    stage("plain_at_6", BYTE, "biased[7:0]")
    module.comment("stage 6: their sum and half a step, which rounds")
    added = f"add_residual ? {_widen('residual_product', residual_bits, wide)} : {wide}'sd0"
    module.wire("added", wide, added, signed=True)
    module.wire("half", wide, f"{wide}'sd1 <<< (shift_at_6 - {SHIFT_BITS}'d1)", signed=True)
    stage("total", wide, f"{_widen('product', product_bits, wide)} + added + half")
    stage("plain_at_7", BYTE, "plain_at_6")
    module.comment("stage 7: shift")
    stage("shifted", wide, "total >>> shift_at_7")
    stage("plain_at_8", BYTE, "plain_at_7")
    module.comment("stage 8: zero point and clip")
    module.wire("moved", wide, f"shifted + {_widen('zero', BYTE, wide)}", signed=True)
    for bound in ("low", "high"):
        module.wire(f"wide_{bound}", wide, _widen(bound, BYTE, wide), signed=True)
    module.wire("too_low", 1, "moved < wide_low")
    module.wire("too_high", 1, "moved > wide_high")
    stage("entry", BYTE, "!requantize ? plain_at_8 : too_low ? low : too_high ? high : moved[7:0]")
    module.comment("stage 9: a table's entry; the lane has its own copy of the tables")
    _tables(module, architecture)
    bytes_bits, words_bits = (columns - 1).bit_length(), bits_for(architecture.tables * architecture.table_words)
    module.wire("place", TABLE_BITS + BYTE, "{table_index, ~entry[7], entry[6:0]}")
    module.register("table_word", columns * BYTE)
    module.clocked(f"table_word <= entries[{module['place'].part(bytes_bits, words_bits)}];")
    byte = module.delay(module["place"].part(0, bytes_bits), 1, "table_byte")
    module.delay(module["entry"], 1, "plain_result")
    module.output("result", BYTE, f"use_table ? table_word[{concat(byte, constant(0, 3))} +: 8] : plain_result")
    return module


def _tables(module: Module, architecture: Architecture) -> None:
    """The memory of the tables: entry q of a table is byte q + 128 of its TABLE_ENTRIES."""
    words = architecture.tables * architecture.table_words
    assert words * architecture.columns == architecture.tables * TABLE_ENTRIES
    word_bits = architecture.columns * BYTE
    module.input("table_index", TABLE_BITS)
    module.input("table_write")
    module.input("table_write_address", bits_for(words))
    module.input("table_write_data", word_bits)
    module.memory("entries", word_bits, words)
    module.clocked("if (table_write) entries[table_write_address] <= table_write_data;")


def _widen(name: str, width: int, wider: int) -> str:
    """Sign extension."""
    return f"{{{{{wider - width}{{{name}[{width - 1}]}}}}, {name}}}" if wider > width else name
