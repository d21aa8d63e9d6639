"""The pages beyond the dashboard: device, what if, tune, benchmark, doctor, log, settings; charts, exports, jump
mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from truezram.app.backend.protocol import BenchResult, BenchRow
from truezram.app.config import Config, load
from truezram.app.screens.benchmark import load_runs
from truezram.app.screens.chart import ChartScreen
from truezram.app.screens.create import CreateScreen
from truezram.app.screens.jump import JumpScreen
from truezram.app.screens.page import PAGES
from truezram.app.screens.tune import EditScreen
from truezram.app.widgets.barchart import BarChart
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.device_table import DeviceTable
from truezram.app.widgets.graph import Graph
from truezram.app.widgets.grid import Grid, TextBlock
from truezram.app.widgets.page_map import PageMapView
from truezram.engine.answers import PageMap, Scope, Tunable
from truezram.engine.device.events import Event
from truezram.engine.device.options import CreateOptions
from truezram.engine.device.swap import DEFAULT_PRIORITY
from truezram.engine.errors import Failed, PermissionDenied
from truezram.engine.machine import advice

from .conftest import NOW, SMALL, WIDE, Bench, settle

Make = Callable[..., Bench]

RUN = BenchResult(
    NOW,
    "AMD EPYC, avx512",
    20.0,
    (
        BenchRow("lz4", "java", 2.1, 2.0e9, 6.0e9),
        BenchRow("liblz4 lz4", "java", 2.1, 1.0e9, 5.0e9, ours=False),
        BenchRow("dense", "java", 3.2, 0.4e9, 1.5e9),
        BenchRow("libzstd zstd:1", "java", 3.3, 0.5e9, 1.4e9, ours=False),
    ),
)


def text(screen: Any, selector: str) -> str:
    """What a block of text says."""
    block = screen.query_one(selector)
    if isinstance(block, TextBlock):
        return "\n".join("".join(part for part, _ in line) for line in block.make(80))
    assert isinstance(block, Static)
    return str(block.render())


def drawn(widget: Widget) -> str:
    """What a widget has drawn, its lines joined by blanks."""
    return " ".join(strip.text.strip() for strip in widget.render_lines(widget.size.region))


def keys(b: Bench) -> list[str]:
    """What the footer offers."""
    return [item[3] for item in b.app.screen.query_one(Footer).items()]


async def start(b: Bench, pilot: Pilot[Any], key: str, count: int = 20) -> None:
    """Some snapshots, then a page."""
    await pilot.pause()
    b.play(count)
    await pilot.pause()
    await pilot.press(key)
    await pilot.pause()
    b.play(1)
    await pilot.pause()


async def page_map(b: Bench, pilot: Pilot[Any]) -> tuple[PageMapView, PageMap]:
    """The device's page with its map, once that is there."""
    await start(b, pilot, "2")
    view = b.app.screen.query_one(PageMapView)
    await settle(pilot, lambda: view.map is not None)
    assert view.map is not None
    return view, view.map


