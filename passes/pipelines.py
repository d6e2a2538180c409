"""Named pipelines: functions of options returning pipeline text or passes."""

from __future__ import annotations

IMPORT = ("import-qdq",)
"""What other tools put into a program, in our ops."""

SIMPLIFY = (
    "drop-dead-code",
    "drop-no-op",
    "compose-casts",
    "fold-constants",
    "index-as-view",
    "drop-and-true",
    "drop-decided-where",
    "drop-single-cat",
    "inline-scalar-constant",
    "drop-identity",
)
"""Away with what computes nothing, or nothing new."""

RECOGNIZE = (
    "normalize-clamp",
    "recognize-sigmoid",
    "recognize-activation",
    "recognize-softmax",
    "recognize-layer-norm",
    "recognize-rms-norm",
    "absorb-norm-weight",
    "expand-pow",
    "divide-by-power-of-two",
    "multiply-by-minus-one",
    "drop-repetition",
    "merge-duplicates",
)
"""From formulas to ops, then to the cheapest spelling of what remains."""

NORMALIZE = (
    "expand-computed-conv",
    "expand-conv-transpose3d",
    "expand-conv3d",
    "expand-fft",
    "normalize-conv",
    "normalize-linear",
    "normalize-attention",
    "normalize-pool",
    "normalize-resize",
    "normalize-group-norm",
)
"""From ATen's spellings to the ops that kernels take."""

VIEWS = ("compose-views", "unflatten-linear", "compose-views")
"""At most one reshape or permute where there were several."""

ATTENTION = (
    "fold-constants",
    "merge-duplicates",
    "recognize-attention",
    "normalize-attention",
    "fold-constants",
    "simplify-mask",
    "group-heads",
)
"""Attention as one op."""

MERGE = ("merge-qkv",)
"""Its layers merged. Before epilogues are fused: a layer with one is not merged."""

BATCH_NORM = ("fold-batch-norm",)
"""What level 1 needs of fusing: a batch norm has no kernel, it becomes constants or arithmetic."""

FUSE = (
    *BATCH_NORM,
    "fold-affine",
    "fold-scale-before",
    "pad-into-conv",
    "pad-into-avg-pool",
    "pad-into-max-pool",
    "fuse-epilogue",
)
"""More work a kernel."""

LAYOUT = ("assign-layouts", "compose-views", "unflatten-linear", "compose-views", "fold-affine", "fuse-epilogue")
"""Channels last where kernels want it; then what permutes had kept apart is fused."""

ADOPT = ("adopt-qdq",)
"""Integers where another tool marked values as quantised. Last: it takes fused ops in their layouts."""

CLEAN = ("fold-constants", "merge-duplicates", "drop-dead-code")
"""What the passes before leave behind."""


PACK = ("pack-sparse",)
"""Weights as kernels read them. Last: no pass sees into what it makes."""


def default(level: int = 2, merge: bool = True, pack: bool = True) -> str:
    """What `fxpress.compile` runs. Level 0 changes nothing, 1 canonicalizes, 2 also fuses and assigns layouts.

    Without `merge` linear layers that share an input stay apart, for what treats their results differently. Without
    `pack` all weights stay plain constants, for what changes them.
    """
    if level == 0:
        return ""
    merging = MERGE if merge else ()
    fusing = (ATTENTION, merging, FUSE, LAYOUT, ADOPT) if level >= 2 else (BATCH_NORM,)
    packing = PACK if pack and level >= 2 else ()
    stages = (IMPORT, SIMPLIFY, RECOGNIZE, NORMALIZE, VIEWS, *fusing, CLEAN, packing)
    return ",".join(name for stage in stages for name in stage)
