"""Idle pages in the app: where they are and what that saves, how old they are, what a policy gains, and compressing
them once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from textual.widgets import Button, Input, Select, Static

from truezram.app import theme
from truezram.app.backend.recording import load, map_key
from truezram.app.backend.replay import Replay
from truezram.app.config import Config
from truezram.app.format import short_size
from truezram.app.screens.recompress import RecompressScreen
from truezram.app.view import View
from truezram.app.widgets.grid import Grid
from truezram.app.widgets.histogram import AgeHistogram, SizeHistogram
from truezram.app.widgets.page_map import PageMapView, region_ages
from truezram.app.widgets.tiers import MARKS, TierBar, shares
from truezram.engine.answers import AGES, MAP_AGES
from truezram.engine.device.events import Detector
from truezram.engine.device.options import RecompressOptions, WritebackOptions
from truezram.engine.errors import TruezramError, Unsupported
from truezram.engine.model import DeviceSnapshot, Tier
from truezram.engine.units import format_count

from .conftest import NARROW, RECORDINGS, SMALL, WIDE, Bench, cold, settle, text_of
from .test_pages import drawn, keys, page_map, start, text

Make = Callable[..., Bench]
LAST = 58
"""Snapshots after which all has been done."""


def device(b: Bench) -> DeviceSnapshot:
    found = b.app.history.devices["local0"].latest
    assert found is not None
    return found


class TestTierBar:
    @pytest.mark.parametrize("glyphs", ["braille", "ascii"])
    @pytest.mark.parametrize("size", [SMALL, WIDE, NARROW], ids=["80x24", "200x60", "60x20"])
    async def test_figures_are_there_without_colour(self, tiers: Make, size: tuple[int, int], glyphs: str) -> None:
        """At any size: each tier's name, what it takes and what it saves; and a character of its own in the bar."""
        b = tiers(config=Config(theme="no-colour", glyphs=glyphs))
        async with b.app.run_test(size=size) as pilot:
            await start(b, pilot, "2", LAST)
            bar = b.app.screen.query_one("#tiers", TierBar)
            lines = [strip.text for strip in bar.render_lines(bar.size.region)]
            assert len(lines) == 2
            assert not any("…" in line for line in lines)
            assert [tier.name for tier in device(b).tiers] == ["hot", "dense", "cold"]
            for tier in device(b).tiers:
                assert lines[0].count(bar.marks[tier.name]) > 3
                words = [tier.name, short_size(tier.bytes)]
                words += [format_count(tier.pages)] if size != NARROW else []
                words += [short_size(tier.saved)] if tier.saved else []
                assert all(word in lines[1] for word in words), (words, lines[1])

    def test_each_tier_has_a_mark_and_a_colour(self) -> None:
        names = [tier.name for tier in backed(cold().snapshots[0].devices[0]).tiers]
        assert names == list(theme.TIERS) == list(MARKS)
        for glyphs in ("braille", "ascii"):
            assert len(set(TierBar(View(glyphs)).marks.values())) == len(names)

    def test_what_is_there_is_seen(self) -> None:
        some = (Tier("hot", 9, 10**9, 0), Tier("dense", 1, 16, 0), Tier("cold", 0, 0, 0))
        assert shares(some, 50) == [49, 1, 0]
        assert shares(tuple(replace_bytes(tier, 0) for tier in some), 50) == [0, 0, 0]
        assert sum(shares(tuple(replace_bytes(tier, 7) for tier in some), 50)) == 50

    async def test_the_kernels_own_have_none(self, tiers: Make) -> None:
        b = tiers()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2", LAST)
            snapshot = b.engine.snapshot()
            other = replace(snapshot.devices[0], name="zram0", path="/dev/zram0", kind="zram")
            b.app.take(replace(snapshot, devices=(other,)))
            b.app.selected = "zram0"
            b.app.redraw()
            await pilot.pause()
            assert not b.app.screen.query_one("#tiers").display
            assert not {"Kind/age", "Recompress"} & set(keys(b))

    async def test_on_the_dashboard_in_one_line_where_there_is_room(self, tiers: Make, bench: Make) -> None:
        b = tiers()
        async with b.app.run_test(size=(100, 34)) as pilot:
            b.play(LAST)
            await pilot.pause()
            b.play()
            await pilot.pause()
            line = drawn(b.app.screen.query_one("#tiers"))
            assert "▓" in line
            assert "dense 23.8M -3.80M" in line
        b = bench(8)
        async with b.app.run_test(size=(100, 34)) as pilot:
            b.play(20)
            await pilot.pause()
            for _ in range(8):
                assert not b.app.screen.query_one("#tiers").display
                await pilot.press("j")

    async def test_on_the_cards(self, tiers: Make) -> None:
        b = tiers()
        async with b.app.run_test(size=WIDE) as pilot:
            await b.before(LAST)(pilot)
            assert "dense 23.8M -3.80M" in drawn(b.app.screen.query_one("#cards TierBar"))


