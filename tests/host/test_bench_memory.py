"""The measurements of the memory system: what they compute, and a short run on a small device."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from speckv.bench import memory
from speckv.bench.memory_points import FORMATS, Size
from speckv.bench.pool import page_sectors, pool_loss
from speckv.bench.probe import Pass
from speckv.link.simulated import DRAM_COUNTS
from speckv_model.config import DeviceConfig

CONFIG = DeviceConfig.small()
SIZE = Size(tokens=16, write_tokens=16, widths=(16, 64), latencies=(20, 100), ratios=(0, 1), ratio_latencies=(100,),
            visits=8, singles=24, hits=256, alone=2, pool_pages=300)
PAGES = 24


def passed(accepted, answered):
    return Pass(np.array(accepted), np.array(answered), None, np.zeros(2, DRAM_COUNTS))


def test_in_flight():
    # The third is accepted in the clock in which the first is answered.
    assert passed([0, 1, 5, 6], [5, 9, 8, 9]).most_in_flight == 3
    assert passed([0, 4, 8], [3, 7, 11]).most_in_flight == 1


def test_rate_is_that_of_the_middle():
    # Two clocks a line once the first line has come after 1000.
    answered = 1000 + 2 * np.arange(4000)
    accepted = np.maximum(np.arange(4000), answered - 200)
    assert passed(accepted, answered).lines_per_clock == pytest.approx(0.5, rel=0.01)
    # Too few for that.
    assert passed([0, 1, 2, 3], [100, 101, 102, 104]).lines_per_clock == 4 / 104


def test_pool():
    assert set(page_sectors("fixed", 8)) == {8}
    assert set(page_sectors("speckv", 0)) == {17}
    assert set(page_sectors("lossless", 0)) <= set(range(20, 26))
    found = pool_loss(CONFIG, "mixed", 2000)
    assert found == pool_loss(CONFIG, "mixed", 2000)
    assert 0 <= found["holes_pct"] <= found["mean_pct"] <= found["worst_pct"] < 30
    assert found["pages"] >= 2000 and found["samples"] > 10


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    console = Console(file=io.StringIO(), width=120)
    report = memory.run(CONFIG, SIZE, folder, console)
    assert json.loads((folder / "memory.json").read_text()) == json.loads(json.dumps(report))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in
               (folder / "memory_reads.png", folder / "memory_hit_ratio.png"))
    shown = console.file.getvalue()
    assert all(("met" if bar["met"] else "missed") in shown for bar in report["bars"].values())
    return report


def test_single_figures(report):
    assert report["hit_misses"] == report["miss_tlb_misses"] == report["miss_cache_hits"] == 0
    assert 0.9 < report["hit_lines_per_clock"] <= 1
    assert 1 <= report["hit_latency_clocks"] < 40
    assert 5 < report["miss_first_line_clocks_plus_latency"] <= report["miss_first_line_worst"] < 500
    assert 0 < report["amplified_lines_per_clock"] <= 1
    assert 0 < report["write_lines_per_clock"] <= 1
    assert 0 < report["write_lines_per_clock_by_token"] <= 1
    assert 0 < report["write_lines_per_clock_by_token_mixed"] <= 1
    # A quarter of the lines, and the entry twice at most; the bytes of an entry are a quarter of a line.
    assert 0.25 < report["dram_enabled_bytes_per_kv_byte"] < report["dram_write_bytes_per_kv_byte"] <= 0.25 + 3 / 64
    assert 4 <= report["lines_in_flight"] <= 64
    assert 1 <= report["fetches_in_flight"] <= 64
    assert {key: bar["value"] for key, bar in report["bars"].items()}.items() <= report.items()
    assert report["parameters"]["config"] == CONFIG.to_dict()


def test_curves_of_reads(report):
    points = report["curves"]["reads"]
    assert len(points) == len(FORMATS) * 4
    stored = {"raw": 64, "fixed 8": 16, "speckv": 33}
    for point in points:
        assert 0 < point["lines_per_clock"] <= point["limit"] + 0.05 <= 1.05
        assert PAGES <= point["pages_fetched"] <= 2 * PAGES
        if point["format"] in stored:
            assert stored[point["format"]] <= point["dram_bytes_per_line"] <= stored[point["format"]] * 2
    for name in report["writes"]:
        near, far = ({point["bytes_per_clock"]: point["lines_per_clock"] for point in points
                      if point["format"] == name and point["latency"] == latency} for latency in (20, 100))
        assert all(near[width] > 0.95 * far[width] for width in near)


def test_curves_over_the_hit_ratio(report):
    points = report["curves"]["hit_ratio"]
    assert [point["hit_ratio"] for point in points] == [0, 1, 0, 1]
    assert [point["unit"] for point in points] == ["page", "page", "line", "line"]
    assert all(point["pages_fetched"] >= wanted for point, wanted in zip(points, (SIZE.visits, 0, SIZE.singles, 0)))
    assert all(none["lines_per_clock"] < every["lines_per_clock"] for none, every in zip(points[::2], points[1::2]))
    # In two ways what shall stay is displaced where the other one is busy.
    assert all(none["counted_hit_ratio"] < every["counted_hit_ratio"] for none, every in zip(points[::2], points[1::2]))
