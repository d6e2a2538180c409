"""aten.upsample_*  ->  fxpress.resize"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_static, shape

aten = torch.ops.aten

MODES = {
    aten.upsample_nearest1d.vec: "nearest",
    aten.upsample_nearest2d.vec: "nearest",
    aten._upsample_nearest_exact1d.vec: "nearest-exact",
    aten.upsample_nearest3d.vec: "nearest",
    aten._upsample_nearest_exact2d.vec: "nearest-exact",
    aten._upsample_nearest_exact3d.vec: "nearest-exact",
    aten.upsample_linear1d.vec: "linear",
    aten.upsample_bilinear2d.vec: "bilinear",
    aten.upsample_bicubic2d.vec: "bicubic",
    aten.upsample_trilinear3d.vec: "trilinear",
}


@rewrite(*MODES)
def normalize_resize(node: Node, rw: Rewriter) -> None:
    """aten.upsample_bilinear2d(x, size | factors)  ->  fxpress.resize(x, size, scales, "bilinear")

    Scales stay only where they differ from the ratio of the sizes: PyTorch maps coordinates with them. The exact form
    of nearest is the plain one when each output size is a multiple of the input's.
    """
    a = arguments(node)
    x, mode = a["input"], MODES[node.target]
    if not (is_static(x) and is_static(node)):
        rw.skip(node, "sizes vary")
        return
    before, after = shape(x)[2:], shape(node)[2:]
    scales = a["scale_factors"]
    if scales is not None and _are_ratios(scales, before, after):
        scales = None
    whole = scales is None and not any(large % small for small, large in zip(before, after, strict=True))
    mode = "nearest" if mode == "nearest-exact" and whole else mode
    align_corners = bool(a.get("align_corners", False))
    scales = None if align_corners else scales  # the corners fix the mapping
    rw.replace(node, rw.call(fxpress.resize.default, x, list(after), scales, mode, align_corners, False, at=node))


def _are_ratios(scales: Sequence[float], before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether each scale is the ratio of sizes, so that PyTorch computes the same float from either."""
    return all(Fraction(scale) * small == large for scale, small, large in zip(scales, before, after, strict=True))
