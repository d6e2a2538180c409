"""Hypothesis strategies: small machines, and instructions that are legal on them."""

from __future__ import annotations

from fxpress.backends.systolic.architecture import Architecture, Memory
from fxpress.backends.systolic.instructions import Instruction, Load, Multiply, Reduce, Store, Vector, with_banks
from hypothesis import strategies as st

DRAM_WORDS = 300


def architectures() -> st.SearchStrategy[Architecture]:
    """Machines of 2x2 to 8x8 cells with memories of a kibibyte or two."""
    shapes = st.sampled_from([(2, 2), (2, 4), (4, 4), (4, 8), (8, 8)])
    return shapes.flatmap(
        lambda shape: st.builds(
            Architecture,
            rows=st.just(shape[0]),
            columns=st.just(shape[1]),
            dataflow=st.just("both"),
            activation_kib=st.sampled_from([1, 2]),
            weight_kib=st.sampled_from([1, 3]),
            accumulator_kib=st.sampled_from([1, 2]),
            parameter_kib=st.sampled_from([1, 2]),
            tables=st.sampled_from([1, 3]),
            activation_banks=st.sampled_from([1, 2, 4, 8]),
            accumulator_banks=st.sampled_from([1, 2, 4]),
            dram_latency=st.sampled_from([1, 7, 30]),
            dram_bytes=st.sampled_from([1, 2, 16]),
            vector_lanes=st.sampled_from([0, 1, 2]),
            queue_depth=st.sampled_from([1, 2, 8]),
        )
    )


def instructions(architecture: Architecture) -> st.SearchStrategy[Instruction]:
    """Any instruction but HALT, with the banks it touches and no tokens."""
    kinds = [loads(architecture), multiplications(architecture), vectors(architecture), stores(architecture)]
    return st.one_of(kinds).map(lambda instruction: with_banks(instruction, architecture))


def _base(draw: st.DrawFn, words: int, levels: list[tuple[int, int]], run: int = 1) -> int:
    """A base such that base + sum of index * stride, and `run` words there, lie in 0..words-1."""
    low = sum(min(0, (count - 1) * stride) for count, stride in levels)
    high = sum(max(0, (count - 1) * stride) for count, stride in levels) + run
    return draw(st.integers(-low, words - high))


@st.composite
def loads(draw: st.DrawFn, architecture: Architecture) -> Load:
    columns = architecture.columns
    memory = draw(st.sampled_from([Memory.ACTIVATIONS, Memory.WEIGHTS, Memory.PARAMETERS, Memory.TABLES]))
    transpose = memory in (Memory.ACTIVATIONS, Memory.WEIGHTS) and draw(st.booleans())
    small = st.integers(1, 4)
    counts = [draw(small), draw(small), columns if transpose else draw(small)]  # z, y, x
    if memory is Memory.TABLES:
        counts = [1, draw(st.integers(1, architecture.tables)), 256 // columns]
    few = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 4])
    pads = [(min(count, draw(few)), draw(few)) for count in counts]
    pads = [(before, min(after, count - before)) for (before, after), count in zip(pads, counts, strict=True)]
    strides = [draw(st.integers(-20, 20)) for _ in counts]
    if memory is Memory.TABLES:
        strides = [0, draw(st.integers(-9, 9)), draw(st.sampled_from([-1, 0, 1]))]
    data = [count - before - after for count, (before, after) in zip(counts, pads, strict=True)]
    base = draw(st.integers(-1000, 1000))
    if min(data) > 0:
        start = _base(draw, DRAM_WORDS, list(zip(data, strides, strict=True)))
        base = start - sum(before * stride for (before, _), stride in zip(pads, strides, strict=True))
    words = counts[0] * counts[1] * counts[2]
    room = architecture.words(memory)
    destination = draw(st.integers(0, room - words))
    if memory is Memory.TABLES:
        destination = draw(st.integers(0, architecture.tables - counts[1]))
    return Load(
        memory=memory,
        transpose=transpose,
        dram=base,
        destination=destination,
        **{f"count_{level}": count for level, count in zip("zyx", counts, strict=True)},
        **{f"stride_{level}": stride for level, stride in zip("zyx", strides, strict=True)},
        **{f"before_{level}": before for level, (before, _) in zip("zyx", pads, strict=True)},
        **{f"after_{level}": after for level, (_, after) in zip("zyx", pads, strict=True)},
        padding=draw(st.integers(-128, 127)),
    )


