"""What users do, keys only: every flow on a fake engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Checkbox, Input

from truezram.app.backend.jobs import Job
from truezram.app.backend.messages import SnapshotArrived
from truezram.app.backend.protocol import Capabilities, Progress
from truezram.app.backend.real import _staged
from truezram.app.format import short_size
from truezram.app.screens.confirm import RemoveScreen, consequences
from truezram.app.screens.create import CreateScreen
from truezram.app.widgets.chrome import Footer, JobBar
from truezram.app.widgets.device_table import DeviceTable
from truezram.app.widgets.graph import Graph
from truezram.engine.machine import zram
from truezram.engine.model import DeviceSnapshot, Zswap

from .conftest import NARROW, SMALL, WIDE, Bench, settle, text_of

Make = Callable[..., Bench]


def footer(b: Bench) -> list[str]:
    return [item[3] for item in b.app.screen.query_one(Footer).items()]


@asynccontextmanager
async def removing(b: Bench, device: DeviceSnapshot) -> AsyncIterator[Pilot[Any]]:
    """The app with this device alone, and the dialog that `d` opens."""
    async with b.app.run_test(size=SMALL) as pilot:
        b.app.take(replace(b.engine.recording.snapshots[0], devices=(device,)))
        await pilot.pause()
        await pilot.press("d")
        await pilot.pause()
        yield pilot


async def test_opened_on_a_device(bench: Make) -> None:
    """`truezram top`: its page comes first, and the others are a key away."""
    b = bench(3, device="ublkb1")
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(2)
        await pilot.pause()
        assert (b.app.current_mode, b.app.selected) == ("device", "ublkb1")
        await pilot.press("escape")
        await pilot.pause()
        assert b.app.current_mode == "dashboard"
        b.play()
        await pilot.pause()
        assert (b.app.screen.query_one(DeviceTable).cursor, b.app.selected) == ("ublkb1", "ublkb1")
        await pilot.press("2", "n", "escape")  # the next device there is the one under the cursor here
        await pilot.pause()
        b.play()
        await pilot.pause()
        assert (b.app.screen.query_one(DeviceTable).cursor, b.app.selected) == ("ublkb2", "ublkb2")


class TestRemove:
    async def test_the_focus_is_on_cancel(self, bench: Make) -> None:
        b = bench(3)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            await pilot.press("end", "d")
            await pilot.pause()
            assert isinstance(b.app.screen, RemoveScreen)
            assert b.app.screen.query_one("#cancel").has_focus
            await pilot.press("enter")
            await pilot.pause()
            assert not b.app.in_dialog
            assert not [call for call in b.engine.calls if call[0] == "remove"]

    async def test_an_unused_device(self, bench: Make) -> None:
        b = bench(3)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            await pilot.press("end", "d")
            await pilot.pause()
            await pilot.press("tab", "enter")
            await settle(pilot, lambda: ("remove", "ublkb2", False) in b.engine.calls)
            await settle(pilot, lambda: not b.app.jobs.jobs)
            b.play()
            await pilot.pause()
            table = b.app.screen.query_one(DeviceTable)
            assert [row.device.name for row in table.shown] == ["ublkb0", "ublkb1"]
            assert table.cursor == "ublkb1"

    @pytest.mark.parametrize(
        ("change", "first"),
        [
            ({}, "Its data, 1.0G in 400M of memory, will be lost."),
            ({"swap_priority": 100}, "It holds 1.0G in 400M of memory."),
            ({"orig_data_size": 0}, "It holds no data."),
            ({"orig_data_size": 0, "state": "unreadable"}, "Its data will be lost. Its size cannot be read."),
            ({"state": "dead"}, "Its server is dead: the 1.0G that it held are already lost."),
        ],
    )
    async def test_what_is_lost(self, bench: Make, change: dict[str, Any], first: str) -> None:
        """Nothing of an empty device or of one that is read back into memory; and nothing is said to be safe unseen."""
        snapshot = bench(3).engine.recording.snapshots[0]
        figures = {"orig_data_size": (1 << 30) + 4096, "mem_used_total": 400 << 20, "swap_priority": None}
        device = replace(snapshot.devices[2], **(figures | change))
        assert consequences(device, snapshot.machine).lines[0] == first

    async def test_a_device_in_use_needs_its_name(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            await pilot.press("d")
            await pilot.pause()
            screen = b.app.screen
            remove = screen.query_one("#remove", Button)
            assert remove.disabled
            assert "swapoff" in text_of(screen, "#what")
            screen.query_one("#name", Input).focus()
            await pilot.press(*"ublkb")
            assert remove.disabled
            await pilot.press("0")
            await pilot.pause()
            assert not remove.disabled
            await pilot.press("enter", "enter")
            await settle(pilot, lambda: ("remove", "ublkb0", False) in b.engine.calls)

    async def test_a_mounted_device_is_refused_unless_forced(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            await pilot.press("j", "d")
            await pilot.pause()
            screen = b.app.screen
            assert "/srv/cache" in text_of(screen, "#refused")
            screen.query_one("#name", Input).value = "ublkb1"
            await pilot.pause()
            assert screen.query_one("#remove", Button).disabled
            screen.query_one("#force", Checkbox).value = True
            await pilot.pause()
            assert "--force" in text_of(screen, "#command")
            await pilot.click("#remove")
            await settle(pilot, lambda: ("remove", "ublkb1", True) in b.engine.calls)

    async def test_swapoff_that_does_not_fit_is_said_before(self, bench: Make) -> None:
        b = bench(1)
        first = b.engine.recording.snapshots[0]
        device = replace(first.devices[0], swap_used=first.machine.mem_available * 2)
        async with removing(b, device):
            assert "swapoff needs" in text_of(b.app.screen, "#refused")

    async def test_the_question_follows_what_happens_while_it_is_open(self, bench: Make) -> None:
        b = bench(1)
        first = b.engine.recording.snapshots[0]
        device = replace(first.devices[0], swap_used=first.machine.mem_available * 2)
        async with removing(b, device) as pilot:
            screen = b.app.screen
            assert "kill programs" in str(screen.query_one("#force", Checkbox).label)
            screen.query_one("#name", Input).value = device.name
            await pilot.pause()
            assert screen.query_one("#remove", Button).disabled
            b.app.take(replace(first, devices=(replace(device, swap_used=4096),)))
            await settle(pilot, lambda: not screen.query_one("#refused").display)
            assert not screen.query_one("#force").display
            assert "4K" in text_of(screen, "#what")
            assert not screen.query_one("#remove", Button).disabled
            b.app.take(replace(first, devices=(replace(device, swap_priority=None, mountpoints=("/mnt",)),)))
            await settle(pilot, lambda: "/mnt" in text_of(screen, "#refused"))
            assert "I/O errors" in str(screen.query_one("#force", Checkbox).label)

    async def test_the_kernels_own_zram_is_not_ours_to_remove(self, bench: Make) -> None:
        b = bench(1)
        first = b.engine.recording.snapshots[0]
        zram = replace(first.devices[0], name="zram0", path="/dev/zram0", kind="zram")
        async with b.app.run_test(size=SMALL) as pilot:
            b.app.take(replace(first, devices=(zram,)))
            await pilot.pause()
            await pilot.press("d")
            await pilot.pause()
            assert not b.app.in_dialog
            assert "Remove" not in footer(b)

    async def test_zswap_has_a_row_and_is_not_ours_to_remove(self, bench: Make) -> None:
        b = bench(1)
        first = b.engine.recording.snapshots[0]
        state = Zswap(enabled=True, compressor="lzo", max_pool_percent=20, stored_pages=5000, pool_bytes=8 << 20)
        device = zram.zswap(replace(first.machine, zswap=state))
        assert device is not None
        async with b.app.run_test(size=SMALL) as pilot:
            for second in range(3):
                b.app.take(replace(first, devices=(*first.devices, replace(device, time=device.time + second))))
            await pilot.pause()
            table = b.app.screen.query_one(DeviceTable)
            assert [(row.device.name, row.state) for row in table.shown][-1] == ("zswap", "kernel")
            await pilot.press("end", "d")
            await pilot.pause()
            assert table.cursor == "zswap"
            assert not b.app.in_dialog
            assert "Remove" not in footer(b)
            total = str(table.build(78, len(table.shown) + 2)[-1])
            assert short_size(first.devices[0].disksize) in total  # zswap's is not added: it is the swap areas'
            await pilot.press("2")
            await pilot.pause()
            text = "\n".join(str(line.text) for line in b.app.screen._compositor.render_strips())
            assert "zswap /sys/module/zswap  kernel" in text
            assert text.count("Not reported by the kernel's zswap.") == 3

    async def test_a_device_that_the_filter_hides_is_not_removed(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            assert "Remove" in footer(b)
            await pilot.press("slash", *"nothing", "enter")
            await pilot.pause()
            assert b.app.screen.query_one(DeviceTable).shown == []
            assert "Remove" not in footer(b)
            assert "Open" not in footer(b)
            await pilot.press("d")
            await pilot.pause()
            assert not b.app.in_dialog
            await pilot.press("escape")
            await pilot.pause()
            assert "Remove" in footer(b)


class TestTable:
    async def test_the_cursor_stays_on_its_device(self, bench: Make) -> None:
        b = bench(8)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            table = b.app.screen.query_one(DeviceTable)
            await pilot.press("j", "j", "j")
            assert table.cursor == "ublkb3"
            while table.sort != "write":
                await pilot.press("s")
            for _ in range(20):
                b.play()
                await pilot.pause()
                assert table.cursor == "ublkb3"
            assert [r.rates.write for r in table.shown] == sorted((r.rates.write for r in table.shown), reverse=True)

    async def test_vim_keys_and_ends(self, bench: Make) -> None:
        b = bench(8)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            table = b.app.screen.query_one(DeviceTable)
            for keys, name in ((["G"], "ublkb7"), (["k"], "ublkb6"), (["g"], "ublkb0"), (["k"], "ublkb0")):
                await pilot.press(*keys)
                assert table.cursor == name

    async def test_filter(self, bench: Make) -> None:
        b = bench(8)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            await pilot.press("slash", *"zstd")
            await pilot.pause()
            assert footer(b) == ["Keep filter", "Clear filter"]
            table = b.app.screen.query_one(DeviceTable)
            assert [r.device.name for r in table.shown] == ["ublkb1", "ublkb6"]
            await pilot.press("enter")
            assert table.has_focus
            b.play()
            assert len(table.shown) == 2
            await pilot.pause()
            assert "Clear filter" in footer(b)
            assert "Filter" in footer(b)
            await pilot.press("escape")
            await pilot.pause()
            assert len(table.shown) == 8

    async def test_a_click_on_a_header_sorts_and_on_a_row_moves(self, bench: Make) -> None:
        b = bench(4)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            table = b.app.screen.query_one(DeviceTable)
            await pilot.click(table, offset=(14, 0))
            assert (table.sort, table.descending) == ("disksize", True)
            await pilot.pause()
            assert "▼DISKSIZE" in table._strips[0].text  # its title fills the column: the mark is next to it
            await pilot.click(table, offset=(5, 2))
            assert table.cursor == table.shown[1].device.name

    async def test_more_devices_than_lines(self, bench: Make) -> None:
        b = bench(8)
        async with b.app.run_test(size=NARROW) as pilot:
            b.play(2)
            await pilot.pause()
            await pilot.press("end")
            table = b.app.screen.query_one(DeviceTable)
            await pilot.pause()
            shown = "\n".join(strip.text for strip in table._strips)
            assert "ublkb7" in shown


class TestFooterAndHelp:
    async def test_the_footer_offers_only_what_works(self, bench: Make) -> None:
        b = bench(0, 5)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            assert "Remove" not in footer(b)
            assert "Sort" not in footer(b)
            assert "Create" in footer(b)

    @pytest.mark.parametrize("size", [SMALL, WIDE, NARROW, (40, 12)])
    async def test_help_and_quit_always_fit(self, bench: Make, size: tuple[int, int]) -> None:
        b = bench(2)
        async with b.app.run_test(size=size) as pilot:
            b.play(2)
            await pilot.pause()
            line = b.app.screen.query_one(Footer)._strips[0]
            assert "Help" in line.text
            assert "Quit" in line.text
            assert line.cell_length == size[0]

    async def test_clicking_the_footer_does_it(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            foot = b.app.screen.query_one(Footer)
            x = foot.render_line(0).text.index("Create")
            await pilot.click(foot, offset=(x, 0))
            await pilot.pause()
            assert isinstance(b.app.screen, CreateScreen)

    async def test_help_names_every_key_of_the_screen(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=WIDE) as pilot:
            b.play(2)
            await pilot.pause()
            wanted = {a.binding.description for a in b.app.screen.active_bindings.values() if a.binding.id}
            await pilot.press("question_mark")
            await pilot.pause()
            shown = {a.binding.description for a in b.app.screen.active}  # type: ignore[attr-defined]
            assert wanted <= shown
            await pilot.press("escape")
            await pilot.pause()
            assert not b.app.in_dialog

    @pytest.mark.parametrize(
        ("words", "screen"),
        [
            ("create", "CreateScreen"),
            ("remove", "RemoveScreen"),
            ("reset", "ResetScreen"),
            ("help", "HelpScreen"),
            ("doctor", "DoctorPage"),
        ],
    )
    async def test_what_the_palette_offers_while_it_is_open_is_done(self, bench: Make, words: str, screen: str) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            before = {command.title for command in b.app.get_system_commands(b.app.screen)}
            below = b.app.screen
            await pilot.press("ctrl+p")
            await settle(pilot, lambda: type(b.app.screen).__name__ == "CommandPalette")
            assert {command.title for command in b.app.get_system_commands(below)} == before
            await pilot.press(*words)
            await settle(pilot, lambda: b.app.screen.query_one("CommandList").display)
            await pilot.pause(0.3)
            await pilot.press("enter")
            await settle(pilot, lambda: type(b.app.screen).__name__ == screen)

    async def test_the_palette_has_every_action(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            titles = {command.title for command in b.app.get_system_commands(b.app.screen)}
            for active in b.app.screen.active_bindings.values():
                if active.enabled and active.binding.id and active.binding.action != "command_palette":
                    assert active.binding.description in titles
            assert "Theme: Light" in titles

    async def test_keys_can_be_changed(self, bench: Make) -> None:
        from truezram.app.config import Config

        b = bench(1, config=Config(theme="dark", keys={"app.create": "n,insert"}))
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            await pilot.press("c")
            await pilot.pause()
            assert not b.app.in_dialog
            await pilot.press("n")
            await pilot.pause()
            assert isinstance(b.app.screen, CreateScreen)


class TestColumns:
    async def test_ticked_columns_are_shown_and_kept(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            table = b.app.screen.query_one(DeviceTable)
            fitting = [column.key for column in table._columns]
            await pilot.press("o", "enter")  # what is shown is ticked; nothing touched is nothing chosen
            await pilot.pause()
            assert b.app.config.columns == ()
            await pilot.press("o", "j", "space", "j", "space", "enter")
            await pilot.pause()
            fewer = [key for key in fitting if key not in ("disksize", "data")]
            assert list(b.app.config.columns) == fewer
            b.play()
            await pilot.pause()
            assert [column.key for column in table._columns] == fewer
            await pilot.press("o", "r")
            await pilot.pause()
            b.play()
            await pilot.pause()
            assert len(table._columns) > 8


class TestView:
    async def test_pause_stands_still_and_goes_on(self, bench: Make) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(40)
            await pilot.pause()
            graph = b.app.screen.query_one("#throughput", Graph)
            await pilot.press("space")
            await pilot.pause()
            before = [strip.text for strip in graph._strips[1:]]
            b.play(10)
            await pilot.pause()
            assert [strip.text for strip in graph._strips[1:]] == before
            assert "paused" in before[-1]
            await pilot.press("space")
            await pilot.pause()
            assert [strip.text for strip in graph._strips[1:]] != before

    async def test_zoom_stops_at_the_ends(self, bench: Make) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(40)
            await pilot.pause()
            for _ in range(9):
                await pilot.press("minus")
            assert b.app.view.seconds == 15
            for _ in range(9):
                await pilot.press("plus")
            assert b.app.view.seconds == 1

    async def test_only_lines_that_changed_are_drawn_again(self, bench: Make) -> None:
        b = bench(8)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(30)
            await pilot.pause()
            table = b.app.screen.query_one(DeviceTable)
            drawn: list[object] = []
            table.refresh = lambda *regions, **_: drawn.append(regions)  # type: ignore[method-assign,assignment,return-value]
            b.app.take(b.app.history.latest)  # type: ignore[arg-type]
            await pilot.pause()
            assert drawn == []


class TestTrouble:
    async def test_an_engine_that_dies_shows_on_its_row_and_the_rest_goes_on(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            last = b.app.history.latest
            assert last is not None
            dead = replace(last.devices[0], state="dead", last_error="its server has gone (signal 9)")
            b.app.take(replace(last, devices=(dead, last.devices[1])))
            await pilot.pause()
            rows = {row.device.name: row for row in b.app.screen.query_one(DeviceTable).shown}
            assert rows["ublkb0"].state == "dead"
            assert rows["ublkb0"].bad
            assert rows["ublkb1"].state == "live"
            assert "signal 9" in b.app.events.events[-1].text

    async def test_implausible_figures_are_not_drawn(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            last = b.app.history.latest
            assert last is not None
            b.app.take(replace(last, devices=(replace(last.devices[0], orig_data_size=-5), last.devices[1])))
            await pilot.pause()
            row = b.app.screen.query_one(DeviceTable).shown[0]
            assert row.state == "unreadable"
            assert row.device.orig_data_size == 0
            assert row.rates.read != row.rates.read

    async def test_a_call_that_hangs_is_given_up(self, bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        b = bench(3)
        monkeypatch.setattr("truezram.app.app.STOP_TIMEOUT", 0.7)
        b.engine.script["remove"] = b.engine.hang
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            await pilot.pause()
            await pilot.press("end", "d")
            await pilot.pause()
            await pilot.press("tab", "enter")
            await settle(pilot, lambda: bool(b.app.jobs.jobs))
            await settle(pilot, lambda: b.app.screen.query_one(JobBar).display or not b.app.jobs.jobs)
            # It hangs until the engine is released, below: only its timeout can end it.
            await settle(pilot, lambda: not b.app.jobs.jobs)
            b.play()
            await pilot.pause()
            rows = {row.device.name: row.state for row in b.app.screen.query_one(DeviceTable).shown}
            assert rows["ublkb2"] == "no reply"
            b.engine.release.set()

    async def test_a_job_of_unknown_length_shows_its_time(self, bench: Make) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            bar = b.app.screen.query_one(JobBar)
            await pilot.pause()
            bar.show([Job("remove ublkb0", started=time.monotonic() - 7.0, text="its server ends")], "braille")
            assert "remove ublkb0   7 s its server ends" in "".join(segment.text for segment in bar.build(78, 1)[0])

    def test_removal_says_how_much_came_back(self) -> None:
        said: list[tuple[float | None, str]] = []
        report = _staged(Progress(lambda fraction, text, _: said.append((fraction, text))))
        report("swapoff", 300 << 20, 600 << 20)
        report("stop", 0, 1)
        assert said == [(0.5, "swapoff: 300M of 600M read back"), (None, "waiting for its server to exit")]

    async def test_a_job_can_be_cancelled(self, bench: Make) -> None:
        b = bench(3)
        b.engine.script["remove"] = b.engine.hang
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            await pilot.pause()
            await pilot.press("end", "d")
            await pilot.pause()
            await pilot.press("tab", "enter")
            await settle(pilot, lambda: bool(b.app.jobs.jobs))
            assert "Cancel job" in footer(b)
            await pilot.press("x")
            await settle(pilot, lambda: not b.app.jobs.jobs)
            assert b.app.events.events[-1].text.endswith("cancelled")
            b.engine.release.set()

    async def test_an_engine_without_figures_is_said(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            b.app.post_message(SnapshotArrived(None, "the registry cannot be read"))
            await pilot.pause()
            assert b.app.notice()[0][0] == "no figures: "
            b.play()
            await pilot.pause()
            assert not b.app.notice()

    async def test_no_ublk_is_one_line_with_a_way_on(self, bench: Make) -> None:
        b = bench(0, 5, capabilities=Capabilities(ublk=False, ublk_why="modprobe ublk_drv as root", root=False))
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.pause()
            text = "".join(part for part, _ in b.app.notice())
            assert "modprobe" in text
            assert "local" in text


async def test_the_reader_reads_and_quitting_stops_nothing(bench: Make) -> None:
    b = bench(1)
    b.app._read = True
    async with b.app.run_test(size=SMALL) as pilot:
        await settle(pilot, lambda: b.app.history.latest is not None)
        await pilot.press("q")
        await pilot.pause()
    assert not [call for call in b.engine.calls if call[0] in ("remove", "tune", "create")]


async def test_a_hanging_engine_does_not_hold_up_the_app(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truezram.app.core.STALE", 0.3)
    b = bench(1)
    b.app._read = True
    async with b.app.run_test(size=SMALL) as pilot:
        await settle(pilot, lambda: b.app.history.latest is not None)
        b.engine.script["snapshot"] = b.engine.hang
        await settle(pilot, lambda: "does not answer" in "".join(t for t, _ in b.app.notice()))
        await pilot.press("c")
        await pilot.pause()
        assert isinstance(b.app.screen, CreateScreen)
        b.engine.release.set()
