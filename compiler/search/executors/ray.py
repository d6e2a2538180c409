"""`executor="ray"`: trials on the nodes of a Ray cluster, one of which does nothing but measure."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import BackendUnavailable, InvalidInput
from ...machine import SharedMachine
from ...progress import Progress
from ...runtime.container import replaced_file
from ..footprint import Footprint
from ..frontier import Point
from ..store import Store, explained
from ..trials import Trial, Trials
from .board import Board
from .executor import Executor
from .wire import outcome_of, pack, pack_trials, unpack, value_from
from .workplace import Workplace

METER = "fxpress_meter"
"""The resource of a node that is to measure: ray start --resources '{"fxpress_meter": 1}'."""
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_FOR_A_NODE = 60.0
"""So long a node may be busy with something else before it is asked to measure."""


class RayExecutor(Executor):
    """Runs trials on a Ray cluster: the one that `ray.init` connected to, or that at `address`.

    One node measures footprints, with all of its CPUs reserved, so that Ray runs nothing else there: one that has the
    resource "fxpress_meter", else one that this process is not on. The others run `workers` trials at a time, by
    default as many as they have CPUs, each with `cpus` of them. Nodes need fxpress, the user's modules, and CPUs of one
    kind. They need not see the search's folder: artifacts are sent here. A trial whose worker dies is refused.
    """

    def __init__(self, workers: int | None = None, *, address: str = "auto", cpus: int = 1) -> None:
        self._ray = _ray()
        errors = self._ray.exceptions
        self._deaths = (errors.RayActorError, errors.NodeDiedError, errors.OutOfMemoryError)
        self._wanted = workers
        self._address = address
        self.threads = cpus
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Trial]] = {}
        self._meter: Any = None
        self._has_connected = False

    def begin(self, trials: Trials, progress: Progress) -> None:
        packed = pack_trials(trials)
        self._store = trials.store
        self._board = Board(progress)
        self._connect()
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        here = self._ray.get_runtime_context().get_node_id()
        measuring = _measuring_node(nodes, here)
        places = sum(int(node["Resources"]["CPU"]) // self.threads for node in nodes if node is not measuring)
        self.workers = places if self._wanted is None else self._wanted
        if not 0 < self.workers <= places:
            raise InvalidInput(
                f"workers must be at most {places}, for which the nodes that do not measure have room with "
                f"{self.threads} CPUs each, not {self.workers}"
            )
        progress(f"start {self.workers} workers on {len(nodes) - 1} nodes")
        self._meter = self._start_meter(measuring, trials.meter)
        self._packed = self._ray.put(packed)
        self._token = self._store.token()
        self._idle = [self._start_worker() for _ in range(self.workers)]

    def submit(self, trial: Trial) -> None:
        worker = self._idle.pop() if self._idle else self._start_worker()
        self._busy[worker.run.remote(pack(trial))] = worker, trial
        self._board.show(trial)

    def finished(self) -> Point:
        while True:
            done, _ = self._ray.wait(list(self._busy), timeout=SECONDS_BETWEEN_LOOKS)
            if done:
                return self._point(done[0])
            for worker, trial in self._busy.values():
                with contextlib.suppress(self._ray.exceptions.RayError):  # what it means is seen when it is done
                    self._board.show(trial, self._ray.get(worker.stage.remote(), timeout=SECONDS_BETWEEN_LOOKS))

    def end(self) -> None:
        for worker in self._idle:
            with contextlib.suppress(self._ray.exceptions.RayError):  # it is dead, and so cleans nothing
                self._ray.get(worker.clean.remote(), timeout=SECONDS_FOR_A_NODE)
        for worker in (*self._idle, *(worker for worker, _ in self._busy.values())):
            self._ray.kill(worker)
        if self._meter is not None:
            self._ray.kill(self._meter)
        self._idle, self._busy, self._meter = [], {}, None
        if self._has_connected:
            self._ray.shutdown()
            self._has_connected = False

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        try:
            self._ray.init(address=self._address, log_to_driver=False)
        except ConnectionError as error:
            raise InvalidInput(
                f'executor="ray" must find a cluster at address {self._address!r}, but: {error}; '
                "start one with: ray start --head, and on other machines: ray start --address=HEAD:6379"
            ) from error
        self._has_connected = True

    def _start_meter(self, node: Mapping[str, Any], meter: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": node["Resources"]["CPU"], "scheduling_strategy": place}
        actor = self._ray.remote(_Meter).options(**options).remote(sys.path, pack(meter))
        try:
            self._ray.get(actor.is_ready.remote(), timeout=SECONDS_FOR_A_NODE)
        except self._ray.exceptions.GetTimeoutError as error:
            self._ray.kill(actor)
            raise InvalidInput(
                f"node {node['NodeManagerAddress']} must be free to measure, but something else has had CPUs of it for "
                f"{SECONDS_FOR_A_NODE:.0f} s; end that, or start another with the resource {METER!r}"
            ) from error
        return actor

    def _start_worker(self) -> Any:
        options = {"num_cpus": self.threads, "max_concurrency": 2}  # it tells its stage while it runs
        worker = self._ray.remote(_Worker).options(**options)
        return worker.remote(sys.path, self._packed, self._meter, self._token, self.threads)

    def _point(self, reference: Any) -> Point:
        worker, trial = self._busy.pop(reference)
        self._board.remove(trial)
        try:
            outcome, artifact = self._ray.get(reference)
        except self._deaths as error:
            self._ray.kill(worker)
            reason = f"its worker died: {' '.join(str(error).split())}"
            if not trial.number:
                raise InvalidInput(f"model must run in a worker, but while the original did, {reason}") from error
            return trial.refused(reason)
        self._idle.append(worker)
        return self._kept(value_from(outcome), artifact)

    def _kept(self, point: Point, artifact: bytes | None) -> Point:
        """The Point with its artifact in the search's own folder: `artifact` is one that was made elsewhere."""
        if artifact is None or point.artifact is None:
            return point
        path = self._store.artifact(point.artifact.stem)
        with explained(path), replaced_file(path) as file:
            file.write(artifact)
        return replace(point, artifact=path)


