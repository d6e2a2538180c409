"""The PassManager runs a pipeline over a Program: checks order, verifies, records, and can be stopped and bisected."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from .errors import CompilerError, InternalError, InvalidInput
from .instruments import Instrument
from .pipeline import parse_pipeline, print_pipeline
from .program import PassRecord, Program
from .rewriter import Fuel, Pass, Rewriter
from .verifier import verify, verify_numbers

Verify = Literal["each", "ends", "off"]


class PassManager:
    """Runs passes in the order given, never reordering them.

    `verify="each"` re-infers what each pass touched, and everything at both ends; "ends" only the latter.
    `numerics=True` also compares the outputs before and after every pass on the example inputs. `fuel` stops after that
    many rewrites. Raises InvalidInput at once when a pass requires a fact that nothing before it establishes.
    """

    def __init__(
        self,
        passes: str | Pass | Iterable[Pass | str],
        *,
        verify: Verify = "each",
        numerics: bool = False,
        fuel: int | None = None,
        target: Any = None,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        if verify not in ("each", "ends", "off"):
            raise InvalidInput(f"verify must be 'each', 'ends' or 'off', not {verify!r}")
        self.passes = parse_pipeline(passes)
        self.verify: Verify = verify
        self.numerics = numerics
        self.fuel = Fuel(fuel)
        self.target = target
        self.instruments = tuple(instruments)

    def __str__(self) -> str:
        return print_pipeline(self.passes)

    def check_order(self, facts: Iterable[str] = ()) -> None:
        """Raise InvalidInput listing every pass whose required facts nothing before it establishes."""
        known, problems = set(facts), []
        for p in self.passes:
            for fact in p.requires:
                if fact not in known:
                    makers = [other.name for other in self.passes if fact in other.establishes]
                    cure = f"put {makers[0]} before it" if makers else "add a pass that establishes it"
                    problems.append(f"- {p.name} requires {fact!r}; {cure}")
            known.update(p.establishes)
        if problems:
            raise InvalidInput("the pipeline's order is wrong:\n" + "\n".join(problems))

    def run(self, program: Program) -> Program:
        """Run the pipeline on a clone of `program` and return the clone, its history extended by one record a pass."""
        self.check_order(program.facts)
        program = program.clone()
        if self.verify != "off":
            verify(program)
        for p in self.passes:
            program = self._run_pass(p, program)
        if self.verify != "off":
            verify(program)
        program.graph_module.recompile()
        return program

    def _run_pass(self, p: Pass, program: Program) -> Program:
        if not all(instrument.should_run(p, program) for instrument in self.instruments):
            return program
        for instrument in self.instruments:
            instrument.before(p, program)
        original = program.clone() if self.numerics else None
        text = program.history[-1].text if program.history else program.text()
        rw = Rewriter(program, self.fuel, self.target)
        start = time.perf_counter()
        try:
            if rw.has_fuel():
                p.run(program, rw)
            rw.finish()
            self._check(p, program, rw, text, original)
        except Exception as error:
            done = ", ".join(record.name for record in program.history) or "nothing"
            error.add_note(f"in pass {str(p)!r} after [{done}]")
            for instrument in self.instruments:
                instrument.failed(p, text, error)
            raise
        after = program.text() if rw.log else text
        seconds = time.perf_counter() - start
        record = PassRecord(str(p), tuple(rw.log), tuple(rw.skipped), seconds, after, tuple(rw.decisions), rw.recipe)
        program.history.append(record)
        program.facts.update(p.establishes)
        for instrument in self.instruments:
            instrument.after(p, program, text, record)
        return program

    def _check(self, p: Pass, program: Program, rw: Rewriter, text: str, original: Program | None) -> None:
        if self.verify != "each":
            return
        if rw.log:
            touched = {user for node in rw.touched if not rw.erased(node) for user in (node, *node.users)}
            verify(program, only=touched)
        elif program.text() != text:
            raise InternalError(f"pass {p.name} changed the graph without the Rewriter; use rw.call and rw.replace")
        if original is not None and rw.log:
            verify_numbers(original, program, p.accuracy)


def bisect(program: Program, passes: str | Iterable[Pass | str], is_good: Any, *, target: Any = None) -> str:
    """Find the first rewrite that makes `is_good(program)` false; return its description.

    Runs the pipeline with less and less fuel. Raises InvalidInput when the original is bad or the final result is good.
    """

    def run(fuel: int | None) -> tuple[PassManager, Program]:
        manager = PassManager(passes, fuel=fuel, verify="off", target=target)
        return manager, manager.run(program)

    manager, result = run(None)
    if is_good(result):
        raise InvalidInput("bisect needs a pipeline whose result is bad, but is_good(result) holds")
    if not is_good(run(0)[1]):
        raise InvalidInput("bisect needs a good program to start from, but is_good(program) does not hold")
    good, bad = 0, manager.fuel.burned
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(run(middle)[1]):
            good = middle
        else:
            bad = middle
    before, after = run(good)[1], run(bad)[1]
    for old, new in zip(before.history, after.history, strict=True):
        if len(new.rewrites) > len(old.rewrites):
            return f"rewrite {bad}: pass {new.name}: {'; '.join(new.rewrites[len(old.rewrites) :])}"
    raise CompilerError(f"rewrite {bad} changed no record; the pipeline is not deterministic")