@st.composite
def multiplications(draw: st.DrawFn, architecture: Architecture) -> Multiply:
    small = st.integers(1, 3)
    step = st.integers(-6, 6)
    ky, kx, blocks, outputs = draw(small), draw(small), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    terms = ky * kx * blocks * architecture.columns
    if outputs * terms > architecture.words(Memory.WEIGHTS):
        ky = outputs = 1
        terms = kx * blocks * architecture.columns
    plane = architecture.words(Memory.ACCUMULATORS) // outputs
    pixels, width = draw(st.integers(1, min(11, plane))), draw(st.integers(1, 12))
    stride_ky, stride_kx, stride_pixel, stride_row = draw(step), draw(step), draw(step), draw(step)
    levels = [(ky, stride_ky), (kx, stride_kx), (min(width, pixels), stride_pixel), (-(-pixels // width), stride_row)]
    stride_output = draw(st.integers(pixels, plane))
    return Multiply(
        activation=_base(draw, architecture.words(Memory.ACTIVATIONS), levels, blocks),
        weight=_base(draw, architecture.words(Memory.WEIGHTS), [], outputs * terms),
        accumulator=_base(draw, architecture.words(Memory.ACCUMULATORS), [(outputs, stride_output)], pixels),
        ky=ky,
        kx=kx,
        blocks=blocks,
        stride_ky=stride_ky,
        stride_kx=stride_kx,
        width=width,
        stride_pixel=stride_pixel,
        stride_row=stride_row,
        pixels=pixels,
        outputs=outputs,
        stride_output=stride_output,
        accumulate=draw(st.booleans()),
        stationary=draw(st.booleans()),
    )


@st.composite
def vectors(draw: st.DrawFn, architecture: Architecture) -> Vector:
    """Inputs and residuals come from the lower half of the activations, outputs go to the upper half."""
    half = architecture.words(Memory.ACTIVATIONS) // 2
    source = draw(st.sampled_from([Memory.ACCUMULATORS, Memory.ACTIVATIONS]))
    requantize = source is Memory.ACCUMULATORS or draw(st.booleans())
    reduce = draw(st.sampled_from(list(Reduce))) if requantize else Reduce.MAX
    add_residual = requantize and draw(st.booleans())
    small, step = st.integers(1, 3), st.integers(-5, 5)
    ky, kx, blocks = draw(small), draw(small), draw(st.integers(1, 2))
    pixels, width = draw(st.integers(1, 9)), draw(st.integers(1, 10))
    stride_ky, stride_kx, stride_pixel, stride_row = (draw(st.integers(-1, 2)) for _ in range(4))
    stride_block = draw(step)
    levels = [
        (blocks, stride_block),
        (ky, stride_ky),
        (kx, stride_kx),
        (min(width, pixels), stride_pixel),
        (-(-pixels // width), stride_row),
    ]
    room = architecture.words(Memory.ACCUMULATORS) if source is Memory.ACCUMULATORS else half
    residual_stride, output_stride = draw(st.integers(0, 3)), draw(st.integers(blocks, 4))
    low, high = -128, 127
    if draw(st.integers(0, 2)) == 0:
        low, high = sorted((draw(st.integers(-128, 127)), draw(st.integers(-128, 127))))
    records = architecture.words(Memory.PARAMETERS) // 16
    return Vector(
        source=source,
        input=_base(draw, room, levels),
        output=half + _base(draw, half, [(pixels, output_stride)], blocks),
        residual_input=_base(draw, half, [(pixels, residual_stride)], blocks),
        parameter=16 * draw(st.integers(0, records - blocks)),
        pixels=pixels,
        width=width,
        blocks=blocks,
        ky=ky,
        kx=kx,
        stride_ky=stride_ky,
        stride_kx=stride_kx,
        stride_pixel=stride_pixel,
        stride_row=stride_row,
        stride_block=stride_block,
        residual_stride_pixel=residual_stride,
        output_stride_pixel=output_stride,
        reduce=reduce,
        requantize=requantize,
        add_residual=add_residual,
        use_table=draw(st.booleans()),
        table=draw(st.integers(0, architecture.tables - 1)),
        zero=draw(st.integers(-128, 127)),
        low=low,
        high=high,
        residual_zero=draw(st.integers(-128, 127)),
    )


@st.composite
def stores(draw: st.DrawFn, architecture: Architecture) -> Store:
    memory = draw(st.sampled_from([Memory.ACTIVATIONS, Memory.ACCUMULATORS]))
    pieces = 4 if memory is Memory.ACCUMULATORS else 1
    counts = [draw(st.integers(1, 3)) for _ in "zyx"]
    strides, extent = [0, 0, 0], pieces  # no word of DRAM is written twice, whichever level is the innermost there
    for level in draw(st.permutations(range(3))):
        stride = extent + draw(st.integers(0, 2))
        strides[level] = draw(st.sampled_from([1, -1])) * stride
        extent += stride * (counts[level] - 1)
    source_strides = [draw(st.integers(0, 7)), draw(st.integers(0, 7)), 1]
    return Store(
        memory=memory,
        source=_base(draw, architecture.words(memory), list(zip(counts, source_strides, strict=True))),
        dram=_base(draw, DRAM_WORDS, list(zip(counts, strides, strict=True)), pieces),
        **{f"count_{level}": count for level, count in zip("zyx", counts, strict=True)},
        **{f"stride_{level}": stride for level, stride in zip("zyx", strides, strict=True)},
        source_stride_z=source_strides[0],
        source_stride_y=source_strides[1],
    )