def backed(found: DeviceSnapshot, **more: object) -> DeviceSnapshot:
    """The same with 20 pages on a backing file."""
    figures: dict[str, object] = {
        "kind_pages": (*found.kind_pages, ("backing", 20)),
        "backing": "/var/x",
        "backing_path": "/dev/mapper/x",
        "backing_state": "ready",
        "backing_used": 40000,
        "backing_saved": 50000,
        "backing_limit": 1 << 30,
    }
    return replace(found, **{**figures, **more})  # type: ignore[arg-type]


def replace_bytes(tier: Tier, size: int) -> Tier:
    return tier._replace(bytes=size)


class TestAges:
    async def test_a_key_colours_the_map_by_age(self, tiers: Make) -> None:
        b = tiers()
        async with b.app.run_test(size=SMALL) as pilot:
            view, by_kind = await page_map(b, pilot)
            assert by_kind.by == "kind"
            assert "Kind/age" in keys(b)
            await pilot.press("a")
            await settle(pilot, lambda: view.map is not None and view.map.by == "age")
            assert "page map by age" in drawn(view)
            assert view.map is not None
            every = [region_ages(region) for region in view.map.regions]
            assert sum(map(sum, map(dict.values, every))) == view.map.pages == by_kind.pages
            assert {name for region in every for name in region} <= set(MAP_AGES)
            # The legend and the region under the cursor say what ages are, in time.
            assert "22h+" in drawn(view)
            assert b.app.screen.query_one(AgeHistogram).display
            assert not b.app.screen.query_one(SizeHistogram).display
            await pilot.press("a")
            await settle(pilot, lambda: view.map is not None and view.map.by == "kind")
            assert b.app.screen.query_one(SizeHistogram).display

    async def test_letters_without_colour(self, tiers: Make) -> None:
        """a is young, h old; capitals where more than half of a region holds something."""
        b = tiers(config=Config(theme="no-colour", glyphs="braille"))
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2", LAST)
            view = b.app.screen.query_one(PageMapView)
            await settle(pilot, lambda: view.map is not None)
            await pilot.press("a")
            await settle(pilot, lambda: view.map is not None and view.map.by == "age")
            shown = drawn(view)
            assert "HHHHHH" in shown
            assert "AAAAAA" in shown
            assert "h 22h+" in shown
            assert "a <3m" in shown

    async def test_zooming_keeps_it(self, tiers: Make) -> None:
        b = tiers()
        async with b.app.run_test(size=SMALL) as pilot:
            view, whole = await page_map(b, pilot)
            await pilot.press("a")
            await settle(pilot, lambda: view.map is not None and view.map.by == "age")
            await pilot.press("right", "enter")
            await settle(pilot, lambda: view.map is not None and view.map.pages < whole.pages)
            assert view.map is not None
            assert view.map.by == "age"

    async def test_a_server_without_it_is_said_in_place(self, tiers: Make) -> None:
        b = tiers()
        b.engine.script["page_map"] = Unsupported("cannot read the page map of local0", "it has no map by age")
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2")
            await pilot.press("a")
            view = b.app.screen.query_one(PageMapView)
            await settle(pilot, lambda: "no map by age" in view.problem)
            assert "it has no map by age" in " ".join(drawn(view).split())

    async def test_the_map_does_not_hold_up_the_app(self, tiers: Make) -> None:
        """A server that does not answer: keys and figures go on, and the other map comes when it does."""
        b = tiers()
        async with b.app.run_test(size=SMALL) as pilot:
            view, _ = await page_map(b, pilot)
            b.engine.script["page_map"] = b.engine.hang
            await pilot.press("a")
            b.play(5)
            await pilot.press("t")
            await pilot.pause()
            assert b.app.screen.since_start  # type: ignore[attr-defined]
            assert view.map is not None
            assert view.map.by == "kind"
            b.engine.script.clear()
            b.engine.release.set()
            await settle(pilot, lambda: view.map is not None and view.map.by == "age")

    async def test_a_bar_for_each_age(self, tiers: Make) -> None:
        b = tiers()
        async with b.app.run_test(size=WIDE) as pilot:
            await start(b, pilot, "2", LAST)
            shown = b.app.screen.query_one(AgeHistogram)
            assert shown.display
            assert b.app.screen.query_one(SizeHistogram).display
            assert [age.pages for age in shown.ages] == [age.pages for age in device(b).ages]
            assert "29.9k pages, counted" in drawn(shown)
            for label in ("<3m", "<12m", "3m+", "12m+", "39m+", "2h+", "6h+", "22h+"):
                assert label in drawn(shown)

    def test_ages_have_colours_that_can_be_seen(self) -> None:
        from .test_themes import TRUE_COLOUR, contrast

        for name in TRUE_COLOUR:
            found = theme.load((theme.shipped_folder(),)).themes[name]
            names = [*(f"age-{age}" for age in range(AGES)), *(f"tier-{key}" for key in theme.TIER_KEYS)]
            for key in names:
                assert contrast(found.variables[key], found.background or "") >= 3.0, (name, key)
            assert len({found.variables[key] for key in names[:AGES]}) == AGES

    def test_the_replay_has_both_maps(self) -> None:
        replay = Replay(load(RECORDINGS / "tiers.jsonl.zst"))
        for by in ("kind", "age"):
            found = replay.page_map("local0", 0, 32768, 256, by)
            assert (found.by, sum(map(sum, found.regions))) == (by, 32768)
        assert map_key("local0", "kind") == {"name": "local0"}
        with pytest.raises(TruezramError, match="this is a replay"):
            Replay(load(RECORDINGS / "swap.jsonl.gz")).page_map("ublkb0", 0, 131072, 256, "age")


