"""How many cycles the pipelines add: what the hardware needs, and what the simulator counts.

`issue` cycles after an instruction starts its unit can take the next one; `done` cycles after it starts, its last word
is written. What the pipelines add to the closed forms is here and nowhere else.
"""

from __future__ import annotations

from .architecture import Architecture

TOKEN_LIMIT = 15  # tokens that a counter between two units holds
IN_FLIGHT = 8  # instructions of a unit that have started and are not done
LOAD_LATENCY = 2  # from a word's last beat on the DRAM port, without DRAM's latency, to its being written
STORE_LATENCY = 3
RECORD_CYCLES = 13  # the words of a parameter record that are read
VECTOR_LATENCY = 10


def output_stationary_latency(architecture: Architecture) -> int:
    """From the last issue slot of a multiplication to its last accumulator word."""
    return 2 * architecture.rows + architecture.columns + 3


def weight_stationary_latency(architecture: Architecture) -> int:
    """From the last issue slot of a multiplication to its last accumulator word."""
    return architecture.rows + architecture.columns + 3
