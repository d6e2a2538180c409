"""The store unit: reads words of activations or accumulators and writes them to DRAM."""

from __future__ import annotations

from ..architecture import ACCUMULATOR_PIECES, Architecture, Memory
from ..instructions.store import Store
from .cell import BYTE, SUM_BITS
from .decoder import unit
from .load import ADDRESS_BITS, byte_address, lane_bits, outstanding_words
from .storage import queue
from .verilog import Module, Signal, bits_for, concat, constant, repeat, select

WAITING_WORDS = 8  # read and not yet written, a power of two


def store_unit(architecture: Architecture) -> Module:
    """The unit, with the write half of an AXI4 port; `start` is given only when `ready`."""
    module = unit("store", "Stores: from the memories of the chip to DRAM.", Store)
    _reads(module, architecture)
    _writes(module, architecture)
    return module


def _reads(module: Module, architecture: Architecture) -> None:
    """One slot a beat; a word is read in its first. An accumulator word is four words of DRAM."""
    beats = architecture.beats
    for level in "xyz":
        module.register(f"index_{level}", 16)
        module.register(f"dram_{level}", 32)
        module.register(f"source_{level}", 24)
        module.wire(f"last_{level}", 1, f"index_{level} + 16'd1 == now_count_{level}")
    module.register("piece", 2)
    module.wire("wide", 1, f"now_memory == 3'd{Memory.ACCUMULATORS.value}")
    module.wire("last_piece", 1, f"!wide || piece == 2'd{ACCUMULATOR_PIECES - 1}")
    module.wire("last_word", 1, "last_piece && last_x && last_y && last_z")
    module.comment("no more words are read than can wait")
    waiting_bits = bits_for(WAITING_WORDS + 1)
    module.register("waiting", waiting_bits)
    module.wire("written")
    first_beat, last_beat = "1'b1", "reads"
    if beats > 1:
        beat_bits = bits_for(beats)
        module.register("beat", beat_bits)
        first_beat = f"beat == {constant(0, beat_bits)}"
        last_beat = f"running && beat == {constant(beats - 1, beat_bits)}"
    module.wire("reads", 1, f"running && {first_beat} && waiting != {constant(WAITING_WORDS, waiting_bits)}")
    module.wire("moves_on", 1, last_beat)
    if beats > 1:
        module.clocked(f"""
            if (reset || start) beat <= {constant(0, beat_bits)};
            else if (reads || running && !({first_beat})) beat <= beat + {constant(1, beat_bits)};
        """)
    module.wire("finishes", 1, "moves_on && last_word")
    module.assign(module["ready"], "!running || finishes")
    one = constant(1, waiting_bits)
    module.clocked(f"""
        if (reset) waiting <= {constant(0, waiting_bits)};
        else if (reads && !written) waiting <= waiting + {one};
        else if (!reads && written) waiting <= waiting - {one};
    """)
    module.wire("dram_z_after", 32, "dram_z + now_stride_z")
    module.wire("dram_row", 32, "last_y ? dram_z_after : dram_y + now_stride_y")
    module.wire("source_z_after", 24, "source_z + now_source_stride_z")
    module.wire("source_row", 24, "last_y ? source_z_after : source_y + now_source_stride_y")
    module.clocked("""
        if (reset) running <= 1'b0;
        else if (start) running <= 1'b1;
        else if (finishes) running <= 1'b0;
        if (start) begin
          piece <= 2'd0;
          index_x <= 16'd0;
          index_y <= 16'd0;
          index_z <= 16'd0;
          dram_x <= next_dram;
          dram_y <= next_dram;
          dram_z <= next_dram;
          source_x <= next_source;
          source_y <= next_source;
          source_z <= next_source;
        end else if (moves_on && !last_piece) piece <= piece + 2'd1;
        else if (moves_on) begin
          piece <= 2'd0;
          index_x <= last_x ? 16'd0 : index_x + 16'd1;
          dram_x <= last_x ? dram_row : dram_x + now_stride_x;
          source_x <= last_x ? source_row : source_x + 24'd1;
          if (last_x) begin
            index_y <= last_y ? 16'd0 : index_y + 16'd1;
            dram_y <= dram_row;
            source_y <= source_row;
            if (last_y) begin
              index_z <= index_z + 16'd1;
              dram_z <= dram_z_after;
              source_z <= source_z_after;
            end
          end
        end
    """)


