"""What the documentation says is true: its code runs and prints what it shows, its links lead somewhere."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
READMES = [ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/README.md"))]
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block: the info string after the fence, its text, and the line it starts at."""

    info: str
    text: str
    line: int

    @property
    def is_run(self) -> bool:
        return self.info == "python"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    pattern = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in pattern.finditer(text)]


def is_page_with_code(page: Path) -> bool:
    return any(block.is_run for block in blocks(page))


def run(page: Path, block: Block, names: dict[str, Any]) -> str:
    """Run a block, its tests too, and return what it printed."""
    known = set(names)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
        for name in sorted(set(names) - known):
            if name.startswith("test_"):
                names[name]()
    return printed.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if is_page_with_code(page)], ids=lambda page: page.stem)
def test_code_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    """The blocks of a page run in order in one namespace; a `text` block is what the block before it prints."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}  # a module that exists: dataclasses look it up
    printed, checker = None, doctest.OutputChecker()
    for block in blocks(page):
        if block.is_run:
            printed = run(page, block, names)
        elif block.info == "text" and printed is not None:
            assert checker.check_output(expected_on_this_machine(block.text), printed, LOOSELY), printed
            printed = None


def expected_on_this_machine(text: str) -> str:
    """Tiles and arena offsets depend on the CPU: only the kernels' names and shapes are compared."""
    text = re.sub(r"tile=\S+ order=\S+ block=[\d]+", "...", text)
    return re.sub(r"(arena\[2\])\+\d+", r"\1+...", text)


def test_blocks_that_do_not_run_say_why():
    """A Python block is run unless it is marked `python no-run: reason`."""
    for page in PAGES:
        for block in blocks(page):
            if block.info.startswith("python") and not block.is_run:
                assert re.fullmatch(r"python no-run: .+", block.info), f"{page}:{block.line}: {block.info}"


def test_the_first_pass_is_seven_lines_and_its_test_four():
    first, second = [b.text for b in blocks(ROOT / "docs/first-pass.md") if b.is_run][:2]
    assert len(first[first.index("@rewrite") :].splitlines()) == 7
    assert len(second[second.index("def test") :].splitlines()) == 4
    readme = (ROOT / "README.md").read_text()
    assert first[first.index("@rewrite") :] in readme
    assert second[second.index("def test") :] in readme


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
