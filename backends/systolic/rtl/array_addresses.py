"""The addresses of a MULTIPLY: the walk over pixels, the offset in the window, the weight words."""

from __future__ import annotations

from ..architecture import Architecture, Memory
from .verilog import Module, bits_for, constant


def is_stationary(architecture: Architecture, instruction: str) -> str:
    """Whether an instruction is weight stationary, as Verilog: known for a machine of one dataflow."""
    return {"os": "1'b0", "ws": "1'b1", "both": f"{instruction}_stationary"}[architecture.dataflow]


def walk_pixels(module: Module, architecture: Architecture) -> None:
    """The walk over pixels: one a slot, the first R slots of a chunk output stationary; the last pixel repeats."""
    rows = architecture.rows
    bits = bits_for(architecture.words(Memory.ACTIVATIONS))
    low = f"[{bits - 1}:0]"
    module.comment(
        "which pixel: its address without the window's offset, that of its row, its column; where the tile began"
    )
    for name in ("pixel", "tile"):
        module.register(f"{name}_address", bits)
        module.register(f"{name}_row", bits)
        module.register(f"{name}_column", 16)
    module.register("pixel_index", 16)
    module.wire("walks", 1, f"(stationary ? !preparing : slot < 16'd{rows}) && pixel_index + 16'd1 != now_pixels")
    module.wire("row_ends", 1, "pixel_column + 16'd1 == now_width")
    module.wire("row_after", bits, f"walks && row_ends ? pixel_row + now_stride_row{low} : pixel_row")
    walked = f"!walks ? pixel_address : row_ends ? row_after : pixel_address + now_stride_pixel{low}"
    module.wire("address_after", bits, walked)
    module.wire("column_after", 16, "!walks ? pixel_column : row_ends ? 16'd0 : pixel_column + 16'd1")
    module.wire("index_after", 16, "walks ? pixel_index + 16'd1 : pixel_index")
    module.wire("next_tile", 1, "last_tap && !last_tile")
    module.clocked(f"""
        if (start || chunk_done && last_tile) begin
          pixel_address <= start ? next_activation{low} : now_activation{low};
          pixel_row <= start ? next_activation{low} : now_activation{low};
          pixel_column <= 16'd0;
          pixel_index <= 16'd0;
          tile_address <= start ? next_activation{low} : now_activation{low};
          tile_row <= start ? next_activation{low} : now_activation{low};
          tile_column <= 16'd0;
        end else if (chunk_done && next_tile) begin
          pixel_address <= address_after;
          pixel_row <= row_after;
          pixel_column <= column_after;
          pixel_index <= index_after;
          tile_address <= address_after;
          tile_row <= row_after;
          tile_column <= column_after;
        end else if (chunk_done) begin
          pixel_address <= tile_address;
          pixel_row <= tile_row;
          pixel_column <= tile_column;
          pixel_index <= tile_pixel;
        end else if (running) begin
          pixel_address <= address_after;
          pixel_row <= row_after;
          pixel_column <= column_after;
          pixel_index <= index_after;
        end
    """)


def window_offset(module: Module, architecture: Architecture) -> None:
    """The offset of a window's word, the same for all pixels; and the address that is read."""
    rows = architecture.rows
    bits = bits_for(architecture.words(Memory.ACTIVATIONS))
    low = f"[{bits - 1}:0]"
    module.comment("offset of the window's word, of its column's first and of its row's first word")
    for name in ("offset", "offset_x", "offset_y"):
        module.register(name, bits)
    module.wire("offset_x_after", bits, f"offset_x + now_stride_kx{low}")
    module.wire("offset_y_after", bits, f"offset_y + now_stride_ky{low}")
    module.clocked(f"""
        if (start || chunk_done && last_tap) begin
          offset <= {constant(0, bits)};
          offset_x <= {constant(0, bits)};
          offset_y <= {constant(0, bits)};
        end else if (chunk_done && last_part) begin
          offset <= !last_block ? offset + {constant(1, bits)} : last_tap_x ? offset_y_after : offset_x_after;
          if (last_block) offset_x <= last_tap_x ? offset_y_after : offset_x_after;
          if (last_tap_x) offset_y <= offset_y_after;
        end
        activation_read <= !reset && running && (stationary ? !preparing : slot < 16'd{rows});
        activation_read_address <= pixel_address + offset;
    """)


def weight_words(module: Module, architecture: Architecture) -> None:
    """Weight words: in order, again for every tile, output stationary; each R from the last to the first otherwise."""
    rows = architecture.rows
    bits = bits_for(architecture.words(Memory.WEIGHTS))
    low = f"[{bits - 1}:0]"
    module.comment("weight words; weight stationary, the word that moves in first ends in the bottom row")
    module.register("weight_word", bits)
    module.register("weight_first", bits)
    module.wire(
        "moves_weights", 1, f"stationary && running && (preparing || !last_output && chunk_slots - slot <= 16'd{rows})"
    )
    module.wire("weight_after", bits, f"weight_word + {constant(1, bits)}")
    module.wire("weight_bottom", bits, f"next_weight{low} + {constant(rows - 1, bits)}")
    module.clocked(f"""
        weight_read_address <= weight_word;
        if (start) begin
          weight_word <= {is_stationary(architecture, "next")} ? weight_bottom : next_weight{low};
          weight_first <= next_weight{low};
        end else if (moves_weights) begin
          weight_word <= chunk_ends ? weight_word + {constant(2 * rows - 1, bits)} : weight_word - {constant(1, bits)};
        end else if (running && !stationary) begin
          weight_word <= chunk_done && next_tile ? weight_first : weight_after;
          if (chunk_done && last_tile) weight_first <= weight_after;
        end
    """)
