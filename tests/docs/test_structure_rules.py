"""Where code may live and what it may import, read from the sources themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from fxpress.passes import PASSES
from fxpress.passes.quantization.algorithms import ALGORITHMS
from fxpress.pipeline import parse_pipeline
from fxpress.rewriter import RulePass

ROOT = Path(__file__).parents[2]
FOLDERS = {"compiler": "fxpress", "passes": "fxpress.passes", "backends": "fxpress.backends"}
HELPERS = {
    "batches",
    "match",
    "pattern",
    "pipelines",
}  # files of passes/ that hold no pass; those below hold the parts of one
PARTS = {"channels": "fold_batch_norm"} | dict.fromkeys(("order", "problem", "roles"), "assign_layouts")
PARTS |= dict.fromkeys(
    ("algorithms", "calibration", "integer_ops", "integer_targets", "observers", "placement", "plan", "planning",
     "scheme", "scopes", "weights", "layer_rows", "walking"),
    "quantize_ops",
)  # fmt: skip
PARTS |= dict.fromkeys(("scale_groups", "simulation", "straight_through", "surrogates", "training"), "quantize_ops")
PARTS |= dict.fromkeys(
    ("assignment", "budget", "costs", "deciding", "mixed_precision", "profitability", "sensitivity"), "quantize_ops"
)
PARTS |= dict.fromkeys(
    ("components", "config", "float_training", "groups", "importance", "index_maps", "layer_maps", "least_squares",
     "look_up_maps", "map_types", "masked", "named_layers", "pruning_sensitivity", "recipe", "replay",
     "recurrent_maps", "reduction_maps", "selection", "steps", "ties", "view_maps"),
    "remove_units",
)  # fmt: skip
PARTS |= dict.fromkeys(
    ("budget_search", "budgeted", "budgets", "layer_table", "meters", "predicted_costs", "width_choice", "widths"),
    "remove_units",
)  # fmt: skip
PARTS |= dict.fromkeys(
    ("patterns", "reconstruction", "weight_importance", "weight_layers", "zero_steps"), "zero_weights"
)
PARTS |= dict.fromkeys(("low_rank", "replacing"), "factor_linear") | {"copies": "widen", "exits": "add_early_exit"}
PARTS |= dict.fromkeys(("identity_layers", "zero_branches"), "deepen")
FRONT_DOORS = {f"compiler/{folder}{name}.py" for folder in ("", "cli/") for name in ("quantizing", "pruning")}
FRONT_DOORS |= {"compiler/__init__.py", "compiler/learn/programs.py", "compiler/search/strategies.py"}
FRONT_DOORS |= {f"compiler/search/{name}.py" for name in ("changes", "trials")}
"""What users call may know passes; the core behind it may not."""


def module_name(file: Path) -> str:
    folder, *rest = file.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def imports(file: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, also inside functions."""
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def starts(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offenders(folder: str, *forbidden: str) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files(folder)
        for name in imports(file)
        if starts(name, *forbidden)
    ]


def test_core_imports_no_backend_and_no_pass():
    found = offenders("compiler", "fxpress.backends", "fxpress.passes")
    assert [x for x in found if x.split()[0] not in FRONT_DOORS] == []


def test_core_and_passes_do_not_know_tvm():
    outside = [x for x in offenders("compiler", "tvm") if not x.startswith("compiler/runtime/")]
    assert outside + offenders("passes", "tvm", "tvm_ffi") == []


def test_passes_import_no_backend_and_backends_no_pass():
    assert offenders("passes", "fxpress.backends") == []
    assert offenders("backends", "fxpress.passes") == []


def test_runtime_imports_neither_torch_nor_the_compiler():
    allowed = ("fxpress.runtime", "fxpress.cpu", "fxpress.errors")
    for file in files("compiler/runtime"):
        for name in imports(file):
            assert not starts(name, "torch", "tvm"), f"{file} imports {name}"
            assert not starts(name, "fxpress") or starts(name, *allowed), f"{file} imports {name}"


def test_kernels_know_no_graphs():
    assert offenders("backends/tvm/kernels", "torch.fx", "fxpress.program", "fxpress.backends.tvm.lowering") == []


def pass_files() -> list[Path]:
    return [
        file for file in files("passes") if file.name != "__init__.py" and file.stem not in {*HELPERS, *PARTS}
    ]  # fmt: skip


@pytest.mark.parametrize("file", pass_files(), ids=lambda file: file.stem)
def test_every_pass_file_has_tests_and_says_what_it_does(file):
    names = (f"test_{file.stem}.py", f"test_quantize_{file.stem}.py")
    assert any((ROOT / "tests" / "passes" / name).exists() for name in names)
    first = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
    assert "->" in first or file.stem == "assign_layouts", f"line 1 must be the rewrite, before -> after, not {first!r}"
    registered = {path.split(":")[0] for path in (*PASSES.values(), *ALGORITHMS.values())}
    assert module_name(file) in registered, f"{file.stem} holds no registered pass or algorithm"


def test_parts_belong_to_a_pass_that_exists():
    stems = {file.stem for file in files("passes")}
    assert set(PARTS) | HELPERS <= stems
    assert set(PARTS.values()) <= stems


@pytest.mark.parametrize("name", sorted(PASSES))
def test_every_pass_says_what_it_rewrites(name):
    (p,) = parse_pipeline(name)
    assert p.name == name
    if isinstance(p, RulePass):
        assert "->" in p.summary, p.summary
    assert len(p.summary) > 10
