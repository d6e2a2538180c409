"""Matrix instructions: fragments as in the PTX ISA's tables, products of every dtype, errors."""

import ml_dtypes
import numpy as np
import pytest
from fxpress.backends.cuda.check import DivergentBarrier, Misaligned, OutOfBounds, Race, Uninitialised, evaluate
from fxpress.backends.cuda.check.intrinsics.fragments import a_fragment, b_fragment, c_fragment
from tvm.script import tirx as T

# The conditions of the PTX ISA's sections "Matrix Fragments for mma.m16n8k...", word for word: g is groupID = %laneid
# >> 2, t is threadID_in_group = %laneid % 4, i the index of the element in the fragment.
A_TABLES = {
    (16, 8, 16): (lambda g, t, i: g if i < 2 else g + 8, lambda g, t, i: t * 2 + (i & 1)),
    (16, 16, 16): (
        lambda g, t, i: g if 0 <= i < 2 or 4 <= i < 6 else g + 8,
        lambda g, t, i: t * 2 + (i & 1) + (0 if i < 4 else 8),
    ),
    (16, 4, 32): (lambda g, t, i: g if i == 0 else g + 8, lambda g, t, i: t),
    (16, 8, 32): (lambda g, t, i: g if i in (0, 2) else g + 8, lambda g, t, i: t if i in (0, 1) else t + 4),
    (8, 16, 8): (lambda g, t, i: g, lambda g, t, i: t * 4 + (i & 3)),
    (16, 16, 8): (lambda g, t, i: g if i < 4 else g + 8, lambda g, t, i: t * 4 + (i & 3)),
    (16, 32, 8): (
        lambda g, t, i: g if 0 <= i < 4 or 8 <= i < 12 else g + 8,
        lambda g, t, i: t * 4 + (i & 3) + (0 if i < 8 else 16),
    ),
    (8, 4, 64): (lambda g, t, i: g, lambda g, t, i: t),
}
B_TABLES = {
    (8, 16): lambda g, t, i: t * 2 + (i & 1),
    (16, 16): lambda g, t, i: t * 2 + (i & 1) + (0 if i < 2 else 8),
    (4, 32): lambda g, t, i: t,
    (8, 32): lambda g, t, i: t if i == 0 else t + 4,
    (16, 8): lambda g, t, i: t * 4 + (i & 3),
    (32, 8): lambda g, t, i: t * 4 + (i & 3) + (0 if i < 4 else 16),
    (4, 64): lambda g, t, i: t,
}
C_TABLES = {16: lambda g, t, i: g if i < 2 else g + 8, 8: lambda g, t, i: g}


def by_table(function, elements):
    return np.array([[function(lane >> 2, lane % 4, i) for i in range(elements)] for lane in range(32)])


@pytest.mark.parametrize(("shape", "table"), A_TABLES.items())
def test_fragments_of_a(shape, table):
    rows, columns = a_fragment(*shape)
    elements = shape[0] * shape[1] // 32
    np.testing.assert_array_equal(np.broadcast_to(rows, (32, elements)), by_table(table[0], elements))
    np.testing.assert_array_equal(np.broadcast_to(columns, (32, elements)), by_table(table[1], elements))


@pytest.mark.parametrize(("shape", "table"), B_TABLES.items())
def test_fragments_of_b(shape, table):
    rows, columns = b_fragment(shape[0], 8, shape[1])
    elements = shape[0] * 8 // 32
    np.testing.assert_array_equal(np.broadcast_to(rows, (32, elements)), by_table(table, elements))
    np.testing.assert_array_equal(columns, by_table(lambda g, t, i: g, elements))


