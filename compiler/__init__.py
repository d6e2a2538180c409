"""fxpress takes a trained PyTorch model and makes it smaller, faster, and provably still right.

Names are imported when first used, so that `fxpress.runtime` loads neither PyTorch nor the compiler.
"""

if __name__ != "fxpress":
    raise ImportError(f"import this package as fxpress, not as {__name__}: a raw import makes a second copy of it")

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import compile as compile
    from .capturing import capture as capture
    from .interchange.onnx_export import export_onnx as export_onnx
    from .optimizing import optimize as optimize
    from .pass_manager import PassManager as PassManager
    from .passes.pruning.float_training import trainable as trainable
    from .passes.pruning.recipe import Recipe as Recipe
    from .program import Program as Program
    from .pruning import prune as prune
    from .quantizing import quantize as quantize
    from .rewriter import Pass as Pass
    from .rewriter import Rewriter as Rewriter
    from .rewriter import rewrite as rewrite
    from .target import Target as Target

__version__ = "0.1.0"

_HOME = {
    "compile": "api",
    "capture": "capturing",
    "export_onnx": "interchange.onnx_export",
    "optimize": "optimizing",
    "PassManager": "pass_manager",
    "Program": "program",
    "prune": "pruning",
    "quantize": "quantizing",
    "Recipe": "passes.pruning.recipe",
    "Pass": "rewriter",
    "Rewriter": "rewriter",
    "rewrite": "rewriter",
    "Target": "target",
    "trainable": "passes.pruning.float_training",
}
_MODULES = ("backends", "learn", "ops", "passes", "runtime", "testing")
_ELSEWHERE = {"quantization": ".passes.quantization"}  # modules that are reached by a shorter name

__all__ = [
    "Pass",
    "PassManager",
    "Program",
    "Recipe",
    "Rewriter",
    "Target",
    "capture",
    "compile",
    "export_onnx",
    "optimize",
    "prune",
    "quantize",
    "rewrite",
    "trainable",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module = importlib.import_module(f".{_HOME[name]}", __name__)
        value = getattr(module, name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _ELSEWHERE:
        return importlib.import_module(_ELSEWHERE[name], __name__)
    raise AttributeError(f"module 'fxpress' has no attribute {name!r}; it has {sorted(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, *_ELSEWHERE, "__version__"])