class TestDevice:
    async def test_map_histograms_and_queues_of_a_real_device(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            _, whole = await page_map(b, pilot)
            screen = b.app.screen
            device = b.app.history.devices["local0"].latest
            assert device is not None
            assert whole.pages == device.disksize // 4096
            assert sum(screen.query_one("#sizes").bins) == sum(device.size_pages)  # type: ignore[attr-defined]
            assert len(screen.query_one("#queues", Grid).items) == device.nr_queues
            assert screen.query_one("#parts", Grid).items

    async def test_picking_a_region_and_looking_into_it(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            view, shown = await page_map(b, pilot)
            whole = shown.pages
            assert "Back out" not in keys(b)
            await pilot.press("right", "down", "enter")
            await settle(pilot, lambda: view.map is not None and view.map.pages < whole)
            assert view.map.first > 0
            assert "Back out" in keys(b)
            await pilot.press("backspace")
            await settle(pilot, lambda: view.map is not None and view.map.pages == whole)

    async def test_a_server_that_does_not_answer_is_reported_and_marked(
        self, real: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("truezram.app.screens.device.MAP_TIMEOUT", 0.2)
        b = real()
        b.engine.script["page_map"] = b.engine.hang
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2")
            view = b.app.screen.query_one(PageMapView)
            await settle(pilot, lambda: "no answer" in view.problem)
            assert "no answer" in b.app.trouble["local0"]
            assert [row.state for row in b.app.rows()] == ["no reply", "live", "live"]
            b.play(1)
            await pilot.pause()
            assert "no answer" in text(b.app.screen, "#title")
            b.engine.release.set()

    async def test_a_damaged_answer_is_shown_in_place(self, real: Make) -> None:
        error = Failed("cannot read the page map of local0", "its server's answer is damaged")
        b = real()
        b.engine.script["page_map"] = error
        async with b.app.run_test(size=WIDE) as pilot:
            await start(b, pilot, "2")
            view = b.app.screen.query_one(PageMapView)
            await settle(pilot, lambda: error.why in drawn(view))
            b.play(5)
            await pilot.pause()
            assert view.map is None
            assert "damaged" in b.app.events.events[-1].text
            assert b.app.trouble == {}

    async def test_the_next_device(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2")
            await pilot.press("n")
            assert b.app.selected == "local1"
            assert "local1" in text(b.app.screen, "#title")
            await pilot.press("N", "N")
            assert b.app.selected == "local2"
            await pilot.press("escape")
            await pilot.pause()
            assert b.app.current_mode == "dashboard"
            assert b.app.screen.query_one(DeviceTable).cursor in b.app.history.devices

    async def test_minute_and_since_the_start(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2", 80)
            histogram = b.app.screen.query_one("#latencies")
            minute = sum(histogram.reads)  # type: ignore[attr-defined]
            await pilot.press("t")
            await pilot.pause()
            assert sum(histogram.reads) > minute  # type: ignore[attr-defined]


class TestWhatIf:
    async def test_measure_then_create_with_the_values(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "3")
            screen = b.app.screen
            assert "Create with this" not in keys(b)
            await pilot.press("r")
            await settle(pilot, lambda: bool(screen.query_one("#algorithms", Grid).items) and not b.app.jobs.jobs)
            assert ("estimate", Scope(), "process") in b.engine.calls
            found = screen.estimate  # type: ignore[attr-defined]
            assert found.complete
            name = screen.query_one("#algorithms", Grid).cursor
            a = next(a for a in found.total.algorithms if a.algorithm == name)
            assert a.ratio_low <= a.ratio <= a.ratio_high
            await pilot.press("enter")
            await pilot.pause()
            dialog = b.app.screen
            assert isinstance(dialog, CreateScreen)
            assert dialog.options is not None
            assert dialog.options.algorithm.startswith(name)
            # As setup would make it, and not for the memory of these processes alone.
            assert dialog.options.swap
            assert dialog.options.size == advice.swap_size(b.app.memory, a.ratio_low)
            assert dialog.options.mem_limit == advice.mem_limit(b.app.memory)

    async def test_create_is_there_before_anything_is_measured(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "3")
            assert "Create" in keys(b)
            await pilot.press("c")
            await pilot.pause()
            assert isinstance(b.app.screen, CreateScreen)

    async def test_a_scope_needs_its_value_and_the_command_follows(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "3")
            screen = b.app.screen
            assert not screen.query_one("#which").display
            screen.query_one("#scope", Select).value = "pid"
            await pilot.pause()
            which = screen.query_one("#which", Input)
            assert which.has_focus
            assert screen.query_one("#run").disabled
            assert text(screen, "#command") == "Which process? Type its number (pid)."
            await pilot.press("escape", "r")
            assert which.has_focus
            await pilot.press(*"4711")
            screen.query_one("#by", Select).value = "user"
            await pilot.pause()
            assert text(screen, "#command") == "$ truezram --no-tui estimate --pid 4711 --by user"
            which.focus()
            b.engine.script["estimate"] = Failed("no process 4711")
            await pilot.press("enter")
            await settle(pilot, lambda: ("estimate", Scope("pid", "4711"), "user") in b.engine.calls)
            await settle(pilot, lambda: which.has_focus)
            assert screen.problem == "no process 4711."  # type: ignore[attr-defined]

    async def test_chart_and_back(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "3")
            await pilot.press("r")
            await settle(pilot, lambda: b.app.screen.estimate is not None and not b.app.jobs.jobs)  # type: ignore[attr-defined]
            await pilot.press("v")
            await pilot.pause()
            assert b.app.screen.query_one(BarChart).display
            await pilot.press("v")
            await pilot.pause()
            assert b.app.screen.query_one("#groups").display

    async def test_what_it_may_not_is_said_in_place(self, real: Make) -> None:
        b = real()
        b.engine.script["estimate"] = PermissionDenied(
            "no process's memory can be read", "not permitted", "Run it with sudo"
        )
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "3")
            await pilot.press("r")
            await settle(pilot, lambda: "sudo" in text(b.app.screen, "#summary"))
            assert "Measure" in keys(b)


class TestTune:
    async def test_create_tune_undo_remove(self, bench: Make) -> None:
        """The whole way, keys only."""
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            await pilot.pause()
            b.play(3)
            await pilot.press("c")
            await pilot.pause()
            await pilot.press(*"1G", "ctrl+s")
            limit = advice.mem_limit(b.app.memory)
            made = CreateOptions(1 << 30, "lz4", limit, swap=True, priority=DEFAULT_PRIORITY)
            await settle(pilot, lambda: ("create", made) in b.engine.calls)
            b.play(1)
            await pilot.press("4")
            await settle(
                pilot, lambda: b.app.current_mode == "tune" and bool(b.app.screen.query_one("#settings", Grid).items)
            )
            await pilot.press("a")
            await settle(pilot, lambda: b.engine.machine_values["vm.swappiness"] == "150")
            screen = b.app.screen
            await settle(pilot, lambda: bool(screen.query_one("#journal", Grid).items))
            assert "Undo" in keys(b)
            await pilot.press("u")
            await settle(pilot, lambda: b.engine.machine_values["vm.swappiness"] == "60")
            await settle(pilot, lambda: "Undo" not in keys(b))
            await pilot.press("j", "j", "enter")
            await pilot.pause()
            dialog = b.app.screen
            assert isinstance(dialog, EditScreen)
            dialog.query_one(Input).value = "zstd:99"
            await pilot.pause()
            assert "Levels of zstd" in text(dialog, "#value-note")
            assert dialog.query_one("#apply").disabled
            await pilot.press("f2", "f2")
            await pilot.pause()
            assert "set ublkb0 algorithm=zstd:3" in text(dialog, "#command")
            await pilot.press("enter")
            await settle(pilot, lambda: ("tune", "ublkb0", "algorithm", "zstd:3") in b.engine.calls)
            b.play(1)
            assert b.app.history.devices["ublkb0"].latest.algorithm == "zstd:3"  # type: ignore[union-attr]
            await pilot.press("1", "end", "d")
            await pilot.pause()
            await pilot.press("tab", *"ublkb1", "enter", "enter")  # swap: its name is asked for
            await settle(pilot, lambda: ("remove", "ublkb1", False) in b.engine.calls)

    async def test_a_refusal_changes_nothing_and_is_logged(self, bench: Make) -> None:
        b = bench(1)
        b.engine.script["tune"] = PermissionDenied("cannot set vm.swappiness", "only root may", "Run it with sudo")
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "4")
            await settle(pilot, lambda: bool(b.app.screen.query_one("#settings", Grid).items))
            await pilot.press("a")
            await settle(pilot, lambda: "only root may" in b.app.events.events[-1].text)
            assert b.engine.machine_values["vm.swappiness"] == "60"

    async def test_what_is_read_only_cannot_be_edited(self, bench: Make) -> None:
        b = bench(1)
        b.engine.tunables = lambda: (
            Tunable("vm.swappiness", current="60", suggested="150", reason="x", readonly="only root may"),
        )  # type: ignore[method-assign]
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "4")
            await settle(pilot, lambda: bool(b.app.screen.query_one("#settings", Grid).items))
            assert "only root may" in text(b.app.screen, "#reason")
            assert "Edit" not in keys(b)
            assert "Apply suggestion" not in keys(b)

    async def test_all_suggestions_leave_devices_alone(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "4")
            await settle(pilot, lambda: bool(b.app.screen.query_one("#settings", Grid).items))
            await pilot.press("A")
            await settle(pilot, lambda: len(b.engine.changes) == 2)
            assert not [call for call in b.engine.calls if call[0] == "tune" and call[1]]


class TestBenchmark:
    async def test_rows_come_in_and_the_run_is_kept(self, real: Make, tmp_path: Path) -> None:
        b = real(state=tmp_path / "state")
        b.engine.benchmark = lambda seconds, progress: [progress(0.1, "x", row) for row in RUN.rows] and RUN  # type: ignore[method-assign,assignment,return-value]
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "5")
            await pilot.press("r")
            await settle(pilot, lambda: len(b.app.screen.query_one(Grid).items) == 4 and not b.app.jobs.jobs)
            rows = {item.cells[1]: item for item in b.app.screen.query_one(Grid).items}
            assert rows["lz4"].cells[6:9] == ("liblz4", "2.00x", "1.20x")
            # A loss is shown like a win.
            assert rows["dense"].cells[6:9] == ("libzstd", "0.80x", "1.07x")
            assert rows["dense"].style == "bad"
            assert rows["liblz4 lz4"].cells[6:9] == ("-", "-", "-")
            kept, problem = load_runs(tmp_path / "state" / "benchmarks.jsonl")
            assert (kept, problem) == ([RUN], "")
            await pilot.press("m")
            await pilot.pause()
            assert b.app.screen.query_one(Grid).items[0].cells[-1] == "1.00x"
            await pilot.press("v")
            await pilot.pause()
            assert b.app.screen.query_one(BarChart).display

    def test_damaged_results_cost_only_themselves(self, tmp_path: Path) -> None:
        path = tmp_path / "benchmarks.jsonl"
        path.write_text('{"time": 1.0, "machine": "x", "seconds": 2.0}\nbroken\n{"time": "no"}\n')
        runs, problem = load_runs(path)
        assert len(runs) == 1
        assert "2 unreadable lines" in problem

    async def test_an_engine_without_it_says_so(self, real: Make) -> None:
        b = real()
        b.engine.script["benchmark"] = Failed("cannot run the benchmark", "no codec")
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "5")
            await pilot.press("r")
            await settle(pilot, lambda: "no codec" in text(b.app.screen, "#summary"))


