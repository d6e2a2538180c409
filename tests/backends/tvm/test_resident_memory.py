"""What a process that runs an artifact keeps in memory: the weights once, and for each caller the live activations.

Besides, every thread of a caller may have scratch memory that fits in the second cache.
"""

import json
import subprocess
import sys

import fxpress
import pytest
import torch

RUN = """
import json, sys, threading
import fxpress.runtime as runtime
import numpy as np

def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))

def call(artifact, barrier):
    x = artifact.sample_inputs()[0]
    for _ in range(3):
        barrier.wait()
        artifact.run_flat(x)

idle = runtime.load(sys.argv[1])
idle.self_test()
before = resident()
artifact = runtime.load(sys.argv[2])
found = []
for callers in (1, 4):
    barrier = threading.Barrier(callers)
    threads = [threading.Thread(target=call, args=(artifact, barrier)) for _ in range(callers)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    found.append(resident() - before)
assert "torch" not in sys.modules
memory = artifact.manifest["memory"]
print(json.dumps({"found": found, "peak": artifact.report()["peak_live_bytes"], **memory}))
"""
NOISE = 2 << 20  # code, metadata, samples, thread stacks
THREADS = 2


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A network with Winograd convolutions (made at load from weights of another form) and a wide linear layer."""
    folder = tmp_path_factory.mktemp("memory")
    target = fxpress.Target.parse("cpu{cores=2}")
    convolutions = [torch.nn.Conv2d(256, 256, 3, padding=1) for _ in range(4)]
    tail = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(256, 20_000)]
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 256, 3, padding=1), *convolutions, *tail)
    fxpress.compile(torch.nn.Linear(4, 4), (torch.randn(1, 4),)).save(folder / "idle.fxp")
    fxpress.compile(model, (torch.randn(1, 3, 56, 56),), target=target, num_threads=THREADS).save(folder / "model.fxp")
    command = [sys.executable, "-c", RUN, folder / "idle.fxp", folder / "model.fxp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return result | {"caller": 1.3 * result["peak"] + THREADS * target.l2 + NOISE}


def test_weights_are_resident_once_in_the_form_that_runs(measured):
    assert measured["derived"] > measured["load_only"] > 4 * 9 * 256 * 256 * 4 * 0.9, "Winograd must be in the test"
    weights = measured["constants"] - measured["load_only"] + measured["derived"]
    assert weights < measured["found"][0] <= weights + measured["caller"]


def test_each_further_caller_costs_its_live_activations(measured):
    one, four = measured["found"]
    assert 2 * measured["peak"] <= four - one <= 3 * measured["caller"]
