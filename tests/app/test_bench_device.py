"""The Bench page's runs of devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from truezram.app.backend.protocol import BenchResult, DeviceRow, Progress
from truezram.app.backend.real import _device_rows, _notes
from truezram.app.benchrows import DEVICE_ROUNDS, DEVICE_RUNTIME, _device_key
from truezram.app.screens.benchmark import load_runs
from truezram.app.widgets.barchart import BarChart
from truezram.app.widgets.grid import Grid
from truezram.engine.measure.device_results import Case, DeviceReport, DeviceResult, Sample
from truezram.engine.measure.store_results import Latency, NotMeasured

from .conftest import NOW, SMALL, Bench, settle
from .test_pages import drawn, keys, start, text

Make = Callable[..., Bench]

DEVICE_RUN = BenchResult(
    NOW,
    "AMD EPYC, avx512",
    60.0,
    notes=("kernel zram (zstd) was not measured: this kernel's zram has no 'zstd'",),
    devices=(
        DeviceRow("truezram", "fast", 2, "randread", 1, 20e3, 45_000, 60_000, 90_000, 30_000, 0.9, 0.5),
        DeviceRow("null", "", 2, "randread", 1, 22e3, 41_000, 55_000, 80_000, 25_000),
        DeviceRow("zram", "lz4", 0, "randread", 1, 40e3, 20_000, 30_000, 40_000, 20_000, 1.8),
        DeviceRow("truezram", "fast", 2, "randwrite", 32, 90e3, 300_000, 600_000, 900_000, 9_000, 0.9, 1.25),
    ),
)


async def test_devices(real: Make, tmp_path: Path) -> None:
    """Rows as they come, losses as plain as wins; kept, drawn, compared, exported."""
    b = real(state=tmp_path / "state")

    def run(runtime: float, rounds: int, modes: Sequence[str], progress: Progress) -> BenchResult:
        assert (runtime, rounds, modes) == (DEVICE_RUNTIME, DEVICE_ROUNDS, ("balanced",))
        progress(0.1, "round 1", DEVICE_RUN.devices[:1])
        progress(0.5, "round 2", DEVICE_RUN.devices)
        return DEVICE_RUN

    b.engine.device_benchmark = run  # type: ignore[method-assign]
    async with b.app.run_test(size=(140, 30)) as pilot:
        await start(b, pilot, "5")
        screen = b.app.screen
        grid = screen.query_one(Grid)
        await pilot.press("d")
        await settle(pilot, lambda: len(grid.items) == 4 and not b.app.jobs.jobs)
        assert "sudo truezram --no-tui benchmark device --runtime 1 --rounds 5" in text(screen, "#head")
        heads = [head.title for head in grid.heads]
        rows = [dict(zip(heads, item.cells, strict=True)) for item in grid.items]
        first, null, zram, write = rows
        assert (first["DEVICE"], first["WORKLOAD"], first["DEPTH"], first["Q"]) == ("fast", "randread", "1", "2")
        assert (first["xNULL"], first["xZRAM"], first["p50"]) == ("0.90x", "0.50x", "45.0µs")
        assert (null["DEVICE"], null["xNULL"], zram["DEVICE"], zram["Q"]) == ("null", "-", "zram lz4", "-")
        # A bar is as long as its share of the best under the same load.
        assert first["REQ/s BAR"] == 0.5
        assert (zram["REQ/s BAR"], write["REQ/s BAR"]) == (1.0, 1.0)
        assert [item.style for item in grid.items] == ["bad", "muted", "muted", ""]
        assert "was not measured" in text(screen, "#summary")
        table = screen.table()  # type: ignore[attr-defined]
        assert table.name == "benchmark-device"
        assert [row["target"] for row in table.rows] == ["truezram", "null", "zram", "truezram"]
        await pilot.press("v")
        await pilot.pause()
        assert "= zram lz4 randread 1" in drawn(screen.query_one(BarChart))
        await pilot.press("v", "m")
        await pilot.pause()
        assert [item.cells[-1] for item in grid.items] == ["1.00x"] * 4
    assert load_runs(tmp_path / "state" / "benchmarks.jsonl") == ([DEVICE_RUN], "")


async def test_it_can_be_cancelled(real: Make) -> None:
    b = real()

    def run(runtime: float, rounds: int, modes: Sequence[str], progress: Progress) -> BenchResult:
        while True:  # until the report raises Cancelled
            progress(0.1, "filling", DEVICE_RUN.devices[:1])
            time.sleep(0.01)

    b.engine.device_benchmark = run  # type: ignore[method-assign]
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "5")
        await pilot.press("d")
        await settle(pilot, lambda: len(b.app.screen.query_one(Grid).items) == 1)
        assert not {"Run", "Run the store", "Run devices", "Mode"} & set(keys(b))
        await pilot.press("x")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "cancelled" in text(b.app.screen, "#summary")


async def test_the_mode_of_our_devices(real: Make, tmp_path: Path) -> None:
    """One after the other, then all; the command says which, and rows of several are told apart."""
    b = real(state=tmp_path / "state")
    asked: list[Sequence[str]] = []

    def run(runtime: float, rounds: int, modes: Sequence[str], progress: Progress) -> BenchResult:
        asked.append(tuple(modes))
        ours = DEVICE_RUN.devices[0]
        return replace(DEVICE_RUN, devices=(*(replace(ours, mode=mode) for mode in modes), *DEVICE_RUN.devices[1:3]))

    b.engine.device_benchmark = run  # type: ignore[method-assign]
    async with b.app.run_test(size=(140, 30)) as pilot:
        await start(b, pilot, "5")
        screen = b.app.screen
        grid = screen.query_one(Grid)
        await pilot.press("o")
        await pilot.pause()
        assert "d measures devices in low-latency mode." in text(screen, "#summary")
        await pilot.press("d")
        await settle(pilot, lambda: len(grid.items) == 3 and not b.app.jobs.jobs)
        assert "benchmark device --runtime 1 --rounds 5 --mode low-latency" in text(screen, "#head")
        assert [item.cells[1] for item in grid.items] == ["fast low-latency", "null", "zram lz4"]
        await pilot.press("m", "o", "o", "d")
        await settle(pilot, lambda: len(grid.items) == 5 and not b.app.jobs.jobs)
        assert "--mode balanced,low-latency,max-throughput" in text(screen, "#head")
        assert "d measures devices in all modes." in text(screen, "#summary")
        assert [item.cells[1] for item in grid.items[:3]] == ["fast", "fast low-latency", "fast max-throughput"]
        # Compared with the marked run: only of one mode there was a figure then.
        assert [item.cells[-1] for item in grid.items[:3]] == ["-", "1.00x", "-"]
        await pilot.press("v")
        await pilot.pause()
        assert "fast max-throughput randread 1" in drawn(screen.query_one(BarChart))
        await pilot.press("o")
        await pilot.pause()
        assert "--mode" not in text(screen, "#head")
        assert "d measures" not in text(screen, "#summary")
    assert asked == [("low-latency",), ("balanced", "low-latency", "max-throughput")]


def test_a_run_kept_without_modes_is_of_the_default() -> None:
    row = DEVICE_RUN.devices[0]
    assert (row.mode, _device_key(row)) == ("", _device_key(replace(row, mode="balanced")))


def test_the_engine_gives_rows_of_what_is_known() -> None:
    case, lat = Case("randread", 4096, 1, 1), Latency(1000, 2000, 3000)
    ours = DeviceResult("truezram", "fast", "low-latency", 2, case, (Sample(100, 10**9, 1000, 5000, 5000),), lat, 7)
    null = DeviceResult("null", None, None, 2, case, (Sample(200, 10**9, 500, 5000, 5000),), lat, 7)
    missing = (NotMeasured("zram", "lz4", "no module", "Load it"), NotMeasured("zram", "zstd", "no module", "Load it"))
    report = DeviceReport({}, (), 4096, 1.0, 1, None, (ours, null), missing, ("a note",))
    assert _device_rows(report) == (
        DeviceRow("truezram", "fast", 2, "randread", 1, 100.0, 1000, 2000, 3000, 100, 0.5, 0.0, "low-latency"),
        DeviceRow("null", "", 2, "randread", 1, 200.0, 1000, 2000, 3000, 50),
    )
    assert _notes(report) == ("kernel zram (lz4, zstd) was not measured: no module. Load it", "a note")
