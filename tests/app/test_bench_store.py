"""The Bench page's runs of the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from truezram.app.backend.protocol import BenchResult, Progress, StoreRow
from truezram.app.backend.real import _store_rows
from truezram.app.benchrows import STORE_ROUNDS, STORE_SIZE
from truezram.app.screens.benchmark import load_runs
from truezram.app.widgets.barchart import BarChart
from truezram.app.widgets.grid import Grid
from truezram.engine.measure.results import Speed
from truezram.engine.measure.store_results import StoreReport, StoreResult, Usage

from .conftest import NOW, SMALL, Bench, settle
from .test_pages import RUN, drawn, keys, start, text

Make = Callable[..., Bench]

STORE_RUN = BenchResult(
    NOW,
    "AMD EPYC, avx512",
    90.0,
    notes=("kernel zram (zstd) was not measured: this kernel's zram has no 'zstd'",),
    store=(
        StoreRow("truezram", "fast", 1, 2.8, 2.8 / 2.4, 1.02, 1.03, 1.07, 0.4, 0.9e9, 4.0e9, 3.0, 4.0),
        StoreRow("truezram", "dense", 1, 3.5, 3.5 / 2.4, 1.02, 1.03, 1.07, 0.4, 0.2e9, 2.0e9, 0.7, 2.0),
        StoreRow("zram", "lz4", 1, 2.4, 0.0, 1.05, 1.06, 3.1, 5.0, 0.3e9, 1.0e9),
    ),
)


async def test_the_store(real: Make, tmp_path: Path) -> None:
    """Its rows as they come, losses as plain as wins; kept beside the codecs' runs, drawn, compared, exported."""
    b = real(state=tmp_path / "state")

    def run(size: int, rounds: int, progress: Progress) -> BenchResult:
        assert (size, rounds) == (STORE_SIZE, STORE_ROUNDS)
        progress(0.1, "filling", STORE_RUN.store[:1])
        progress(0.5, "round 1", STORE_RUN.store)
        return STORE_RUN

    b.engine.benchmark = lambda seconds, progress: RUN  # type: ignore[method-assign]
    b.engine.store_benchmark = run  # type: ignore[method-assign]
    async with b.app.run_test(size=(120, 30)) as pilot:
        await start(b, pilot, "5")
        screen = b.app.screen
        grid = screen.query_one(Grid)
        await pilot.press("s")
        await settle(pilot, lambda: len(grid.items) == 3 and not b.app.jobs.jobs)
        assert "benchmark store --size 128M --rounds 3" in text(screen, "#head")
        rows = {item.cells[1]: item for item in grid.items}
        heads = [head.title for head in grid.heads]
        fast = dict(zip(heads, rows["fast"].cells, strict=True))
        assert (fast["RATIO"], fast["xRATIO"], fast["USED/COMPR"]) == ("2.80", "1.17x", "1.020")
        assert (fast["REWRITTEN"], fast["FREED"]) == ("1.030", "1.07 0.4s")
        assert (fast["xWRITE"], fast["xREAD"]) == ("3.00x", "4.00x")
        assert rows["fast"].style == ""
        assert rows["dense"].style == "bad"  # its writes are slower
        assert dict(zip(heads, rows["zram lz4"].cells, strict=True))["xRATIO"] == "-"
        assert "was not measured" in text(screen, "#summary")
        table = screen.table()  # type: ignore[attr-defined]
        assert table.name == "benchmark-store"
        assert [row["implementation"] for row in table.rows] == ["truezram", "truezram", "zram"]
        await pilot.press("v")
        await pilot.pause()
        assert "fast 1" in drawn(screen.query_one(BarChart))
        await pilot.press("v", "m", "r")
        await settle(pilot, lambda: len(grid.items) == 4 and not b.app.jobs.jobs)
        assert "benchmark codec" in text(screen, "#head")
        assert grid.items[0].cells[-1] == "-"  # nothing of a store's run is comparable
        await pilot.press("p")
        await settle(pilot, lambda: len(grid.items) == 3)
        assert grid.items[0].cells[-1] == "1.00x"
    assert load_runs(tmp_path / "state" / "benchmarks.jsonl") == ([STORE_RUN, RUN], "")


async def test_the_store_can_be_cancelled(real: Make) -> None:
    b = real()

    def run(size: int, rounds: int, progress: Progress) -> BenchResult:
        while True:  # until the report raises Cancelled
            progress(0.1, "filling", STORE_RUN.store[:1])
            time.sleep(0.01)

    b.engine.store_benchmark = run  # type: ignore[method-assign]
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "5")
        await pilot.press("s")
        await settle(pilot, lambda: len(b.app.screen.query_one(Grid).items) == 1)
        assert not {"Run", "Run the store"} & set(keys(b))
        await pilot.press("x")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "cancelled" in text(b.app.screen, "#summary")


def test_the_engine_gives_rows_of_what_is_known() -> None:
    """Also while nothing but the memory is known."""
    filled, later = Usage(4096, 1000, 1100, 0), Usage(4096, 1000, 1200, 0)
    ours = StoreResult("truezram", "fast", 1, 4096, filled, Speed((200.0, 300.0)), Speed((900.0,)))
    zram = StoreResult("zram", "lz4", 1, 4096, later, Speed((100.0,)), Speed(()), after_free=later, free_seconds=2)
    found = _store_rows(StoreReport({}, (), 4096, 1, (ours, zram), (), ()))
    assert found[0] == StoreRow(
        "truezram", "fast", 1, 4096 / 1100, ratio_over=12 / 11, packed=1.1, write_rate=250e6, read_rate=900e6
    )
    assert (found[1].packed_discarded, found[1].discarded_seconds, found[1].read_rate) == (1.2, 2, 0.0)
