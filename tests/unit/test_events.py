"""events.py finds what happens (tests/app/test_units.py has each case); here its log with several writers, what follows
it, and the verb."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import HANG, FakeServer, end_servers, make, wait_until

from truezram.app.backend.real import RealEngine
from truezram.cli import main
from truezram.engine import paths
from truezram.engine.device import control, event_log, server_log
from truezram.engine.device.client import Entry
from truezram.engine.device.event_log import EventLog, Tail
from truezram.engine.device.events import Event
from truezram.engine.device.local import LocalDevice


def event(number: int, device: str = "local0") -> Event:
    return Event(float(number), "info", f"text {number}", device)


def texts(path: Path) -> list[str]:
    return [item.text for item in EventLog(path).events]


def test_one_of_several_writes_what_all_find(tmp_path: Path) -> None:
    path = tmp_path / "state" / "events.jsonl"
    first, second = EventLog(path), EventLog(path)
    assert first.is_recorder
    assert not second.is_recorder
    for log in (first, second):
        log.found(event(1))
    second.add(event(2))  # what only one knows
    assert texts(path) == ["text 1", "text 2"]
    assert [len(log.events) for log in (first, second)] == [1, 2]
    first.close()
    second.found(event(3))
    assert second.is_recorder
    assert texts(path) == ["text 1", "text 2", "text 3"]
    second.close()


def test_a_recorder_that_is_killed_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    code = (
        "import sys; from pathlib import Path; from truezram.engine.device.event_log import EventLog\n"
        f"log = EventLog(Path({str(path)!r})); print(log.is_recorder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        log = EventLog(path)
        assert not log.is_recorder
        other.kill()
    assert log.is_recorder
    log.close()


def test_a_line_that_was_cut_short_swallows_none(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"time": 1, "lev')
    EventLog(path).add(event(2))
    assert texts(path) == ["text 2"]


@pytest.mark.parametrize("line", ["", "5", "[]", "{}", '{"time": "x", "level": "info", "text": "t"}', "[" * 100000])
def test_what_is_no_event(line: str) -> None:
    assert event_log.parse(line) is None


def test_a_tail_sees_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across the moment when a long log is replaced by its newest half, and a half-written line."""
    monkeypatch.setattr(event_log, "MAX_FILE", 3000)
    monkeypatch.setattr(event_log, "KEEP", 20)
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for number in range(5):
        log.add(event(number))
    tail, seen = Tail(path), []
    assert list(tail.new()) == []
    sizes = []
    for number in range(5, 105):
        log.add(event(number))
        sizes.append(path.stat().st_size)
        seen += [item.text for item in tail.new()]
    assert seen == [f"text {number}" for number in range(5, 105)]
    assert max(sizes) < 3200
    assert any(after < before for before, after in pairwise(sizes)), "it was never replaced"
    with path.open("a") as file:
        line = event_log._line(event(200))
        file.write(line[:20])
        file.flush()
        assert list(tail.new()) == []
        file.write(line[20:])
        file.flush()
        assert [item.text for item in tail.new()] == ["text 200"]
    assert [name.name for name in tmp_path.iterdir()] == ["events.jsonl"]


# --- the verb


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert main.main(["events", *argv]) == 0
    return capsys.readouterr().out.splitlines()


def test_what_is_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys) == []
    log = EventLog(paths.state_folder() / "events.jsonl")
    for number in range(15):
        log.add(event(number, f"local{number % 2}"))
    log.add(replace(event(20, ""), level="error"))
    lines = call(capsys)
    assert len(lines) == 16
    assert lines[-1].split()[2:] == ["error", "machine", "text", "20"]
    documents = [json.loads(line) for line in call(capsys, "local1", "--json")]
    assert {document["schema"] for document in documents} == {"truezram.events/1"}
    assert [document["time"] for document in documents] == [1, 3, 5, 7, 9, 11, 13]
    assert {document["device"] for document in documents} == {"local1"}
    assert call(capsys, "--since", "1d") == []
    assert len(call(capsys, "--since", "1970-01-01T00:00:10+00:00")) == 6


