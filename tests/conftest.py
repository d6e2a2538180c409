"""What all tests share: golden files, quiet PyTorch, one thread pool that does not fight with the test workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# TVM's threads: no core of their own, no busy waiting. Read when the runtime makes its pool, so set before any import.
os.environ.setdefault("TVM_BIND_THREADS", "0")
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
torch.set_num_threads(1)

# The same examples in every run, unless asked for new ones: pytest --hypothesis-profile=random
settings.register_profile(
    "fixed",
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "random", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("fixed")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files with what tests produce")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compare text with tests/golden/<test file>/<test name>.txt; `--update-golden` rewrites the file."""
    path = GOLDEN / Path(request.node.path).stem / f"{request.node.name.replace('/', '-')}.txt"

    def check(text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {path}; run with --update-golden to write:\n{text}"
        assert text == path.read_text()

    return check


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_times_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantise all of a model unless a test asks for less: small models do not pay, and busy machines time badly."""
    from fxpress.quantizing import quantize

    monkeypatch.setitem(quantize.__kwdefaults__, "profitable", "off")
