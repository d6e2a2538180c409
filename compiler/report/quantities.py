"""How reports print numbers with units."""

from __future__ import annotations


def bytes_text(count: float) -> str:
    """A size in bytes: `512 B`, `1.5 KiB`, `2.0 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def time_text(seconds: float) -> str:
    """A duration: `0.53 us`, `1.20 ms`, `3.00 s`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def energy_text(joules: float) -> str:
    """An energy: `3.20 nJ`, `0.53 uJ`, `1.20 mJ`, `3.00 J`."""
    for unit, size in (("nJ", 1e-9), ("uJ", 1e-6), ("mJ", 1e-3)):
        if joules < 1000 * size:
            return f"{joules / size:.2f} {unit}"
    return f"{joules:.2f} J"


def rate_text(flops_per_second: float) -> str:
    """A rate of arithmetic in GFLOP/s, without the unit: `118`, `9.3`, `0.42`; nothing for zero."""
    rate = flops_per_second / 1e9
    if not rate:
        return ""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def option_text(value: object) -> str:
    """An option's value; numbers with as many digits as tell something."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent_text(share: float) -> str:
    """A share in percent: `12.3%`."""
    return f"{share:.1%}"