@pytest.fixture
def following(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """A process that follows."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "truezram", "events", "--follow", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_following(fake: FakeServer, following: subprocess.Popen[str]) -> None:
    """What it finds, and what another one writes; once each, in the log too."""
    path = paths.state_folder() / "events.jsonl"
    lock = path.with_suffix(".lock")
    with following as process:
        assert process.stdout is not None
        wait_until(lambda: lock.exists() and not EventLog(path).is_recorder)
        entry = make(id=3)
        first = json.loads(process.stdout.readline())
        while first["device"] != entry.name:  # the machine's
            first = json.loads(process.stdout.readline())
        EventLog(path).add(Event(7.0, "warning", "from the app", "local3"))
        lines = []
        while "from the app" not in lines[-1:]:
            lines.append(json.loads(process.stdout.readline())["text"])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANG)
    assert (process.returncode, err) == (130, "truezram: interrupted\n")
    assert first["text"].startswith("appeared: 1G lz4")
    written = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert written.count(first["text"]) == written.count("from the app") == 1
    log = EventLog(path)
    assert log.is_recorder
    log.close()


def test_following_without_a_place_for_the_log(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and shows what it finds."""
    folder = Path(os.environ["XDG_STATE_HOME"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    command = [sys.executable, "-P", "-m", "truezram", "events", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        err = process.stderr.readline()  # it has looked once
        make(id=3)
        line = process.stdout.readline()
        while "local3" not in line:  # the machine's
            line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANG)
    assert "appeared" in line
    assert "events are not saved" in err


# --- what nobody watched


@pytest.fixture
def served(run_dir: Path) -> Iterator[Path]:
    """A registry for servers, which are ended with the test."""
    yield run_dir
    end_servers(run_dir)


def log_of(device: str) -> str:
    return (paths.own_run_dir() / f"{device}.log").read_text()


def fill(disk: LocalDevice, noise: random.Random) -> None:
    for page in range(4096):
        disk.write(page, noise.randbytes(4096))


def test_a_server_keeps_what_nobody_watched(served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings and writes that failed, with their times; what somebody has found, too, only once."""
    began = int(time.time())
    entry = make(size=16 << 20)
    assert main.main(["set", entry.name, "mem_limit=2M"]) == 0
    noise = random.Random(1)
    with LocalDevice(entry.name) as disk, pytest.raises(OSError, match="No space left"):
        fill(disk, noise)
    wait_until(lambda: "a write failed" in log_of(entry.name))
    capsys.readouterr()
    before = time.time()
    documents = [json.loads(line) for line in call(capsys, "--since", "1h", "--json")]
    assert [(d["level"], d["device"], d["text"]) for d in documents] == [
        ("info", entry.name, "mem_limit is 2M"),
        ("error", entry.name, "a write failed: mem_limit reached (ENOSPC)"),
    ]
    assert all(began <= d["time"] <= before for d in documents)
    assert call(capsys, "local99") == []
    assert [event.text for event in RealEngine().missed(())] == [d["text"] for d in documents]
    log = EventLog(paths.state_folder() / "events.jsonl")
    log.add(Event(documents[0]["time"] + 2, "info", "mem_limit is 2M (was none)", entry.name))
    log.add(Event(documents[1]["time"] + 60, "error", documents[1]["text"], entry.name))
    texts = [line.split(None, 4)[-1] for line in call(capsys, entry.name)]
    assert sorted(texts) == sorted(["mem_limit is 2M (was none)", *[documents[1]["text"]] * 2])


LINES = (
    ("ublkb0: taken over in 12 ms: its server number 3", "info", "another server has taken over, number 3 of this"),
    ("ublkb0: left to another server", "error", "the server has ended: left to another server"),
    ("the standby (pid 7) has died: another one is started", "warning", "the standby (pid 7) has died"),
    ("error: page 5: the object is damaged", "error", "page 5: the object is damaged"),
    ("reading page 5 has killed the server 3 times: it fails with EIO now", "error", "reading page 5 has killed"),
    ("2 problems in the arena, 1 pages are lost. The first: page 3: x", "error", "2 problems in the arena"),
    ("mem_limit is near: the policy acts earlier", "info", "the policy acts earlier: mem_limit is near"),
    ("no pressure any more", "info", "the policy acts at its usual times again"),
    ("set algorithm=zstd:3", "info", "algorithm is zstd:3"),
    ("set idle_cold=7200", "info", "idle_cold is 2h"),
)


@pytest.mark.parametrize(("line", "level", "text"), LINES)
def test_lines_of_a_server_that_are_events(run_dir: Path, line: str, level: str, text: str) -> None:
    run_dir.mkdir(exist_ok=True)
    entry = Entry(run_dir, "ublkb0")
    entry.log.write_text(f"not a line\n2026-11-28 01:02:03 truezramd: {line}\n2026-11-28 01:02:04 truezramd: set x=1\n")
    (found,), unread = server_log.missed([entry, Entry(run_dir, "ublkb1")], [])
    assert (found.level, found.device, unread) == (level, "ublkb0", [])
    assert found.text.startswith(text)
    assert datetime.fromtimestamp(found.time).isoformat(" ") == "2026-11-28 01:02:03"
    (kind,) = [k for k in server_log.KINDS if k.line.fullmatch(line)] or [None]
    known = [f"{text} (was 1)" if kind is None else kind.found[0].format(*kind.line.fullmatch(line).groups())]
    same = [Event(found.time + 5, level, known[0], "ublkb0")]
    assert server_log.missed([entry], same) == ([], [])
    assert len(server_log.missed([entry], [replace(same[0], device="ublkb1")])[0]) == 1


def test_a_servers_log_is_bounded(served: Path) -> None:
    """Its newest lines stay, whole."""
    entry = make(size=1 << 20)
    for number in range(2500):
        control.request(entry.sock, control.Op.SET, text=f"mem_limit={number + 100 << 20}", what="set")
    lines = log_of(entry.name).splitlines()
    assert entry.log.stat().st_size <= 1 << 16
    numbers = [(int(line.rpartition("=")[2]) >> 20) - 100 for line in lines]
    assert numbers == list(range(2500 - len(numbers), 2500))
    assert len(numbers) > 200
