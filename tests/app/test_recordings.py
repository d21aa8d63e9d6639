"""The recordings that tests and pictures play are in today's form, and older ones are brought into it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from truezram.app.backend.protocol import BenchResult, Capabilities, Estimate, Progress
from truezram.app.backend.recording import Answer, Header, Recording, decode, encode, load
from truezram.app.backend.replay import Replay
from truezram.app.backend.upgrade import upgraded
from truezram.engine.answers import Algorithm, AlgorithmEstimate, Change, Check, PageMap, Scope, Tunable
from truezram.engine.errors import Failed
from truezram.engine.model import Snapshot

from .conftest import RECORDINGS, eight

ANSWERS: dict[str, Any] = {
    "benchmark": BenchResult,
    "capabilities": Capabilities,
    "doctor": tuple[Check, ...],
    "estimate": Estimate,
    "journal": tuple[Change, ...],
    "page_map": PageMap,
    "tunables": tuple[Tunable, ...],
}


@pytest.mark.parametrize("path", sorted(RECORDINGS.iterdir()), ids=lambda path: path.name)
def test_ours_are_in_todays_form(path: Path) -> None:
    """Nothing to convert, and no field that is unknown."""
    recording = load(path)
    assert upgraded(recording) == recording
    assert recording.answers
    for answer in recording.answers:
        read = decode(ANSWERS[answer.call], answer.result)
        assert decode(ANSWERS[answer.call], encode(read)) == read


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    """At any depth: one that is left out might have been renamed."""
    data = encode(eight(1)[0])
    data["devices"][0]["total"]["stolen_pages"] = 3
    with pytest.raises(Failed, match="QueueSnapshot has no field 'stolen_pages'"):
        decode(Snapshot, data)
    path = tmp_path / "new.jsonl"
    path.write_text(f'{{"schema": "truezram.recording/2", "origin": "x"}}\n{json.dumps({"snapshot": data})}\n')
    with pytest.raises(Failed, match="version of truezram that made it"):
        load(path)
    odd = Answer("doctor", None, [{"name": "zswap", "verdict": "warn", "detail": "it is on"}])
    with pytest.raises(Failed, match="Check has no field 'verdict'"):
        Replay(Recording(Header("recorded"), eight(1)[:1], (odd,))).doctor()


CLASSES = [
    {"object_size": 512, "objects_per_slab": 128, "slabs": 3, "objects": 300},
    {"object_size": 4096, "objects_per_slab": 16, "slabs": 2, "objects": 17},
]


def test_size_classes_are_summed_up(tmp_path: Path) -> None:
    """With a word about it. A recording of today that has them is refused, and so is one with broken ones."""
    data = encode(eight(2)[0])
    for device in data["devices"]:
        device.pop("object_bytes", None)
        device.pop("segment_bytes", None)
    data["devices"][0]["classes"] = CLASSES
    path = tmp_path / "old.jsonl"

    def write(version: int) -> None:
        header = {"schema": f"truezram.recording/{version}", "origin": "recorded", "note": "last year"}
        path.write_text(f"{json.dumps(header)}\n{json.dumps({'snapshot': data})}\n")

    write(1)
    recording = load(path)
    device, other = recording.snapshots[0].devices
    assert (device.segment_bytes, device.object_bytes) == (5 * 65536, 300 * 512 + 17 * 4096)
    assert (other.segment_bytes, other.object_bytes) == (0, 0)
    assert other == replace(eight(2)[0].devices[1], segment_bytes=0, object_bytes=0)
    said = Replay(recording).capabilities().replay
    assert said == "replay of last year; made by an earlier version, size classes shown as objects and holes"
    write(2)
    with pytest.raises(Failed, match="DeviceSnapshot has no field 'classes'"):
        load(path)
    for broken in (5, [5], [{}], [{"slabs": "many"}]):
        data["devices"][0]["classes"] = broken
        write(1)
        with pytest.raises(Failed, match="cannot read a recording"):
            load(path)


OLD = (
    Answer("doctor", None, [{"name": "zswap", "status": "warn", "detail": "it is on", "remedy": "turn it off"}]),
    Answer("page_map", {"name": "ublkb0"}, {"first_page": 0, "pages": 8, "regions": [[8, 0], [4, 4]]}),
    Answer("capabilities", None, {"algorithms": [{"name": "zstd", "level_min": -7, "level_max": 19, "level_default": 3,
                                                  "summary": "small, slower"}]}),
    Answer("journal", None, [{"id": 1, "time": 5.0, "key": "swappiness", "before": "60", "after": "150"}]),
    Answer("tunables", None, [{"key": "mem_limit", "device": "ublkb0", "current": "none", "suggested": "1G"}]),
    Answer("estimate", None, {
        "scope": {}, "by": "process",
        "total": {"pid": 0, "command": "total", "user": "", "bytes": 4096000, "sampled": 1000, "same_filled": 0.1,
                  "algorithms": [{"algorithm": "lz4", "ratio": 2.0, "ratio_low": 1.6, "ratio_high": 2.5,
                                  "compress_us": 1.5, "decompress_us": None, "gained": 2048000}]},
    }),
)  # fmt: skip
"""As written before the app used the engine's own values."""


def test_older_ones_are_brought_into_it() -> None:
    replay = Replay(Recording(Header("recorded"), eight(1)[:1], OLD))
    assert replay.doctor() == (Check(name="zswap", state="warn", detail="it is on", remedy="turn it off"),)
    assert replay.page_map("ublkb0", 0, 8, 2) == PageMap(first=0, pages=8, regions=((8, 0), (4, 4)))
    zstd = Algorithm("zstd", level_min=-7, level_max=19, level_default=3, summary="small, slower")
    assert replay.capabilities().algorithms == (zstd,)
    assert replay.journal() == (Change(id=1, time=5.0, key="swappiness", before="60", after="150"),)
    assert replay.tunables() == (Tunable("mem_limit", device="ublkb0", current="none", suggested="1G"),)
    assert replay.estimate(Scope(), "process", Progress()).total.algorithms == (
        AlgorithmEstimate(
            algorithm="lz4",
            ratio=2.0,
            ratio_low=1.6,
            ratio_high=2.5,
            compression_ratio=None,
            resident=2048000,
            resident_low=1638400,
            resident_high=2560000,
            gained=2048000,
            compress_us=1.5,
            decompress_us=None,
            incompressible=0.0,
        ),
    )
    once = upgraded(Recording(Header("recorded"), (), OLD))
    assert upgraded(once) == once
