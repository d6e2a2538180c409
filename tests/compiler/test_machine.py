"""Machines that processes share: many compute, or one alone. Threads stand for processes: locks are of open files."""

from __future__ import annotations

import contextlib
import threading
import time
from types import SimpleNamespace

from fxpress import kernel_times
from fxpress.cpu import CpuTarget
from fxpress.kernel_times import KernelUse
from fxpress.machine import Machine, SharedMachine, share, this_machine
from fxpress.search import footprint


def test_one_alone_finds_all_others_standing_still(tmp_path):
    """Each worker gives way after each piece of work; the one that measures looks on for a while."""
    pieces, measured = [0, 0, 0], []
    over = threading.Event()

    def work(number):
        machine = SharedMachine(tmp_path)
        with machine.working():
            while not over.is_set():
                pieces[number] += 1
                machine.give_way()
        machine.close()

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    machine = SharedMachine(tmp_path)
    while not all(pieces):
        time.sleep(0.001)
    for _ in range(5):
        with machine.alone():
            before = list(pieces)
            time.sleep(0.01)
            measured.append((before, list(pieces)))
    over.set()
    for worker in workers:
        worker.join()
    machine.close()
    assert all(before == after for before, after in measured)
    assert measured[0] != measured[-1]  # they went on between


def test_two_that_want_to_be_alone_take_turns(tmp_path):
    inside, together = [], []

    def measure():
        machine = SharedMachine(tmp_path)
        with machine.working():
            for _ in range(20):
                with machine.alone(), machine.alone():
                    inside.append(1)
                    together.append(len(inside))
                    inside.pop()
                machine.give_way()
        machine.close()

    threads = [threading.Thread(target=measure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1] * 60


def test_a_machine_is_shared_by_those_who_say_so(tmp_path):
    def look():
        machine = SharedMachine(tmp_path)
        share(machine)
        found.append(this_machine() is machine)
        machine.close()

    found = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [True]
    assert type(this_machine()) is Machine
    with this_machine().alone():
        pass


KERNEL = KernelUse("node", "key", "kernel", 1, 1, False)


def test_footprints_and_kernels_are_measured_alone(monkeypatch):
    done = []

    class Watched(Machine):
        @contextlib.contextmanager
        def alone(self):
            done.append("alone")
            yield
            done.append("over")

    def measured(*_):
        done.append("measured")
        return [[1.0]]

    for module, name in ((footprint, "_measured"), (kernel_times, "_run_worker")):
        monkeypatch.setattr(module, "this_machine", Watched)
        monkeypatch.setattr(module, name, measured)
    footprint.measure_footprints([])
    times = kernel_times.KernelTimes(CpuTarget.parse("cpu"))
    times.of(SimpleNamespace(kernel_uses=lambda: [KERNEL], timing_code=lambda keys: None))
    assert done == ["alone", "measured", "over"] * 2
