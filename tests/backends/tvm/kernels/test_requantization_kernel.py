"""From 32-bit sums to results, on millions of sums: equal to the reference in every bit."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.base import Kernel, Operand, Registers
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.requantization import Numbers, Requantization, Results
from fxpress.ops.requantization import requantize
from fxpress.target import Target
from tvm.tirx.script import builder as B

LANES = {"avx512": [16, 8, 4], "avx2": [8, 4]}
BLOCK = 3  # rows of a register tile


@dataclass(frozen=True)
class Finish(Kernel):
    """Reads sums [rows, width] and stores their results: the last step of a kernel on its own."""

    how: Requantization
    lanes: int
    rows: int
    width: int

    name = "finish"

    def operands(self):
        return (Operand("sums", "int32"), *self.how.operands())

    def emit(self, sums, *operands):
        results = Results(self.how, self.lanes, operands)
        counts = [min(self.lanes, self.width - at) for at in range(0, self.width, self.lanes)]
        with B.serial(self.rows // BLOCK) as block:
            first = B.bind(block * (BLOCK * self.width))
            tile = Registers(BLOCK * len(counts), self.lanes, "int32")
            for row in range(BLOCK):
                for v, count in enumerate(counts):
                    at = first + row * self.width + v * self.lanes
                    tile[row * len(counts) + v] = sums.load(at, self.lanes, count=count)
            places = [(first + row * self.width, first + row * self.width) for row in range(BLOCK)]
            results.store(tile, B.int32(0), counts, places)


def run(how, numbers, sums, lanes, isa, residual=None):
    kernel = Finish(how, lanes, *sums.shape)
    arrays = [sums.numpy(), *(x.numpy() for x in how.pack(numbers))]
    if residual is not None:
        arrays.append(residual.numpy() if residual.dtype == torch.float32 else residual.numpy().view(np.uint8) ^ 128)
    y = np.full(sums.shape, 77, np.float32 if how.mode == "float" else np.uint8)
    CompiledKernel(kernel, Target.parse(f"cpu{{isa={isa}}}"))(*arrays, y)
    return torch.from_numpy(y if how.mode == "float" else (y ^ 128).view(np.int8))


def random_sums(rows, width, largest):
    """Sums of all magnitudes up to `largest`, both signs, the extremes among them."""
    generator = torch.Generator().manual_seed(rows * width)
    magnitudes = torch.exp2(torch.rand(rows, width, generator=generator, dtype=torch.float64) * np.log2(largest))
    sums = (magnitudes * (torch.randint(0, 2, (rows, width), generator=generator) * 2 - 1)).to(torch.int64)
    sums[0], sums[1], sums[2] = 0, largest, -largest - 1
    return sums.to(torch.int32)


def factors(width, low, high):
    generator = torch.Generator().manual_seed(width)
    return torch.exp2(low + (high - low) * torch.rand(width, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(("isa", "lanes"), [(isa, lanes) for isa, each in LANES.items() for lanes in each])
@pytest.mark.parametrize("mode", ["F", "I"])
@pytest.mark.parametrize("residual", [False, True])
def test_integers_equal_the_reference(mode, residual, isa, lanes):
    for width, factor, limits in ((2 * lanes + 3, factors(2 * lanes + 3, -14, -8), (-128, 127)),
                                  (4 * lanes, factors(1, -7, -6), (-100, 90))):  # fmt: skip
        sums = random_sums(9_000, width, 2**20)
        # a power of two makes every other half-way case a tie
        factor[:1] = 2.0**-10
        extra = 0.0371 if residual else None
        zero = -17 if width % 2 else -128
        numbers = Numbers(factor, zero, *limits, extra, 41)
        added = torch.randint(-128, 128, sums.shape, generator=torch.Generator().manual_seed(1)).to(torch.int8)
        how = Requantization.choose(mode, numbers, 2**20 + 1)
        assert not how.wide
        found = run(how, numbers, sums, lanes, isa, added if residual else None)
        terms = [(sums, factor)]
        if residual:
            terms.append((added.to(torch.int32) - 41, torch.tensor(extra, dtype=torch.float64)))
        assert torch.equal(found, requantize(terms, zero, *limits, mode))


@pytest.mark.parametrize("mode", ["F", "I"])
@pytest.mark.parametrize(("isa", "lanes"), [("avx512", 16), ("avx2", 8)])
@pytest.mark.parametrize("factor", [1e-30, 2.0**-33, 0.5, 1.0, 3.7, 2.0**20])
def test_extreme_sums_and_factors(factor, isa, lanes, mode):
    sums = random_sums(3000, lanes, 2**31 - 1)
    numbers = Numbers(torch.tensor([factor], dtype=torch.float64), 127, -128, 127)
    how = Requantization.choose(mode, numbers, 2**31)
    assert how.wide == (factor >= 0.5)
    expected = requantize([(sums, numbers.factor)], 127, -128, 127, mode)
    assert torch.equal(run(how, numbers, sums, lanes, isa), expected)


@pytest.mark.parametrize(("isa", "lanes"), [("avx512", 16), ("avx512", 4), ("avx2", 8)])
@pytest.mark.parametrize("residual", [False, True])
def test_floats_equal_the_reference(residual, isa, lanes):
    width = lanes + 1
    sums, factor = random_sums(3000, width, 2**31 - 1), factors(width, -20, -10)
    added = torch.randn(sums.shape, generator=torch.Generator().manual_seed(2))
    how = Requantization(mode="float", channels=width, residual=residual, activation="relu")
    found = run(how, Numbers(factor), sums, lanes, isa, added if residual else None)
    y = sums.to(torch.float32) * factor.float()
    assert torch.equal(found, torch.relu(y + added if residual else y))


@pytest.mark.parametrize(("isa", "lanes"), [("avx512", 16), ("avx2", 8)])
@pytest.mark.parametrize(("factor", "extra"), [(0.1, 1.0), (1.0, 0.1)])
def test_products_are_rounded_before_they_are_added(factor, extra, isa, lanes):
    """25 * float32(0.1) - 2 is 0.5, which rounds to 0; if the product were not rounded it would be more."""
    generator = torch.Generator().manual_seed(4)
    fives = 5 * torch.randint(-25, 26, (3000, lanes), generator=generator)
    others = torch.randint(-60, 60, fives.shape, generator=generator)
    sums, added = (fives, others) if factor == 0.1 else (others, fives)
    numbers = Numbers(torch.tensor([factor], dtype=torch.float64), 0, residual_factor=extra)
    how = Requantization.choose("F", numbers, 2**20)
    found = run(how, numbers, sums.to(torch.int32), lanes, isa, added.to(torch.int8))
    terms = [(sums.to(torch.int32), numbers.factor), (added.to(torch.int32), torch.tensor(extra, dtype=torch.float64))]
    assert torch.equal(found, requantize(terms, 0, -128, 127, "F"))
