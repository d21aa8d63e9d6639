"""The app's parts that need no screen: series, glyphs, plan, events, recordings, settings, sanity, commands."""

from __future__ import annotations

import gzip
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from truezram.app import config, equivalent, glyphs, keymap, plan, series
from truezram.app.app import TruezramApp
from truezram.app.backend.recording import Header, Recorder, decode, encode, load
from truezram.app.backend.replay import Replay
from truezram.app.columns import BY_KEY, COLUMNS, Row, fitting
from truezram.app.format import short_ns, short_size
from truezram.app.screens.page import dialogs, owners
from truezram.app.series import History
from truezram.app.widgets.device_table import matches
from truezram.app.widgets.graph import Scale, group, iec_steps
from truezram.engine.device.event_log import EventLog
from truezram.engine.device.events import Detector, Event
from truezram.engine.device.options import CreateOptions
from truezram.engine.device.sanity import UNMEASURED, implausible
from truezram.engine.errors import Failed, UsageError
from truezram.engine.model import IO_STAT, DeviceSnapshot, QueueSnapshot, Snapshot
from truezram.engine.rates import latency_floor

from .conftest import RECORDINGS, eight
from .simulate import lat_bin

GIB = 1 << 30


def history(snapshots: Sequence[Snapshot], interval: float = 1.0) -> History:
    out = History()
    for snapshot in snapshots:
        out.add(snapshot, interval)
    return out


class TestKeymap:
    BINDINGS: ClassVar = {
        "app.help": ("question_mark", "Help"),
        "app.create": ("c,insert", "Create"),
        "device.next": ("n", "Next device"),
        "bench.next": ("n", "Next run"),
        "whatif.create": ("enter,c", "Create with this"),
        "table.open": ("enter", "Open"),
        "map.into": ("enter", "Look into"),
        "map.out": ("backspace,minus", "Back out"),
    }

    def holders(self, action: str, keys: str, **own: str) -> list[str]:
        named = {name.replace("_", "."): value for name, value in own.items()}
        return list(keymap.holders(self.BINDINGS, named, action, keys))

    def test_who_has_a_key(self) -> None:
        assert self.holders("app.create", "x") == []
        assert self.holders("app.create", "n") == ["device.next", "bench.next"]
        assert self.holders("app.create", "?") == ["app.help"]
        assert self.holders("app.create", "minus") == self.holders("app.create", "-") == ["map.out"]
        assert self.holders("map.into", "n, c") == ["app.create", "device.next", "bench.next", "whatif.create"]
        assert self.holders("device.next", "n") == []  # another screen's, as it comes
        assert self.holders("device.next", "enter") == ["table.open", "map.into"]
        assert self.holders("map.into", "enter") == []  # another widget's
        assert self.holders("app.create", "c") == []  # shared by intention
        assert self.holders("app.help", "c", app_create="i") == ["whatif.create"]

    def test_what_is_wrong_with_config_toml(self) -> None:
        def problems(**own: str) -> list[str]:
            return list(
                keymap.problems(self.BINDINGS, {"help.close"}, {k.replace("_", "."): v for k, v in own.items()})
            )

        assert problems(app_create="i", help_close="i", map_into="m") == []
        assert ['"app.creat"' in line for line in problems(app_creat="i")] == [True]
        (line,) = problems(app_create="question_mark")
        assert '"question_mark" for app.create is also a key of app.help (Help)' in line
        assert len(problems(app_create="i", app_help="i")) == 1

    def test_the_programs_own_keys_are_in_order(self) -> None:
        bindings = keymap.bindings_of((TruezramApp, *owners()))
        own = {name: keys for name, (keys, _) in bindings.items()}
        assert list(keymap.problems(bindings, set(), own)) == []
        assert "chart.close" in keymap.bindings_of(dialogs())


def at(snapshot: Snapshot, when: float) -> Snapshot:
    """The same figures at another time."""
    devices = tuple(replace(device, time=when) for device in snapshot.devices)
    return Snapshot(replace(snapshot.machine, time=when), devices)


def evenly(seconds: int) -> list[Snapshot]:
    """One device's snapshots, a second apart exactly."""
    return [at(snapshot, 1000.0 + second) for second, snapshot in enumerate(eight(1, seconds, None))]