class _Worker:
    """An actor that runs trials. Its work is kept in the search's folder if it sees that, else in one of its own."""

    def __init__(self, path: Sequence[str], trials: bytes, meter: Any, token: str, threads: int) -> None:
        _look_in(path)
        self._node = Path(tempfile.gettempdir()) / f"fxpress-{token}"
        self._place = Workplace(trials, SharedMachine(self._node), threads)
        self._place.trials.meter = _Measured(meter)
        self._is_away = not self._place.trials.store.is_of(token)
        if self._is_away:
            self._place.trials.store = Store(self._node / "store")
        self._stage = "begins"

    def run(self, request: bytes) -> tuple[bytes, bytes | None]:
        """The packed outcome of a packed Trial, and its artifact if the search's process cannot see that."""
        outcome = self._place.run(request, self._show)
        point = unpack(outcome)
        if not self._is_away or not isinstance(point, Point) or point.artifact is None:
            return outcome, None
        return outcome, point.artifact.read_bytes()

    def stage(self) -> str:
        """What it is doing."""
        return self._stage

    def clean(self) -> None:
        """Delete what is on its node alone."""
        shutil.rmtree(self._node, ignore_errors=True)

    def _show(self, stage: str) -> None:
        self._stage = stage


class _Meter:
    """The actor that measures, alone on its node."""

    def __init__(self, path: Sequence[str], meter: bytes) -> None:
        _look_in(path)
        self._meter = unpack(meter)

    def is_ready(self) -> bool:
        """Once it has its node."""
        return True

    def measure(self, artifact: bytes) -> bytes:
        """The packed Footprint of an artifact, or the Failure that it was."""
        with tempfile.TemporaryDirectory(prefix="fxpress-") as folder:
            path = Path(folder) / "model.fxp"
            path.write_bytes(artifact)
            return outcome_of(lambda: self._meter(path))


class _Measured:
    """What measures in a worker: the node that is there for it."""

    def __init__(self, meter: Any) -> None:
        self._meter = meter

    def __call__(self, path: Path) -> Footprint:
        found: Footprint = value_from(_ray().get(self._meter.measure.remote(path.read_bytes())))
        return found


def _look_in(path: Sequence[str]) -> None:
    """Let modules be found where the search finds them, for what is there on this node."""
    sys.path += [folder for folder in path if folder not in sys.path]


def _measuring_node(nodes: Sequence[Mapping[str, Any]], here: str) -> Mapping[str, Any]:
    """The node that is to measure: one that says so, else the last that is elsewhere."""
    said = [node for node in nodes if METER in node["Resources"]]
    elsewhere = [node for node in nodes if node["NodeID"] != here]
    if len(nodes) < 2:
        raise InvalidInput(
            f"cluster must have at least two nodes with CPUs, one of which measures, not {len(nodes)}; "
            'start another, or use executor="processes"'
        )
    return (said or elsewhere)[-1]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailable(
            'executor="ray" needs Ray, which is not installed; install it with pip install "fxpress[ray]"'
        ) from error
    return ray
