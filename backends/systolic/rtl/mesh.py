"""The array of cells: activations and flags move right, weights and sums move down, one cell a cycle."""

from __future__ import annotations

from ..architecture import Architecture
from .cell import BYTE, FLAGS, SUM_BITS, cell
from .verilog import Module, Signal, concat, constant, select


def mesh(architecture: Architecture) -> Module:
    """R x C cells. Row i must get its activations i cycles late; flags, weights and results are not skewed outside.

    What enters with flags at cycle t leaves as a word of C sums: weight stationary at t + R + C, output stationary
    (the last row's sums, first of the column's) at t + R + C + 1.
    """
    rows, columns = architecture.rows, architecture.columns
    module = Module("systolic_mesh", f"{rows} x {columns} cells.")
    activations = module.input("activations", rows * BYTE)
    weights = module.input("weights", columns * BYTE)
    flags = module.input("flags", FLAGS)
    one = cell(architecture.dataflow)

    module.comment("a row's flags and a column's weights come one cycle after those before it")
    left: list[tuple[Signal, Signal]] = []
    row_flags = flags
    for i in range(rows):
        row_flags = module.delay(row_flags, 1, f"flags_{i}_0") if i else flags
        left.append((module.wire(f"activation_{i}_0", BYTE, activations.part(BYTE * i, BYTE), signed=True), row_flags))
    above = [
        (module.delay(_signed(weights.part(BYTE * j, BYTE)), j, f"weight_0_{j}"), constant(0, SUM_BITS))
        for j in range(columns)
    ]
    for i in range(rows):
        for j in range(columns):
            (activation, row_flags), (weight, result) = left[i], above[j]
            left[i] = (
                module.wire(f"activation_{i}_{j + 1}", BYTE, signed=True),
                module.wire(f"flags_{i}_{j + 1}", FLAGS),
            )
            above[j] = (
                module.wire(f"weight_{i + 1}_{j}", BYTE, signed=True),
                module.wire(f"result_{i + 1}_{j}", SUM_BITS, signed=True),
            )
            module.instance(
                one,
                f"cell_{i}_{j}",
                activation_in=activation,
                flags_in=row_flags,
                weight_in=weight,
                result_in=result,
                activation_out=left[i][0] if j + 1 < columns else None,
                flags_out=left[i][1] if j + 1 < columns else None,
                weight_out=above[j][0] if i + 1 < rows else None,
                result_out=above[j][1],
            )
    module.comment("earlier columns wait for the last one")
    results = [module.delay(above[j][1], columns - 1 - j, f"sum_{j}") for j in range(columns)]
    module.output("results", columns * SUM_BITS, concat(*reversed(results)))
    return module


def _signed(signal: Signal) -> Signal:
    return Signal(signal.text, signal.width, signed=True)


def feeder(architecture: Architecture) -> Module:
    """One activation word a cycle becomes R rows of bytes, row i late by i cycles.

    Output stationary: `word` is the word of pixel `row`, whose C bytes enter that row one after the other. Weight
    stationary: bytes `part`*R to `part`*R + R - 1 of `word` enter the R rows.
    """
    rows, columns = architecture.rows, architecture.columns
    row_bits, parts = max(1, (rows - 1).bit_length()), columns // rows
    both, stationary_only = architecture.dataflow == "both", architecture.dataflow == "ws"
    module = Module("systolic_feeder", "Turns words of activations into rows of bytes.")
    word = module.input("word", columns * BYTE)
    if not stationary_only:
        take = module.input("take")
        row = module.input("row", row_bits)
    if both:
        stationary = module.input("stationary")
    if architecture.dataflow != "os":
        lanes = word.part(0, rows * BYTE)
        if parts > 1:
            part = module.input("part", (parts - 1).bit_length())
            options = [word.part(rows * BYTE * i, rows * BYTE) for i in range(parts)]
            lanes = module.wire("lanes", rows * BYTE, select(part, options))
    heads = []
    for i in range(rows):
        line = module.register(f"line_{i}", columns * BYTE)
        high = line.part(BYTE, (columns - 1) * BYTE)
        shifted = concat(constant(0, BYTE), high)
        statement = f"{line} <= {shifted};"
        if architecture.dataflow != "os":
            byte = lanes.part(BYTE * i, BYTE)
            kept = [constant(0, BYTE * (columns - 1 - i))] if i < columns - 1 else []
            late = [line.part(BYTE, BYTE * i)] if i else []
            inserted = concat(*kept, byte, *late)
            statement = (
                f"{line} <= {inserted};"
                if stationary_only
                else f"if ({stationary}) {line} <= {inserted};\n else {statement}"
            )
        if not stationary_only:
            statement = f"if ({take} && {row} == {constant(i, row_bits)}) {line} <= {word};\nelse {statement}"
        module.clocked(statement)
        heads.append(line.part(0, BYTE))
    module.output("activations", rows * BYTE, concat(*reversed(heads)))
    return module