class TestSeries:
    def test_bins_are_those_of_the_statistics_page(self) -> None:
        for ns in (0, 63, 64, 511, 512, 575, 576, 1023, 1024, 4096, 123_456, 9_999_999):
            index = lat_bin(ns)
            assert latency_floor(index) <= ns < latency_floor(index + 1)

    def test_quantiles(self) -> None:
        bins = [0] * 200
        bins[lat_bin(1000)] = 99
        bins[lat_bin(50_000)] = 1
        p50, p99, p100 = series.quantiles(bins, (0.5, 0.99, 1.0))
        assert p50 == pytest.approx(1000, rel=0.13)
        assert p99 == pytest.approx(1000, rel=0.13)
        assert p100 == pytest.approx(50_000, rel=0.13)
        assert all(math.isnan(v) for v in series.quantiles([0] * 200, (0.5, 0.99)))

    def test_rates_come_from_counters(self) -> None:
        a, b = (s.devices[0] for s in eight(1)[10:12])
        rates = series.device_rates(b, a)
        seconds = b.time - a.time
        assert b.total.pages_written > a.total.pages_written
        assert rates.read == pytest.approx((b.total.pages_read - a.total.pages_read) * 4096 / seconds)
        assert rates.write == pytest.approx((b.total.pages_written - a.total.pages_written) * 4096 / seconds)

    def test_a_restarted_device_has_no_rate_over_the_restart(self) -> None:
        a, b = (s.devices[0] for s in eight(1)[10:12])
        assert math.isnan(series.device_rates(replace(b, created=b.created + 1), a).read)
        assert math.isnan(series.device_rates(a, b).read)

    def test_missing_seconds_are_a_gap_of_their_length(self) -> None:
        there = [s for n, s in enumerate(evenly(120)) if not 60 <= n < 70]
        values = list(history(there).devices["ublkb0"].rings["read"].values)
        assert sum(math.isnan(v) for v in values) == 10
        assert len(values) == 119

    def test_four_snapshots_a_second_are_one_sample(self) -> None:
        got = history([at(s, s.machine.time + n / 4) for s in evenly(20) for n in range(4)], 0.25)
        assert len(got.devices["ublkb0"].rings["read"].values) == 19

    def test_a_slow_refresh_is_no_gap(self) -> None:
        got = history(evenly(60)[::2], 2.0)
        values = got.devices["ublkb0"].rings["read"].values
        assert len(values) == 58
        assert not any(math.isnan(v) for v in values)

    def test_fifteen_minutes_are_kept(self) -> None:
        ring = series.Ring()
        for i in range(2000):
            ring.add(float(i))
        assert len(ring.values) == 900
        assert ring.values[0] == 1100.0

    def test_time_to_full_follows_the_growth(self) -> None:
        got = history(eight(1, 60, None)).devices["ublkb0"]
        assert got.latest is not None
        ring = got.rings["logical"]
        ring.values.clear()
        for i in range(60):
            ring.add(float(i * 1_000_000))
        got.latest = replace(got.latest, orig_data_size=GIB, disksize=2 * GIB, mem_limit=0)
        assert got.time_to_full() == pytest.approx(GIB / 1_000_000, rel=0.01)
        got.latest = replace(got.latest, orig_data_size=2 * GIB)
        assert got.time_to_full() is None  # its state says that it is full
        got.latest = replace(got.latest, orig_data_size=GIB)
        # It has stopped: it does not continue like this.
        for _ in range(20):
            ring.add(59_000_000.0)
        assert got.growth("logical") == pytest.approx(40_000_000 / 59, rel=0.03)
        assert got.time_to_full() is None


