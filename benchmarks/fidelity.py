"""How near the outputs of an 8-bit model are to the float32 model's, over many inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from judge import Array

LOWEST_COSINE = 0.9  # below this outputs have lost so much that the latency does not count


@dataclass(frozen=True)
class Fidelity:
    """`sqnr` in dB over everything (None without any error), mean `cosine`, share of rows whose largest agrees."""

    sqnr: float | None
    cosine: float
    agreement: float

    @property
    def reason(self) -> str | None:
        """Why these outputs do not count, or None if they do."""
        if self.cosine >= LOWEST_COSINE:
            return None
        return f"the outputs have a mean cosine of {self.cosine:.2f} with float32's, less than {LOWEST_COSINE}"


def fidelity(found: Sequence[Array], expected: Sequence[Array]) -> Fidelity:
    """Compares one output an input. The cosine is that of whole outputs, rows run along the last dimension.

    Raises ValueError where counts or shapes differ. Values that are not finite make the cosine 0.
    """
    if not expected or [each.shape for each in found] != [each.shape for each in expected]:
        raise ValueError(f"outputs must have the shapes {_shapes(expected)} of the float32 model, not {_shapes(found)}")
    ours, theirs = ([each.astype(np.float64) for each in outputs] for outputs in (found, expected))
    signal = sum(float((each**2).sum()) for each in theirs)
    noise = sum(float(((a - b) ** 2).sum()) for a, b in zip(ours, theirs, strict=True))
    cosines = [_cosine(a.ravel(), b.ravel()) for a, b in zip(ours, theirs, strict=True)]
    same = [np.argmax(a, -1) == np.argmax(b, -1) for a, b in zip(ours, theirs, strict=True)]
    return Fidelity(
        sqnr=10 * float(np.log10(signal / noise)) if signal and noise and np.isfinite(noise) else None,
        cosine=float(np.mean(cosines)),
        agreement=float(np.mean(np.concatenate([each.ravel() for each in same]))),
    )


def _cosine(a: Array, b: Array) -> float:
    if not np.isfinite(a).all():
        return 0.0
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(np.array_equal(a, b))


def _shapes(outputs: Sequence[Array]) -> list[tuple[int, ...]]:
    return sorted({each.shape for each in outputs})
