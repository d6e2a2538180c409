from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.search.footprint import QUIET_ROUNDS, Meter, measure_footprints, quiet_times
from torch import nn


def test_rounds_count_in_which_nothing_else_ran() -> None:
    quiet = [[1.0, 1.1, 1.2]] * QUIET_ROUNDS
    disturbed = [[2.0, 0.5, 2.0], [1.3, 1.3, 1.3]]
    assert quiet_times([disturbed[0], *quiet, disturbed[1]]) == [time for times in quiet for time in times]


def test_few_rounds_all_count() -> None:
    assert quiet_times([[2.0], [1.0]]) == [1.0, 2.0]


def test_artifacts_measured_in_turns_say_what_they_cost(tmp_path: Path) -> None:
    torch.manual_seed(0)
    paths = [tmp_path / "wide.fxp", tmp_path / "narrow.fxp"]
    for path, width in zip(paths, (512, 8), strict=True):
        net = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4)).eval()
        fxpress.compile(net, (torch.randn(8, 16),)).save(path)
    wide, narrow = measure_footprints(paths, seconds=0.1)
    assert (wide.size, narrow.size) == tuple(path.stat().st_size for path in paths)
    assert wide.macs == 8 * (16 * 512 + 512 * 4)
    assert wide.throughput == pytest.approx(8 / wide.latency)
    assert wide.p99 >= wide.latency > 0
    assert wide.ram is not None
    assert Meter(seconds=0.1)(paths[1]).macs == narrow.macs