class TestRecompress:
    async def test_asked_for_begun_and_stopped(self, tiers: Make) -> None:
        b = tiers()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2", LAST - 8)
            assert "Recompress" in keys(b)
            assert "Stop recompression" not in keys(b)
            await pilot.press("r")
            screen = b.app.screen
            assert isinstance(screen, RecompressScreen)
            assert "12m: 20.5k pages in 28.9M" in text_of(screen, "#idle-note")
            assert text_of(screen, "#command") == "$ truezram --no-tui recompress local0"
            screen.query_one("#idle", Input).value = "2h"
            screen.query_one("#to", Select).value = "cold"
            screen.query_one("#percent", Input).value = "25"
            await pilot.pause()
            old = device(b).idle_for(7200)
            assert old is not None
            assert f"2h: 13.6k pages in {short_size(old.bytes)}" in text_of(screen, "#idle-note")
            command = "$ truezram --no-tui recompress local0 --idle 2h --to cold --max-cpu 25"
            assert text_of(screen, "#command") == command
            await pilot.press("enter")
            await settle(pilot, lambda: len(b.app.screen_stack) == 1 and not b.app.jobs.jobs)
            assert ("recompress", "local0", RecompressOptions("2h", "cold", 25)) in b.engine.calls
            b.play()
            await pilot.pause()
            assert device(b).is_recompressing
            rows = {item.key: item.cells for item in b.app.screen.query_one("#facts", Grid).items}
            assert str(rows["recompressed"][1]).endswith("42%")
            assert "Recompress" not in keys(b)
            await pilot.press("s")
            await settle(pilot, lambda: ("stop_recompress", "local0") in b.engine.calls and not b.app.jobs.jobs)
            b.play()
            await pilot.pause()
            assert "Recompress" in keys(b)

    @pytest.mark.parametrize(
        ("field", "value", "why"),
        [
            ("idle", "soon", "It is not a number with an optional unit"),
            ("idle", "3d", "Ages above 22h 15m are not told apart"),
            ("percent", "0", "It is not a number from 1 to 100"),
        ],
    )
    async def test_what_is_wrong_is_said_beside_its_field(self, tiers: Make, field: str, value: str, why: str) -> None:
        b = tiers()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2", LAST)
            await pilot.press("r")
            b.app.screen.query_one(f"#{field}", Input).value = value
            await pilot.pause()
            note = b.app.screen.query_one(f"#{field}-note", Static)
            assert why in str(note.render())
            assert note.has_class("bad")
            assert b.app.screen.query_one("#start", Button).disabled
            await pilot.press("enter")
            assert isinstance(b.app.screen, RecompressScreen)
            await pilot.press("escape")
            assert not any(call[0] == "recompress" for call in b.engine.calls)

    async def test_one_that_is_no_longer_watched(self, tiers: Make) -> None:
        b = tiers()
        b.engine.script["recompress"] = b.engine.hang
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2", LAST)
            await pilot.press("r", "enter")
            await settle(pilot, lambda: any(job.title == "recompress local0" for job in b.app.jobs.jobs))
            b.app.jobs.cancel_last()
            await settle(pilot, lambda: not b.app.jobs.jobs)
            assert [event.text for event in b.app.events.events][-1] == "its server goes on recompressing"
            b.engine.release.set()

    async def test_the_palette_has_it(self, tiers: Make) -> None:
        b = tiers()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "2", LAST)
            offered = {command.title for command in b.app.get_system_commands(b.app.screen)}
            assert {"Recompress", "Kind/age"} <= offered