def _writes(module: Module, architecture: Architecture) -> None:
    """Words wait in a queue until DRAM has taken address and data; an instruction is done with its last answer."""
    columns, beats, bus = architecture.columns, architecture.beats, architecture.dram_bytes
    word_bits, lanes = columns * BYTE, lane_bits(architecture)
    module.comment("the address, then the memory: a word is there two cycles after its slot")
    for name, memory, width in (
        ("activation", Memory.ACTIVATIONS, word_bits),
        ("accumulator", Memory.ACCUMULATORS, columns * SUM_BITS),
    ):
        bits = bits_for(architecture.words(memory))
        module.output_register(f"{name}_read")
        module.output_register(f"{name}_read_address", bits)
        module.input(f"{name}_read_data", width)
        module.clocked(f"""
            {name}_read <= !reset && reads && {"wide" if name == "accumulator" else "!wide"};
            {name}_read_address <= {module["source_x"].part(0, bits)};
        """)
    facts_bits = 32 + 1 + 1 + 2
    module.wire("place", 32, "dram_x + {30'd0, piece}")
    module.wire("facts", facts_bits, "{place, last_word, wide, piece}")
    read_facts = module.delay(module["facts"], 2, "read_facts")
    module.delay(module["reads"], 2, "was_read", reset=True)
    accumulator = module["accumulator_read_data"]
    pieces = [accumulator.part(i * word_bits, word_bits) for i in range(ACCUMULATOR_PIECES)]
    chosen = select(read_facts.part(0, 2), pieces)
    module.wire("read_word", word_bits, f"!{read_facts.part(2, 1)} ? activation_read_data : {chosen}")
    entry_bits = 33 + word_bits
    entry = module.wire("entry", entry_bits)
    module.wire("nothing_waits")
    module.instance(
        queue(entry_bits, WAITING_WORDS),
        "words",
        reset=module["reset"],
        push=module["was_read"],
        value=concat(read_facts.part(3, 33), module["read_word"]),
        pop=module["written"],
        head=entry,
        empty=module["nothing_waits"],
        full=None,
    )
    module.comment("address and data go their own ways; the word is gone when both are")
    module.wire("answers_full")
    module.wire("sends", 1, "!nothing_waits && !answers_full")
    module.register("address_sent")
    module.register("data_sent")
    module.output("write_address_valid", 1, "sends && !address_sent")
    module.input("write_address_ready")
    module.output("write_address", ADDRESS_BITS, byte_address(entry.part(word_bits + 1, 32), architecture))
    module.output("write_data_valid", 1, "sends && !data_sent")
    module.input("write_data_ready")
    module.wire("address_goes", 1, "write_address_valid && write_address_ready")
    module.wire("data_goes", 1, "write_data_valid && write_data_ready")
    if beats > 1:
        beat_bits = bits_for(beats)
        module.register("sent_beat", beat_bits)
        module.output("write_data_last", 1, f"sent_beat == {constant(beats - 1, beat_bits)}")
        options = [entry.part(i * bus * BYTE, bus * BYTE) for i in range(beats)]
        module.output("write_data", bus * BYTE, select(module["sent_beat"], options))
        module.output("write_strobe", bus, repeat(constant(1, 1), bus))
        module.clocked(f"""
            if (reset) sent_beat <= {constant(0, beat_bits)};
            else if (data_goes) sent_beat <= sent_beat + {constant(1, beat_bits)};
        """)
    else:
        module.output("write_data_last", 1, constant(1, 1))
        copies = 1 << lanes
        module.output("write_data", bus * BYTE, repeat(entry.part(0, word_bits), copies))
        here = (
            [
                repeat(Signal(f"(entry[{word_bits + lanes}:{word_bits + 1}] == {constant(i, lanes)})", 1), columns)
                for i in range(copies)
            ]
            if lanes
            else [repeat(constant(1, 1), columns)]
        )
        module.output("write_strobe", bus, concat(*reversed(here)))
    module.wire("data_gone", 1, "data_sent || data_goes && write_data_last")
    module.assign(module["written"], "(address_sent || address_goes) && data_gone")
    module.clocked("""
        address_sent <= !reset && !written && (address_sent || address_goes);
        data_sent <= !reset && !written && data_gone;
    """)
    module.comment("which answer is an instruction's last")
    module.input("write_answer_valid")
    module.wire("last_answer")
    module.instance(
        queue(1, outstanding_words(architecture)),
        "answers",
        reset=module["reset"],
        push=module["written"],
        value=entry.part(word_bits, 1),
        pop=module["write_answer_valid"],
        head=module["last_answer"],
        empty=None,
        full=module["answers_full"],
    )
    module.assign(module["done"], "write_answer_valid && last_answer")