@pytest.mark.parametrize(("m", "table"), C_TABLES.items())
def test_fragments_of_c(m, table):
    rows, columns = c_fragment(m, 8)
    np.testing.assert_array_equal(rows, by_table(table, m // 4))
    np.testing.assert_array_equal(columns, by_table(lambda g, t, i: t * 2 + (i & 1), m // 4))


BFLOAT16 = ml_dtypes.bfloat16
PRODUCTS = {
    "m16n8k8.row.col.f32.f16.f16.f32": np.float16,
    "m16n8k16.row.col.f32.f16.f16.f32": np.float16,
    "m16n8k8.row.col.f32.bf16.bf16.f32": BFLOAT16,
    "m16n8k16.row.col.f32.bf16.bf16.f32": BFLOAT16,
    "m16n8k4.row.col.f32.tf32.tf32.f32": np.float32,
    "m16n8k8.row.col.f32.tf32.tf32.f32": np.float32,
    "m16n8k16.row.col.s32.s8.s8.s32": np.int8,
    "m16n8k32.row.col.s32.s8.u8.s32": np.int8,
    "m8n8k16.row.col.s32.s8.s8.s32": np.int8,
}


def product_kernel(name, dtype):
    """One warp loads the fragments element by element as the tables say, multiplies and stores."""
    m, n, k = (int(part) for part in name.split(".")[0].replace("m", "").replace("n", " ").replace("k", " ").split())
    size = np.dtype(dtype).itemsize
    each = 4 // size
    sums = "uint32" if np.dtype(dtype).kind == "i" else "float32"
    element = np.dtype(dtype).name
    a_words, b_words, c_words = m * k * size // 128, k * n * size // 128, m * n // 32
    right = "uint8" if ".u8." in name else element

    @T.prim_func(s_tir=True)
    def kernel(a_ptr: T.handle(element, "global"), b_ptr: T.handle(right, "global"), c_ptr: T.handle(sums, "global")):
        a = T.decl_buffer((m * k,), element, data=a_ptr)
        b = T.decl_buffer((k * n,), right, data=b_ptr)
        c = T.decl_buffer((m * n,), sums, data=c_ptr)
        ra = T.alloc_local((a_words,), "uint32")
        rb = T.alloc_local((b_words,), "uint32")
        rc = T.alloc_local((c_words,), sums)
        ea = T.decl_buffer((a_words * each,), element, data=ra.data, scope="local")
        eb = T.decl_buffer((b_words * each,), right, data=rb.data, scope="local")
        lane = T.launch_thread("threadIdx.x", 32)
        for w in range(a_words):
            for e in range(each):
                ea[w * each + e] = a[
                    (lane // 4 + w % (m // 8) * 8) * k + lane % 4 * each + e + w // (m // 8) * 4 * each
                ]
        for w in range(b_words):
            for e in range(each):
                eb[w * each + e] = b[(lane % 4 * each + e + w * 4 * each) * n + lane // 4]
        for i in range(c_words):
            rc[i] = c[(lane // 4 + i // 2 * 8) * n + lane % 4 * 2 + i % 2]
        T.ptx[f"mma.sync.aligned.{name}"](
            *[rc[i] for i in range(c_words)],
            *[ra[i] for i in range(a_words)],
            *[rb[i] for i in range(b_words)],
            *[rc[i] for i in range(c_words)],
        )
        for i in range(c_words):
            c[(lane // 4 + i // 2 * 8) * n + lane % 4 * 2 + i % 2] = rc[i]

    return kernel, (m, n, k), right


@pytest.mark.parametrize(("name", "dtype"), PRODUCTS.items())
def test_products(name, dtype):
    kernel, (m, n, k), right = product_kernel(name, dtype)
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "i":
        a = rng.integers(-128, 128, (m, k)).astype(np.int8)
        b = rng.integers(0, 128, (k, n)).astype(right) + np.dtype(right).type(100 if right == "uint8" else 0)
        c = rng.integers(0, 100, (m, n)).astype(np.uint32)
        want = (a.astype(np.int64) @ b.astype(np.int64) + c).astype(np.uint32)
    else:
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        c = rng.standard_normal((m, n)).astype(np.float32)
        exact = [x.astype(np.float64) for x in (a, b)]
        if "tf32" in name:
            exact = [(x.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64) for x in (a, b)]
        want = (exact[0] @ exact[1] + c).astype(np.float32)
    evaluate(kernel, a, b, c)
    np.testing.assert_array_equal(c, want)


def matrices_kernel(stride, transposed=False, limit=32, barrier=True, rows=16, threads=32):
    """ldmatrix of a 16 x 16 matrix from shared memory, its words stored by lane."""
    name = f"ldmatrix.sync.aligned.m8n8.x4{'.trans' if transposed else ''}.shared.b16"

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float16", "global"), y_ptr: T.handle("uint32", "global")):
        x = T.decl_buffer((256,), "float16", data=x_ptr)
        y = T.decl_buffer((threads * 4,), "uint32", data=y_ptr)
        r = T.alloc_shared((rows * stride,), "float16")
        w = T.alloc_local((4,), "uint32")
        i = T.launch_thread("threadIdx.x", threads)
        for j in range(256 // threads):
            r[(j * threads + i) // 16 * stride + (j * threads + i) % 16] = x[j * threads + i]
        if barrier:
            T.cuda.cta_sync()
        if i < limit:
            T.ptx[name](w[0], w[1], w[2], w[3], T.address_of(r[i % 16 * stride + i // 16 % 2 * 8]))
            for j in range(4):
                y[i * 4 + j] = w[j]

    return kernel


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed):
    x, y = np.arange(256).astype(np.float16), np.zeros(128, np.uint32)
    evaluate(matrices_kernel(24, transposed), x, y)
    blocks = [x.reshape(16, 16)[r : r + 8, c : c + 8] for c in (0, 8) for r in (0, 8)]
    got = y.reshape(32, 4).view(np.float16).reshape(32, 4, 2)
    for lane in range(32):
        for matrix, block in enumerate(blocks):
            block = block.T if transposed else block
            np.testing.assert_array_equal(got[lane, matrix], block[lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stride": 20}, Misaligned, r"^address of a row of ldmatrix in r must be a multiple of 16 bytes, not 40; "),
        ({"stride": 24, "limit": 16}, DivergentBarrier, r"^ldmatrix must be reached by all threads of a warp"),
        ({"stride": 24, "barrier": False, "threads": 64}, Race, r"^read of r must be ordered"),
    ],
)
def test_wrong_uses_of_ldmatrix_are_found(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(matrices_kernel(**arguments), np.zeros(256, np.float16), np.zeros(256, np.uint32))


def test_rows_of_ldmatrix_must_be_inside():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float16", "global")):
        x = T.decl_buffer((64,), "float16", data=x_ptr)
        r = T.alloc_shared((64,), "float16")
        w = T.alloc_local((1,), "uint32")
        i = T.launch_thread("threadIdx.x", 32)
        r[i * 2] = x[i]
        r[i * 2 + 1] = x[i]
        T.cuda.cta_sync()
        T.ptx["ldmatrix.sync.aligned.m8n8.x1.shared.b16"](w[0], T.address_of(r[i % 8 * 16]))

    with pytest.raises(OutOfBounds, match=r"^access of r must be inside its 128 bytes, not at bytes 128 to 144"):
        evaluate(kernel, np.zeros(64, np.float16))


def test_unwritten_registers_must_not_be_multiplied():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("float32", "global")):
        y = T.decl_buffer((32,), data=y_ptr)
        r = T.alloc_local((6,), "uint32")
        c = T.alloc_local((4,))
        i = T.launch_thread("threadIdx.x", 32)
        for j in range(5):
            r[j] = T.uint32(0)
        for j in range(4):
            c[j] = T.float32(0)
        T.ptx["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"](
            c[0], c[1], c[2], c[3], r[0], r[1], r[2], r[3], r[4], r[5], c[0], c[1], c[2], c[3]
        )
        y[i] = c[0]

    with pytest.raises(Uninitialised, match=r"^an operand of mma.sync must depend on registers that were written"):
        evaluate(kernel, np.zeros(32, np.float32))


def test_stmatrix_is_the_inverse_of_ldmatrix():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float16", "global"), y_ptr: T.handle("float16", "global")):
        x = T.decl_buffer((256,), "float16", data=x_ptr)
        y = T.decl_buffer((256,), "float16", data=y_ptr)
        r = T.alloc_shared((256,), "float16")
        q = T.alloc_shared((256,), "float16")
        w = T.alloc_local((4,), "uint32")
        i = T.launch_thread("threadIdx.x", 32)
        for j in range(8):
            r[j * 32 + i] = x[j * 32 + i]
        T.cuda.cta_sync()
        T.ptx["ldmatrix.sync.aligned.m8n8.x4.shared.b16"](w[0], w[1], w[2], w[3], T.address_of(r[i * 8]))
        T.ptx["stmatrix.sync.aligned.m8n8.x4.shared.b16"](T.address_of(q[i * 8]), w[0], w[1], w[2], w[3])
        T.cuda.cta_sync()
        for j in range(8):
            y[j * 32 + i] = q[j * 32 + i]

    x, y = np.arange(256).astype(np.float16), np.zeros(256, np.float16)
    evaluate(kernel, x, y)
    np.testing.assert_array_equal(y, x)


def test_older_spelling_of_the_matrix_instructions():
    @T.prim_func(s_tir=True)
    def kernel(
        a_ptr: T.handle("float16", "global"), b_ptr: T.handle("float16", "global"), c_ptr: T.handle("float32", "global")
    ):
        a = T.decl_buffer((256,), "float16", data=a_ptr)
        b = T.decl_buffer((256,), "float16", data=b_ptr)
        c = T.decl_buffer((256,), data=c_ptr)
        sa = T.alloc_shared((256,), "float16")
        sb = T.alloc_shared((256,), "float16")
        ra = T.alloc_local((8,), "float16")
        rb = T.alloc_local((8,), "float16")
        rc = T.alloc_local((8,))
        i = T.launch_thread("threadIdx.x", 32)
        for j in range(8):
            sa[j * 32 + i] = a[j * 32 + i]
            sb[j * 32 + i] = b[j * 32 + i]
        T.cuda.cta_sync()
        T.ptx_legacy.ldmatrix(False, 4, ".b16", ra.data, 0, sa.data, i % 16 * 16 + i // 16 * 8, dtype="float16")
        T.ptx_legacy.ldmatrix(True, 4, ".b16", rb.data, 0, sb.data, i % 16 * 16 + i // 16 * 8, dtype="float16")
        T.cuda.mma_fill(8, rc.data, 0, dtype="float32")
        for h in range(2):
            T.ptx_legacy.mma(
                "m16n8k16", "row", "col", "fp16", "fp16", "fp32",
                ra.data, 0, rb.data, h * 4, rc.data, h * 4, False, dtype="float32",
            )  # fmt: skip
        T.cuda.mma_store(16, 16, T.address_of(c[0]), rc.data, 0, 16, dtype="float32")

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((16, 16)).astype(np.float16) for _ in range(2))
    c = np.zeros((16, 16), np.float32)
    evaluate(kernel, a, b, c)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), atol=1e-5)
