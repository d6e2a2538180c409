"""The array unit: walks windows, weights and outputs of a MULTIPLY, feeds the array, adds results to the accumulators.

An instruction is a sequence of slots, one a cycle. Slots form chunks: output stationary, a chunk is the C products of a
window word for R pixels at once; weight stationary, all pixels pass R channels of a window word (a part of it), for
at least R slots, in the last R of which the weights of the next chunk move in.
"""

from __future__ import annotations

from ..architecture import Architecture, Memory
from ..instructions.multiply import Multiply
from .array_addresses import is_stationary, walk_pixels, weight_words, window_offset
from .cell import BYTE, FLAGS, SUM_BITS
from .decoder import unit
from .mesh import feeder, mesh
from .verilog import Module, Signal, bits_for, concat, constant

MEMORY_CYCLES = 3  # from a slot to its operands at the array: address, memory, feeder
CONTROL = ("valid", "done", "accumulate", "word")  # what travels beside a result, from the highest bit


def array_unit(architecture: Architecture) -> Module:
    """The unit; `start` is given only when `ready`, and with the other dataflow only when nothing is in flight."""
    module = unit("array", "Multiplies: addresses, array, accumulation.", Multiply)
    _ports(module, architecture)
    _chunks(module, architecture)
    walk_pixels(module, architecture)
    window_offset(module, architecture)
    weight_words(module, architecture)
    _results(module, architecture)
    _datapath(module, architecture)
    return module


def _ports(module: Module, architecture: Architecture) -> None:
    """To the memories."""
    for name, memory, width in (
        ("activation", Memory.ACTIVATIONS, BYTE * architecture.columns),
        ("weight", Memory.WEIGHTS, BYTE * architecture.columns),
        ("accumulator", Memory.ACCUMULATORS, SUM_BITS * architecture.columns),
    ):
        address_bits = bits_for(architecture.words(memory))
        if name == "activation":
            module.output_register("activation_read")
        if name == "accumulator":
            module.output("accumulator_read")
            module.output("accumulator_read_address", address_bits)
            module.input("accumulator_read_data", width)
            module.output("accumulator_write")
            module.output("accumulator_write_address", address_bits)
            module.output("accumulator_write_data", width)
        else:
            module.output_register(f"{name}_read_address", address_bits)
            module.input(f"{name}_read_data", width)


def _chunks(module: Module, architecture: Architecture) -> None:
    """Loops: slots of a chunk, parts, blocks, window columns and rows, tiles of R pixels, output blocks."""
    rows, columns = architecture.rows, architecture.columns
    parts = columns // rows
    module.comment("which slot of which chunk; the innermost loop first")
    module.wire("stationary", 1, is_stationary(architecture, "now"))
    module.register("preparing")
    module.register("slot", 16)
    module.wire("pixel_slots", 16, f"now_pixels > 16'd{rows} ? now_pixels : 16'd{rows}")
    module.wire("chunk_slots", 16, f"!stationary ? 16'd{columns} : preparing ? 16'd{rows} : pixel_slots")
    module.wire("chunk_ends", 1, "slot + 16'd1 == chunk_slots")
    module.register("block", 16)
    module.register("tap_x", 8)
    module.register("tap_y", 8)
    module.register("tile_pixel", 16)
    module.register("output_block", 16)
    last_part = "1'b1"
    if architecture.dataflow != "os" and parts > 1:
        part_bits = bits_for(parts)
        module.register("part", part_bits)
        last_part = f"(!stationary || part == {constant(parts - 1, part_bits)})"
        module.clocked("""
            if (start) part <= 0;
            else if (running && stationary && !preparing && chunk_ends) part <= part + 1;
        """)
    module.wire("last_part", 1, last_part)
    module.wire("last_block", 1, "last_part && block + 16'd1 == now_blocks")
    module.wire("last_tap_x", 1, "last_block && tap_x + 8'd1 == now_kx")
    module.wire("last_tap", 1, "last_tap_x && tap_y + 8'd1 == now_ky")
    module.wire("pixels_left", 16, "now_pixels - tile_pixel")
    module.wire("last_tile", 1, f"last_tap && (stationary || pixels_left <= 16'd{rows})")
    module.wire("last_output", 1, "last_tile && output_block + 16'd1 == now_outputs")
    module.wire("chunk_done", 1, "running && chunk_ends && !preparing")
    module.wire("finishes", 1, "chunk_done && last_output")
    module.assign(module["ready"], "!running || finishes")
    module.clocked(f"""
        if (reset) running <= 1'b0;
        else if (start) begin
          running <= 1'b1;
          preparing <= {is_stationary(architecture, "next")};
          slot <= 16'd0;
          block <= 16'd0;
          tap_x <= 8'd0;
          tap_y <= 8'd0;
          tile_pixel <= 16'd0;
          output_block <= 16'd0;
        end else if (running) begin
          slot <= chunk_ends ? 16'd0 : slot + 16'd1;
          if (chunk_ends) preparing <= 1'b0;
          if (finishes) running <= 1'b0;
          if (chunk_done && last_part) begin
            block <= last_block ? 16'd0 : block + 16'd1;
            if (last_block) tap_x <= last_tap_x ? 8'd0 : tap_x + 8'd1;
            if (last_tap_x) tap_y <= last_tap ? 8'd0 : tap_y + 8'd1;
            if (last_tap) tile_pixel <= last_tile ? 16'd0 : tile_pixel + 16'd{rows};
            if (last_tile) output_block <= output_block + 16'd1;
          end
        end
    """)


