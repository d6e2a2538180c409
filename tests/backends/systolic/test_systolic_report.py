"""Cycles, bytes and energy by layer; SCALE-Sim's figures; the table of energies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fxpress.backends.systolic.architecture import Architecture, Memory
from fxpress.backends.systolic.report.energy import EnergyTable
from fxpress.backends.systolic.report.performance import LayerFacts, Performance
from fxpress.backends.systolic.report.scalesim import baseline_scalesim
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.backends.systolic.simulator.functional import run
from fxpress.errors import InvalidInput
from one_layer import ARCHITECTURE, FACTS, one_layer


@pytest.fixture(scope="module")
def performance() -> Performance:
    return Performance.of(ARCHITECTURE, [simulate_cycles(one_layer())], [FACTS])


def test_the_program_computes_what_it_says() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-128, 128, (8, 4)).astype(np.int8), rng.integers(-128, 128, (4, 4)).astype(np.int8)
    found = run(one_layer(), {"x": x, "w": w})
    np.testing.assert_array_equal(found["sums"], x.astype(np.int32) @ w.astype(np.int32))
    np.testing.assert_array_equal(found["y"], np.maximum(x[::2], x[1::2]))


def test_cycles_add_up_to_the_run(performance: Performance) -> None:
    timeline = simulate_cycles(one_layer())
    assert performance.total.cycles == timeline.total
    assert {name: busy for name, busy in performance.total.busy.items()} == {
        unit.name.lower(): busy for unit, busy in timeline.busy().items()
    }
    assert performance.seconds == timeline.seconds
    assert all(layer.cycles > 0 for layer in performance.layers)


def test_bytes_are_those_of_the_instructions(performance: Performance) -> None:
    product, maximum = performance.layers
    assert (product.dram_read, product.dram_written) == (8 * 4 + 4 * 4, 8 * 4 * 4)
    assert (maximum.dram_read, maximum.dram_written) == (0, 4 * 4)
    total = simulate_cycles(one_layer()).traffic()
    inside = sum(size for (memory, _), size in total.items() if memory is not Memory.DRAM)
    assert performance.total.scratchpad_bytes == inside


def test_transfers_are_inputs_and_outputs(performance: Performance) -> None:
    (transfer,) = performance.transfers
    assert (transfer.written, transfer.read) == (8 * 4 + 4 * 4, 8 * 4 * 4 + 4 * 4)
    assert performance.transfer_cycles == transfer.cycles(ARCHITECTURE) == 48 // 4 + 144 // 4


def test_utilization_and_roof(performance: Performance) -> None:
    product, maximum = performance.layers
    assert performance.utilization(product) == 128 / (16 * product.cycles)
    assert performance.array_utilization(product) == 128 / (16 * product.busy["array"])
    assert performance.attainable(product) == 128 * 4 / 128  # it writes more than it reads
    assert performance.utilization(maximum) == performance.array_utilization(maximum) == 0
    assert product.bound_by == "store"
    assert performance.baseline(maximum) == {}
    assert performance.baseline(product) == {"os": 2 * (4 + 6) - 1, "ws": 8 + 10 - 1}


def test_energy_is_counts_times_the_table(performance: Performance) -> None:
    (product, _), table = performance.layers, EnergyTable.load()
    assert product.energy["array"] == pytest.approx(product.busy["array"] * 16 * 0.3e-12)
    assert product.energy["dram"] == pytest.approx(product.dram_bytes * 1950e-12 / 8)
    assert product.energy["vector"] == 0
    assert product.joules == sum(product.energy.values())
    assert "Horowitz" in table.source


def test_plain_data(performance: Performance) -> None:
    data = json.loads(json.dumps(performance.to_json()))
    assert data["total"]["cycles"] == performance.total.cycles
    assert [LayerFacts.from_json(layer["facts"]) for layer in data["layers"]] == list(FACTS)
    assert Architecture.parse(data["architecture"]) == ARCHITECTURE


@pytest.mark.parametrize(
    ("size", "gemm", "os", "ws"),
    [
        # the layers and the cycles that SCALE-Sim 3.0.0 itself reported, but for "f", which is its formula alone
        (16, (1, 113 * 113, 64, 147), 565_691, 512_599),  # f: weight stationary
        (32, (1, 113 * 113, 64, 147), 167_199, 128_629),
        (16, (1, 56 * 56, 64, 576), 475_103, 458_207),
        (32, (1, 56 * 56, 64, 576), 125_047, 116_279),
        (16, (1, 14 * 14, 256, 2304), 485_471, 557_567),
        (32, (1, 14 * 14, 256, 2304), 132_495, 167_039),
        (16, (1, 197, 384, 384), 129_167, 139_967),
        (32, (1, 197, 384, 384), 37_463, 41_903),
        (16, (1, 1, 1000, 512), 34_145, 94_751),
        (32, (1, 1, 1000, 512), 18_367, 48_639),
        (16, (1, 256, 256, 256), 73_215, 77_311),
        (32, (1, 256, 256, 256), 20_351, 22_399),
    ],
)
def test_baseline_is_what_scalesim_reports(size: int, gemm: tuple[int, int, int, int], os: int, ws: int) -> None:
    architecture = Architecture(rows=size, columns=size)
    assert baseline_scalesim(gemm, architecture, "os") == os
    assert baseline_scalesim(gemm, architecture, "ws") == ws
    assert baseline_scalesim((3, *gemm[1:]), architecture, "os") == 3 * os


def test_baseline_knows_two_dataflows() -> None:
    with pytest.raises(InvalidInput, match=r"^dataflow must be 'os' or 'ws', not 'both'$"):
        baseline_scalesim((1, 1, 1, 1), ARCHITECTURE, "both")


@pytest.mark.parametrize(
    ("size", "picojoules"), [(8192, 10), (32768, 20), (1048576, 100), (16384, 200**0.5), (2048, 5)]
)
def test_memories_between_those_of_the_table(size: int, picojoules: float) -> None:
    assert EnergyTable.load().memory(size) * 8 == pytest.approx(picojoules)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    data = {**EnergyTable.load().to_json(), "dram_pj_for_64_bits": 1}
    (tmp_path / "mine.json").write_text(json.dumps(data))
    assert EnergyTable.load(tmp_path / "mine.json").dram == 1


@pytest.mark.parametrize("change", [{"operations_pj": {}}, {"memory_pj_for_64_bits": 3}, {"dram_pj_for_64_bits": "x"}])
def test_a_file_that_is_no_table(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({**EnergyTable.load().to_json(), **change}))
    with pytest.raises(InvalidInput, match=r"^energy table must be a JSON file like energy\.json, not "):
        EnergyTable.load(tmp_path / "bad.json")
