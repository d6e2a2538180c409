"""The arena: nothing that lives at one time overlaps, and reuse happens."""

from fxpress.backends.tvm.memory import ALIGNMENT, Lifetime, aligned, peak, plan
from fxpress.backends.tvm.views import Storage
from hypothesis import given, settings
from hypothesis import strategies as st

SPANS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9), st.integers(0, 5)), max_size=12)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(SPANS)
def test_no_two_living_storages_overlap(spans):
    lifetimes = [Lifetime(Storage("arena", "float32", n), first, first + more) for n, first, more in spans]
    total = plan(lifetimes)
    assert peak(lifetimes) <= total <= sum(aligned(each.storage.bytes) for each in lifetimes)
    for i, a in enumerate(lifetimes):
        assert a.storage.offset % ALIGNMENT == 0
        assert a.storage.offset + a.storage.bytes <= total
        for b in lifetimes[:i]:
            if a.first <= b.last and b.first <= a.last and a.storage.bytes and b.storage.bytes:
                low, high = sorted((a.storage, b.storage), key=lambda s: s.offset)
                assert low.offset + low.bytes <= high.offset


def test_memory_is_used_again():
    chain = [Lifetime(Storage("arena", "float32", 100), i, i + 1) for i in range(6)]
    assert plan(chain) == peak(chain) == 2 * aligned(400)


def test_what_sticks_out_is_placed_first():
    # by size alone the third lands beyond both others, where the second should be
    spans = [(512, 5, 5), (320, 4, 5), (256, 0, 4), (448, 1, 2)]
    lifetimes = [Lifetime(Storage("arena", "uint8", size), first, last) for size, first, last in spans]
    assert plan(lifetimes) == peak(lifetimes) == 832