class TestDoctorAndLog:
    async def test_each_check_has_its_remedy(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "6")
            grid = b.app.screen.query_one(Grid)
            await settle(pilot, lambda: len(grid.items) > 5)
            checks = {check.name: check for check in b.engine.doctor()}
            # The worst is shown first, and its remedy with it.
            assert checks[grid.cursor].state == "fail"
            assert checks[grid.cursor].remedy.split()[0] in text(b.app.screen, "#remedy")
            await pilot.press("g")
            await pilot.pause()
            assert text(b.app.screen, "#remedy").startswith(grid.items[0].key)

    async def test_the_log_filters(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            await pilot.pause()
            b.play(2)
            for event in (Event(NOW, "info", "one"), Event(NOW, "error", "two"), Event(NOW, "info", "three", "ublkb0")):
                b.app.log_event(event)
            await pilot.press("7")
            await pilot.pause()
            grid = b.app.screen.query_one(Grid)
            assert [item.cells[3] for item in grid.items] == ["three", "two", "one"]
            await pilot.press("f")
            await pilot.pause()
            assert [item.cells[3] for item in grid.items] == ["two"]
            await pilot.press("f")
            await pilot.pause()
            assert [item.cells[3] for item in grid.items] == ["three"]


class TestSettings:
    async def test_changes_take_effect_and_are_kept(self, bench: Make, tmp_path: Path) -> None:
        path = tmp_path / "truezram" / "config.toml"
        b = bench(1, config_path=path)
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "8")
            screen = b.app.screen
            screen.query_one("#theme", Select).value = "light"
            screen.query_one("#units", Select).value = "pages"
            screen.query_one("#glyphs", Select).value = "ascii"
            await pilot.pause()
            assert b.app.theme == "light"
            assert b.app.view.pages
            assert b.app.view.glyphs == "ascii"
            assert load(path)[0] == Config("light", "ascii", "pages")
            svg = b.app.export_screenshot()
            assert "─" not in svg

    async def test_a_key_is_changed_and_put_back(self, bench: Make, tmp_path: Path) -> None:
        path = tmp_path / "truezram" / "config.toml"
        b = bench(1, config_path=path)
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "8")
            grid = b.app.screen.query_one("#keys", Grid)
            grid.focus()
            assert grid.cursor == "app.create"
            await pilot.press("enter", "i")
            await pilot.pause()
            assert load(path)[0].keys == {"app.create": "i"}
            await pilot.press("1")
            await pilot.press("i")
            await pilot.pause()
            assert isinstance(b.app.screen, CreateScreen)
            await pilot.press("escape", "8")
            await pilot.pause()
            b.app.screen.query_one("#keys", Grid).focus()
            await pilot.press("r")
            await pilot.pause()
            assert load(path)[0].keys == {}

    async def test_a_key_that_another_action_has_is_refused(self, bench: Make, tmp_path: Path) -> None:
        path = tmp_path / "config.toml"
        b = bench(1, config_path=path)
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "8")
            b.app.screen.query_one("#keys", Grid).focus()
            for key, holder in (("q", "Quit"), ("n", "Next device"), ("s", "Sort")):
                await pilot.press("enter", key)
                await pilot.pause()
                answer = str(b.app.screen.query_one("#answer", Static).content)
                assert answer.startswith(f"{key} is already used for: {holder}.")
                await pilot.press("escape")
                await pilot.pause()
            assert not path.exists()
            await pilot.press("enter", "q", "i")  # another one, in the same dialog
            await pilot.pause()
            assert load(path)[0].keys == {"app.create": "i"}

    async def test_a_folder_that_cannot_be_written_is_a_message(self, bench: Make, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        b = bench(1, config_path=tmp_path / "file" / "config.toml")
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "8")
            b.app.change_config(theme="light")
            await pilot.pause()
            assert "not saved" in b.app.events.events[-1].text
            assert b.app.theme == "light"


