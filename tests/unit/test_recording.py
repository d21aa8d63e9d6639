"""recording.py: what is written is read again; whatever else is in a file is an error with a message."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truezram.app.backend import recording
from truezram.app.backend.protocol import Progress
from truezram.app.backend.recording import Header, Recorder, decode, encode, load
from truezram.app.backend.replay import Replay
from truezram.engine.answers import PageMap
from truezram.engine.errors import TruezramError
from truezram.engine.machine import procfs
from truezram.engine.model import DeviceSnapshot, MachineSnapshot, QueueSnapshot, Snapshot

HEADER = json.dumps({"schema": recording.SCHEMA, "origin": "recorded"})
QUEUE = QueueSnapshot(num_reads=7, read_lat=(0,) * 150 + (3,) + (0,) * 49)
DEVICE = DeviceSnapshot("ublkb0", "/dev/ublkb0", "ublk", "live", time=5.0, total=QUEUE, queues=(QUEUE, QUEUE))
SNAPSHOT = Snapshot(MachineSnapshot(time=5.0, mem_total=1 << 33), (DEVICE,))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join((HEADER, *lines)) + "\n")
    return path


def snapshot(**device: Any) -> str:
    """A snapshot's line with these fields of its device."""
    data = encode(SNAPSHOT)
    data["devices"][0].update(device)
    return json.dumps({"snapshot": data})


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for suffix in ("jsonl", "jsonl.gz", "jsonl.zst"):
        path = tmp_path / f"a.{suffix}"
        recorder = Recorder(path, Header("recorded", "note", 1.5))
        recorder.snapshot(SNAPSHOT)
        recorder.answer("page_map", {"name": "ublkb0"}, PageMap(first=0, pages=8, regions=((1, 2), (3, 4))))
        recorder.snapshot(replace(SNAPSHOT, devices=()))
        recorder.close()
        found = load(path)
        assert found.header == Header("recorded", "note", 1.5)
        assert found.snapshots == (SNAPSHOT, replace(SNAPSHOT, devices=()))
        assert decode(PageMap, found.answers[0].result) == PageMap(first=0, pages=8, regions=((1, 2), (3, 4)))


SPARSE = [
    {"n": 10**10, "v": {}},
    {"n": recording.SPARSE_LIMIT + 1, "v": {}},
    {"n": -1, "v": {}},
    {"n": True, "v": {}},
    {"n": 2.5, "v": {}},
    {"n": 200, "v": {"200": 1}},
    {"n": 200, "v": {"-1": 1}},
    {"n": 200, "v": {"1_0": 1}},
    {"n": 200, "v": {"9" * 5000: 1}},
    {"n": 200, "v": {"0": "x"}},
    {"n": 200, "v": {"0": 1 << 70}},
    {"n": 200, "v": [1]},
    {"n": 200},
    "a" * 200,
    7,
]


@pytest.mark.parametrize("value", SPARSE, ids=lambda value: str(value)[:30])
def test_a_sparse_list_that_is_none(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path / "bad", snapshot(total={"read_lat": value}))
    with pytest.raises(TruezramError, match="cannot read a recording"):
        load(path)


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "null",
        '"snapshot"',
        "[" * 100_000,
        '{"snapshot": ' + "[" * 100_000,
        '{"snapshot": ' + '{"machine": ' * 100_000,
        '{"snapshot": 5}',
        '{"snapshot": {"machine": {"time": NaN}}}',
        '{"snapshot": {"machine": {"time": 1e999}}}',
        '{"snapshot": {"machine": {"mem_total": ' + "9" * 5000 + "}}}",
        '{"snapshot": {"machine": {"mem_total": ' + "9" * 30 + "}}}",
        '{"answer": {"call": 5}}',
        '{"answer": []}',
        '{"snapshot": {"machine": {}, "devices": {"n": 3, "v": {}}}}',
        '{"snapshot": {"machine": {"kernel": "\\ud800"}}}',
    ],
    ids=lambda line: line[:40],
)
def test_lines_that_are_none(tmp_path: Path, line: str) -> None:
    for lines in ((line, snapshot()), (snapshot(), line, snapshot())):
        with pytest.raises(TruezramError, match="cannot re"):
            load(write(tmp_path / "bad", *lines))
    # The last may be cut short, and nothing but that.
    if line.startswith(("[", '{"snapshot": [', '{"snapshot": {"machine": {"machine')):
        assert load(write(tmp_path / "bad", snapshot(), line)).snapshots == (SNAPSHOT,)


def test_a_recording_that_unfolds_to_more_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "mem_available", lambda: 1 << 20)
    line = snapshot(queues=[{"read_lat": {"n": 4096, "v": {}}}] * 30)
    with pytest.raises(TruezramError, match="more than the memory that is available"):
        load(write(tmp_path / "bad", line))
    monkeypatch.setattr(procfs, "mem_available", lambda: 1 << 30)
    assert len(load(write(tmp_path / "good", line)).snapshots[0].devices[0].queues) == 30


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed, it costs its sender little."""
    monkeypatch.setattr(recording, "LINE_LIMIT", 1 << 16)
    path = tmp_path / "bad.gz"
    with gzip.open(path, "wt") as file:
        file.write(HEADER + "\n" + snapshot() + "\n" + " " * (1 << 22) + "\n")
    with pytest.raises(TruezramError, match="a line of it has more than 65536 characters"):
        load(path)


def test_a_page_map_that_is_none(tmp_path: Path) -> None:
    for regions in ([], [[1, 2], [3]]):
        answer = {
            "call": "page_map",
            "args": {"name": "x"},
            "result": {"first": 0, "pages": 8, "regions": regions},
        }
        path = write(tmp_path / "bad", snapshot(), json.dumps({"answer": answer}))
        with pytest.raises(TruezramError, match="page map"):
            Replay(load(path)).page_map("x", 0, 8, 1)


# --- anything

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(SPARSE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["n", "v", "name", "time", "machine", "devices", "0", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in it."""
    found = [path]
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_value_in_any_place(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A recording with one value replaced is read, or refused with a message."""
    document: Any = {"snapshot": encode(SNAPSHOT)}
    way = data.draw(st.sampled_from(places(document)[1:]))
    parent = document
    for key in way[:-1]:
        parent = parent[key]
    parent[way[-1]] = data.draw(VALUES)
    path = tmp_path_factory.getbasetemp() / "fuzz"
    write(path, json.dumps(document), snapshot())
    try:
        found = load(path)
    except TruezramError:
        return
    assert all(encode(one) for one in found.snapshots)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(["", ".gz", ".zst"]), st.booleans())
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, headed: bool) -> None:
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(HEADER.encode() + b"\n" + data if headed else data)
    with pytest.raises(TruezramError):
        load(path)


def test_a_device_that_is_taken_over(tmp_path: Path) -> None:
    """As recorded; a recording from before there was recovery has none of it, and says so of its devices."""
    state = {"state": "recovering", "recoverable": True, "standby": 4711, "recoveries": 2}
    path = write(tmp_path / "new", snapshot(**state), snapshot())
    new, old = (taken.devices[0] for taken in load(path).snapshots)
    assert new == replace(DEVICE, **state)
    assert (old.recoverable, old.standby, old.recoveries, old.waits) == (False, 0, 0, False)
    path = write(tmp_path / "odd", snapshot(standby="4711"))
    with pytest.raises(TruezramError, match="expected int, found str"):
        load(path)
    with pytest.raises(TruezramError, match="recover is not possible: this is a replay"):
        Replay(load(tmp_path / "new")).recover("ublkb0", Progress())
