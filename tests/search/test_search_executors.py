"""Trials in worker processes: the same points, measured alone, and what happens when a worker or the search dies."""

from __future__ import annotations

import importlib
import logging
import os
import resource
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import fxpress
import pytest
import torch
from executor_tasks import INPUTS, LONGEST, OBJECTIVES, Refused, act, lines, small_model, trials_of
from fxpress.errors import BackendUnavailable, InvalidInput
from fxpress.search.candidates import Candidates
from fxpress.search.executors.board import Board
from fxpress.search.executors.executor import executor_of
from fxpress.search.executors.local import LocalExecutor
from fxpress.search.footprint import Footprint
from fxpress.search.frontier import Point
from fxpress.search.intervals import Quality
from fxpress.search.phases import Phase, Strategy
from fxpress.search.ranges import Range
from fxpress.search.store import StorageFailed
from fxpress.search.strategies import PRUNE
from fxpress.search.study import Study
from fxpress.search.trials import Trial

pytest.importorskip("optuna", reason="needs optuna")
pytest.importorskip("cloudpickle", reason="needs cloudpickle")


def test_trials_in_workers(tmp_path):
    """One pair of workers for all: what they share, what they measure, how they fail."""
    log, stages = tmp_path / "log", []
    trials = trials_of(tmp_path / "store", log)
    crew = executor_of("processes", 2)
    with crew.at_work(trials, stages.append):
        crew.submit(Trial(0))
        original = crew.finished()
        assert (original.number, original.quality.value) == (0, 8)
        assert original.artifact.exists()

        # one works until the other has measured, and stands still meanwhile
        crew.submit(Trial(1, {"act.what": "work"}))
        crew.submit(Trial(2, {"act.what": "yes"}))
        points = sorted([crew.finished(), crew.finished()], key=lambda point: point.number)
        assert [p.steps for p in points] == [[("act", {"what": "work"})], [("act", {"what": "yes"})]]
        assert all(p.is_whole for p in points)
        (worked,) = {pid for pid, what in lines(log) if what == "work"}
        written = lines(log)
        measured = [n for n, (pid, what) in enumerate(written) if what == "measures" and pid != worked]
        work = [n for n, (_, what) in enumerate(written) if what == "work"]
        assert any(work[0] < n < work[-1] for n in measured), "they did not run side by side"
        assert all(written[n + 1] == [written[n][0], "measured"] for n in measured)
        assert any("2 trials run; trial 1: work; trial 2: " in stage for stage in stages)

        # an error is the user's own, a worker that dies is replaced
        crew.submit(Trial(3, {"act.what": "raise"}))
        with pytest.raises(Refused, match="candidate: it asked for it") as caught:
            crew.finished()
        assert caught.value.why == "it asked for it"
        assert "in act" in str(caught.value.__cause__)
        crew.submit(Trial(4, {"act.what": "die"}))
        assert crew.finished().refused == "its worker was ended by SIGKILL, as when memory runs out"
        for number in (5, 6):
            crew.submit(Trial(number, {"act.what": "work"}))
        pids = [worker._process.pid for worker in crew._busy]
        assert all(map(is_running, pids))
    assert len(set(pids)) == 2
    assert not any(map(is_running, pids))
    assert not list((tmp_path / "store").glob("*/.*"))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SEARCH = """
    import os, time
    from pathlib import Path

    import fxpress
    import torch
    from fxpress.search.phases import Phase, Strategy
    from fxpress.search.ranges import Range

    FOLDER = Path(__file__).parent

    def evaluate(f):
        (FOLDER / f"evaluated-{time.monotonic()}").touch()
        return float(f(torch.ones(8, 16)).abs().mean())

    def wait(program, options, task):
        (FOLDER / f"pid-{os.getpid()}").touch()
        while not (FOLDER / "go").exists():
            time.sleep(0.01)
            task.progress("wait")
        larger = program.clone()
        for constant in larger.constants.values():
            constant.mul_(options["for"])
        return larger

    def search(storage, executor, workers):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        waiting = Phase("wait", wait, {"for": Range(0, 9)}, off={"for": 0})
        strategy = Strategy("waiting", (waiting,), ({}, {"wait.for": 2}, {"wait.for": 3}))
        return fxpress.optimize(
            torch.nn.Linear(16, 4).eval(), (torch.ones(8, 16),), evaluate=evaluate, strategy=strategy,
            max_trials=3, storage=FOLDER / storage, executor=executor, workers=workers,
        )
"""


