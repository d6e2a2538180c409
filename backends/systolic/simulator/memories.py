"""The memories of a machine, and views of the words that an instruction touches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ....errors import InvalidInput
from ..architecture import Architecture, Memory
from ..instructions.base import Level, span
from ..layout import Bytes


class Machine:
    """DRAM and the memories on the chip: arrays of words, shape (words, C), int8 or, in the accumulators, int32.

    `dram` is a flat byte array, kept and changed in place; its length is a multiple of C.
    """

    def __init__(self, architecture: Architecture, dram: Bytes) -> None:
        columns = architecture.columns
        if dram.dtype != np.uint8 or dram.ndim != 1 or dram.size % columns or not dram.flags.c_contiguous:
            raise InvalidInput(
                f"DRAM must be a dense vector of uint8 with a multiple of {columns} elements, "
                f"not {dram.dtype} of shape {dram.shape}"
            )
        self.architecture = architecture
        self.memories: dict[Memory, NDArray[Any]] = {
            memory: np.zeros(
                (architecture.words(memory), columns), np.int32 if memory is Memory.ACCUMULATORS else np.int8
            )
            for memory in Memory
            if memory is not Memory.DRAM
        }
        self.memories[Memory.DRAM] = dram.view(np.int8).reshape(-1, columns)

    def view(self, memory: Memory, base: int, *levels: Level, words: int = 1) -> NDArray[Any]:
        """The words of a nest, outermost level first, each level's last axis `words` words in a row.

        Shape (*counts, words * C). Writing to it writes the memory. Raises InvalidInput if an address is outside.
        """
        array = self.memories[memory]
        low, high = span(base, *levels, words=words)
        if low < 0 or high > len(array):
            raise InvalidInput(
                f"addresses must be in 0..{len(array) - 1} of the {memory.name.lower()} memory, not {low}..{high - 1}"
            )
        word = array.strides[0]
        shape = (*(count for count, _ in levels), words * array.shape[1])
        return as_strided(array[base:], shape, (*(stride * word for _, stride in levels), array.itemsize))
