"""The machine as data: the array, its units and memories, its port to DRAM."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from ...errors import InvalidInput

KIB = 1024
TABLE_ENTRIES = 256  # bytes of an activation table
RECORD_WORDS = 16  # words of a parameter record: bias 4, multiplier 4, residual multiplier 4, shift 1, unused 3
ACCUMULATOR_PIECES = 4  # words of C bytes in an accumulator word, which is C int32
DATAFLOWS = ("os", "ws", "both")


class Unit(enum.IntEnum):
    """What works at the same time as the others; the values are positions in `waits` and `signals`."""

    LOAD = 0
    ARRAY = 1
    VECTOR = 2
    STORE = 3


class Memory(enum.IntEnum):
    """What holds words; the values are those of the instructions. DRAM is reached by `dram` fields only."""

    ACTIVATIONS = 0
    WEIGHTS = 1
    PARAMETERS = 2
    TABLES = 3
    ACCUMULATORS = 4
    DRAM = 5


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A systolic machine; `Architecture.parse(str(architecture)) == architecture`.

    `rows` by `columns` cells; `dataflow` says which multiplications exist: output stationary, weight stationary, both.
    A word is `columns` bytes: that many channels of one pixel. `dram_latency` is in cycles, `dram_bytes` in bytes a
    cycle for reads and as many for writes. `vector_lanes` channels are requantised in a cycle; 0 means `columns`.
    """

    rows: int = 16
    columns: int = 16
    dataflow: str = "both"
    activation_kib: int = 128
    weight_kib: int = 112
    accumulator_kib: int = 64
    parameter_kib: int = 16
    tables: int = 4
    activation_banks: int = 8
    accumulator_banks: int = 2
    dram_latency: int = 64
    dram_bytes: int = 16
    clock_mhz: int = 500
    vector_lanes: int = 0
    queue_depth: int = 8

    def __post_init__(self) -> None:
        if self.dataflow not in DATAFLOWS:
            raise InvalidInput(f"systolic option dataflow must be one of {list(DATAFLOWS)}, not {self.dataflow!r}")
        for name in (field.name for field in fields(self) if field.name != "dataflow"):
            value = getattr(self, name)
            if type(value) is not int or (value < 1 and (name != "vector_lanes" or value < 0)):
                raise InvalidInput(f"systolic option {name} must be a positive integer, not {value!r}")
        if self.vector_lanes == 0:
            object.__setattr__(self, "vector_lanes", self.columns)
        for name in _POWERS_OF_TWO:
            value = getattr(self, name)
            if value & (value - 1):
                raise InvalidInput(f"systolic option {name} must be a power of two, not {value}")
        for name, least, most in (
            ("columns", 2, 128),
            ("rows", 2, self.columns),
            ("vector_lanes", 1, self.columns),
            ("activation_banks", 1, 8),
            ("accumulator_banks", 1, 4),
            ("tables", 1, 16),
            ("queue_depth", 1, 64),
            ("dram_latency", 1, 65535),
            ("dram_bytes", 1, 128),  # the widest data bus of AXI4
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidInput(f"systolic option {name} must be in {least}..{most}, not {value}")
        for memory in (Memory.ACTIVATIONS, Memory.WEIGHTS, Memory.PARAMETERS, Memory.ACCUMULATORS):
            if self.words(memory) >= 1 << 24:
                raise InvalidInput(
                    f"the {memory.name.lower()} memory must have fewer than 2^24 words of {self.columns} channels, "
                    f"not {self.words(memory)}: make it smaller"
                )
            if self.words(memory) < self.banks(memory):
                raise InvalidInput(
                    f"the {memory.name.lower()} memory must have a word of {self.columns} channels for each of its "
                    f"{self.banks(memory)} banks, not {self.words(memory)}: make it larger"
                )

    @property
    def beats(self) -> int:
        """Cycles that a word of C bytes takes on the DRAM port."""
        return max(1, self.columns // self.dram_bytes)

    @property
    def table_words(self) -> int:
        """Words that a table of 256 bytes takes."""
        return TABLE_ENTRIES // self.columns

    @property
    def scratchpad_bytes(self) -> int:
        """Bytes of activations, weights and parameters together."""
        return (self.activation_kib + self.weight_kib + self.parameter_kib) * KIB

    def words(self, memory: Memory) -> int:
        """How many words an on-chip memory has: C bytes each, or C int32 in the accumulators."""
        if memory is Memory.ACTIVATIONS:
            return self.activation_kib * KIB // self.columns
        if memory is Memory.WEIGHTS:
            return self.weight_kib * KIB // self.columns
        if memory is Memory.PARAMETERS:
            return self.parameter_kib * KIB // self.columns
        if memory is Memory.ACCUMULATORS:
            return self.accumulator_kib * KIB // (ACCUMULATOR_PIECES * self.columns)
        if memory is Memory.TABLES:
            return self.tables * self.table_words
        raise InvalidInput("memory must be one on the chip, not dram: a program says how large its DRAM is")

    def banks(self, memory: Memory) -> int:
        """How many banks a memory has, equal in size and told apart by the high bits of an address."""
        if memory is Memory.ACTIVATIONS:
            return self.activation_banks
        return self.accumulator_banks if memory is Memory.ACCUMULATORS else 1

    def bank_words(self, memory: Memory) -> int:
        """How many words a bank of that memory has."""
        return self.words(memory) // self.banks(memory)

    def __str__(self) -> str:
        return ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))

    @classmethod
    def parse(cls, text: str | Architecture) -> Architecture:
        """Read options such as `preset=edge,rows=4,cols=8`; later ones override earlier ones.

        Raises InvalidInput when an option is unknown, not a number, or out of range.
        """
        if isinstance(text, Architecture):
            return text
        known = {field.name for field in fields(cls)}
        options: dict[str, int | str] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (part.strip() for part in item.partition("="))
            if name == "preset":
                if value not in PRESETS:
                    raise InvalidInput(f"systolic option preset must be one of {sorted(PRESETS)}, not {value!r}")
                options |= PRESETS[value]
                continue
            name = "columns" if name == "cols" else name
            if name not in known:
                raise InvalidInput(f"systolic option must be one of {sorted([*known, 'cols', 'preset'])}, not {name!r}")
            if name != "dataflow" and not value.isdecimal():
                raise InvalidInput(f"systolic option {name} must be a positive integer, not {value!r}")
            options[name] = value if name == "dataflow" else int(value)
        return cls(**options)  # type: ignore[arg-type]


_POWERS_OF_TWO = (
    *("rows", "columns", "activation_kib", "accumulator_kib", "activation_banks", "accumulator_banks"),
    *("dram_bytes", "vector_lanes"),
)

# edge: a small device. tpu: the sizes of the first TPU's memories, a quarter of its array.
PRESETS: dict[str, dict[str, int | str]] = {
    "default": {},
    "edge": {
        "rows": 8,
        "columns": 8,
        "activation_kib": 32,
        "weight_kib": 24,
        "accumulator_kib": 16,
        "parameter_kib": 8,
        "dram_bytes": 8,
        "clock_mhz": 200,
    },
    "tpu": {
        "rows": 128,
        "columns": 128,
        "activation_kib": 16384,
        "weight_kib": 7168,
        "accumulator_kib": 4096,
        "parameter_kib": 1024,
        "dram_bytes": 64,
        "clock_mhz": 700,
    },
}