class TestEverywhere:
    async def test_every_page_by_its_number_and_by_brackets(self, bench: Make) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            await pilot.pause()
            b.play(2)
            modes = [place.mode for place in PAGES]
            assert len(modes) == 8
            for number, mode in enumerate(modes, 1):
                await pilot.press(str(number))
                await pilot.pause()
                assert b.app.current_mode == mode
            await pilot.press("right_square_bracket")
            await pilot.pause()
            assert b.app.current_mode == "dashboard"
            await pilot.press("left_square_bracket")
            await pilot.pause()
            assert b.app.current_mode == "settings"

    @pytest.mark.parametrize("size", [SMALL, WIDE, (60, 20), (40, 12)])
    async def test_no_page_falls_over_at_any_size_or_without_devices(self, bench: Make, size: tuple[int, int]) -> None:
        b = bench(0, 5)
        async with b.app.run_test(size=size) as pilot:
            await pilot.pause()
            b.play(3)
            for number in range(1, 9):
                await pilot.press(str(number))
                await pilot.pause()
                b.play(1)
                await pilot.press("question_mark", "escape")
                await pilot.pause()
            assert b.app.is_running

    async def test_resizing_while_running(self, bench: Make) -> None:
        b = bench(3)
        async with b.app.run_test(size=SMALL) as pilot:
            await pilot.pause()
            for size in (WIDE, (60, 20), (30, 8), SMALL):
                await pilot.resize_terminal(*size)
                b.play(2)
                await pilot.pause()
            assert b.app.is_running

    async def test_jump(self, bench: Make) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "4")
            await settle(pilot, lambda: bool(b.app.screen.query_one("#settings", Grid).items))
            page = b.app.screen
            await pilot.press("apostrophe")
            await pilot.pause()
            assert isinstance(b.app.screen, JumpScreen)
            key = next(k for k, w in b.app.screen.targets.items() if w.id == "journal")
            await pilot.press(key)
            await pilot.pause()
            assert page.query_one("#journal").has_focus

    async def test_chart_screen(self, real: Make) -> None:
        b = real()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "1", 60)
            await pilot.press("C")
            await pilot.pause()
            assert isinstance(b.app.screen, ChartScreen)
            for _ in range(5):
                await pilot.press("tab", "minus")
                await pilot.pause()
            await pilot.press("escape")
            await pilot.pause()
            assert not b.app.in_dialog


