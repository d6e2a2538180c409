"""The vector unit: V lanes that pool, requantise, add a residual and look up tables.

A block is RECORD_CYCLES slots for its parameter record, when it requantises, then for each pixel and each V of its C
channels (a group) one slot a word of the window and, when residual and input both come from the activations, one more.
The pipeline behind a slot: address, memory, lanes, reduction, bias, products, sum, shift, clip, table.
"""

from __future__ import annotations

from ..architecture import RECORD_WORDS, Architecture, Memory
from ..instructions.vector import Reduce, Vector
from ..timing import RECORD_CYCLES
from .cell import BYTE, SUM_BITS
from .decoder import unit
from .lane import MULTIPLIER_BITS, SHIFT_BITS, lane
from .verilog import Module, Signal, bits_for, concat, constant, select

STAGES = 10  # cycles from a slot to the write of its result
OUTPUT_BITS = 24
RECORD_PARTS = {
    "bias": (0, 4),
    "multiplier": (4, 4),
    "residual_multiplier": (8, 4),
    "shift": (12, 1),
}  # first word, words


def vector_unit(architecture: Architecture) -> Module:
    """The unit; `start` is given only when `ready`."""
    module = unit("vector", "Pools, requantises, adds, looks up.", Vector)
    module.register("busy")
    _slots(module, architecture)
    _addresses(module, architecture)
    _lanes(module, architecture)
    return module


def _slots(module: Module, architecture: Architecture) -> None:
    """Loops: window columns and rows, residual, groups of lanes, pixels, blocks; a block begins with its record."""
    groups = architecture.columns // architecture.vector_lanes
    module.comment("which slot; the innermost loop first")
    module.wire("from_activations", 1, f"now_source == 3'd{Memory.ACTIVATIONS.value}")
    module.register("in_record")
    module.register("record_word", 4)
    module.register("tap_x", 8)
    module.register("tap_y", 8)
    module.register("in_residual")
    module.register("pixel", 16)
    module.register("block", 16)
    module.wire("last_x", 1, "tap_x + 8'd1 == now_kx")
    module.wire("last_tap", 1, "last_x && tap_y + 8'd1 == now_ky")
    module.wire("apart", 1, "now_add_residual && from_activations")
    module.wire("ends_group", 1, "apart ? in_residual : last_tap")
    if groups > 1:
        group_bits = bits_for(groups)
        module.register("group", group_bits)
        module.wire("ends_pixel", 1, f"ends_group && group == {constant(groups - 1, group_bits)}")
    else:
        module.wire("ends_pixel", 1, "ends_group")
    module.wire("ends_block", 1, "ends_pixel && pixel + 16'd1 == now_pixels")
    module.wire("works", 1, "running && !in_record")
    module.wire("finishes", 1, "works && ends_block && block + 16'd1 == now_blocks")
    module.assign(module["ready"], "!busy")
    module.clocked(f"""
        if (reset) busy <= 1'b0;
        else if (start) busy <= 1'b1;
        else if (done) busy <= 1'b0;
        if (reset) running <= 1'b0;
        else if (start) running <= 1'b1;
        else if (finishes) running <= 1'b0;
        if (start) begin
          in_record <= next_requantize;
          record_word <= 4'd0;
          tap_x <= 8'd0;
          tap_y <= 8'd0;
          in_residual <= 1'b0;
          pixel <= 16'd0;
          block <= 16'd0;
        end else if (running && in_record) begin
          record_word <= record_word + 4'd1;
          if (record_word == 4'd{RECORD_CYCLES - 1}) in_record <= 1'b0;
        end else if (running) begin
          if (!in_residual) begin
            tap_x <= last_x ? 8'd0 : tap_x + 8'd1;
            if (last_x) tap_y <= last_tap ? 8'd0 : tap_y + 8'd1;
          end
          in_residual <= apart && last_tap && !in_residual;
          if (ends_pixel) pixel <= ends_block ? 16'd0 : pixel + 16'd1;
          if (ends_block) begin
            block <= block + 16'd1;
            in_record <= now_requantize;
            record_word <= 4'd0;
          end
        end
    """)
    if groups > 1:
        module.clocked(f"""
            if (start) group <= {constant(0, group_bits)};
            else if (works && ends_group) group <= group + {constant(1, group_bits)};
        """)


