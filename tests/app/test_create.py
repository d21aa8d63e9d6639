"""The create dialog, by keys: what it checks, what it shows, what it makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import zstandard
from textual.color import Color
from textual.pilot import Pilot
from textual.widgets import Button, Checkbox, Input, Select

from truezram.app.backend.protocol import Capabilities
from truezram.app.config import Config
from truezram.app.screens.create import CreateScreen
from truezram.app.widgets.device_table import DeviceTable
from truezram.engine.device.dictionary import id_of, memory_of
from truezram.engine.device.options import CreateOptions
from truezram.engine.errors import Failed
from truezram.engine.machine import advice
from truezram.engine.units import format_size

from .conftest import SMALL, Bench, settle, text_of
from .test_themes import contrast

Make = Callable[..., Bench]


def trained() -> bytes:
    """A dictionary of 16 KiB."""
    pages = [f"page {number} of {number % 7} ".encode() * 64 for number in range(2000)]
    return zstandard.train_dictionary(16384, pages).as_bytes()


@asynccontextmanager
async def creating(b: Bench, moments: int) -> AsyncIterator[Pilot[Any]]:
    """The app after as many snapshots, with the dialog that `c` opens."""
    async with b.app.run_test(size=SMALL) as pilot:
        b.play(moments)
        await pilot.press("c")
        await pilot.pause()
        yield pilot


class TestCreate:
    async def test_by_keys_only(self, bench: Make) -> None:
        b = bench(1)
        async with creating(b, 3) as pilot:
            screen = b.app.screen
            assert isinstance(screen, CreateScreen)
            size = screen.query_one("#size", Input)
            assert size.has_focus
            await pilot.press(*"4G")
            await pilot.pause()
            assert "--size 4G" in text_of(screen, "#command")
            await pilot.press("ctrl+s")
            await settle(pilot, lambda: any(call[0] == "create" for call in b.engine.calls))
            # By default swap, with the limit that setup would give it.
            limit = advice.mem_limit(b.app.memory)
            wanted = CreateOptions(4 << 30, "lz4", mem_limit=limit, swap=True, priority=100)
            assert ("create", wanted) in b.engine.calls
            await settle(pilot, lambda: b.app.selected == "ublkb1")
            b.play()
            await pilot.pause()
            assert [row.device.name for row in b.app.screen.query_one(DeviceTable).shown] == ["ublkb0", "ublkb1"]

    async def test_what_comes_from_what_if_is_swap(self, bench: Make) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            b.app.create_from(CreateOptions(size=1 << 30, algorithm="lz4", mem_limit=1 << 29, swap=True))
            await pilot.pause()
            assert "--swap --priority 100" in text_of(b.app.screen, "#command")

    async def test_a_backing_file(self, bench: Make, tmp_path: Path) -> None:
        b = bench(1)
        async with creating(b, 3) as pilot:
            screen = b.app.screen
            assert screen.query_one("#backing-plain", Checkbox).disabled
            assert "backing" not in text_of(screen, "#policy-note")
            screen.query_one("#backing", Input).value = f"{tmp_path}/f"
            screen.query_one("#backing-limit", Input).value = "2G"
            await pilot.pause()
            assert text_of(screen, "#backing-note") == "encrypted; made, up to 2G"
            assert "20h to the backing file" in text_of(screen, "#policy-note")
            command = " ".join(text_of(screen, "#command").split())
            assert "--backing-limit 2G" in command
            screen.query_one("#backing-plain", Checkbox).value = True
            await pilot.pause()
            assert text_of(screen, "#backing-note").startswith("not encrypted")
            await pilot.press("ctrl+s")
            await settle(pilot, lambda: any(call[0] == "create" for call in b.engine.calls))
            (options,) = (call[1] for call in b.engine.calls if call[0] == "create")
            assert (options.backing, options.backing_limit, options.backing_plain) == (f"{tmp_path}/f", 2 << 30, True)

    @pytest.mark.parametrize(
        ("path", "limit", "why"),
        [
            ("/nonexistent/f", "", "There is no folder /nonexistent"),
            ("/proc", "", "It is a folder"),
            ("/f", "1K", "The limit is 1K. Choose 1M to 256G"),
            ("/f", "many", "It is not a number"),
        ],
    )
    async def test_a_backing_file_that_cannot_be(self, bench: Make, path: str, limit: str, why: str) -> None:
        b = bench(1)
        async with creating(b, 3) as pilot:
            b.app.screen.query_one("#backing", Input).value = path
            b.app.screen.query_one("#backing-limit", Input).value = limit
            await pilot.pause()
            assert text_of(b.app.screen, "#backing-note").startswith(why)
            assert b.app.screen.query_one("#create", Button).disabled

    async def test_where_a_device_would_not_outlive_its_server(self, bench: Make) -> None:
        why = "its arena is not on a noswap tmpfs, which Linux has since 6.4"
        b = bench(1, capabilities=Capabilities(recovery_why=why))
        async with creating(b, 3) as pilot:
            warning = b.app.screen.query_one("#warning")
            text = f"It will not outlive its server: {why}."
            assert text_of(b.app.screen, "#warning").splitlines()[-1] == text
            assert warning.region.height > 0
            b.app.screen.query_one("#transport", Select).value = "local"  # which never does
            await pilot.pause()
            assert "outlive" not in text_of(b.app.screen, "#warning")

    @pytest.mark.parametrize(
        ("capabilities", "why"),
        [
            (Capabilities(), ""),
            (Capabilities(persist_why="no systemd here"), "no systemd here"),
            (Capabilities(ublk=False, persist_why="no systemd here"), "needs ublk or nbd"),
        ],
    )
    async def test_why_a_device_cannot_be_made_at_every_start(
        self, bench: Make, capabilities: Capabilities, why: str
    ) -> None:
        b = bench(1, capabilities=capabilities)
        async with creating(b, 3):
            note = b.app.screen.query_one("#persist-note")
            assert text_of(b.app.screen, "#persist-note") == why
            assert b.app.screen.query_one("#persist", Checkbox).disabled == bool(why)
            assert note.region.height == 1
            assert note.content_region.width >= len(why)
            assert b.app.screen.region.contains_region(note.region)

    @pytest.mark.parametrize("theme", ["dark", "light", "high-contrast", "colour-blind"])
    async def test_what_an_empty_field_means_can_be_read(self, bench: Make, theme: str) -> None:
        b = bench(1, config=Config(theme=theme))
        async with creating(b, 3):
            field = b.app.screen.query_one("#limit", Input)
            style = field.get_component_rich_style("input--placeholder")
            assert style.color is not None
            assert style.bgcolor is not None
            text, ground = (Color.from_rich_color(color) for color in (style.color, style.bgcolor))
            assert contrast(text.hex6, ground.hex6) >= 4.5

    async def test_arrows_walk_through_all_fields(self, bench: Make) -> None:
        b = bench(1)
        async with creating(b, 3) as pilot:
            screen = b.app.screen
            walked = []
            for _ in range(5):
                await pilot.press("down")
                await pilot.pause()
                assert not any(select.expanded for select in screen.query(Select))
                walked.append(screen.focused.id if screen.focused else "")
            assert walked[:4] == ["algorithm", "limit", "policy", "mode"]
            await pilot.press("up", "up", "up", "up")
            assert screen.focused is screen.query_one("#algorithm")
            await pilot.press("enter")
            await pilot.pause()
            assert screen.query_one("#algorithm", Select).expanded

    @pytest.mark.parametrize(
        ("field", "text", "reason"),
        [
            ("size", "0", "It is zero"),
            ("size", "-4G", "It is negative"),
            ("size", "junk", "It is not a number"),
            ("size", "9P", "It is more than"),
            ("size", "1.0001K", "It is not a whole number of bytes"),
            ("size", "4097", "It is not a multiple"),
            ("size", "", "It is empty"),
            ("limit", "lots", "It is not a number"),
            ("queues", "0", "Queues is out of range"),
            ("depth", "x", "Depth is not a whole number"),
        ],
    )
    async def test_errors_are_shown_next_to_the_field(self, bench: Make, field: str, text: str, reason: str) -> None:
        b = bench(1)
        async with creating(b, 2) as pilot:
            screen = b.app.screen
            screen.query_one(f"#{field}", Input).value = text
            await pilot.pause()
            note = "queues" if field == "depth" else field
            assert reason in text_of(screen, f"#{note}-note")
            assert screen.query_one(f"#{note}-note").has_class("bad")
            assert screen.query_one("#create", Button).disabled
            await pilot.press("ctrl+s")
            await pilot.pause()
            assert b.app.screen is screen
            assert not [call for call in b.engine.calls if call[0] == "create"]

    async def test_level_and_swap(self, bench: Make) -> None:
        b = bench(1)
        async with creating(b, 2) as pilot:
            screen = b.app.screen
            assert screen.query_one("#level").disabled
            screen.query_one("#algorithm", Select).value = "zstd"
            screen.query_one("#use", Select).value = "swap"
            await pilot.pause()
            screen.query_one("#level", Input).value = "25"
            await pilot.pause()
            assert "out of range" in text_of(screen, "#level-note").lower()
            screen.query_one("#level", Input).value = "-3"
            await pilot.pause()
            command = text_of(screen, "#command").replace("\n", " ")
            assert "--algorithm zstd:-3 --mem-limit" in command
            assert command.endswith("--swap --priority 100")

    async def test_a_filesystem_mounted(self, bench: Make, tmp_path: Path) -> None:
        b = bench(1)
        async with creating(b, 2) as pilot:
            screen = b.app.screen
            screen.query_one("#size", Input).value = "1G"
            screen.query_one("#use", Select).value = "ext4"
            await pilot.pause()
            assert text_of(screen, "#command").endswith("--fs ext4")
            screen.query_one("#mount", Input).value = str(tmp_path / "missing")
            await pilot.pause()
            assert "No such folder" in text_of(screen, "#use-note")
            assert screen.query_one("#create", Button).disabled
            screen.query_one("#mount", Input).value = str(tmp_path)
            await pilot.pause()
            assert f"--fs ext4 --mount {tmp_path}" in text_of(screen, "#command").replace("\n", "")
            screen.query_one("#size", Input).value = "4K"
            await pilot.pause()
            assert "Ext4 needs" in text_of(screen, "#use-note")
            screen.query_one("#size", Input).value = "1G"
            await pilot.press("ctrl+s")
            await settle(pilot, lambda: any(call[0] == "create" for call in b.engine.calls))
            limit = advice.mem_limit(b.app.memory)
            made = CreateOptions(1 << 30, "lz4", mem_limit=limit, fs="ext4", mount=str(tmp_path))
            assert ("create", made) in b.engine.calls

    async def test_a_dictionary_is_read_and_checked(self, bench: Make, tmp_path: Path) -> None:
        b = bench(1)
        file = tmp_path / "some.zdict"
        file.write_bytes(b"not a dictionary")
        async with creating(b, 2) as pilot:
            screen = b.app.screen
            field = screen.query_one("#dictionary", Input)
            assert field.disabled
            assert text_of(screen, "#dictionary-note") == "needs zstd"
            screen.query_one("#algorithm", Select).value = "zstd"
            await pilot.pause()
            assert not field.disabled
            for path in (tmp_path / "missing", file):
                field.value = str(path)
                await pilot.pause()
                assert screen.query_one("#dictionary-note").has_class("bad")
                assert screen.query_one("#create", Button).disabled
            file.write_bytes(trained())
            screen.query_one("#level", Input).value = "1"
            await pilot.pause()
            note = text_of(screen, "#dictionary-note")
            assert note == f"id {id_of(file.read_bytes())}, takes {format_size(memory_of(16384, 1))} of memory"
            assert f"--algorithm zstd:1 --dictionary {file}" in text_of(screen, "#command").replace("\n", "")
            await pilot.press("ctrl+s")
            await settle(pilot, lambda: any(call[0] == "create" for call in b.engine.calls))
            made = next(call[1] for call in b.engine.calls if call[0] == "create")
            assert isinstance(made, CreateOptions)
            assert (made.algorithm, made.dictionary) == ("zstd:1", str(file))

    async def test_all_fields_begin_with_what_is_proposed(self, bench: Make, tmp_path: Path) -> None:
        """So the form has a field for every option, and the proposals here give each a value."""
        file = tmp_path / "dictionary"
        file.write_bytes(trained())
        wanted = [
            CreateOptions(
                size=3 << 30,
                algorithm="zstd:5",
                mem_limit=1 << 30,
                dedup=True,
                id=7,
                queues=1,
                queue_depth=32,
                fs="ext4",
                mount=str(tmp_path),
                enable=True,
                data_mode="driver-copy",
            ),
            CreateOptions(size=1 << 30, algorithm="zstd:1", dictionary=str(file), swap=True, priority=5),
            CreateOptions(size=1 << 30, algorithm="lz4", policy="600:0:5", mode="low-latency", transport="local"),
            CreateOptions(
                size=1 << 30, algorithm="lz4", backing=f"{tmp_path}/f", backing_limit=2 << 20, backing_plain=True
            ),
        ]
        given = {f.name for options in wanted for f in fields(options) if getattr(options, f.name) != f.default}
        # (What is on a backing file is not given up by a form.)
        assert given == {f.name for f in fields(CreateOptions)} - {"force"}
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(3)
            for options in wanted:
                b.app.create_from(options)
                await pilot.pause()
                screen = b.app.screen
                assert isinstance(screen, CreateScreen)
                assert screen.options == options
                await pilot.press("escape")
                await pilot.pause()

    async def test_back_after_a_restart_names_its_id(self, bench: Make) -> None:
        b = bench(1)
        async with creating(b, 2) as pilot:
            screen = b.app.screen
            screen.query_one("#persist", Checkbox).value = True
            await pilot.pause()
            command = text_of(screen, "#command")
            assert command.startswith("$ sudo truezram --no-tui create --size")
            assert "--id 1" in command
            assert command.endswith("--enable")
            screen.query_one("#transport", Select).value = "local"
            await pilot.pause()
            assert "--enable" not in text_of(screen, "#command")

    async def test_without_ublk_or_root_only_local_is_offered(self, bench: Make) -> None:
        can = Capabilities(ublk=False, ublk_why="modprobe ublk_drv", root=False)
        b = bench(1, capabilities=can)
        async with creating(b, 2):
            screen = b.app.screen
            assert screen.query_one("#transport", Select).value == "local"
            assert screen.query_one("#use").disabled
            assert text_of(screen, "#command").startswith("$ truezram --no-tui create")

    async def test_where_there_is_nbd_and_no_ublk(self, bench: Make) -> None:
        """A disk is proposed; swap, and more than one queue, are refused where they are asked for."""
        b = bench(1, capabilities=Capabilities(ublk=False, ublk_why="modprobe ublk_drv", nbd=True))
        async with creating(b, 2) as pilot:
            screen = b.app.screen
            assert screen.query_one("#transport", Select).value == "nbd"
            assert screen.query_one("#use", Select).value == "disk"
            assert not screen.query_one("#use").disabled
            command = text_of(screen, "#command")
            assert command.startswith("$ sudo truezram --no-tui create")
            assert command.endswith("--transport nbd")
            screen.query_one("#persist", Checkbox).value = True
            await pilot.pause()
            assert text_of(screen, "#command").endswith("--id 0 --transport nbd --enable")
            screen.query_one("#persist", Checkbox).value = False
            screen.query_one("#use", Select).value = "swap"
            await pilot.pause()
            assert text_of(screen, "#use-note").startswith("Swap needs ublk")
            assert screen.query_one("#create", Button).disabled
            screen.query_one("#use", Select).value = "ext4"
            screen.query_one("#queues", Input).value = "2"
            await pilot.pause()
            assert "1" in text_of(screen, "#queues-note")
            assert screen.query_one("#create", Button).disabled
            screen.query_one("#queues", Input).value = "1"
            await pilot.pause()
            assert not screen.query_one("#create", Button).disabled
            await pilot.press("ctrl+s")
            await settle(pilot, lambda: any(call[0] == "create" for call in b.engine.calls))
        made = next(call[1] for call in b.engine.calls if call[0] == "create")
        assert (made.transport, made.fs, made.swap, made.queues) == ("nbd", "ext4", False, 1)

    async def test_a_refusal_is_shown_and_nothing_else_happens(self, bench: Make) -> None:
        b = bench(1)
        b.engine.script["create"] = Failed("cannot create", "the id is in use")
        async with creating(b, 2) as pilot:
            await pilot.press("ctrl+s")
            await settle(pilot, lambda: any("the id is in use" in e.text for e in b.app.events.events))
            b.play()
            assert b.app.is_running

    async def test_escape_makes_nothing(self, bench: Make) -> None:
        b = bench(1)
        async with b.app.run_test(size=SMALL) as pilot:
            b.play(2)
            await pilot.press("c", "escape")
            await pilot.pause()
            assert not b.app.in_dialog
            assert not [call for call in b.engine.calls if call[0] == "create"]
