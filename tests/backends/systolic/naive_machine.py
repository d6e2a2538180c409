"""The machine in plain Python, word by word, written from the description of the instructions and nothing else."""

from __future__ import annotations

import random

from fxpress.backends.systolic.architecture import Architecture, Memory
from fxpress.backends.systolic.instructions import Halt, Instruction, Load, Multiply, Reduce, Store, Vector

Word = list[int]
State = dict[Memory, list[Word]]


def random_state(architecture: Architecture, dram_words: int, seed: int) -> State:
    """Memories full of random numbers; parameters hold records that are legal wherever a record may begin."""
    chance = random.Random(seed)
    columns = architecture.columns
    state: State = {}
    for memory in Memory:
        words = dram_words if memory is Memory.DRAM else architecture.words(memory)
        bits = 32 if memory is Memory.ACCUMULATORS else 8
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        state[memory] = [[chance.randint(low, high) for _ in range(columns)] for _ in range(words)]
    state[Memory.PARAMETERS] = random_records(architecture, chance)
    return state


def random_records(architecture: Architecture, chance: random.Random) -> list[Word]:
    """A parameter memory with a record in every 16 words."""
    columns = architecture.columns
    words: list[Word] = []
    while len(words) + 16 <= architecture.words(Memory.PARAMETERS):
        lanes = [_random_lane(chance) for _ in range(columns)]
        numbers = [bias for bias, _ in lanes]
        numbers += [chance.randint(-(1 << 24) + 1, (1 << 24) - 1) for _ in range(2 * columns)]
        content = [
            byte - 256 if byte > 127 else byte for n in numbers for byte in (n % (1 << 32)).to_bytes(4, "little")
        ]
        content += [shift for _, shift in lanes] + [0] * (3 * columns)
        words += [content[i : i + columns] for i in range(0, len(content), columns)]
    while len(words) < architecture.words(Memory.PARAMETERS):
        words.append([0] * columns)
    return words


def _random_lane(chance: random.Random) -> tuple[int, int]:
    """Bias and shift that make a byte of a byte, a byte of 32 bits, or anything of anything."""
    size = chance.randint(0, 2)
    if size == 0:
        return chance.randint(-300, 300), chance.randint(22, 27)
    bias = chance.randint(-(1 << 31), (1 << 31) - 1)
    return bias, chance.randint(46, 51) if size == 1 else chance.randint(1, 55)


def wrap(value: int, bits: int) -> int:
    """Two's complement of so many bits."""
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def step(state: State, instruction: Instruction, architecture: Architecture) -> None:
    """Change the memories as one instruction does."""
    if isinstance(instruction, Load):
        _load(state, instruction, architecture)
    elif isinstance(instruction, Multiply):
        _multiply(state, instruction, architecture)
    elif isinstance(instruction, Vector):
        _vector(state, instruction, architecture)
    elif isinstance(instruction, Store):
        _store(state, instruction)
    else:
        assert isinstance(instruction, Halt)


def _load(state: State, i: Load, architecture: Architecture) -> None:
    columns = architecture.columns
    words = []
    for z in range(i.count_z):
        for y in range(i.count_y):
            for x in range(i.count_x):
                inside = (
                    i.before_z <= z < i.count_z - i.after_z
                    and i.before_y <= y < i.count_y - i.after_y
                    and i.before_x <= x < i.count_x - i.after_x
                )
                address = i.dram + z * i.stride_z + y * i.stride_y + x * i.stride_x
                words.append(list(state[Memory.DRAM][address]) if inside else [i.padding] * columns)
    if i.transpose:
        for start in range(0, len(words), columns):
            block = words[start : start + columns]
            words[start : start + columns] = [[block[lane][row] for lane in range(columns)] for row in range(columns)]
    first = i.destination * (256 // columns if i.memory is Memory.TABLES else 1)
    for offset, word in enumerate(words):
        state[i.memory][first + offset] = word


def _multiply(state: State, i: Multiply, architecture: Architecture) -> None:
    columns = architecture.columns
    terms = i.ky * i.kx * i.blocks * columns
    for n in range(i.outputs):
        for p in range(i.pixels):
            row, column = divmod(p, i.width)
            for j in range(columns):
                total = 0
                for y in range(i.ky):
                    for x in range(i.kx):
                        for b in range(i.blocks):
                            a = state[Memory.ACTIVATIONS][
                                i.activation
                                + row * i.stride_row
                                + column * i.stride_pixel
                                + y * i.stride_ky
                                + x * i.stride_kx
                                + b
                            ]
                            for c in range(columns):
                                w = i.weight + n * terms + ((y * i.kx + x) * i.blocks + b) * columns + c
                                total += a[c] * state[Memory.WEIGHTS][w][j]
                target = state[Memory.ACCUMULATORS][i.accumulator + n * i.stride_output + p]
                target[j] = wrap(total + (target[j] if i.accumulate else 0), 32)


def _vector(state: State, i: Vector, architecture: Architecture) -> None:
    columns = architecture.columns
    table = [value for word in state[Memory.TABLES] for value in word][256 * i.table : 256 * i.table + 256]
    results = {}
    for b in range(i.blocks):
        record = [v % 256 for word in state[Memory.PARAMETERS][i.parameter + 16 * b :][:16] for v in word]
        for p in range(i.pixels):
            row, column = divmod(p, i.width)
            word = []
            for lane in range(columns):
                taps = [
                    state[i.source][
                        i.input
                        + b * i.stride_block
                        + row * i.stride_row
                        + column * i.stride_pixel
                        + y * i.stride_ky
                        + x * i.stride_kx
                    ][lane]
                    for y in range(i.ky)
                    for x in range(i.kx)
                ]
                value = max(taps) if i.reduce is Reduce.MAX else wrap(sum(taps), 32)
                if i.requantize:
                    bias, multiplier, residual_multiplier = (
                        int.from_bytes(bytes(record[4 * (k * columns + lane) :][:4]), "little", signed=True)
                        for k in range(3)
                    )
                    shift = record[12 * columns + lane]
                    total = wrap(value + bias, 32) * multiplier + (1 << (shift - 1))
                    if i.add_residual:
                        other = state[Memory.ACTIVATIONS][i.residual_input + p * i.residual_stride_pixel + b][lane]
                        total += (other - i.residual_zero) * residual_multiplier
                    value = min(max(i.zero + (total >> shift), i.low), i.high)
                word.append(table[value + 128] if i.use_table else value)
            results[i.output + p * i.output_stride_pixel + b] = word
    for address, word in results.items():
        state[Memory.ACTIVATIONS][address] = word


def _store(state: State, i: Store) -> None:
    columns = len(state[Memory.DRAM][0])
    for z in range(i.count_z):
        for y in range(i.count_y):
            for x in range(i.count_x):
                word = state[i.memory][i.source + z * i.source_stride_z + y * i.source_stride_y + x]
                address = i.dram + z * i.stride_z + y * i.stride_y + x * i.stride_x
                if i.memory is Memory.ACCUMULATORS:
                    content = [byte for n in word for byte in (n % (1 << 32)).to_bytes(4, "little")]
                    for piece in range(4):
                        part = content[piece * columns : (piece + 1) * columns]
                        state[Memory.DRAM][address + piece] = [wrap(byte, 8) for byte in part]
                else:
                    state[Memory.DRAM][address] = list(word)
