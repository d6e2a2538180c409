"""docs/passes.md is what the registry says: `pytest tests/docs --update-golden` writes it anew."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from fxpress.passes import PASSES
from fxpress.passes import pipelines as named
from fxpress.pipeline import parse_pipeline
from fxpress.rewriter import Pass, RulePass

PAGE = Path(__file__).parents[2] / "docs" / "passes.md"
STAGES = (
    "IMPORT", "SIMPLIFY", "RECOGNIZE", "NORMALIZE", "VIEWS", "ATTENTION", "MERGE", "BATCH_NORM", "FUSE", "LAYOUT",
    "ADOPT", "CLEAN", "PACK",
)  # fmt: skip


def test_page_is_up_to_date(request):
    text = "\n".join(lines()) + "\n"
    if request.config.getoption("--update-golden"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "run pytest tests/docs --update-golden"


def test_every_stage_is_shown():
    assert set(STAGES) == {name for name, value in vars(named).items() if name.isupper() and isinstance(value, tuple)}


def lines() -> Iterator[str]:
    yield "# Passes"
    yield ""
    yield "Generated from the registry; `fxpress passes` prints the same with the plugins that are installed."
    yield ""
    yield 'A pipeline is text: `fxpress.compile(model, args, pipeline="default{level=1}")`, or names with commas.'
    yield "`exact` passes give the same bits, `reassociating` ones may change rounding within the bound of the README."
    yield ""
    yield "## The pipeline `default`"
    yield ""
    yield inspect.getdoc(named.default) or ""
    yield ""
    yield "| stage | levels | passes, in order |"
    yield "|---|---|---|"
    for stage in STAGES:
        passes = getattr(named, stage)
        levels = [str(level) for level in (0, 1, 2) if ",".join(passes) in named.default(level)]
        yield f"| {stage.lower()} | {', '.join(levels)} | {', '.join(f'`{name}`' for name in passes)} |"
    for folder in sorted({path.split(".")[2] for path in PASSES.values()}):
        yield from section(folder)


def section(folder: str) -> Iterator[str]:
    yield ""
    yield f"## {folder.capitalize()}"
    yield ""
    yield "| pass | rewrite | accuracy | options |"
    yield "|---|---|---|---|"
    for name, path in sorted(PASSES.items()):
        if path.split(".")[2] == folder:
            (p,) = parse_pipeline(name)
            yield f"| [`{name}`]({source(p)}) | {escaped(p.summary)} | {p.accuracy} | {options(p)} |"


def source(p: Pass) -> str:
    """The pass's file, seen from the page."""
    file = inspect.getsourcefile(p.function if isinstance(p, RulePass) else type(p))
    return f"../{Path(str(file)).relative_to(PAGE.parents[1])}"


def options(p: Pass) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in p.options().items()).lower()


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
