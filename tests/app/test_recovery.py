"""Devices whose server dies: how they are shown, what the log says, and how they are recovered or removed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from textual.widgets import Button, Checkbox

from truezram.app.columns import BY_KEY, Row
from truezram.app.format import elapsed
from truezram.app.screens.confirm import RemoveScreen, consequences
from truezram.app.series import History
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.device_table import matches
from truezram.engine.device.events import Detector
from truezram.engine.device.sanity import held
from truezram.engine.errors import Failed

from .conftest import NARROW, SMALL, WIDE, Bench, eight, settle, text_of
from .test_flows import footer, removing

Make = Callable[..., Bench]


class TestWaiting:
    def test_how_long(self) -> None:
        assert [elapsed(s) for s in (0, 3.9, 75, 599, 600, 3 * 3600 + 5, 9 * 86400)] == [
            "0:00", "0:03", "1:15", "9:59", "10m", "3h", "9d",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("fields", "waited", "table", "whole", "bad", "warns"),
        [
            ({"state": "recovering"}, 3.2, "recov 0:03", "recovering 0:03", False, True),
            ({"state": "recovering"}, 7200.0, "recov 2h", "recovering 2h", False, True),
            ({"state": "dead", "recoverable": True}, 75.0, "dead 1:15", "dead 1:15", True, False),
            ({"state": "dead"}, None, "dead", "dead", True, False),
            ({}, None, "live", "live", False, False),
        ],
    )
    def test_how_its_state_is_shown(
        self, fields: dict[str, Any], waited: float | None, table: str, whole: str, bad: bool, warns: bool
    ) -> None:
        row = Row(replace(eight(1)[5].devices[0], mem_limit=0, **fields), waited=waited)
        assert (BY_KEY["state"].cell(row), row.status()) == (table, whole)
        assert (row.bad, row.warns) == (bad, warns)
        assert len(table) <= BY_KEY["state"].width
        for words in ([row.device.state], [f"state={row.device.state}"]):
            assert matches(row, words)

    def test_a_server_that_is_gone_explains_that_it_did_not_answer(self) -> None:
        device = replace(eight(1)[5].devices[0], recoverable=True)
        assert Row(replace(device, state="recovering"), trouble="no answer", waited=1.0).state == "recovering"
        assert Row(device, trouble="no answer").state == "no reply"

    def test_graphs_have_a_gap(self) -> None:
        """And go on with the server that takes over, whose counters go on; a total does not fall."""
        out = History()
        for second, snapshot in enumerate(eight(1, 12, None)):
            state = "recovering" if second in (5, 6) else "live"
            out.add(replace(snapshot, devices=(replace(snapshot.devices[0], state=state, pid=second // 6),)), 1.0)
        written = list(out.devices["ublkb0"].rings["write"].values)
        missing = [math.isnan(value) for value in written]
        assert (sum(missing), missing[0], missing[-1]) == (2, False, False)
        assert not any(math.isnan(value) or not value for value in out.machine["logical"].values)

    def test_a_device_that_is_taken_over_holds_what_it_held(self) -> None:
        """The server that attaches it counts its pages anew, and shows nothing until it has."""
        before = eight(1)[5].devices[0]
        attaching = replace(
            before,
            state="recovering",
            recoverable=True,
            pid=9,
            recoveries=1,
            orig_data_size=0,
            mem_used_total=0,
            size_pages=(),
            kind_pages=(),
        )
        shown = held(attaching, before)
        assert shown == replace(before, state="recovering", recoverable=True, pid=9, recoveries=1)
        assert held(attaching, None) == attaching
        assert held(attaching, replace(before, created=before.created + 1)) == attaching
        live = replace(attaching, state="live")
        assert held(live, before) == live


class TestEvents:
    def story(self, *steps: tuple[float, dict[str, Any]]) -> list[tuple[str, str]]:
        """Level and text of the events as a recoverable device changes so: (seconds, fields)."""
        detector, base = Detector(), eight(1)[0]
        found = []
        for seconds, changed in steps:
            device = replace(base.devices[0], recoverable=True, time=seconds, **changed)
            found += detector.feed(replace(base, devices=(device,)), seconds)
        return [(event.level, event.text) for event in found]

    DIED = ("warning", "server died: reads and writes wait for another one")
    STAYS = (
        "error",
        "no other server takes over: run truezram recover ublkb0. Nothing is lost yet, reads and writes wait",
    )

    def test_a_server_dies_and_another_one_takes_over(self) -> None:
        live = {"pid": 1, "standby": 2}
        gone, attaching = {**live, "state": "recovering"}, {"pid": 2, "state": "recovering", "recoveries": 1}
        after = {"pid": 2, "standby": 3, "recoveries": 1}
        told = self.story((1.0, live), (1.25, gone), (1.5, attaching), (2.0, after), (3.0, after))
        assert told == [("warning", "server died"), ("info", "recovered: another server has taken over (after 0.8 s)")]
        told = self.story((1.0, live), (1.25, gone), (2.25, gone), (3.25, attaching), (4.25, after), (5.25, after))
        assert told == [self.DIED, ("info", "recovered: another server has taken over (after 3.0 s)")]

    def test_both_are_told_when_the_app_saw_neither(self) -> None:
        told = self.story((1.0, {"pid": 1}), (1.25, {"pid": 2, "recoveries": 1}), (1.5, {"pid": 2, "recoveries": 1}))
        recovered = ("info", "recovered: another server has taken over (within 0.2 s)")
        assert told == [("warning", "server died"), recovered]
        told = self.story((1.0, {"pid": 1}), (1.25, {"pid": 2, "recoveries": 3}))
        assert told == [("warning", "server died 3 times"), recovered]

    def test_an_upgrade_is_no_death(self) -> None:
        """Another process serves, and none has died: whether or not the app saw the moment without one."""
        told = self.story((1.0, {"pid": 1, "recoveries": 4}), (1.25, {"pid": 2, "recoveries": 4}))
        assert told == [("info", "upgraded: another server has taken over (within 0.2 s)")]
        moment = {"pid": 2, "recoveries": 4, "state": "recovering"}
        told = self.story((1.0, {"pid": 1, "recoveries": 4}), (1.25, moment), (1.5, {"pid": 2, "recoveries": 4}))
        assert told == [("info", "upgraded: another server has taken over (after 0.2 s)")]

    def test_one_that_stays_dead_is_to_be_recovered(self) -> None:
        """Not one that is dead for a moment: what is left of its helpers may take over yet."""
        dead = {"pid": 1, "state": "dead"}
        by_hand = {"pid": 9, "state": "recovering", "recoveries": 1}
        live = {**by_hand, "state": "live"}
        told = self.story((1.0, {"pid": 1}), (2.0, dead), (2.5, by_hand), (2.75, live))
        assert told == [("warning", "server died"), ("info", "recovered: another server has taken over (after 0.8 s)")]
        told = self.story((1.0, {"pid": 1}), (2.0, dead), (5.0, dead), (90.0, dead), (91.0, by_hand), (92.0, live))
        recovered = ("info", "recovered: another server has taken over (after 1m 30s)")
        assert told == [self.DIED, self.STAYS, recovered]
        # Who takes over dies, too, meanwhile; or all that was before the app was started.
        told = self.story((1.0, {}), (2.0, {"state": "recovering"}), (3.0, dead), (5.0, dead), (6.0, dead))
        assert told == [self.DIED, self.STAYS]
        assert self.story((1.0, dead), (2.0, dead), (4.0, dead)) == [self.DIED, self.STAYS]

    def test_a_server_that_had_to_begin_a_new_page_is_not_a_new_device(self) -> None:
        again = {"pid": 2, "recoveries": 1, "created": 2e9}
        assert [text for _, text in self.story((1.0, {"pid": 1}), (2.0, again))][-1].startswith("recovered")
        made = {"pid": 2, "recoveries": 0, "created": 2e9}
        assert [text[:8] for _, text in self.story((1.0, {"pid": 1}), (2.0, made))] == ["appeared"]


class TestRecover:
    async def test_from_the_dashboard(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            await pilot.pause()
            assert "Recover" not in footer(b)
            b.engine.dead.add("ublkb0")
            b.play(5)
            await pilot.pause()
            row = b.app.rows()[0]
            assert row.bad
            assert re.fullmatch("dead 0:0[345]", row.status())
            assert "Recover" in footer(b)
            await pilot.press("R")
            await settle(pilot, lambda: ("recover", "ublkb0") in b.engine.calls and not b.app.jobs.jobs)
            b.play()
            await pilot.pause()
            assert b.app.rows()[0].status() == "live"
            assert "Recover" not in footer(b)
            told = [(event.level, event.text) for event in b.app.events.events if event.device == "ublkb0"][-3:]
            assert "truezram recover ublkb0" in told[0][1]
            assert told[1] == ("info", "recover ublkb0: done")
            assert re.fullmatch(r"recovered: another server has taken over \(after [456]\.\d s\)", told[2][1])

    async def test_from_the_devices_page(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=WIDE) as pilot:
            b.play(3)
            await pilot.press("2")
            b.engine.dead.add("ublkb0")
            b.play(3)
            await pilot.pause()
            shown = "\n".join(str(line.text) for line in b.app.screen._compositor.render_strips())
            assert re.search("dead 0:0[123], recover it: nothing is lost, reads and writes wait", shown)
            assert re.search(r"recovery +on ", shown)
            assert re.search(r"standby +none ", shown)
            assert "Recover" in footer(b)
            assert "Compact" not in footer(b)  # its server would do that
            assert "Recover" in {command.title for command in b.app.get_system_commands(b.app.screen)}
            await pilot.press("question_mark")
            await pilot.pause()
            assert "Recover" in {a.binding.description for a in b.app.screen.active}  # type: ignore[attr-defined]
            await pilot.press("escape", "R")
            await settle(pilot, lambda: ("recover", "ublkb0") in b.engine.calls and not b.app.jobs.jobs)
            b.play(2)
            await pilot.pause()
            shown = "\n".join(str(line.text) for line in b.app.screen._compositor.render_strips())
            assert re.search(r"standby +pid 4711 ", shown)
            assert re.search(r"taken over +once ", shown)
            assert "Compact" in footer(b)
            await pilot.press("n")
            assert "Recover" not in footer(b)

    async def test_from_the_question_before_removal(self, bench: Make) -> None:
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            b.engine.dead.add("ublkb1")
            b.play(1)
            await pilot.press("j", "d")
            await pilot.pause()
            screen = b.app.screen
            assert isinstance(screen, RemoveScreen)
            assert screen.query_one("#cancel").has_focus
            assert "truezram --no-tui recover ublkb1" in text_of(screen, "#command")
            await pilot.press("right", "enter")
            await settle(pilot, lambda: ("recover", "ublkb1") in b.engine.calls and not b.app.jobs.jobs)
            assert not [call for call in b.engine.calls if call[0] == "remove"]

    @pytest.mark.parametrize("change", [{"state": "dead"}, {"state": "recovering", "recoverable": True}, {}])
    async def test_only_what_needs_it_and_can_be(self, bench: Make, change: dict[str, Any]) -> None:
        b = bench(1)
        device = replace(b.engine.recording.snapshots[0].devices[0], swap_priority=None, **change)
        async with removing(b, device) as pilot:
            assert not b.app.screen.query_one("#recover").display
            await pilot.press("escape")
            await pilot.pause()
            assert "Recover" not in footer(b)
            await pilot.press("R")
            assert not [call for call in b.engine.calls if call[0] == "recover"]

    async def test_its_error_is_reported_and_it_can_be_tried_again(self, bench: Make) -> None:
        b = bench(1)
        b.engine.script["recover"] = Failed("cannot recover ublkb0", "no memory")
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            b.engine.dead.add("ublkb0")
            b.play(1)
            await pilot.press("R")
            await settle(pilot, lambda: "no memory" in b.app.events.events[-1].text)
            assert b.app.events.events[-1].level == "error"
            await settle(pilot, lambda: not b.app.jobs.jobs)
            assert "Recover" in footer(b)

    @pytest.mark.parametrize("size", [SMALL, NARROW])
    async def test_its_key_comes_first(self, bench: Make, size: tuple[int, int]) -> None:
        b = bench(2)
        async with b.app.run_test(size=size) as pilot:
            b.play(2)
            b.engine.dead.add("ublkb0")
            b.play(1)
            for key in ("1", "2"):
                await pilot.press(key)
                await pilot.pause()
                assert b.app.screen.query_one(Footer)._strips[0].text.startswith(" R Recover ")

    async def test_not_twice_at_once(self, bench: Make) -> None:
        b = bench(1)
        b.engine.script["recover"] = b.engine.hang
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            b.engine.dead.add("ublkb0")
            b.play(1)
            await pilot.press("R")
            await settle(pilot, lambda: bool(b.app.jobs.jobs))
            assert "Recover" not in footer(b)
            await pilot.press("R")
            await pilot.press("x")
            await settle(pilot, lambda: not b.app.jobs.jobs)
            assert [call[0] for call in b.engine.calls].count("recover") == 1
            assert b.app.events.events[-1].text == "the server that was started goes on"
            b.engine.release.set()

    async def test_one_that_has_a_server_meanwhile(self, bench: Make) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            b.engine.dead.add("ublkb0")
            b.play(1)
            b.engine.dead.clear()
            await pilot.press("R")
            await settle(pilot, lambda: b.app.events.events[-1].text == "recover ublkb0: it has a server again")

    async def test_while_its_standby_takes_over(self, bench: Make) -> None:
        """It shows what it holds, and how long reads and writes have waited; the page map says why there is none."""
        b = bench(2)
        async with b.app.run_test(size=WIDE) as pilot:
            b.play(3)
            last = b.app.history.latest
            assert last is not None
            a, other = last.devices
            gone = replace(a, state="recovering", recoverable=True, orig_data_size=0, mem_used_total=0)
            b.app.trouble["ublkb0"] = "no answer in 5 s"
            for second in range(4):
                b.app.take(replace(last, devices=(replace(gone, time=a.time + second), other)))
            await pilot.press("2")
            await pilot.pause()
            shown = "\n".join(str(line.text) for line in b.app.screen._compositor.render_strips())
            assert "recovering 0:03: nothing is lost, reads and writes wait" in shown
            assert "The device is recovering." in shown
            row = b.app.rows()[0]
            assert (row.device.orig_data_size, row.warns, b.app.trouble) == (a.orig_data_size, True, {})


class TestUpgrade:
    async def test_of_a_device_that_another_server_can_take_over(self, bench: Make) -> None:
        """Not in the footer, which has no room for what is done once a year, but in palette and help."""
        b = bench(2)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.press("U")
            titles = {command.title for command in b.app.get_system_commands(b.app.screen)}
            assert "Upgrade its server" not in titles
            b.engine.recoveries["ublkb0"] = 0
            b.play(1)
            await pilot.pause()
            titles = {command.title for command in b.app.get_system_commands(b.app.screen)}
            assert "Upgrade its server" in titles
            assert "Upgrade its server" not in footer(b)
            for text in ("0.5.0 → 0.6.0", "it is served by the installed version already"):
                await pilot.press("U")
                await settle(pilot, lambda text=text: b.app.events.events[-1].text == f"upgrade ublkb0: {text}")  # type: ignore[misc]
                await settle(pilot, lambda: not b.app.jobs.jobs)
            assert [call for call in b.engine.calls if call[0] == "upgrade"] == [("upgrade", "ublkb0")] * 2
            b.engine.dead.add("ublkb0")
            b.play(1)
            await pilot.press("U")
            assert len([call for call in b.engine.calls if call[0] == "upgrade"]) == 2


class TestRemove:
    @pytest.mark.parametrize(
        ("change", "first"),
        [
            (
                {"state": "dead", "recoverable": True},
                "Its server is dead. The 1.0G that it holds are not lost yet: recover it first.",
            ),
            ({"state": "dead", "recoverable": True, "orig_data_size": 0}, "Its server is dead. It holds no data."),
            (
                {"state": "dead", "recoverable": True, "swap_priority": 100},
                "Its server is dead, and another one takes over first: the 1.0G that it holds are not lost.",
            ),
            (
                {"state": "recovering", "recoverable": True},
                "Its server has died, and another one takes over: the 1.0G that it holds are not lost.",
            ),
        ],
    )
    def test_what_is_lost(self, bench: Make, change: dict[str, Any], first: str) -> None:
        snapshot = bench(3).engine.recording.snapshots[0]
        figures = {"orig_data_size": (1 << 30) + 4096, "swap_priority": None}
        device = replace(snapshot.devices[2], **(figures | change))
        assert consequences(device, snapshot.machine).lines[0] == first

    @pytest.mark.parametrize(
        ("change", "refused", "force"),
        [
            ({"state": "dead"}, "", ""),
            ({"state": "dead", "swap_priority": 100}, "only a restart", ""),
            ({"state": "dead", "recoverable": True}, "", ""),
            ({"state": "dead", "recoverable": True, "swap_priority": 100}, "", ""),
            ({"state": "dead", "recoverable": True, "swap_priority": 100, "swap_used": 1 << 50}, "swapoff", "kill"),
            ({"state": "dead", "recoverable": True, "mountpoints": ("/srv",)}, "mounted on /srv", "I/O errors"),
            ({"state": "recovering", "recoverable": True}, "wait until", "is lost"),
            ({"state": "recovering", "recoverable": True, "swap_priority": 100}, "", ""),
        ],
    )
    async def test_without_a_server(self, bench: Make, change: dict[str, Any], refused: str, force: str) -> None:
        """What the engine does: one in use is taken over first, if that is possible, and else swap is not removed,
        forced or not."""
        snapshot = bench(3).engine.recording.snapshots[0]
        device = replace(snapshot.devices[2], **({"swap_priority": None, "swap_used": 0, "mountpoints": ()} | change))
        found = consequences(device, snapshot.machine)
        assert (refused in found.refused, force in found.force) == (True, True), found
        assert (bool(found.refused), bool(found.force)) == (bool(refused), bool(force))

    async def test_a_dead_server_and_one_that_hangs_are_said(self, bench: Make) -> None:
        b = bench(1)
        first = b.engine.recording.snapshots[0]
        device = replace(first.devices[0], swap_priority=None, mountpoints=(), state="dead")
        async with removing(b, device) as pilot:
            assert "already lost" in text_of(b.app.screen, "#what")
            await pilot.press("escape")
            b.app.take(replace(first, devices=(replace(device, state="live"),)))
            b.app.trouble[device.name] = "no answer in 5 s"
            await pilot.press("d")
            await pilot.pause()
            screen = b.app.screen
            assert "did not answer" in text_of(screen, "#what")
            assert not screen.query_one("#remove", Button).disabled
            screen.query_one("#force", Checkbox).value = True
            await pilot.pause()
            assert "--force" in text_of(screen, "#command")