def _addresses(module: Module, architecture: Architecture) -> None:
    """Input, residual, output and record words of the slot; the reads, a cycle later."""
    module.comment(
        "words: of the input, its row and block, the window's offset and that of its row; residual, output, record"
    )
    module.register("column", 16)
    module.wire("row_ends", 1, "column + 16'd1 == now_width")
    for name in (
        "input_word",
        "input_row",
        "input_block",
        "offset",
        "offset_row",
        "residual_word",
        "residual_block",
        "output_word",
        "output_block",
    ):
        module.register(name, 24)
    module.register("record", 24)
    module.wire("offset_row_after", 24, "offset_row + now_stride_ky")
    module.wire("input_row_after", 24, "input_row + now_stride_row")
    module.wire("input_block_after", 24, "input_block + now_stride_block")
    module.clocked(f"""
        if (start) begin
          column <= 16'd0;
          input_word <= next_input;
          input_row <= next_input;
          input_block <= next_input;
          residual_word <= next_residual_input;
          residual_block <= next_residual_input;
          output_word <= next_output;
          output_block <= next_output;
          record <= next_parameter;
        end else if (works && ends_block) begin
          column <= 16'd0;
          input_word <= input_block_after;
          input_row <= input_block_after;
          input_block <= input_block_after;
          residual_word <= residual_block + 24'd1;
          residual_block <= residual_block + 24'd1;
          output_word <= output_block + 24'd1;
          output_block <= output_block + 24'd1;
          record <= record + 24'd{RECORD_WORDS};
        end else if (works && ends_pixel) begin
          column <= row_ends ? 16'd0 : column + 16'd1;
          input_word <= row_ends ? input_row_after : input_word + now_stride_pixel;
          if (row_ends) input_row <= input_row_after;
          residual_word <= residual_word + now_residual_stride_pixel;
          output_word <= output_word + now_output_stride_pixel;
        end
        if (start || works && last_tap && !in_residual) begin
          offset <= 24'd0;
          offset_row <= 24'd0;
        end else if (works && !in_residual) begin
          offset <= last_x ? offset_row_after : offset + now_stride_kx;
          if (last_x) offset_row <= offset_row_after;
        end
    """)
    module.wire("read_input", 24, "input_word + offset")
    module.wire("read_residual", 1, "in_residual || !from_activations")
    activation_bits = bits_for(architecture.words(Memory.ACTIVATIONS))
    accumulator_bits = bits_for(architecture.words(Memory.ACCUMULATORS))
    parameter_bits = bits_for(architecture.words(Memory.PARAMETERS))
    word_bits = architecture.columns * BYTE
    module.output_register("activation_read")
    module.output_register("activation_read_address", activation_bits)
    module.input("activation_read_data", word_bits)
    module.output_register("accumulator_read")
    module.output_register("accumulator_read_address", accumulator_bits)
    module.input("accumulator_read_data", architecture.columns * SUM_BITS)
    module.output_register("parameter_read_address", parameter_bits)
    module.input("parameter_read_data", word_bits)
    module.wire("activation_word", 24, "read_residual ? residual_word : read_input")
    module.wire("parameter_word", 24, "record + {20'd0, record_word}")
    module.clocked(f"""
        activation_read <= !reset && works && (from_activations || now_add_residual);
        activation_read_address <= {module["activation_word"].part(0, activation_bits)};
        accumulator_read <= !reset && works && !from_activations;
        accumulator_read_address <= {module["read_input"].part(0, accumulator_bits)};
        parameter_read_address <= {module["parameter_word"].part(0, parameter_bits)};
    """)


def _record(module: Module, architecture: Architecture) -> None:
    """The block's record: its words are kept a cycle after they are there, when former pixels do not need them."""
    word_bits = architecture.columns * BYTE
    module.comment("the record's words take their places")
    module.delay(module.wire("reads_record", 1, "running && in_record"), 3, "record_comes", reset=True)
    index = module.delay(module["record_word"], 3, "record_index")
    module.delay(module["parameter_read_data"], 1, "record_data")
    for name, (first, words) in RECORD_PARTS.items():
        register = module.register(name, words * word_bits)
        lines = []
        for i in range(words):
            part = register.part(i * word_bits, word_bits)
            lines.append(f"if (record_comes && {index} == 4'd{first + i}) {part} <= record_data;")
        module.clocked("\n".join(lines))


