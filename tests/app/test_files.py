"""The What if page's other question: what a file or folder compresses to (`truezram entropy`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from truezram.app.backend.protocol import PATH, Estimate, ProcessEstimate, Progress
from truezram.app.backend.real import RealEngine
from truezram.app.widgets.barchart import BarChart
from truezram.app.widgets.grid import Grid
from truezram.engine.answers import AlgorithmEstimate, Scope
from truezram.engine.errors import NotFound

from .conftest import NARROW, SMALL, WIDE, Bench, settle
from .test_pages import drawn, keys, start, text

Make = Callable[..., Bench]


def algorithm(name: str, ratio: float, us: float) -> AlgorithmEstimate:
    size = 100 << 20
    taken = int(size / ratio)
    return AlgorithmEstimate(
        name, ratio, ratio - 0.05, ratio + 0.05, ratio, taken, taken, taken, size - taken, us, us / 4, 0.1
    )


def answer(scope: Scope, sampled: int = 8192) -> Estimate:
    total = ProcessEstimate(
        pid=0, command=scope.value, user="", bytes=100 << 20, sampled=sampled, same_filled=0.25, processes=23,
        algorithms=(algorithm("fast", 2.0, 1.5), algorithm("zstd:3", 3.2, 9.0), algorithm("lz4", 0.9, 1.0)),
    )  # fmt: skip
    return Estimate(
        scope=scope, by="", total=total, skipped=2, skipped_why="permission denied", seconds=1.5, pages=25600,
        entropy=6.0,
    )  # fmt: skip


def answering(b: Bench, sampled: int = 8192) -> list[Scope]:
    """Has the engine answer so; what it is asked for."""
    asked: list[Scope] = []

    def estimate(scope: Scope, by: str, progress: Progress) -> Estimate:
        asked.append(scope)
        progress(0.5, f"compressing pages of {scope.value}")
        return answer(scope, sampled)

    b.engine.estimate = estimate  # type: ignore[method-assign]
    return asked


async def test_a_folder_is_measured(real: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    b = real()
    asked = answering(b)
    monkeypatch.setenv("HOME", "/home/me")
    async with b.app.run_test(size=(110, 30)) as pilot:
        await start(b, pilot, "3")
        screen = b.app.screen
        await pilot.press("f")
        await pilot.pause()
        assert screen.query_one("#which", Input).has_focus
        assert "Which file" in text(screen, "#command")
        await pilot.press("~", *"nobody-of-that-name")  # what is typed on the way to a path is no error
        await pilot.pause()
        assert text(screen, "#command").endswith("/~nobody-of-that-name'")
        screen.query_one("#which", Input).value = ""
        await pilot.press(*"~/my files")
        await pilot.pause()
        assert text(screen, "#command") == "$ truezram --no-tui entropy --recursive '/home/me/my files'"
        await pilot.press("enter")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert asked == [Scope(PATH, "/home/me/my files")]
        summary = text(screen, "#summary")
        assert "100M of 23 files" in summary
        assert "8192 of 25600 pages sampled, 25% same-filled" in summary
        assert "2 skipped: permission denied" in summary
        grid = screen.query_one("#algorithms", Grid)
        assert [item.cells for item in grid.items] == [
            ("order-0", "6.00", "1.33", "", "75M", "", "", 0.75),
            ("fast", "4.00", "2.00", "1.95-2.05", "50M", "1.5", "0.4", 0.5),
            ("zstd:3", "2.50", "3.20", "3.15-3.25", "31.2M", "9.0", "2.2", 1 / 3.2),
            ("lz4", "8.89", "0.90", "0.85-0.95", "111M", "1.0", "0.2", 1.0),
        ]
        assert [item.style for item in grid.items] == ["muted", "", "good", ""]
        assert not screen.query_one("#groups").display
        assert b.app.measured is None  # it is not this machine's memory
        table = screen.table()  # type: ignore[attr-defined]
        assert (table.name, table.rows[0]["entropy"], table.rows[0]["algorithm"]) == ("entropy", 6.0, "fast")
        assert "Create with this" not in keys(b)
        assert screen.proposal() is None  # type: ignore[attr-defined]
        await pilot.press("v")
        await pilot.pause()
        assert "zstd:3" in drawn(screen.query_one(BarChart))
        await pilot.press("v")
        await pilot.pause()
        assert not screen.query_one("#groups").display


async def test_of_all_pages_there_is_no_range(real: Make) -> None:
    b = real()
    answering(b, 25600)
    async with b.app.run_test(size=(110, 30)) as pilot:
        await start(b, pilot, "3")
        await pilot.press("f", "x", "enter")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "25600 pages sampled" in text(b.app.screen, "#summary")
        assert [item.cells[3] for item in b.app.screen.query_one("#algorithms", Grid).items] == [""] * 4


async def test_memory_can_be_asked_for_again(real: Make) -> None:
    """The columns are those of the question."""
    b = real()
    found = b.engine.estimate
    answering(b)
    async with b.app.run_test(size=(110, 30)) as pilot:
        await start(b, pilot, "3")
        screen = b.app.screen
        grid = screen.query_one("#algorithms", Grid)
        await pilot.press("f", "x", "enter")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "BITS/BYTE" in [head.title for head in grid.heads]
        b.engine.estimate = found  # type: ignore[method-assign]
        screen.query_one("#scope").value = "all"  # type: ignore[attr-defined]
        await pilot.pause()
        grid.focus()
        await pilot.press("r")
        await settle(pilot, lambda: not b.app.jobs.jobs and screen.query_one("#groups").display)
        assert "GAINS" in [head.title for head in grid.heads]
        assert "order-0" not in [item.key for item in grid.items]
        assert b.app.measured is not None


async def test_an_empty_file_has_no_figures(real: Make) -> None:
    b = real()

    def estimate(scope: Scope, by: str, progress: Progress) -> Estimate:
        return Estimate(scope=scope, by="", total=ProcessEstimate(0, scope.value, "", 0, 0, 0.0))

    b.engine.estimate = estimate  # type: ignore[method-assign]
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "3")
        await pilot.press("f", *"/empty", "enter")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "of /empty" in text(b.app.screen, "#summary")
        assert b.app.screen.query_one("#algorithms", Grid).items == []
        await pilot.press("v")
        await pilot.pause()


async def test_what_is_not_there_is_said(real: Make) -> None:
    b = real()
    b.engine.script["estimate"] = NotFound("cannot read /nothing", "there is no such file or folder")
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "3")
        await pilot.press("f", *"/nothing", "enter")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "no such file" in text(b.app.screen, "#summary")
        assert b.app.screen.query_one("#which", Input).has_focus


async def test_it_can_be_cancelled(real: Make) -> None:
    b = real()

    def estimate(scope: Scope, by: str, progress: Progress) -> Estimate:
        while True:  # until the report raises Cancelled
            progress(0.1, "compressing")
            time.sleep(0.01)

    b.engine.estimate = estimate  # type: ignore[method-assign]
    async with b.app.run_test(size=SMALL) as pilot:
        await start(b, pilot, "3")
        await pilot.press("f", "x", "enter")
        await settle(pilot, lambda: bool(b.app.jobs.jobs))
        assert "File or folder" not in keys(b)
        await settle(pilot, lambda: not isinstance(b.app.focused, Input))
        await pilot.press("x")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        assert "cancelled" in text(b.app.screen, "#summary")


@pytest.mark.parametrize("size", [SMALL, WIDE, NARROW], ids=["80x24", "200x60", "60x20"])
def test_how_it_looks(snap_compare: Any, real: Make, size: tuple[int, int]) -> None:
    b = real()
    b.app.jobs._clock = lambda: 0.0
    answering(b)
    assert snap_compare(b.app, terminal_size=size, run_before=b.before(5, "3", "f", *"/usr/bin", "enter"))


def test_the_real_engine(tmp_path: Path) -> None:
    """Three pages below a folder, in a process of its own: two of zeros, and one of noise."""
    (tmp_path / "a").write_bytes(bytes(8192))
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b").write_bytes(os.urandom(4096))
    said: list[str] = []
    scope = Scope(PATH, str(tmp_path))
    found = RealEngine().estimate(scope, "process", Progress(lambda fraction, text, part: said.append(text)))
    assert (found.scope, found.by, found.complete) == (scope, "", True)
    assert (found.pages, found.total.sampled, found.total.processes, found.total.bytes) == (3, 3, 2, 12288)
    assert found.total.same_filled == pytest.approx(2 / 3)
    assert found.entropy is not None
    assert 2.5 < found.entropy < 4.5  # a third of it has 8 bits per byte, and the zeros take what is left
    assert {a.algorithm for a in found.total.algorithms} >= {"fast", "lz4"}
    assert said == [f"compressing pages of {tmp_path}"]
    with pytest.raises(NotFound, match="no such file"):
        RealEngine().estimate(Scope(PATH, str(tmp_path / "c")), "process", Progress())
