"""The load unit: walks a LOAD's nest, asks DRAM for its words, puts padding between them, writes them on the chip.

Requests run ahead of answers. A queue of descriptors, one a word, keeps their order; padding words wait as long as
DRAM would take, so that every word arrives in its turn.
"""

from __future__ import annotations

from ..architecture import Architecture, Memory
from ..instructions.load import Load
from ..timing import IN_FLIGHT
from .cell import BYTE
from .decoder import unit
from .storage import queue
from .verilog import Module, Signal, bits_for, concat, constant, repeat, select

ADDRESS_BITS = 40  # of DRAM bytes
LEVELS = "xyz"
LOADED = (Memory.ACTIVATIONS, Memory.WEIGHTS, Memory.PARAMETERS, Memory.TABLES)


def load_unit(architecture: Architecture) -> Module:
    """The unit, with the read half of an AXI4 port; `start` is given only when `ready`."""
    module = unit("load", "Loads: from DRAM to the memories of the chip.", Load)
    _requests(module, architecture)
    _answers(module, architecture)
    _writes(module, architecture)
    return module


def lane_bits(architecture: Architecture) -> int:
    """Low bits of a word's address that choose its place in a beat, for words shorter than a beat."""
    return max(0, (architecture.dram_bytes // architecture.columns).bit_length() - 1)


def byte_address(word: Signal, architecture: Architecture) -> Signal:
    """The DRAM byte address of a word."""
    shift = architecture.columns.bit_length() - 1
    return concat(constant(0, ADDRESS_BITS - word.width - shift), word, constant(0, shift))


def outstanding_words(architecture: Architecture) -> int:
    """Words asked for and not yet there that hide DRAM's latency, a power of two."""
    return 1 << (architecture.dram_latency + 7).bit_length()


def _requests(module: Module, architecture: Architecture) -> None:
    """One slot a beat: a request in a word's first, and after each block to turn as many as it takes to empty it."""
    columns, beats = architecture.columns, architecture.beats
    module.comment("indices in the nest and the DRAM words of the current index, of its row and of its plane")
    for level in LEVELS:
        module.register(f"index_{level}", 16)
        module.register(f"dram_{level}", 32)
        module.wire(f"last_{level}", 1, f"index_{level} + 16'd1 == now_count_{level}")
        module.wire(f"left_{level}", 16, f"now_count_{level} - index_{level}")
        before, after = (f"{{8'd0, now_{edge}_{level}}}" for edge in ("before", "after"))
        module.wire(f"pads_{level}", 1, f"index_{level} < {before} || left_{level} <= {after}")
    module.wire("pads", 1, "pads_x || pads_y || pads_z")
    module.wire("last_word", 1, "last_x && last_y && last_z")

    module.comment("a request waits for the former one to be taken and for room among the descriptors")
    module.register("pausing")
    module.wire("descriptors_full")
    module.output_register("read_address_valid")
    module.input("read_address_ready")
    module.output_register("read_address", ADDRESS_BITS)
    module.wire("free", 1, "(!read_address_valid || read_address_ready) && !descriptors_full")
    first_beat = "1'b1"
    if beats > 1:
        beat_bits = bits_for(beats)
        module.register("beat", beat_bits)
        first_beat = f"beat == {constant(0, beat_bits)}"
    module.wire("asks", 1, f"running && !pausing && {first_beat} && free")
    last_beat = "asks"
    if beats > 1:
        last_beat = f"running && !pausing && (pads ? asks : beat == {constant(beats - 1, beat_bits)})"
        module.clocked(f"""
            if (reset || start) beat <= {constant(0, beat_bits)};
            else if (running && !pausing && !pads && (asks || !({first_beat}))) beat <= beat + {constant(1, beat_bits)};
        """)
    module.wire("word_asked", 1, last_beat)
    pause_bits = bits_for(columns)
    module.register("pause", pause_bits)
    module.wire("pause_ends", 1, f"pausing && pause == {constant(columns - 1, pause_bits)}")
    module.wire("moves_on", 1, "now_transpose && last_x ? pause_ends : word_asked")
    module.wire("finishes", 1, "moves_on && last_word")
    module.assign(module["ready"], "!running || finishes")
    module.wire("dram_z_after", 32, "dram_z + now_stride_z")
    module.wire("dram_y_after", 32, "dram_y + now_stride_y")
    module.wire("dram_row", 32, "last_y ? dram_z_after : dram_y_after")
    module.clocked(f"""
        if (reset) running <= 1'b0;
        else if (start) running <= 1'b1;
        else if (finishes) running <= 1'b0;
        if (reset || start || pause_ends) pausing <= 1'b0;
        else if (word_asked && now_transpose && last_x) pausing <= 1'b1;
        pause <= pausing ? pause + {constant(1, pause_bits)} : {constant(0, pause_bits)};
        if (start) begin
          index_x <= 16'd0;
          index_y <= 16'd0;
          index_z <= 16'd0;
          dram_x <= next_dram;
          dram_y <= next_dram;
          dram_z <= next_dram;
        end else if (moves_on) begin
          index_x <= last_x ? 16'd0 : index_x + 16'd1;
          dram_x <= last_x ? dram_row : dram_x + now_stride_x;
          if (last_x) begin
            index_y <= last_y ? 16'd0 : index_y + 16'd1;
            dram_y <= dram_row;
            if (last_y) begin
              index_z <= index_z + 16'd1;
              dram_z <= dram_z_after;
            end
          end
        end
        if (reset) read_address_valid <= 1'b0;
        else if (asks && !pads) read_address_valid <= 1'b1;
        else if (read_address_ready) read_address_valid <= 1'b0;
        if (asks) read_address <= {byte_address(module["dram_x"], architecture)};
    """)


def _answers(module: Module, architecture: Architecture) -> None:
    """Words in the order of the requests: beats of DRAM put together, and padding."""
    columns, beats, bus = architecture.columns, architecture.beats, architecture.dram_bytes
    word_bits, lanes, depth = columns * BYTE, lane_bits(architecture), outstanding_words(architecture)
    descriptor_bits = 2 + lanes
    descriptors = queue(descriptor_bits, depth)
    module.comment("descriptors of the words asked for: place in the beat, last of its instruction, padding")
    place = [module["dram_x"].part(0, lanes)] if lanes else []
    module.wire("descriptor", descriptor_bits, concat(*place, module["last_word"], module["pads"]))
    module.wire("expected", descriptor_bits)
    module.wire("nothing_expected")
    module.wire("arrives")
    module.instance(
        descriptors,
        "descriptors",
        reset=module["reset"],
        push=module["asks"],
        value=module["descriptor"],
        pop=module["arrives"],
        head=module["expected"],
        empty=module["nothing_expected"],
        full=module["descriptors_full"],
    )
    module.comment("padding words that have waited as long as DRAM takes")
    padded = module.wire("asks_padding", 1, "asks && pads")
    module.delay(padded, architecture.dram_latency + 1, "padding_due", reset=True)
    count_bits = bits_for(depth + 1)
    module.register("padding_ready", count_bits)
    module.wire("padding_arrives")
    zero, one = constant(0, count_bits), constant(1, count_bits)
    module.clocked(f"""
        if (reset) padding_ready <= {zero};
        else if (padding_due && !padding_arrives) padding_ready <= padding_ready + {one};
        else if (!padding_due && padding_arrives) padding_ready <= padding_ready - {one};
    """)
    module.wire("blocked")
    module.assign(
        module["padding_arrives"],
        f"!nothing_expected && expected[0] && !blocked && (padding_due || padding_ready != {zero})",
    )
    module.input("read_data_valid")
    module.input("read_data", bus * BYTE)
    module.output("read_data_ready", 1, "!nothing_expected && !expected[0] && !blocked")
    module.wire("beat_arrives", 1, "read_data_valid && read_data_ready")
    module.register("arrived")
    module.register("arrived_padding")
    module.register("arrived_last")
    module.register("arrived_word", word_bits)
    if beats > 1:
        beat_bits = bits_for(beats)
        module.register("answer_beat", beat_bits)
        module.assign(
            module["arrives"],
            f"padding_arrives || beat_arrives && answer_beat == {constant(beats - 1, beat_bits)}",
        )
        filled = concat(module["read_data"], module["arrived_word"].part(bus * BYTE, word_bits - bus * BYTE))
        module.clocked(f"""
            if (reset) answer_beat <= {constant(0, beat_bits)};
            else if (beat_arrives) answer_beat <= answer_beat + {constant(1, beat_bits)};
            if (beat_arrives) arrived_word <= {filled};
        """)
    else:
        module.assign(module["arrives"], "padding_arrives || beat_arrives")
        options = [module["read_data"].part(i * word_bits, word_bits) for i in range(1 << lanes)]
        index = module["expected"].part(2, lanes) if lanes else None
        module.clocked(f"if (beat_arrives) arrived_word <= {select(index, options) if index else options[0]};")
    module.clocked("""
        arrived <= !reset && arrives;
        arrived_padding <= expected[0];
        arrived_last <= expected[1];
    """)


def _writes(module: Module, architecture: Architecture) -> None:
    """Write words as they arrive, or turned, block by block."""
    columns = architecture.columns
    word_bits, pause_bits = columns * BYTE, bits_for(columns)
    where_bits = 3 + 1 + 24 + 8
    module.comment("where the words of the instructions in flight go")
    module.wire("going", where_bits, "{next_memory, next_transpose, next_destination, next_padding}")
    where = module.wire("where", where_bits)
    module.instance(
        queue(where_bits, IN_FLIGHT),
        "places",
        reset=module["reset"],
        push=module["start"],
        value=module["going"],
        pop=module["done"],
        head=module["where"],
        empty=None,
        full=None,
    )
    module.wire("to_memory", 3, "where[35:33]")
    module.wire("turns", 1, "where[32]")
    module.wire("destination", 24, "where[31:8]")
    module.wire("word", word_bits, f"arrived_padding ? {repeat(where.part(0, BYTE), columns)} : arrived_word")

    module.comment("turning: words move in from the last row, bytes leave from the first column")
    module.register("fill", pause_bits)
    module.register("emptying")
    module.register("emptied", pause_bits)
    module.register("turned_last")
    module.wire("filled", 1, f"arrived && turns && fill == {constant(columns - 1, pause_bits)}")
    module.wire("empty_ends", 1, f"emptying && emptied == {constant(columns - 1, pause_bits)}")
    module.assign(module["blocked"], "filled || emptying && !empty_ends")
    rows = [module.register(f"turn_{i}", word_bits) for i in range(columns)]
    fills = [f"  {row} <= {after};" for row, after in zip(rows, [*rows[1:], module["word"]], strict=True)]
    shifts = [f"  {row} <= {concat(constant(0, BYTE), row.part(BYTE, word_bits - BYTE))};" for row in rows]
    lines = ["if (arrived && turns) begin", *fills, "end else if (emptying) begin", *shifts, "end"]
    module.clocked("\n".join(lines))
    module.clocked(f"""
        if (reset) fill <= {constant(0, pause_bits)};
        else if (arrived && turns) fill <= fill + {constant(1, pause_bits)};
        if (reset) emptying <= 1'b0;
        else if (filled) emptying <= 1'b1;
        else if (empty_ends) emptying <= 1'b0;
        emptied <= emptying ? emptied + {constant(1, pause_bits)} : {constant(0, pause_bits)};
        if (filled) turned_last <= arrived_last;
    """)
    module.comment("one memory is written; words count up from the destination")
    module.wire("writes", 1, "emptying || arrived && !turns")
    module.assign(module["done"], "emptying ? empty_ends && turned_last : arrived && !turns && arrived_last")
    module.register("written", 24)
    module.clocked("""
        if (reset || done) written <= 24'd0;
        else if (writes) written <= written + 24'd1;
    """)
    turned = concat(*(row.part(0, BYTE) for row in reversed(rows)))
    module.wire("written_word", word_bits, f"emptying ? {turned} : word")
    table_shift = architecture.table_words.bit_length() - 1
    for memory in LOADED:
        name = memory.name.lower()
        bits = bits_for(architecture.words(memory))
        module.output(f"{name}_write", 1, f"writes && to_memory == 3'd{memory.value}")
        start = "destination" if memory is not Memory.TABLES else f"(destination << {table_shift})"
        module.wire(f"{name}_place", 24, f"{start} + written")
        module.output(f"{name}_write_address", bits, module[f"{name}_place"].part(0, bits))
        module.output(f"{name}_write_data", word_bits, module["written_word"])
