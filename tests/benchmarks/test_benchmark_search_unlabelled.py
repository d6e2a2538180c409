from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fxpress.search.footprint import Footprint
from fxpress.search.frontier import Point
from search_unlabelled import Case, Settings, measured, promises_kept, search, table
from torch import nn

FOOTPRINT = Footprint(size=1, latency=1.0, p99=1.0, spread=0.0, ram=1, macs=1, throughput=1.0)


def case() -> Case:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    items = [(torch.randn(1, 16),) for _ in range(12)]
    return Case(net, items[0], items[:4], items[4:8], items[8:])


def test_a_search_without_labels_is_checked_and_timed_beside_eager(tmp_path: Path) -> None:
    found = search(case(), Settings(trials=2, seconds=60), tmp_path)
    rows = measured(case(), found.points, Settings(rounds=1, threads=1), classifier=True)
    assert [row["what"] for row in rows] == ["eager", *(point.describe() for point in found.points)]
    assert rows[0]["size"] == case().weight_bytes() == 4 * (16 * 64 + 64 + 64 * 4 + 4)
    for row in rows[1:]:
        assert set(row["checked"]) == {"cosine", "top-1"}
        assert row["smaller"] == pytest.approx(rows[0]["size"] / row["size"])
    assert table("net", rows).row_count == len(rows)


def test_promises_are_kept_within_a_tenth() -> None:
    kept = [
        Point(number, {}, [], footprint=replace(FOOTPRINT, latency=latency), promised=FOOTPRINT)
        for number, latency in ((0, 5.0), (1, 1.09), (2, 1.11), (3, 0.95), (4, 0.85))
    ]
    assert promises_kept(kept) == 0.5
    assert promises_kept(kept[:1]) is None
    assert promises_kept([Point(5, {}, [], refused="too slow", promised=FOOTPRINT)]) is None
