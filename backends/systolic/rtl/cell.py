"""The cell of the array: one multiplication and one addition a cycle, in either dataflow.

Flags enter at the left edge and travel east with the activations, so a cell needs no control of its own:

| bit | output stationary | weight stationary |
|---|---|---|
| 0 `begins` | first product of a sum | the waiting weight becomes the active one |
| 1 `ends` | last product: the sum is finished | - |
| 2 `moves` | take the finished sum of the cell above | take the weight of the cell above as the waiting one |
| 3 `stationary` | 0 | 1 |

The product is registered: the addition uses the flags that leave the cell.
"""

from __future__ import annotations

from .verilog import Module

FLAGS = 4
BYTE = 8
SUM_BITS = 32


def cell(dataflow: str) -> Module:
    """The cell for `os`, `ws` or `both`."""
    module = Module("systolic_cell", f"A cell: multiplies and adds once a cycle (dataflow {dataflow}).")
    module.input("activation_in", BYTE, signed=True)
    module.input("weight_in", BYTE, signed=True)
    module.input("result_in", SUM_BITS, signed=True)
    module.input("flags_in", FLAGS)
    module.output_register("activation_out", BYTE, signed=True)
    module.output_register("weight_out", BYTE, signed=True)
    module.output_register("result_out", SUM_BITS, signed=True)
    module.output_register("flags_out", FLAGS)
    module.register("product", 2 * BYTE, signed=True)
    if dataflow != "ws":
        module.register("total", SUM_BITS, signed=True)
        module.register("finished", SUM_BITS, signed=True)
    if dataflow != "os":
        module.register("waiting", BYTE, signed=True)
        module.register("active", BYTE, signed=True)
    chosen = "flags_in[0] ? waiting : active"
    weight = {"os": "weight_in", "ws": chosen, "both": f"flags_in[3] ? ({chosen}) : weight_in"}[dataflow]
    module.wire("weight", BYTE, weight, signed=True)
    before = "flags_out[0] ? 32'sd0 : total"
    addend = {"os": before, "ws": "result_in", "both": f"flags_out[3] ? result_in : ({before})"}[dataflow]
    module.wire("addend", SUM_BITS, addend, signed=True)
    module.wire("sum", SUM_BITS, "addend + {{16{product[15]}}, product}", signed=True)
    module.clocked("""
        activation_out <= activation_in;
        flags_out <= flags_in;
        product <= activation_in * weight;
    """)
    if dataflow != "ws":
        module.comment("output stationary: sums stay, finished ones move down")
        module.clocked("""
            total <= sum;
            if (flags_out[1]) finished <= sum;
            else if (flags_out[2]) finished <= result_in;
        """)
    if dataflow != "os":
        module.comment("weight stationary: weights stay, the next ones move down behind them")
        module.clocked("""
            if (flags_in[0]) active <= waiting;
            if (flags_in[2]) waiting <= weight_in;
        """)
    leaves = {"os": "weight_in", "ws": "waiting", "both": "flags_in[3] ? waiting : weight_in"}[dataflow]
    result = {"os": "finished", "ws": "sum", "both": "flags_out[3] ? sum : finished"}[dataflow]
    module.clocked(f"""
        weight_out <= {leaves};
        result_out <= {result};
    """)
    return module