def test_a_killed_search_takes_its_workers_along_and_goes_on(tmp_path, monkeypatch):
    """One point is known, two trials run: then the search is killed, and goes on in this process."""
    (tmp_path / "killed_search.py").write_text(textwrap.dedent(SEARCH))
    command = [sys.executable, "-c", "import killed_search; killed_search.search('killed', 'processes', 2)"]
    search = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + LONGEST
    while len(pids(tmp_path)) < 2 and time.monotonic() < end:
        assert search.poll() is None, search.stderr.read()
        time.sleep(0.02)
    search.kill()
    search.communicate()
    assert len(list((tmp_path / "killed/points").glob("*.json"))) == 1
    workers = pids(tmp_path)
    assert len(workers) == 2
    while any(map(is_running, workers)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(is_running, workers))

    (tmp_path / "go").touch()
    for file in tmp_path.glob("evaluated-*"):
        file.unlink()
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("killed_search")
    resumed = module.search("killed", "local", None)
    assert len(list(tmp_path.glob("evaluated-*"))) == 4  # the original, twice, and the two that were not known
    uninterrupted = module.search("alone", "local", None)
    assert [facts(p) for p in resumed.tried] == [facts(p) for p in uninterrupted.tried]
    assert facts(resumed.original) == facts(uninterrupted.original)


def facts(point):
    """All of a point but times and numbers."""
    return point.candidate, point.steps, point.quality.value, point.footprint.macs, point.artifact.read_bytes()


def pids(folder):
    return [int(file.name.partition("-")[2]) for file in folder.glob("pid-*")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"executor": "threads"},
            "executor must be an Executor or one of .*'processes', 'ray'.*, not 'threads'",
        ),
        ({"executor": None}, "executor must be an Executor or one of"),
        ({"executor": "processes", "workers": 0}, "workers must be an integer of at least 1 or None, not 0"),
        ({"executor": "processes", "workers": True}, "workers must be an integer of at least 1 or None, not True"),
        ({"workers": 3}, 'workers must be 1 or None with executor="local", not 3; use executor="processes"'),
        ({"executor": LocalExecutor(), "workers": 1}, "workers must be None with an Executor"),
        ({"executor": "processes", "evaluate": threading.Lock().__exit__}, "evaluate= must be something that can be"),
        ({"executor": "processes", "loss": threading.Lock().__exit__}, "loss= must be something that can be"),
    ],
    ids=["name", "none", "zero", "bool", "local", "object", "evaluate", "loss"],
)
def test_bad_input(tmp_path, changed, message):
    given = {"evaluate": len, "storage": tmp_path, "strategy": Strategy("none", (PRUNE,), ({},))}
    with pytest.raises(InvalidInput, match=message):
        fxpress.optimize(small_model(), (INPUTS,), **(given | changed))


def test_without_cloudpickle_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    for name in ("wire", "processes"):
        monkeypatch.delitem(sys.modules, f"fxpress.search.executors.{name}", raising=False)
    with pytest.raises(BackendUnavailable, match=r'pip install "fxpress\[search\]"'):
        executor_of("processes", 1)