class TestGlyphs:
    @pytest.mark.parametrize("kind", glyphs.GLYPH_SETS)
    def test_rows_have_the_size_asked_for(self, kind: str) -> None:
        for count in (0, 3, 500):
            rows = glyphs.fill_rows([5.0] * count, 20, 4, 10.0, kind)
            assert [len(row) for row in rows] == [20] * 4

    def test_anything_above_zero_shows_and_zero_and_gaps_do_not(self) -> None:
        bottom = glyphs.fill_rows([1e-9, 1e-9, 0.0, 0.0, math.nan, math.nan], 3, 2, 10.0, "braille")[-1]
        assert bottom[0] != " "
        assert bottom[1:] == "  "

    def test_full_height(self) -> None:
        assert glyphs.fill_rows([10.0] * 2, 1, 2, 10.0, "braille") == ["⣿", "⣿"]
        assert glyphs.fill_rows([10.0], 1, 2, 10.0, "block") == ["█", "█"]

    def test_ascii_is_ascii(self) -> None:
        everything = "".join(chr(c) for c in range(0x80, 0x2900)) + "─│┌█▒⣿×µ…→✗"
        assert glyphs.to_ascii(everything).isascii()
        assert len(glyphs.to_ascii(everything)) == len(everything)

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({"LANG": "C.UTF-8", "TERM": "xterm"}, "braille"),
            ({"LANG": "de_DE.UTF-8", "TERM": "linux"}, "ascii"),
            ({"LANG": "C", "TERM": "xterm"}, "ascii"),
            ({"LC_ALL": "POSIX", "LANG": "en_US.UTF-8", "TERM": "xterm"}, "ascii"),
            ({"LC_CTYPE": "en_US.utf8", "TERM": "tmux-256color"}, "braille"),
        ],
    )
    def test_what_the_terminal_can_show(self, environ: dict[str, str], expected: str) -> None:
        assert glyphs.choose("auto", environ) == expected
        assert glyphs.choose("block", environ) == "block"

    def test_line_joins_its_dots(self) -> None:
        cells = glyphs.line_cells([0.0, 10.0], 1, 4, 0.0, 10.0, "braille")
        assert {row for row, _ in cells} == {0, 1, 2, 3}


class TestScale:
    def test_rises_at_once_and_falls_a_step_at_a_time(self) -> None:
        scale = Scale(iec_steps, 1.0)
        assert scale.fit([1000.0]) == 1024.0
        tops = [scale.fit([1.0]) for _ in range(60)]
        assert tops[8] == 1024.0
        assert tops == sorted(tops, reverse=True)
        assert all(a / b in (1.0, 2.0) for a, b in pairwise(tops))
        assert tops[-1] < 64

    def test_groups_do_not_shimmer(self) -> None:
        values = [float(v) for v in range(100)]
        first = group(values, 100, 5)
        second = group([*values[1:], 100.0], 101, 5)
        assert first == second[: len(first)]


class TestPlan:
    def test_a_full_device(self) -> None:
        got = plan.outcome(8 * GIB, 0, 2.0, 10 * GIB)
        table = 8 * GIB // 4096 * 8
        assert (got.holds, got.resident) == (8 * GIB, 4 * GIB + table)
        assert got.left == 6 * GIB - table
        assert got.gained == 4 * GIB - table

    def test_a_limit_bounds_what_it_takes(self) -> None:
        got = plan.outcome(8 * GIB, GIB, 2.0, 10 * GIB)
        assert got.resident == pytest.approx(GIB, abs=2)
        assert got.holds == pytest.approx(GIB / (1 / 2 + 1 / 512), abs=2)

    @pytest.mark.parametrize("text", ["", "0", "-1G", "x", "1.00001K", "9P", "5000"])
    def test_bad_sizes(self, text: str) -> None:
        with pytest.raises(UsageError):
            plan.check_size(text, 24 * GIB)

    def test_remarks(self) -> None:
        assert plan.check_size("8G", 24 * GIB)[1] == ""
        assert "no data compresses" in plan.check_size("1T", 24 * GIB)[1]
        assert "less than any device takes" in plan.check_limit("4K", 8 * GIB)[1]
        assert plan.check_limit("none", 8 * GIB) == (0, "")


class TestCommandLine:
    def test_create(self) -> None:
        options = CreateOptions(
            size=8 * GIB,
            algorithm="zstd:3",
            mem_limit=GIB,
            id=2,
            queues=4,
            queue_depth=128,
            swap=True,
            priority=100,
            dictionary="/d",
        )
        assert equivalent.create(options) == (
            "sudo truezram --no-tui create --size 8G --algorithm zstd:3 --dictionary /d --mem-limit 1G --id 2"
            " --queues 4 --queue-depth 128 --swap --priority 100"
        )

    def test_create_with_a_filesystem(self) -> None:
        options = CreateOptions(8 * GIB, "lz4", fs="ext4", mount="/mnt/a b")
        assert equivalent.create(options).endswith("--algorithm lz4 --fs ext4 --mount '/mnt/a b'")

    def test_names_are_quoted(self) -> None:
        assert shlex.split(equivalent.remove("x; rm -rf /"))[-1] == "x; rm -rf /"


