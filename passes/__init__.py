"""The passes fxpress ships: name -> where it is defined. Nothing is imported before its name is asked for."""

PASSES: dict[str, str] = {
    "drop-identity": "fxpress.passes.canonicalize.drop_identity:drop_identity",
}

PIPELINES: dict[str, str] = {
    "default": "fxpress.passes.pipelines:default",
}