def test_programs_and_what_workers_cannot_import_travel(tmp_path):
    from fxpress.search.executors.wire import pack, unpack

    path = tmp_path / "by_hand.py"
    path.write_text("FACTOR = 3\ndef scaled(x):\n    return x * FACTOR\n")
    spec = importlib.util.spec_from_file_location("by_hand", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["by_hand"] = module
    spec.loader.exec_module(module)
    packed = pack({"function": module.scaled, "program": fxpress.capture(small_model(), (INPUTS,))})
    del sys.modules["by_hand"]
    found = unpack(packed)
    assert found["function"](2) == 6
    assert torch.equal(found["program"].run(INPUTS), small_model()(INPUTS))


def test_errors_travel_and_what_cannot_is_told_as_text():
    from fxpress.search.executors.wire import outcome_of, value_from

    def fail(error):
        raise error

    with pytest.raises(Refused, match="it: no") as caught:
        value_from(outcome_of(partial(fail, Refused("it", why="no"))))
    assert "in fail" in str(caught.value.__cause__)
    stubborn = Refused("it", why="no")
    stubborn.lock = threading.Lock()
    with pytest.raises(RuntimeError, match="Refused: it: no"):
        value_from(outcome_of(partial(fail, stubborn)))
    with pytest.raises(SystemExit):
        value_from(outcome_of(partial(fail, SystemExit(2))))
    assert value_from(outcome_of(lambda: 3)) == 3


def test_the_board_says_what_each_trial_does():
    said = []
    board = Board(said.append)
    board.show(Trial(0))
    board.remove(Trial(0))
    board.show(Trial(3), "prune")
    board.show(Trial(4), "evaluate")
    board.remove(Trial(3))
    board.show(Trial(4), "measure")
    assert said == [
        "original: begins",
        "trial 3: prune",
        "2 trials run; trial 3: prune; trial 4: evaluate",
        "trial 4: measure",
    ]


ONE = Strategy("one", (Phase("act", act, {"n": Range(0, 3)}),))


def study_of(folder, first):
    return Study(folder / "journal.log", ONE, OBJECTIVES, first, 0)


def point_of(number, candidate):
    footprint = Footprint(10, 1.0, 1.0, 0.0, 1, 1, 1.0)
    return Point(number, candidate, [], None, Quality(1.0, 1.0, 1.0), footprint, footprint)


def test_candidates_are_asked_for_before_the_first_is_told_and_never_twice(tmp_path):
    study = study_of(tmp_path, [{"act.n": 0}, {"act.n": 1}])
    candidates = Candidates(study, ONE, OBJECTIVES, ())
    asked = [candidates.next() for _ in range(4)]
    assert asked[:2] == [(1, {"act.n": 0}), (2, {"act.n": 1})]
    assert sorted(candidate["act.n"] for _, candidate in asked) == [0, 1, 2, 3]
    assert candidates.next() is None  # while all that there are run
    for number, candidate in asked:
        candidates.tell(point_of(number, candidate))
    assert candidates.next() is None


def test_a_journal_that_was_cut_off_loses_only_what_was_not_told(tmp_path):
    study = study_of(tmp_path, [{"act.n": n} for n in range(3)])
    asked = [study.ask() for _ in range(2)]
    assert asked == [(1, {"act.n": 0}), (2, {"act.n": 1})]
    study.tell(1, [1.0, 10.0])
    journal = tmp_path / "journal.log"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "wor')
    os.symlink(journal, f"{journal}.lock")
    said, logger = [], logging.getLogger("optuna")
    listening = logging.Handler()
    listening.emit = said.append
    logger.addHandler(listening)
    again = study_of(tmp_path, [{"act.n": n} for n in range(3)])
    logger.removeHandler(listening)
    assert said == []
    assert sorted(candidate["act.n"] for _, candidate in (again.ask(), again.ask())) == [1, 2]


def test_a_full_disk_ends_the_search_and_what_there_is_is_whole(tmp_path):
    """A limit on files' sizes is to writers what a full disk is."""
    trials = trials_of(tmp_path / "store", tmp_path / "log")
    crew = LocalExecutor()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with trials.store.locked(), crew.at_work(trials, lambda stage: None):
        (trials.store.folder / "points" / ".half.a1b2c3").touch()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            crew.submit(Trial(1, {"act.what": "yes"}))
            with pytest.raises(StorageFailed, match=r"must be a file that can be written.*is kept: make room"):
                crew.finished()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != "lock"]
    assert [path.read_text() for path in left] == ["{}"] * len(left)  # times that nothing was measured for, whole
