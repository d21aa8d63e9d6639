"""The table of a device's live settings: whatever shows or changes them does so for every row."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
from conftest import FakeServer, make

from truezram.app.backend.real import RealEngine
from truezram.app.screens.device import facts
from truezram.cli.main import main
from truezram.cli.verbs import create as create_verb
from truezram.cli.verbs import stat
from truezram.engine.device import settings
from truezram.engine.device.create import parse_settings
from truezram.engine.device.events import Detector
from truezram.engine.device.settings import SETTINGS
from truezram.engine.errors import UsageError
from truezram.engine.machine import advice, tune
from truezram.engine.model import DeviceSnapshot, MachineSnapshot, Snapshot

GIB = 1 << 30
DEVICE = DeviceSnapshot(
    "ublkb0",
    "/dev/ublkb0",
    algorithm="zstd:3",
    disksize=8 * GIB,
    mem_limit=3 * GIB >> 1,
    dedup="on",
    policy="600:7200:5:72000",
    idle_dense=600,
    idle_cold=7200,
    cpu_percent=5,
    mode="low-latency",
    idle_backing=72000,
    backing="/var/lib/truezram.backing",
    backing_path="/dev/mapper/truezram-ublkb0-0123abcd",
    backing_state="ready",
    backing_daily=GIB,
    backing_rate=16 << 20,
)
OTHER = replace(
    DEVICE,
    algorithm="lz4",
    mem_limit=0,
    dedup="off",
    policy="0:0:3:0",
    idle_dense=0,
    idle_cold=0,
    cpu_percent=3,
    idle_backing=0,
    backing="none",
    backing_path="",
    backing_state="none",
    backing_daily=0,
    backing_rate=0,
    mode="balanced",
)
MACHINE = MachineSnapshot(mem_total=16 * GIB)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
@pytest.mark.parametrize("device", [DEVICE, OTHER], ids=["set", "unset"])
def test_what_is_in_force_can_be_written_again(setting: settings.Setting, device: DeviceSnapshot) -> None:
    taken = setting.of(device)
    assert setting.parse(setting.write(taken)) == taken
    held = getattr(device, setting.key)
    assert setting.value(taken) == (setting.write(held) if isinstance(held, str) else held)
    assert parse_settings([f"{setting.key}={setting.write(taken)}"]) == {setting.key: taken}


@pytest.mark.parametrize(
    ("device", "memory", "suggested"),
    [(OTHER, 12 * GIB, "6G"), (OTHER, 4 * GIB, "2G"), (OTHER, 16 * GIB, ""), (OTHER, 0, ""), (DEVICE, 12 * GIB, "")],
)
def test_a_limit_is_suggested_that_leaves_memory(device: DeviceSnapshot, memory: int, suggested: str) -> None:
    """Half of it, of a device that could take more."""
    rows = {row.key: row for row in settings.tunables(device, replace(MACHINE, mem_total=memory))}
    assert rows["mem_limit"].suggested == suggested
    assert rows["mem_limit"].differs == bool(suggested)
    assert not any(row.differs for row in settings.tunables(replace(device, state="halted"), MACHINE))


def test_every_setting_is_shown_everywhere() -> None:
    detector = Detector()
    detector.feed(Snapshot(MACHINE, (DEVICE,)), 0.0)
    events = [event.text for event in detector.feed(Snapshot(MACHINE, (OTHER,)), 1.0)]
    page = {item.key: item.cells[1] for item in facts(DEVICE)}
    lines = dict(stat.lines(DEVICE))
    document = json.dumps(stat.as_json(DEVICE))
    for setting in SETTINGS:
        assert f"{setting.key} is {setting.shown(OTHER)} (was {setting.shown(DEVICE)})" in events
        assert page[setting.key] == setting.shown(DEVICE)
        assert lines[setting.key] == setting.shown(DEVICE)
        assert f'"{setting.key}": {json.dumps(setting.value(setting.of(DEVICE)))}' in document


def test_only_what_the_kernel_has_is_shown_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = replace(SETTINGS[0], key="queue_depth", kernel=False)
    monkeypatch.setattr(settings, "SETTINGS", (*SETTINGS, ours))
    zram = replace(DEVICE, name="zram0", kind="zram")
    for device, shown in ((DEVICE, 1), (zram, 0)):
        assert [label for label, _ in stat.lines(device)].count("queue_depth") == shown
        assert [item.key for item in facts(device)].count("queue_depth") == shown


@pytest.mark.parametrize(
    ("state", "text", "line", "cell"),
    [
        ("on", "zswap_invalidate", "on, by zswap_invalidate: 70 pages given back", "on"),
        ("testing", "being tested", "testing: being tested", "being tested"),
        ("unavailable", "no kprobes", "unavailable: no kprobes", "no kprobes"),
        ("off", "", "off", None),
        ("", "", None, None),
    ],
)
def test_slot_tracking_is_shown(state: str, text: str, line: str | None, cell: str | None) -> None:
    total = replace(DEVICE.total, slots_freed=70)
    device = replace(DEVICE, slot_tracking=state, slot_tracking_text=text, swap_priority=100, total=total)
    lines = dict(stat.lines(device))
    assert lines.get("slot_tracking") == line
    assert lines["slots_freed"] == "70"
    document = stat.as_json(device)
    assert (document["slot_tracking"], document["slot_tracking_text"]) == (state or None, text)
    assert document["io_stat"]["slots_freed"] == 70
    page = {item.key: item for item in facts(device)}
    assert page["freed slots"].cells[1] == "70 pages"
    assert (page["slot tracking"].cells[1] if "slot tracking" in page else None) == cell
    if state == "unavailable":
        assert page["slot tracking"].style == "warn"


def test_tune_and_the_app_have_the_same_rows(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make().name
    monkeypatch.setattr(advice, "mem_limit", lambda memory: 4096)  # less than any device
    rows = settings.of_devices()
    assert [(row.device, row.key) for row in rows] == [(name, setting.key) for setting in SETTINGS]
    assert RealEngine().tunables() == (*tune.tunables(), *rows)
    assert main(["tune", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["settings"]
    assert [(item["device"], item["key"]) for item in listed if item["device"]] == [
        (row.device, row.key) for row in rows
    ]
    assert main(["tune"]) == 0
    text = capsys.readouterr().out
    for row in rows:
        assert any(line.split()[:3] == [name, row.key, row.current] for line in text.splitlines())
    assert f"sudo truezram set {name} mem_limit=" in text


def test_a_mode_is_asked_for_by_name_and_has_two_more(fake: FakeServer) -> None:
    make(mode="Low-Latency")
    assert " --mode low-latency " in fake.received[0]
    with pytest.raises(UsageError, match=r"there is no mode 'fast'.*balanced, low-latency, max-throughput"):
        make(mode="fast")
    parser = argparse.ArgumentParser()
    create_verb.add_arguments(parser)
    asked = [
        create_verb.options_of(parser.parse_args(["--size", "1G", *words.split()])).mode
        for words in ("--mode max-throughput", "--max-perf", "--high-perf", "")
    ]
    assert asked == ["max-throughput", "max-throughput", "low-latency", None]
