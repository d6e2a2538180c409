"""Trials on a Ray cluster of two nodes, both on this machine: one works, the other measures."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

import pytest
from executor_tasks import INPUTS, Refused, lines, small_model, trials_of
from fxpress import optimize
from fxpress.errors import InvalidInput
from fxpress.search.executors.executor import executor_of
from fxpress.search.phases import Strategy
from fxpress.search.strategies import PRUNE
from fxpress.search.trials import Trial

pytest.importorskip("optuna", reason="needs optuna")
ray = pytest.importorskip("ray", reason="needs Ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of files and sockets that it leaves to the end

MEMORY = 100_000_000
"""Bytes of a node for objects."""


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False},
    )
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_trials_on_a_cluster(cluster, tmp_path, monkeypatch):
    """One cluster for all, as it takes seconds to start."""
    ray.init(address=cluster.address, log_to_driver=False)
    with pytest.raises(
        InvalidInput, match="cluster must have at least two nodes with CPUs, one of which measures, not 1"
    ):
        optimize(
            small_model(), (INPUTS,), evaluate=len, strategy=Strategy("none", (PRUNE,), ({},)), executor="ray",
            storage=tmp_path / "alone",
        )  # fmt: skip
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

    log, stages = tmp_path / "log", []
    trials = trials_of(tmp_path / "store", log)
    crew = executor_of("ray", None)
    token = uuid.uuid4().hex
    monkeypatch.setattr(trials.store, "token", lambda: token)  # nodes are to think that they do not see it
    with crew.at_work(trials, stages.append):
        assert crew.workers == 1
        crew.submit(Trial(0))
        original = crew.finished()
        crew.submit(Trial(1, {"act.what": "yes"}))
        point = crew.finished()
        assert point.is_whole, point.refused
        for made in (original, point):
            assert made.artifact.parent == tmp_path / "store/artifacts"
            assert made.artifact.stat().st_size == made.footprint.size
        measuring, what = zip(*lines(log), strict=True)
        assert set(what) == {"measures", "measured"}
        assert len(set(measuring)) == 1

        crew.submit(Trial(2, {"act.what": "die"}))
        assert crew.finished().refused.startswith("its worker died: ")
        crew.submit(Trial(3, {"act.what": "raise"}))
        with pytest.raises(Refused, match="candidate: it asked for it") as caught:
            crew.finished()
        assert "in act" in str(caught.value.__cause__)
    assert not (Path(tempfile.gettempdir()) / f"fxpress-{token}").exists()
    assert "trial 1: begins" in stages
    assert not list((tmp_path / "store/programs").iterdir())  # what was made elsewhere but the artifacts stayed there
