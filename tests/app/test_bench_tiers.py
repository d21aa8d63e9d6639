"""The Bench page's runs of tiers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from truezram.app.backend.protocol import BenchResult, Progress, TiersRow
from truezram.app.backend.real import RealEngine, _hot_pages, _tiers_rows
from truezram.app.benchrows import TIERS_ROUNDS
from truezram.app.screens.benchmark import load_runs
from truezram.app.widgets.barchart import BarChart
from truezram.app.widgets.grid import Grid
from truezram.engine.measure import worker
from truezram.engine.measure.store_results import Latency, NotMeasured, Usage
from truezram.engine.measure.tiers_results import HotReads, Reads, TiersReport, TiersResult

from .conftest import NARROW, NOW, SMALL, WIDE, Bench, settle
from .test_pages import drawn, keys, start, text

Make = Callable[..., Bench]

TIERS_RUN = BenchResult(
    NOW,
    "AMD EPYC, avx512",
    180.0,
    notes=("Reading hot pages of the mix took, compared with the same pages without a policy, 1.010x afterwards",),
    tiers=(
        TiersRow("truezram", "fast", "hot", 60 << 20, 1.95, 1.04, hot_p50=900, hot_p99=2100),
        TiersRow("truezram", "fast", "cold", 40 << 20, 2.93, 0.69, 21_000, cold_p50=14_000, cold_p99=39_000),
        TiersRow(
            "truezram", "fast", "mix", 46 << 20, 2.55, 0.79, 14_000, hot_p50=905, hot_p99=2200, dense_p50=3100,
            dense_p99=6000, cold_p50=15_000, cold_p99=41_000,
        ),
        TiersRow("zram", "zstd", "", 58 << 20, 2.03, hot_p50=2900, hot_p99=5000),
    ),
)  # fmt: skip


async def test_tiers(real: Make, tmp_path: Path) -> None:
    """Rows as they come, losses as plain as wins; kept, drawn, compared, exported."""
    b = real(state=tmp_path / "state")

    def run(rounds: int, progress: Progress) -> BenchResult:
        assert rounds == TIERS_ROUNDS
        progress(0.1, "everything cold: ageing", TIERS_RUN.tiers[:1])
        progress(0.5, "mix: filling", TIERS_RUN.tiers)
        return TIERS_RUN

    b.engine.tiers_benchmark = run  # type: ignore[method-assign]
    async with b.app.run_test(size=(140, 30)) as pilot:
        await start(b, pilot, "5")
        screen = b.app.screen
        grid = screen.query_one(Grid)
        await pilot.press("t")
        await settle(pilot, lambda: len(grid.items) == 4 and not b.app.jobs.jobs)
        assert "truezram --no-tui benchmark tiers --rounds 9" in text(screen, "#head")
        rows = [item.cells for item in grid.items]
        assert [row[1] for row in rows] == ["hot", "cold", "mix", "zram zstd"]
        assert [head.title for head in grid.heads][:7] == [
            "",
            "PAGES",
            "MEMORY",
            "RATIO",
            "xZRAM",
            "CPU/PAGE",
            "HOT p50",
        ]
        hot, cold, _, zram = rows
        assert hot[2:12] == ("60M", "1.95", "1.04x", "-", "900ns", "2.1µs", "-", "-", "-", "-")
        assert cold[4:12] == ("0.69x", "21.0µs", "-", "-", "-", "-", "14.0µs", "39.0µs")
        assert (zram[0], zram[4], zram[5]) == ("=", "-", "-")
        assert (cold[12], hot[12]) == (1.0, 1.95 / 2.93)  # the bar
        assert [item.style for item in grid.items] == ["bad", "", "", "muted"]
        assert "1.010x afterwards" in text(screen, "#summary")
        table = screen.table()  # type: ignore[attr-defined]
        assert table.name == "benchmark-tiers"
        assert [row["scenario"] for row in table.rows] == ["hot", "cold", "mix", ""]
        await pilot.press("v")
        await pilot.pause()
        assert "= zram zstd" in drawn(screen.query_one(BarChart))
        await pilot.press("v", "m")
        await pilot.pause()
        assert [item.cells[-1] for item in grid.items] == ["1.00x"] * 4
    assert load_runs(tmp_path / "state" / "benchmarks.jsonl") == ([TIERS_RUN], "")


async def test_it_can_be_cancelled(real: Make) -> None:
    b = real()

    def run(rounds: int, progress: Progress) -> BenchResult:
        while True:  # until the report raises Cancelled
            progress(0.1, "everything hot: filling", TIERS_RUN.tiers[:1])
            time.sleep(0.01)

    b.engine.tiers_benchmark = run  # type: ignore[method-assign]
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "5")
        await pilot.press("t")
        await settle(pilot, lambda: len(b.app.screen.query_one(Grid).items) == 1)
        assert not {"Run", "Run the store", "Run devices", "Run tiers"} & set(keys(b))
        await pilot.press("x")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "cancelled" in text(b.app.screen, "#summary")


@pytest.mark.parametrize("size", [SMALL, WIDE, NARROW], ids=["80x24", "200x60", "60x20"])
def test_how_it_looks(snap_compare: Any, real: Make, size: tuple[int, int]) -> None:
    b = real()
    b.app.jobs._clock = lambda: 0.0
    b.engine.tiers_benchmark = lambda rounds, progress: TIERS_RUN  # type: ignore[method-assign]
    assert snap_compare(b.app, terminal_size=size, run_before=b.before(5, "5", "t"))


def test_the_engine_gives_rows_of_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    usage, zram = Usage(1 << 20, 400 << 10, 512 << 10, 0), Usage(1 << 20, 500 << 10, 640 << 10, 0)
    reads = (("hot", Reads(51, Latency(900, 2100, 3000))), ("cold", Reads(128, Latency(14_000, 39_000, 50_000))))
    ours = TiersResult("truezram", "fast", "mix", usage, policy_cpu_ns=256_000, reads=reads)
    theirs = TiersResult("zram", "zstd", "", zram, reads=(("hot", reads[0][1]),))
    report = TiersReport({"cpu": "AMD"}, (), 256, (ours, theirs), (NotMeasured("zram", "lz4", "no module", "Load it"),))
    known = (
        TiersRow("truezram", "fast", "mix", 512 << 10, 2.0, 0.8, 1000, 900, 2100, 0, 0, 14_000, 39_000),
        TiersRow("zram", "zstd", "", 640 << 10, 1.6, hot_p50=900, hot_p99=2100),
    )
    assert _tiers_rows(report) == known
    assert _hot_pages(report) == ()
    hot = HotReads((1.25, 1.5, 1.0), Latency(1, 2, 3), Latency(1, 2, 3))
    done = replace(report, hot_at_work=hot, hot_after=replace(hot, samples=(1.0,)))
    shown: list[object] = []

    def run(name: str, progress: Callable[..., None], **options: object) -> TiersReport:
        assert (name, options) == ("tiers benchmark", {"rounds": 7})
        progress(0.2, "everything hot: filling", None)
        progress(0.5, "mix", report)
        return done

    monkeypatch.setattr(worker, "run", run)
    found = RealEngine().tiers_benchmark(7, Progress(lambda fraction, text, part: shown.append(part)))
    assert shown == [None, known]
    assert (found.tiers, found.machine) == (known, "AMD")
    assert [note.rpartition(", ")[0].rpartition(",")[2] for note in found.notes[:1]] == [" 1.250x while it was at work"]
    assert found.notes[0].endswith("1.000x afterwards")
    assert found.notes[1].startswith("kernel zram (lz4) was not measured")
    assert "tiers benchmark" in worker.CALLS