class TestEvents:
    def test_the_first_snapshot_is_how_things_are(self) -> None:
        assert Detector().feed(eight(2)[0], 0.0) == []

    def test_life_of_a_device(self) -> None:
        detector = Detector()
        two = eight(2)[0]
        one = replace(two, devices=two.devices[:1])
        detector.feed(one, 0.0)
        assert [(e.device, e.text[:8]) for e in detector.feed(two, 1.0)] == [("ublkb1", "appeared")]
        dead = replace(two, devices=(two.devices[0], replace(two.devices[1], state="dead", last_error="killed")))
        text = "server died, and what it held is lost: killed"
        assert [(e.level, e.text) for e in detector.feed(dead, 2.0)] == [("error", text)]
        assert [(e.device, e.text) for e in detector.feed(one, 3.0)] == [("ublkb1", "removed")]

    def test_an_error_that_comes_with_another_state(self) -> None:
        """A server that takes over says what the dead one has died of, often between two snapshots."""
        detector = Detector()
        base = eight(1)[0]
        before = replace(base.devices[0], recoverable=True, last_error="page 3: entry is damaged", last_error_time=5.0)
        text = "reading page 7 has killed the server 3 times: it fails with EIO now"
        after = replace(before, pid=before.pid + 1, recoveries=3, last_error=text, last_error_time=9.0)
        for while_dead in (replace(before, state="recovering"), replace(after, state="recovering")):
            told: list[tuple[str, str]] = []
            for now in (before, while_dead, after, after):
                told += [(e.level, e.text) for e in detector.feed(replace(base, devices=(now,)), 1.0)]
            assert told.count(("error", text)) == 1, told
            assert sum("page 3" in said for _, said in told) <= 1, told

    def test_damage_is_an_error(self) -> None:
        detector = Detector()
        base = eight(1)[0]
        detector.feed(base, 0.0)
        device = base.devices[0]
        total = replace(device.total, damaged_entries=device.total.damaged_entries + 2)
        met = replace(base, devices=(replace(device, total=total),))
        found = [(e.level, e.text) for e in detector.feed(met, 1.0)]
        assert found == [("error", "2 damaged page-table entries were found")]

    def test_pressure(self) -> None:
        detector = Detector()
        base = eight(1)[0]
        told = []
        for why in ("", "memory", "memory", "mem_limit", "", ""):
            device = replace(base.devices[0], pressure=why)
            told += [(e.level, e.text) for e in detector.feed(replace(base, devices=(device,)), 1.0)]
        assert told == [
            ("info", "the policy acts earlier: processes wait for memory"),
            ("info", "the policy acts earlier: used memory is near mem_limit"),
            ("info", "the policy acts at its usual times again"),
        ]

    def test_slot_tracking(self) -> None:
        detector = Detector()
        base = eight(1)[0]
        detector.feed(base, 0.0)
        told = []
        for state, text in (("testing", "being tested"), ("on", "f"), ("on", "f"), ("unavailable", "why"), ("off", "")):
            device = replace(base.devices[0], slot_tracking=state, slot_tracking_text=text)
            told += [(e.level, e.text) for e in detector.feed(replace(base, devices=(device,)), 1.0)]
        assert told == [
            ("info", "the kernel reports freed swap slots (f)"),
            ("warning", "freed swap slots are not reported, their pages stay stored: why"),
        ]

    def test_full_is_told_before_it_is(self) -> None:
        detector = Detector()
        base = eight(1)[0]

        def at(share: float) -> Snapshot:
            device = replace(base.devices[0], mem_limit=GIB, mem_used_total=int(GIB * share))
            return replace(base, devices=(device,))

        detector.feed(at(0.5), 0.0)
        assert detector.feed(at(0.79), 0.5) == []
        assert [(e.level, e.text[:4]) for e in detector.feed(at(0.81), 1.0)] == [("warning", "four")]
        assert detector.feed(at(0.94), 2.0) == []
        assert [(e.level, e.text[:6]) for e in detector.feed(at(0.951), 2.5)] == [("warning", "nearly")]
        assert [(e.level, e.text[:5]) for e in detector.feed(at(0.995), 3.0)] == [("error", "full:")]
        assert [e.text[:10] for e in detector.feed(at(0.5), 4.0)] == ["space agai"]

    def test_pressure_is_told_once(self) -> None:
        detector = Detector()
        base = eight(1)[0]

        def at(full: float) -> Snapshot:
            machine = replace(base.machine, pressure=replace(base.machine.pressure, memory_full=full))
            return replace(base, machine=machine)

        detector.feed(at(0.0), 0.0)
        assert len(detector.feed(at(30.0), 1.0)) == 1
        assert detector.feed(at(12.0), 2.0) == []
        assert [e.text for e in detector.feed(at(1.0), 3.0)] == ["memory pressure has eased"]

    def test_kept_over_restarts_and_bounded(self, tmp_path: Path) -> None:
        path = tmp_path / "state" / "events.jsonl"
        log = EventLog(path)
        for i in range(3):
            log.add(Event(float(i), "info", f"text {i}", "ublkb0"))
        with path.open("a") as file:
            file.write('{"time": 3, "lev')
        assert [e.text for e in EventLog(path).events] == ["text 0", "text 1", "text 2"]

    def test_a_folder_that_cannot_be_written_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        log = EventLog(tmp_path / "file" / "events.jsonl")
        log.add(Event(0.0, "info", "x"))
        assert "events.jsonl" in log.problem


