"""The passes fxpress ships: name -> where it is defined. Nothing is imported before its name is asked for."""

if __name__ != "fxpress.passes":
    raise ImportError(
        f"import this package as fxpress.passes, not as {__name__}: a raw import makes a second copy of it"
    )

PASSES: dict[str, str] = {
    "absorb-norm-weight": "fxpress.passes.canonicalize.recognize_norm:absorb_norm_weight",
    "adopt-qdq": "fxpress.passes.quantization.adopt_qdq:AdoptQdq",
    "assign-layouts": "fxpress.passes.layout.assign_layouts:AssignLayouts",
    "compose-casts": "fxpress.passes.canonicalize.drop_no_op:compose_casts",
    "compose-views": "fxpress.passes.canonicalize.compose_views:compose_views",
    "divide-by-power-of-two": "fxpress.passes.canonicalize.simplify_arithmetic:divide_by_power_of_two",
    "drop-and-true": "fxpress.passes.canonicalize.simplify_mask_chain:drop_and_true",
    "drop-dead-code": "fxpress.passes.canonicalize.drop_dead_code:DropDeadCode",
    "drop-decided-where": "fxpress.passes.canonicalize.drop_no_op:drop_decided_where",
    "drop-identity": "fxpress.passes.canonicalize.drop_identity:drop_identity",
    "drop-no-op": "fxpress.passes.canonicalize.drop_no_op:drop_no_op",
    "drop-repetition": "fxpress.passes.canonicalize.simplify_arithmetic:drop_repetition",
    "drop-single-cat": "fxpress.passes.canonicalize.drop_no_op:drop_single_cat",
    "equalize": "fxpress.passes.quantization.equalize:Equalize",
    "expand-computed-conv": "fxpress.passes.canonicalize.expand_computed_conv:expand_computed_conv",
    "expand-conv-transpose3d": "fxpress.passes.canonicalize.expand_conv_transpose3d:expand_conv_transpose3d",
    "expand-conv3d": "fxpress.passes.canonicalize.expand_conv3d:expand_conv3d",
    "expand-fft": "fxpress.passes.canonicalize.expand_fft:expand_fft",
    "expand-pow": "fxpress.passes.canonicalize.simplify_arithmetic:expand_pow",
    "fold-affine": "fxpress.passes.fusion.fold_affine:fold_affine",
    "fold-batch-norm": "fxpress.passes.fusion.fold_batch_norm:fold_batch_norm",
    "fold-constants": "fxpress.passes.canonicalize.fold_constants:FoldConstants",
    "fold-scale-before": "fxpress.passes.fusion.fold_affine:fold_scale_before",
    "fuse-epilogue": "fxpress.passes.fusion.fuse_epilogue:FuseEpilogue",
    "group-heads": "fxpress.passes.fusion.simplify_attention:group_heads",
    "import-qdq": "fxpress.passes.quantization.import_qdq:ImportQdq",
    "index-as-view": "fxpress.passes.canonicalize.simplify_mask_chain:index_as_view",
    "inline-scalar-constant": "fxpress.passes.canonicalize.simplify_arithmetic:inline_scalar_constant",
    "merge-duplicates": "fxpress.passes.canonicalize.merge_duplicates:MergeDuplicates",
    "merge-qkv": "fxpress.passes.fusion.merge_linears:merge_qkv",
    "multiply-by-minus-one": "fxpress.passes.canonicalize.simplify_arithmetic:multiply_by_minus_one",
    "narrow-floats": "fxpress.passes.quantization.narrow_floats:NarrowFloats",
    "normalize-attention": "fxpress.passes.canonicalize.normalize_attention:normalize_attention",
    "normalize-clamp": "fxpress.passes.canonicalize.simplify_arithmetic:normalize_clamp",
    "normalize-conv": "fxpress.passes.canonicalize.normalize_conv:normalize_conv",
    "normalize-group-norm": "fxpress.passes.canonicalize.normalize_group_norm:normalize_group_norm",
    "normalize-linear": "fxpress.passes.canonicalize.normalize_linear:normalize_linear",
    "normalize-pool": "fxpress.passes.canonicalize.normalize_pool:normalize_pool",
    "normalize-resize": "fxpress.passes.canonicalize.normalize_resize:normalize_resize",
    "pad-into-avg-pool": "fxpress.passes.fusion.pad_into_conv:pad_into_avg_pool",
    "pad-into-conv": "fxpress.passes.fusion.pad_into_conv:pad_into_conv",
    "pad-into-max-pool": "fxpress.passes.fusion.pad_into_conv:pad_into_max_pool",
    "quantize-ops": "fxpress.passes.quantization.quantize_ops:QuantizeOps",
    "recognize-activation": "fxpress.passes.canonicalize.recognize_activation:recognize_activation",
    "recognize-attention": "fxpress.passes.fusion.recognize_attention:recognize_attention",
    "recognize-layer-norm": "fxpress.passes.canonicalize.recognize_norm:recognize_layer_norm",
    "recognize-rms-norm": "fxpress.passes.canonicalize.recognize_norm:recognize_rms_norm",
    "recognize-sigmoid": "fxpress.passes.canonicalize.recognize_activation:recognize_sigmoid",
    "recognize-softmax": "fxpress.passes.canonicalize.recognize_softmax:recognize_softmax",
    "simplify-mask": "fxpress.passes.fusion.simplify_attention:simplify_mask",
    "unflatten-linear": "fxpress.passes.canonicalize.normalize_linear:unflatten_linear",
}

PIPELINES: dict[str, str] = {
    "default": "fxpress.passes.pipelines:default",
}
