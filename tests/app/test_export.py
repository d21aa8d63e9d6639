"""Exports: of the devices, and of what a page has found out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from truezram.app import export
from truezram.app.screens.benchmark import keep_run
from truezram.app.screens.export_dialog import ExportScreen
from truezram.engine.device.events import Event

from .conftest import NOW, SMALL, Bench, settle
from .test_pages import RUN, start

Make = Callable[..., Bench]
FORMATS = ("svg", "csv", "jsonl", "html")


async def written(b: Bench, pilot: Any, folder: Path, suffix: str) -> str:
    """Exports from the page that is shown; what the file says."""
    await pilot.press("E")
    await pilot.pause()
    assert isinstance(b.app.screen, ExportScreen)
    b.app.screen.query_one(Input).value = str(folder)
    await pilot.press(*["j"] * FORMATS.index(suffix), "enter")
    await pilot.pause()
    assert not b.app.in_dialog
    (path,) = folder.glob(f"truezram-*.{suffix}")
    return path.read_text()


class TestExport:
    @pytest.mark.parametrize("suffix", FORMATS)
    async def test_a_file_is_written(self, real: Make, tmp_path: Path, suffix: str) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "1", 30)
            content = await written(b, pilot, tmp_path, suffix)
            if suffix == "csv":
                rows = list(csv.DictReader(io.StringIO(content)))
                assert [r["name"] for r in rows] == ["local0", "local1", "local2"]
                assert int(rows[0]["data"]) == b.app.history.devices["local0"].latest.orig_data_size  # type: ignore[union-attr]
            elif suffix == "jsonl":
                first = json.loads(content.splitlines()[0])
                assert first["schema"] == "truezram.history/1"
                assert len(first["samples"]["read"]) == len(b.app.history.devices["local0"].rings["read"].values)
            else:
                assert "local0" in content

    async def test_a_folder_that_is_not_there_is_said_and_the_dialog_stays(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "1", 5)
            await pilot.press("E")
            await pilot.pause()
            b.app.screen.query_one(Input).value = "/nonexistent/folder"
            await pilot.press("enter")
            await pilot.pause()
            assert isinstance(b.app.screen, ExportScreen)
            assert "cannot write" in b.app.events.events[-1].text

    def test_names_do_not_collide(self, tmp_path: Path) -> None:
        first = export.target(tmp_path, "svg", NOW)
        first.write_text("")
        assert export.target(tmp_path, "svg", NOW) != first

    def test_text_in_html_is_escaped(self, bench: Make) -> None:
        b = bench(1)
        page = export.to_html(b.app.history, [], [Event(NOW, "info", "<script>alert(1)</script>")], NOW)
        assert "<script>" not in page

    async def test_a_benchmark(self, real: Make, tmp_path: Path) -> None:
        state = tmp_path / "state"
        keep_run(state / "benchmarks.jsonl", RUN)
        b = real(state=state)
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "5")
            rows = list(csv.DictReader(io.StringIO(await written(b, pilot, tmp_path, "csv"))))
            assert [row["codec"] for row in rows] == [row.codec for row in RUN.rows]
            assert float(rows[0]["compress_rate"]) == RUN.rows[0].compress_rate
            lines = [json.loads(line) for line in (await written(b, pilot, tmp_path, "jsonl")).splitlines()]
            assert lines[1]["schema"] == "truezram.benchmark-row/1"
            assert lines[1]["row"]["codec"] == "liblz4 lz4"
            assert RUN.machine in lines[1]["about"]
            assert "<td>libzstd zstd:1</td>" in await written(b, pilot, tmp_path, "html")
            assert "liblz4" in await written(b, pilot, tmp_path, "svg")

    async def test_an_estimate(self, real: Make, tmp_path: Path) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "3")
            await pilot.press("r")
            await settle(pilot, lambda: b.app.screen.estimate is not None and not b.app.jobs.jobs)  # type: ignore[attr-defined]
            found = b.app.screen.estimate  # type: ignore[attr-defined]
            rows = list(csv.DictReader(io.StringIO(await written(b, pilot, tmp_path, "csv"))))
            assert len(rows) == len(found.total.algorithms) * (1 + len(found.processes))
            assert (rows[0]["command"], rows[0]["algorithm"]) == ("total", found.total.algorithms[0].algorithm)
            assert float(rows[0]["ratio"]) == found.total.algorithms[0].ratio
            assert found.processes[0].command in await written(b, pilot, tmp_path, "html")