async def test_the_servers_cpu_has_a_graph_where_there_is_room(real: Make) -> None:
    b = real()
    async with b.app.run_test(size=(100, 36)) as pilot:
        await start(b, pilot, "1", 60)
        cpu = b.app.screen.query_one("#cpu", Graph)
        assert cpu.size.height >= 4
        assert cpu.title == "server cpu"
        assert any(value == value for value in cpu.traces[0].ring.values)
        await pilot.resize_terminal(*SMALL)
        await settle(pilot, lambda: not cpu.display)


async def test_what_is_recorded_replays_the_same(bench: Make, tmp_path: Path) -> None:
    from truezram.app.backend.recording import Header, Recorder
    from truezram.app.backend.recording import load as load_recording
    from truezram.app.backend.replay import Replay

    path = tmp_path / "session.jsonl"
    b = bench(2, recorder=Recorder(path, Header("recorded", "test")))
    async with b.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        b.play(12)
        await pilot.pause()
    clock = [0.0]
    replay = Replay(load_recording(path), clock=lambda: clock[0])
    wanted = b.engine.recording.snapshots[:12]
    for snapshot in wanted:
        clock[0] = snapshot.machine.time - wanted[0].machine.time + 0.001
        assert replay.snapshot() == snapshot
    assert replay.over
    assert "replay" in replay.capabilities().replay


async def test_a_bar_keeps_its_colours_under_the_cursor(real: Callable[..., Bench]) -> None:
    """Drawn on the cursor's background it would be read the wrong way round."""
    b = real()
    async with b.app.run_test(size=(100, 32)) as pilot:
        await pilot.press("5", "r")
        await settle(pilot, lambda: not b.app.jobs.jobs)
        grid = b.app.screen.query_one("#rows", Grid)
        assert grid.has_focus
        row, cursor = grid.style("grid--row"), grid.style("grid--cursor")
        lines = grid.build(grid.size.width, grid.size.height)
        first = [(segment.text.strip(), segment.style) for segment in lines[1]]
        assert ("fast", cursor) in first
        assert [style for text, style in first if text.startswith("█")] == [row]
        # Copying compresses nothing and is not a yardstick: it has no bar.
        copying = next(line for line in lines if any("memcpy" in segment.text for segment in line))
        assert not any("█" in segment.text for segment in copying)