class TestRecording:
    def test_round_trip(self, tmp_path: Path) -> None:
        for name in ("plain.jsonl", "packed.jsonl.gz", "packed.jsonl.zst"):
            path = tmp_path / name
            recorder = Recorder(path, Header("recorded", "note", 5.0))
            for snapshot in eight(3)[:20]:
                recorder.snapshot(snapshot)
            recorder.answer("doctor", None, [])
            recorder.close()
            got = load(path)
            assert got.snapshots == eight(3)[:20]
            assert got.header == Header("recorded", "note", 5.0)
            assert got.answers[0].call == "doctor"

    def test_fewer_regions_than_recorded_lose_no_page(self) -> None:
        replay = Replay(load(RECORDINGS / "swap.jsonl.gz"))
        whole = replay.page_map("ublkb0", 0, 131072, 4096)
        assert len(whole.regions) == 1024
        few = replay.page_map("ublkb0", 0, 131072, 300)
        assert len(few.regions) == 256
        assert sum(map(sum, few.regions)) == sum(map(sum, whole.regions)) == 131072
        assert {sum(region) for region in few.regions} == {512}

    def test_cut_short_is_good_up_to_there(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.jsonl"
        recorder = Recorder(path, Header("recorded"))
        for snapshot in eight(1)[:5]:
            recorder.snapshot(snapshot)
        recorder.close()
        path.write_bytes(path.read_bytes()[:-40])
        assert len(load(path).snapshots) == 4

    @pytest.mark.parametrize(
        "text",
        ["", "{}\n", "[]\n", "junk\nmore\n", '{"schema": "truezram.recording/1", "origin": "x"}\n', "\x00\xff"],
    )
    def test_what_is_none_is_refused(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "bad.jsonl"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(Failed):
            load(path)

    def test_a_bad_line_in_the_middle_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.jsonl"
        line = json.dumps({"snapshot": encode(eight(1)[0])})
        path.write_text(f'{{"schema": "truezram.recording/1", "origin": "x"}}\n{line}\noops\n{line}\n')
        with pytest.raises(Failed, match="line 3"):
            load(path)

    @pytest.mark.parametrize("ending", ["gz", "zst"])
    def test_a_compressed_file_that_is_damaged(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"some.jsonl.{ending}"
        recorder = Recorder(path, Header("recorded"))
        for snapshot in eight(3)[:40]:
            recorder.snapshot(snapshot)
        recorder.close()
        whole = path.read_bytes()
        for damage in (b"not compressed", whole[:60] + bytes(100) + whole[160:], whole[:10]):
            path.write_bytes(damage)
            with pytest.raises(Failed):
                load(path)

    def test_a_compressed_file_of_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.jsonl.gz"
        with gzip.open(path, "wt") as file:
            file.write("hello\n")
        with pytest.raises(Failed):
            load(path)

    def test_wrong_types_are_refused(self) -> None:
        data = encode(eight(1)[0])
        data["devices"][0]["disksize"] = "8G"
        with pytest.raises(Failed):
            decode(Snapshot, data)


class TestConfig:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "truezram" / "config.toml"
        wanted = config.Config("light", "block", "pages", 1.0, ("data", "ratio"), {"app.create": "n"})
        config.save(path, wanted)
        assert config.load(path) == (wanted, "")

    @pytest.mark.parametrize(
        "text",
        [
            "theme = 3",
            "glyphs = 'x'",
            "refresh = 0.001",
            "refresh = true",
            "colums = []",
            "columns = ['x']",
            "= =",
            "[keys]\na = 1",
        ],
    )
    def test_a_bad_file_is_said_and_not_used(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "config.toml"
        path.write_text(text)
        got, problem = config.load(path)
        assert got == config.Config()
        assert str(path) in problem

    def test_slower_over_a_line(self) -> None:
        assert config.refresh_interval(config.Config(), {}) == 0.25
        assert config.refresh_interval(config.Config(), {"SSH_CONNECTION": "x"}) == 0.5
        assert config.refresh_interval(config.Config(refresh=2.0), {"TMUX": "x"}) == 2.0


class TestSanity:
    def test_good_figures(self) -> None:
        for snapshot in eight(8):
            assert [implausible(d) for d in snapshot.devices] == [""] * 8

    @pytest.mark.parametrize(
        "change",
        [
            {"disksize": -1},
            {"orig_data_size": 1 << 60},
            {"huge_pages": 1 << 40},
            {"compr_data_size": 1 << 50},
            {"mem_limit": -5},
        ],
    )
    def test_implausible_figures(self, change: dict[str, int]) -> None:
        device = replace(eight(1)[5].devices[0], **change)
        assert implausible(device)
        assert [implausible(replace(device, state=state)) for state in UNMEASURED] == [""] * 3


class TestTable:
    def test_columns_fit_their_width_whatever_the_figure(self) -> None:
        big = DeviceSnapshot(
            "ublkb12", "/dev/ublkb12", disksize=(1 << 52), orig_data_size=(1 << 52) - 1, mem_used_total=1023 << 40
        )
        for column in COLUMNS:
            if column.key not in ("algorithm", "mountpoint", "name", "state"):
                assert len(column.text(Row(big))) <= column.width, column.key

    def test_narrow_tables_keep_what_matters(self) -> None:
        at80 = [c.key for c in fitting(78)]
        for key in ("name", "disksize", "data", "compr", "total", "algorithm", "ratio", "read", "write", "state"):
            assert key in at80
        assert next(c.key for c in fitting(20)) == "name"
        assert sum(c.width + 1 for c in fitting(60)) <= 61

    def test_every_counter_is_a_column_when_asked_for(self) -> None:
        total = QueueSnapshot(deferred_writes=3, pages_discarded=70_000)
        row = Row(DeviceSnapshot("ublkb0", "/dev/ublkb0", total=total))
        chosen = fitting(200, ("deferred_writes", "notify_free"))
        assert [column.cell(row) for column in chosen] == ["ublkb0", "70.0k", "3"]
        assert {counter.name for counter in IO_STAT} <= set(BY_KEY)
        assert not {counter.name for counter in IO_STAT} & {column.key for column in fitting(10_000)}
        assert {counter.field or counter.name for counter in IO_STAT} <= {f.name for f in fields(QueueSnapshot)}

    def test_filter(self) -> None:
        row = Row(replace(eight(1)[5].devices[0], algorithm="zstd:3", mem_used_total=2 * GIB, orig_data_size=6 * GIB))
        for good in ("zstd", "ublkb0 zstd", "ratio>2", "total<3G total>1G", "algorithm=zstd"):
            assert matches(row, good.split()), good
        for bad in ("lz4", "ratio>4", "data>7G", "zstd lz4"):
            assert not matches(row, bad.split()), bad

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1K"),
            (1536, "1.50K"),
            (10239, "10.0K"),
            (1 << 30, "1G"),
            (1023.7 * 1024, "1.00M"),
        ],
    )
    def test_short_sizes(self, value: float, text: str) -> None:
        assert short_size(value) == text

    def test_short_times(self) -> None:
        assert [short_ns(v) for v in (64, 1234, 12345, 999_600, 3_400_000, 2e9, math.nan)] == [
            "64ns", "1.2µs", "12µs", "1.0ms", "3.4ms", "2.0s", "-",
        ]  # fmt: skip