class TestBackingFile:
    async def test_on_the_device_page(self, tiers: Make) -> None:
        """A fourth tier, what is on it, and why nothing more is written; w and b only where there is one."""
        b = tiers()
        async with b.app.run_test(size=WIDE) as pilot:
            await start(b, pilot, "2", LAST)
            assert "Write back" not in keys(b)
            found = backed(device(b), backing_state="full", backing_text="no room for 8K")
            b.app.take(replace(b.engine.snapshot(), devices=(found,)))
            b.app.redraw()
            await pilot.pause()
            assert "backing 20 pages in 39.1K, saved 48.8K" in drawn(b.app.screen.query_one("#tiers"))
            rows = {item.key: item for item in b.app.screen.query_one("#facts", Grid).items}
            assert rows["backing"].cells[1] == "/var/x"
            assert rows["on backing"].cells[1] == "20, 39.1K"
            assert (rows["backing is"].cells[1], rows["backing is"].style) == ("full: no room for 8K", "warn")
            assert "Write back" in keys(b)
            await pilot.press("w")
            await settle(pilot, lambda: ("write_back", "local0", WritebackOptions()) in b.engine.calls)
            await settle(pilot, lambda: not b.app.jobs.jobs)
            await pilot.press("b")
            await settle(pilot, lambda: ("write_back", "local0", WritebackOptions(back=True)) in b.engine.calls)

    def test_events(self) -> None:
        last = cold().snapshots[-1]
        bare = last.devices[0]
        ready = backed(bare, backing_daily=1 << 20)

        def told(*devices: DeviceSnapshot) -> list[tuple[str, str]]:
            detector = Detector()
            found = [e for d in devices for e in detector.feed(replace(last, devices=(d,)), 0.0)]
            return [(e.level, e.text) for e in found if "backing" in e.text]

        assert ("info", "backing file ready") in told(bare, ready)
        assert ("info", "backing is /var/x (was none)") in told(bare, ready)
        full = replace(ready, backing_state="full", backing_text="no room for 8K")
        text = "backing file full: nothing is written to it until there is room again (no room for 8K)"
        assert told(ready, full) == [("warning", text)]
        assert told(full, ready) == [("info", "backing file ready")]
        missing = replace(ready, backing_state="missing", backing_text="it is another one")
        text = "backing file missing: pages on it cannot be read (it is another one)"
        assert told(ready, missing) == [("error", text)]
        bad = replace(ready, total=replace(ready.total, backing_errors=3))
        assert told(ready, bad) == [("error", "3 pages could not be read from the backing file (EIO)")]
        used = replace(ready, backing_day_bytes=1 << 20)
        assert told(ready, used, used) == [("info", "the 1M of today for the backing file are used up")]
        written = replace(ready, recompress_done=ready.recompress_done + 1, backing_pages=5, backing_saved=60000)
        text = "writing back has ended: 5 pages are on the backing file, which took 9.8K"
        assert told(ready, written) == [("info", text)]
        back = replace(ready, recompress_done=ready.recompress_done + 1, recompress_stopped=1)
        back = replace(back, total=replace(back.total, backing_returned=9))
        assert told(ready, back) == [("info", "bringing back has stopped: 20 pages are still on the backing file")]
        policy = replace(ready, backing_runs=1, backing_pages=5, backing_saved=60000)
        assert told(ready, policy) == [("info", "policy: 5 pages were written to the backing file and take 9.8K less")]


