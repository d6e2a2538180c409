"""The passes fxpress ships: name -> where it is defined. Nothing is imported before its name is asked for."""

PASSES: dict[str, str] = {
    "assign-layouts": "fxpress.passes.layout.assign_layouts:AssignLayouts",
    "drop-identity": "fxpress.passes.canonicalize.drop_identity:drop_identity",
    "normalize-conv": "fxpress.passes.canonicalize.normalize_conv:normalize_conv",
    "normalize-group-norm": "fxpress.passes.canonicalize.normalize_group_norm:normalize_group_norm",
    "normalize-linear": "fxpress.passes.canonicalize.normalize_linear:normalize_linear",
    "normalize-pool": "fxpress.passes.canonicalize.normalize_pool:normalize_pool",
    "normalize-resize": "fxpress.passes.canonicalize.normalize_resize:normalize_resize",
    "unflatten-linear": "fxpress.passes.canonicalize.normalize_linear:unflatten_linear",
}

PIPELINES: dict[str, str] = {
    "default": "fxpress.passes.pipelines:default",
}