def _results(module: Module, architecture: Architecture) -> None:
    """Flags for the array and, in step with them, where their results go: `result_*`, cycles later at the accumulators.

    Output stationary, a tile's sums leave the last row first, in the slot of the last product and the R - 1 after it.
    """
    rows, columns, dataflow = architecture.rows, architecture.columns, architecture.dataflow
    bits = bits_for(architecture.words(Memory.ACCUMULATORS))
    low = f"[{bits - 1}:0]"
    row_bits = bits_for(rows)
    module.comment("where a tile's sums go; the first chunk of a sum replaces what is there unless it accumulates")
    module.register("plane_word", bits)
    module.register("first_chunk")
    module.clocked(f"""
        if (start) plane_word <= next_accumulator{low};
        else if (chunk_done && last_tile) plane_word <= plane_word + now_stride_output{low};
        if (start || chunk_done) first_chunk <= start || last_tap;
    """)
    begins = "running && slot == 16'd0 && (stationary ? !preparing : first_chunk)"
    written: list[Signal] = []
    if dataflow != "ws":
        module.comment("output stationary: the slot of the last product, then R - 1 slots in which sums move down")
        module.wire("ends", 1, "chunk_done && !stationary && last_tap")
        for name, width in (("draining", 1), ("drain_row", row_bits), ("drain_word", bits), ("drain_rows", 16)):
            module.register(name, width)
        module.register("drain_accumulate")
        module.register("drain_final")
        top = constant(rows - 1, row_bits)
        module.wire("sum_row", row_bits, f"ends ? {top} : drain_row")
        module.wire("sum_rows", 16, "ends ? pixels_left : drain_rows")
        tile_word = f"plane_word + {_low(module['tile_pixel'], bits)}"
        module.wire("sum_word", bits, f"ends ? {tile_word} + {constant(rows - 1, bits)} : drain_word")
        module.wire("sum_accumulate", 1, "ends ? now_accumulate : drain_accumulate")
        module.wire("sum_final", 1, "ends ? last_output : drain_final")
        module.clocked(f"""
            if (reset) draining <= 1'b0;
            else if (ends) draining <= 1'b1;
            else if (drain_row == {constant(0, row_bits)}) draining <= 1'b0;
            drain_row <= sum_row - {constant(1, row_bits)};
            drain_rows <= sum_rows;
            drain_word <= sum_word - {constant(1, bits)};
            drain_accumulate <= sum_accumulate;
            drain_final <= sum_final;
        """)
        module.wire("sums", 1, "ends || draining")
        module.wire("sum_done", 1, f"sums && sum_final && sum_row == {constant(0, row_bits)}")
        row = f"{{{16 - row_bits}'d0, sum_row}}"
        module.wire("sum_valid", 1, f"sums && {row} < sum_rows")
        control = concat(*(module[f"sum_{name}"] for name in CONTROL))
        written = [module.delay(control, 1, "sum_control", reset=True)]
    if dataflow != "os":
        module.comment("weight stationary: a sum leaves for every pixel of every chunk")
        module.wire("passes", 1, "running && stationary && !preparing")
        module.wire("pass_word", bits, f"plane_word + {_low(module['slot'], bits)}")
        module.wire("pass_valid", 1, "passes && slot < now_pixels")
        module.wire("pass_done", 1, "passes && finishes")
        module.wire("pass_accumulate", 1, "now_accumulate || !first_chunk")
        written.append(concat(*(module[f"pass_{name}"] for name in CONTROL)))
    control = written[0]
    if dataflow == "both":
        control = module.wire("control", 3 + bits, f"passes ? {written[1]} : {written[0]}")
    ends = "ends" if dataflow != "ws" else "1'b0"
    moves = {"os": "draining", "ws": "moves_weights", "both": "draining || moves_weights"}[dataflow]
    module.wire("flags", FLAGS, f"{{running && stationary, {moves}, {ends}, {begins}}}")
    at_read = module.delay(control, MEMORY_CYCLES + rows + columns - 1, "read_control", reset=True)
    module.comment("read an accumulator word, and a cycle later write it with the array's results added or alone")
    module.assign(module["accumulator_read"], at_read.part(bits + 2, 1))
    module.assign(module["accumulator_read_address"], at_read.part(0, bits))
    at_write = module.delay(at_read, 1, "write_control", reset=True)
    module.assign(module["accumulator_write"], at_write.part(bits + 2, 1))
    module.assign(module["accumulator_write_address"], at_write.part(0, bits))
    module.assign(module["done"], at_write.part(bits + 1, 1))
    module.wire("adds", 1, at_write.part(bits, 1))