class TestEvents:
    def test_one_line_for_each_job_of_a_real_device(self) -> None:
        detector = Detector()
        told = [(e.level, e.text) for s in cold().snapshots for e in detector.feed(s, 0.0) if "is " not in e.text]
        assert told == [
            ("info", "policy: 6205 pages were made dense and take 1.8M less"),
            ("info", "policy: 237 pages were put in groups and take 144K less"),
            ("info", "recompression has ended: 215 pages take 131.5K less"),
        ]

    def test_what_gained_nothing(self) -> None:
        """By hand it is said, of a policy it is not; and a server that counts anew has done nothing."""
        last = cold().snapshots[-1]
        base = last.devices[0]

        def told(*devices: DeviceSnapshot) -> list[str]:
            detector = Detector()
            return [e.text for d in (base, *devices) for e in detector.feed(replace(last, devices=(d,)), 0.0)]

        assert told(replace(base, dense_runs=base.dense_runs + 1)) == []
        by_hand = replace(base, recompress_done=base.recompress_done + 1, cold_runs=base.cold_runs + 1)
        assert told(by_hand) == ["recompression has ended: no page takes less"]
        stopped = replace(by_hand, recompress_stopped=1, dense_pages=base.dense_pages + 5)
        assert told(stopped) == ["recompression has stopped: 5 pages take 0B less"]
        anew = replace(base, pid=base.pid + 1, dense_pages=0, dense_saved=0, dense_runs=0)
        after = replace(anew, dense_runs=1, dense_pages=3, dense_saved=4096)
        assert told(anew, after)[-1] == "policy: 3 pages were made dense and take 4K less"
        unreadable = replace(anew, pid=base.pid, state="unreadable", recompress_done=0)
        assert not any("take" in line for line in told(unreadable, base))


class TestTune:
    async def test_what_a_policy_saves(self, tiers: Make) -> None:
        """The engine says it: the app shows what `truezram tune` prints."""
        b = tiers()
        async with b.app.run_test(size=SMALL) as pilot:
            await start(b, pilot, "4", LAST)
            grid = b.app.screen.query_one("#settings", Grid)
            await settle(pilot, lambda: "local0/idle_cold" in [item.key for item in grid.items])
            tunables = {tunable.key: tunable for tunable in b.engine.tunables() if tunable.device}
            for key in ("policy", "idle_dense", "idle_cold"):
                while grid.cursor != f"local0/{key}":
                    await pilot.press("down")
                shown = " ".join(text(b.app.screen, "#reason").split())
                gain = tunables[key].gain
                assert gain[0].upper() + gain[1:] + "." in shown
            assert "has saved 3.8M on this device so far" in tunables["idle_dense"].gain


def test_the_bar_of_a_view_without_a_device() -> None:
    bar = TierBar(View())
    assert bar.build(80, 2) == []