def _lanes(module: Module, architecture: Architecture) -> None:
    """The lanes, each with its channel of a group."""
    lanes, columns = architecture.vector_lanes, architecture.columns
    groups = columns // lanes
    _record(module, architecture)
    module.comment("what a slot is, in step with its data")
    first = module.wire("first", 1, "tap_x == 8'd0 && tap_y == 8'd0 && !in_residual")
    shared: dict[str, Signal | None] = {
        "from_activations_at_2": module.delay(module["from_activations"], 2, "from_activations_at_2"),
        "first_at_3": module.delay(first, 3, "first_at_3"),
        "holds_at_3": module.delay(module["in_residual"], 3, "holds_at_3"),
        "takes_greatest": module.wire("takes_greatest", 1, f"now_reduce == 1'd{Reduce.MAX.value}"),
        "table_index": module["now_table"],
    }
    for name in ("requantize", "add_residual", "use_table"):
        shared[name] = module[f"now_{name}"]
    for name in ("zero", "low", "high", "residual_zero"):
        shared[name] = module[f"now_{name}"]
    word_bits, table_bits = columns * BYTE, bits_for(architecture.words(Memory.TABLES))
    shared["table_write"] = module.input("table_write")
    shared["table_write_address"] = module.input("table_write_address", table_bits)
    shared["table_write_data"] = module.input("table_write_data", word_bits)
    sources: dict[str, tuple[str, int, int]] = {  # port -> signal of C items, bits of an item, bits used
        "activation_at_2": ("activation_read_data", BYTE, BYTE),
        "accumulator_at_2": ("accumulator_read_data", SUM_BITS, SUM_BITS),
        "bias_at_4": ("bias", SUM_BITS, SUM_BITS),
        "multiplier_at_5": ("multiplier", SUM_BITS, MULTIPLIER_BITS),
        "residual_multiplier_at_5": ("residual_multiplier", SUM_BITS, MULTIPLIER_BITS),
        "shift_at_6": ("shift", BYTE, SHIFT_BITS),
        "shift_at_7": ("shift", BYTE, SHIFT_BITS),
    }
    group_at: dict[int, Signal] = {}  # by the cycle after the slot
    if groups > 1:
        group_at[0] = module["group"]
        for cycle in range(1, STAGES + 1):
            group_at[cycle] = module.delay(group_at[cycle - 1], 1, f"group_at_{cycle}")

    def channel(port: str, lane_index: int) -> Signal:
        """The item of a lane: of its only channel, or of that in the group that is in the port's stage."""
        name, item_bits, bits = sources[port]
        items = module[name]
        options = [items.part((i * lanes + lane_index) * item_bits, bits) for i in range(groups)]
        if groups == 1:
            return options[0]
        return module.wire(f"{port}_{lane_index}", bits, select(group_at[int(port[-1])], options))

    one = lane(architecture)
    results = []
    for i in range(lanes):
        results.append(module.wire(f"result_{i}", BYTE))
        own = {port: channel(port, i) for port in sources}
        module.instance(one, f"lane_{i}", **shared, **own, result=results[-1])
    module.wire("results", lanes * BYTE, concat(*reversed(results)))

    module.comment("a word is written with its last group; the groups before wait for it")
    module.wire("ends_word", 1, "works && ends_pixel")
    pixel = concat(module["ends_word"], module["finishes"], module["output_word"])
    written = module.delay(pixel, STAGES, "written", reset=True)
    address_bits = bits_for(architecture.words(Memory.ACTIVATIONS))
    module.output("activation_write", 1, written.part(OUTPUT_BITS + 1, 1))
    module.output("activation_write_address", address_bits, written.part(0, address_bits))
    module.assign(module["done"], written.part(OUTPUT_BITS, 1))
    done_groups = []
    for i in range(groups - 1):
        kept = module.register(f"kept_{i}", lanes * BYTE)
        index = constant(i, bits_for(groups))
        module.clocked(f"if ({group_at[STAGES]} == {index}) {kept} <= results;")
        done_groups.append(kept)
    word = concat(*reversed([*done_groups, module["results"]]))
    module.output("activation_write_data", word_bits, word)
