"""Sectors of global memory and passes over the banks of shared memory that accesses take."""

import numpy as np
import pytest
from fxpress.backends.cuda.check import evaluate
from tvm.script import tirx as T


def gather(step, lanes, offset=0, dtype="float32"):
    """Thread i reads `lanes` elements from element offset + i * step on."""

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle(dtype, "global"), y_ptr: T.handle(dtype, "global")):
        x = T.decl_buffer((8192,), dtype, data=x_ptr)
        y = T.decl_buffer((1024,), dtype, data=y_ptr)
        i = T.launch_thread("threadIdx.x", 32)
        if lanes > 1:
            y[T.Ramp(i * lanes, 1, lanes)] = x[T.Ramp(offset + i * step, 1, lanes)]
        else:
            y[i] = x[offset + i * step]

    return kernel


@pytest.mark.parametrize(
    ("step", "lanes", "offset", "sectors", "ideal"),
    [
        (1, 1, 0, 4, 4),  # 128 adjacent bytes
        (1, 1, 4, 5, 4),  # that begin in the middle of a sector
        (0, 1, 0, 1, 1),  # the same element for all
        (2, 1, 0, 8, 4),
        (8, 1, 0, 32, 4),  # a sector each
        (4, 4, 0, 16, 16),  # 16 bytes a thread
        (8, 4, 0, 32, 16),
    ],
)
def test_sectors_of_global_memory(step, lanes, offset, sectors, ideal):
    report = evaluate(gather(step, lanes, offset), np.zeros(8192, np.float32), np.zeros(1024, np.float32))
    found = {each.memory: each for each in report.traffic}["x_ptr"]
    assert (found.requests, found.transactions, found.ideal) == (1, sectors, ideal)
    assert found.excess == sectors / ideal


def shared_gather(step, lanes, dtype="float32"):
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle(dtype, "global")):
        y = T.decl_buffer((1024,), dtype, data=y_ptr)
        r = T.alloc_shared((4096,), dtype)
        i = T.launch_thread("threadIdx.x", 32)
        for j in range(128):
            r[j * 32 + i] = T.cast(0, dtype)
        T.cuda.cta_sync()
        if lanes > 1:
            y[T.Ramp(i * lanes, 1, lanes)] = r[T.Ramp(i * step, 1, lanes)]
        else:
            y[i] = r[i * step]

    return kernel


@pytest.mark.parametrize(
    ("step", "lanes", "dtype", "passes", "ideal"),
    [
        (1, 1, "float32", 1, 1),
        (0, 1, "float32", 1, 1),  # a broadcast
        (2, 1, "float32", 2, 1),
        (32, 1, "float32", 32, 1),  # a column of a tile of 32
        (33, 1, "float32", 1, 1),  # that is padded
        (1, 1, "float16", 1, 1),  # two lanes a word
        (4, 4, "float32", 4, 4),  # 16 bytes a thread go by quarter warps
        (32, 4, "float32", 32, 4),
        (2, 2, "float32", 2, 2),
        (8, 8, "float16", 4, 4),
        (64, 8, "float16", 32, 4),
    ],
)
def test_passes_over_the_banks(step, lanes, dtype, passes, ideal):
    report = evaluate(shared_gather(step, lanes, dtype), np.zeros(1024, dtype))
    found = next(each for each in report.traffic if each.scope == "shared" and each.kind == "load")
    assert (found.requests, found.transactions, found.ideal) == (1, passes, ideal)


def test_rows_of_ldmatrix_conflict_unless_padded():
    def kernel_of(stride):
        @T.prim_func(s_tir=True)
        def kernel(y_ptr: T.handle("uint32", "global")):
            y = T.decl_buffer((32,), "uint32", data=y_ptr)
            r = T.alloc_shared((4096,), "float16")
            w = T.alloc_local((4,), "uint32")
            i = T.launch_thread("threadIdx.x", 32)
            for j in range(128):
                r[j * 32 + i] = T.float16(0)
            T.cuda.cta_sync()
            T.ptx["ldmatrix.sync.aligned.m8n8.x4.shared.b16"](
                w[0], w[1], w[2], w[3], T.address_of(r[i % 16 * stride + i // 16 * 8])
            )
            y[i] = w[0]

        return kernel

    passes = {}
    for stride in (64, 72):
        report = evaluate(kernel_of(stride), np.zeros(32, np.uint32))
        passes[stride] = next(each.transactions for each in report.traffic if each.kind == "ldmatrix")
    assert passes == {64: 32, 72: 4}


def test_report_is_a_table():
    report = evaluate(gather(8, 1), np.zeros(8192, np.float32), np.zeros(1024, np.float32))
    assert report.text().splitlines() == [
        "kernel: 1x1x1 blocks of 32x1x1 threads, 0 bytes shared, 0 bytes of arrays a thread",
        "memory               access     bytes requests a request  least excess",
        "x_ptr                load           4        1      32.0    4.0   8.00",
        "y_ptr                store          4        1       4.0    4.0   1.00",
    ]
    assert report.excess("global") == 4.5
    assert report.excess("shared") == 1
    assert report.worst("global").memory == "x_ptr"
    assert report.worst("shared") is None