def _datapath(module: Module, architecture: Architecture) -> None:
    """Feeder, array and the addition to what the accumulators hold."""
    rows, columns, dataflow = architecture.rows, architecture.columns, architecture.dataflow
    results = module.wire("results", columns * SUM_BITS)
    activations = module.wire("activations", rows * BYTE)
    feed = feeder(architecture)
    feeds: dict[str, Signal | None] = {
        "word": module["activation_read_data"],
        "activations": activations,
    }
    module.comment("operands come from the memories two cycles after their slot")
    if dataflow != "ws":
        row_bits = bits_for(rows)
        takes = module.wire("takes", 1, f"running && !stationary && slot < 16'd{rows}")
        feeds["take"] = module.delay(takes, 2, "take")
        feeds["row"] = module.delay(module["slot"].part(0, row_bits), 2, "take_row")
    if dataflow == "both":
        feeds["stationary"] = module.delay(module["stationary"], 2, "take_stationary")
    if dataflow != "os" and columns > rows:
        feeds["part"] = module.delay(module["part"], 2, "take_part")
    module.instance(feed, "feeder", **feeds)
    weights = module.delay(module["weight_read_data"], 1, "weights")
    flags = module.delay(module["flags"], MEMORY_CYCLES, "mesh_flags")
    module.instance(mesh(architecture), "mesh", activations=activations, weights=weights, flags=flags, results=results)
    module.comment("a word that was written in the cycle in which it was read is taken from there")
    width = columns * SUM_BITS
    module.register("forward")
    module.register("forwarded", width)
    module.clocked("""
        forward <= accumulator_write && accumulator_write_address == accumulator_read_address;
        forwarded <= accumulator_write_data;
    """)
    module.wire("before", width, f"!adds ? {constant(0, width)} : forward ? forwarded : accumulator_read_data")
    sums = []
    for j in range(columns):
        lanes = [module[name].part(SUM_BITS * j, SUM_BITS) for name in ("before", "results")]
        sums.append(module.wire(f"total_{j}", SUM_BITS, f"{lanes[0]} + {lanes[1]}"))
    module.assign(module["accumulator_write_data"], concat(*reversed(sums)))


def _low(signal: Signal, bits: int) -> Signal:
    """The low bits of a number, or all of them when it has fewer."""
    return signal.part(0, min(bits, signal.width))
