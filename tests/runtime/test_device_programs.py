"""Artifacts with programs of another device than the CPU, which calls between kernels run."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import fxpress.runtime
import numpy as np
import pytest
from fxpress.errors import InvalidArtifact
from fxpress.runtime.artifact import Artifact
from fxpress.runtime.container import Container
from fxpress.runtime.host_calls import Functions


def view(entry: int, shape: tuple[int, ...] = (4, 16), strides: tuple[int, ...] = (16, 1), offset: int = 0) -> Any:
    place = {"entry": entry, "offset": offset, "shape": shape, "strides": strides, "dtype": "float32"}
    return {"view": place}


# before the second kernel call: arena = turn(arena.T).T, and its first element = the sum that `turn` returns
CALL = {
    "at": 1, "op": "device::turn", "overload": "default",
    "args": [1, [view(2, (16, 4), (1, 16))]], "outputs": [view(2, (16, 4), (1, 16)), view(2, (), ())],
}  # fmt: skip


class Device(Artifact):
    """Knows the function of `CALL`."""

    def _functions(self) -> Functions:
        return {"device::turn": self.turn}

    def turn(self, index: int, arrays: list[np.ndarray]) -> list[np.ndarray]:
        assert self._container.programs()[index] == b"turn"
        (x,) = arrays
        return [x[::-1].copy(), np.float32(x.sum())]


def test_functions_get_numpy_views_of_memory(write_toy: Any) -> None:
    toy = write_toy(host_calls=[CALL], programs=(b"", b"turn"))
    artifact = Device(Container(toy.path), 1)
    x = toy.inputs()
    arena = 2 * x + 3 * toy.weight
    turned = arena.T[::-1].T.copy()
    turned[0, 0] = arena.sum()
    np.testing.assert_allclose(artifact(x), 2 * turned + toy.weight, rtol=1e-5)


def test_programs_are_kept_in_order(write_toy: Any) -> None:
    programs = tuple(bytes([number]) * number for number in range(12))
    container = Container(write_toy(programs=programs).path)
    assert tuple(container.programs()) == programs
    assert Container(write_toy("none.fxp").path).programs() == []


def test_programs_are_checked(write_toy: Any) -> None:
    path = write_toy(programs=(b"0123456789",)).path
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456780"))
    with pytest.raises(InvalidArtifact, match=r"is damaged: programs/0\.fxs has another checksum"):
        Container(path)


def test_programs_are_numbered_from_zero(write_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxpress.artifact.program_name", lambda index: f"programs/{index + 1}.fxs")
    container = Container(write_toy(programs=(b"a",)).path)
    with pytest.raises(InvalidArtifact, match=r"must be numbered from 0, not \['programs/1\.fxs'\]$"):
        container.programs()


@pytest.mark.parametrize("name", ["programs/00.fxs", "programs/-1.fxs", "programs/../0.fxs", "programs/0.exe", "0.fxs"])
def test_other_names_of_programs(write_toy: Any, name: str) -> None:
    path = write_toy().path
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")
    with pytest.raises(InvalidArtifact, match=r"must have no member but an artifact's own, not "):
        Container(path)


def test_a_device_that_is_not_installed(write_toy: Any, tmp_path: Path) -> None:
    path = write_toy(target="systolic{rows=4,columns=4}").path
    code = (
        "import sys; sys.modules['fxpress.backends'] = None\n"
        "import fxpress.runtime as runtime; runtime.load(sys.argv[1])"
    )
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "BackendUnavailable: this artifact was compiled for a systolic target, whose simulator" in result.stderr


def test_a_cpu_artifact_is_a_plain_one(write_toy: Any) -> None:
    assert type(fxpress.runtime.load(write_toy().path)) is Artifact
