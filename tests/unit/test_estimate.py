"""estimate.py: the store's cost of a page against a real device, the statistics by simulation, and estimates of
children whose memory is known."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HANG, wait_until
from hypothesis import given
from hypothesis import strategies as st
from pagegen import PAGE, counters, noise, pointers, records, text

from truezram.cli.main import build_parser
from truezram.cli.verbs import estimate as verb
from truezram.codec import Compressor
from truezram.engine import paths
from truezram.engine.errors import Failed, NotFound, PermissionDenied, TruezramError, UsageError
from truezram.engine.machine import procfs
from truezram.engine.machine.procfs import Process
from truezram.engine.measure import estimate, sampling
from truezram.engine.measure.estimate import (
    AROUND,
    ENTRY,
    Scope,
    cost,
    is_huge,
    object_size,
    same_filled_cost,
    stratified_total,
    student,
)
from truezram.engine.measure.sampling import Cancelled, SampledPages, Skipped

SAME_WORDS = (b"\0" * 8, b"\xff" * 8, b"AAAABBBB", b"\1\2\3\4" * 2, (1 << 40).to_bytes(8, "little"))


def some_pages(count: int, seed: int = 1) -> list[bytes]:
    """A mixture as memory has it: structures, text, noise, and one page in ten same-filled."""
    rng = random.Random(seed)
    kinds = (pointers, counters, text, records, records, noise)
    found = []
    for number in range(count):
        if number % 10 == 0:
            found.append(rng.choice(SAME_WORDS) * 512)
            continue
        # Up to three kinds in one page, so that objects of all sizes come about.
        cut = rng.randrange(0, PAGE)
        found.append(rng.choice(kinds)(rng, cut) + rng.choice(kinds)(rng, PAGE - cut))
    return found


# ---- what a page costs ----


def test_cost_of_the_extremes() -> None:
    assert [object_size(size) for size in (1, 8, 9, 24, 25, 3840)] == [16, 16, 32, 32, 48, 3856]
    assert object_size(3841) == object_size(PAGE) == 4112
    assert is_huge(3841)
    assert not is_huge(3840)
    costs = [cost(size) for size in range(1, PAGE + 1)]
    assert costs == sorted(costs)
    for size, got in enumerate(costs[:3840], 1):
        assert ENTRY + (size + 8) * 1.01 <= got <= ENTRY + (size + 23) * 1.013


@pytest.mark.parametrize(
    ("word", "alone"),
    [
        (b"\0" * 8, True),
        (b"AAAABBBB", False),
        (b"\xff" * 8, True),
        (b"\1\2\3\xf4" * 2, True),
        (b"\0" * 6 + b"\x03\0", True),
        (b"\0" * 6 + b"\x04\0", False),
        (b"\0" * 6 + b"\xfc\xff", True),
        (b"\0" * 6 + b"\xfb\xff", False),
    ],
)
def test_cost_of_same_filled_pages(word: bytes, alone: bool) -> None:
    assert same_filled_cost(word) == (ENTRY if alone else cost(8))


@pytest.mark.parametrize("algorithm", ["lz4", "zstd:3"])
def test_cost_is_what_a_device_takes(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pages written to a running local device: its objects take what `object_size` says to the byte, and all
    of it about what `cost` says."""
    try:
        paths.server_path()
    except TruezramError:
        pytest.skip("the server is not built here")
    from truezram.engine.device.client import Client
    from truezram.engine.device.create import CreateOptions, create
    from truezram.engine.device.local import LocalDevice
    from truezram.engine.device.removal import remove_entry

    pages = some_pages(12000)
    # Not tmp_path: the names of sockets have little room.
    with tempfile.TemporaryDirectory() as run_dir:
        monkeypatch.setenv("TRUEZRAM_RUN_DIR", run_dir)
        entry = create(CreateOptions(64 << 20, algorithm, transport="local")).entry
        try:
            with Client() as client:
                (empty,) = client.devices()
                with LocalDevice(entry) as device:
                    device.write(0, b"".join(pages))
                (snapshot,) = client.devices()
        finally:
            remove_entry(entry, force=True)
    bench, measured = estimate.Bench(algorithm), estimate.Stratum(len(pages))
    estimate.measure([bench], measured, [memoryview(page) for page in pages], lambda: None)
    of_it = measured.by_algorithm[algorithm]
    in_entries = of_it.costs.count(float(ENTRY))
    objects = sum((cost - ENTRY) / AROUND for cost in of_it.costs)
    assert snapshot.object_bytes == pytest.approx(objects, abs=0.5)
    assert snapshot.huge_pages == of_it.raw > 0
    assert snapshot.same_pages == measured.same == 1200
    assert 0 < in_entries < 1200  # words of both kinds
    # Pages of the table and segments are whole; the reserve is not part of an estimate.
    taken = snapshot.mem_used_total - snapshot.reserve_bytes - (empty.mem_used_total - empty.reserve_bytes)
    assert taken == pytest.approx(sum(of_it.costs), rel=0.02)


# ---- statistics ----


@pytest.mark.parametrize(
    ("degrees", "table"), [(3, 3.182), (4, 2.776), (5, 2.571), (8, 2.306), (16, 2.120), (30, 2.042), (1e9, 1.960)]
)
def test_student(degrees: float, table: float) -> None:
    assert student(degrees) == pytest.approx(table, rel=0.02 if degrees < 5 else 0.003)


VALUES = st.lists(st.floats(8, 4104), min_size=1, max_size=30)


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_counting_everything_is_certain(strata: list[list[float]]) -> None:
    total = stratified_total([(len(values), values) for values in strata], 8, 4104)
    exact = sum(map(sum, strata))
    assert total.value == pytest.approx(exact)
    assert total.low == pytest.approx(exact)
    assert total.high == pytest.approx(exact)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.lists(st.floats(8, 4104), max_size=20)), min_size=1, max_size=8))
def test_total_is_within_its_interval_and_the_possible(strata: list[tuple[int, list[float]]]) -> None:
    strata = [(more + len(values), values) for more, values in strata]
    if not any(values for _, values in strata):
        with pytest.raises(ValueError, match="no stratum"):
            stratified_total(strata, 8, 4104)
        return
    pages = sum(count for count, _ in strata)
    total = stratified_total(strata, 8, 4104)
    assert total.low <= total.value <= total.high
    assert pages * 8 <= total.value + 1e-6 * total.value
    assert total.value <= pages * 4104 * (1 + 1e-9)


def population(rng: random.Random, pages: int, raw: float, same: float) -> list[float]:
    """Costs as processes have them: many small, some raw, some same-filled."""
    out = []
    for _ in range(pages):
        draw = rng.random()
        out.append(4104.0 if draw < raw else 8.0 if draw < raw + same else rng.gammavariate(2, 500) % 3800 + 24)
    return out


@pytest.mark.parametrize(
    ("shapes", "limit"),
    [
        ([(20_000, 0.1, 0.1), (5_000, 0.5, 0.0), (300, 0.0, 0.6)], 512),
        ([(3_000, 0.02, 0.02)] * 12, 192),
        ([(4_000, 0.05, 0.0)], 16),
        ([(100_000, 0.2, 0.1)], 4096),
    ],
)
def test_the_interval_covers_the_truth(shapes: list[tuple[int, float, float]], limit: int) -> None:
    """In 95 of 100 samples the true sum should be inside; and the interval is not bought with uselessness: it is at
    most twice as wide as the spread of the estimates themselves asks for."""
    rng = random.Random(7)
    strata = [population(rng, *shape) for shape in shapes]
    truth = sum(map(sum, strata))
    counts = sampling.allocate([len(values) for values in strata], limit)
    inside, widths, errors, rounds = 0, 0.0, 0.0, 300
    for _ in range(rounds):
        drawn = [(len(values), rng.sample(values, count)) for values, count in zip(strata, counts, strict=True)]
        total = stratified_total(drawn, 8, 4104)
        inside += total.low <= truth <= total.high
        widths += (total.high - total.low) / 2
        errors += (total.value - truth) ** 2
    assert inside / rounds >= 0.92
    assert widths / rounds <= 2 * 1.96 * (errors / rounds) ** 0.5 * (1.6 if limit == 16 else 1)


# ---- children with known memory ----

CHILD = """
import ctypes, mmap, sys
data = sys.stdin.buffer.read(int(sys.argv[1]))
area = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.write(data)
del data
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def child() -> Iterator[int]:
    data = b"".join(some_pages(6000))
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", CHILD, str(len(data))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(data)
    process.stdin.flush()
    assert process.stdout.readline() == b"ready\n"
    yield process.pid
    process.communicate(timeout=HANG)


def truth(pid: int, algorithm: str) -> tuple[float, float, float]:
    """(ratio, codec's ratio, share stored raw) of all pages of the process, the plain way."""
    whole = sampling.sample_pages([pid], limit=1 << 20)
    compressor = Compressor(algorithm)
    resident = coded = objects = raw = 0.0
    for index in range(len(whole)):
        page = bytes(whole.page(index))
        if page == page[:8] * 512:
            resident += same_filled_cost(page[:8])
            continue
        size = len(compressor.compress(page))
        resident += cost(size)
        coded += PAGE
        objects += size
        raw += is_huge(size)
    return len(whole) * PAGE / resident, coded / objects, raw / len(whole)


@pytest.mark.parametrize("algorithm", ["lz4", "zstd"])
def test_estimate_of_a_child(child: int, algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock (some kernels' own is exact to 10 ms only) on which a batch takes 40 µs one way and 80 µs back."""
    ratio, compression, raw = truth(child, algorithm)
    clock = itertools.accumulate(itertools.cycle((1, 40_000, 80_000)))
    monkeypatch.setattr(estimate.time, "thread_time_ns", lambda: next(clock))
    result = estimate.estimate(Scope("pid", str(child)), [algorithm], limit=1500)
    (item,) = result.total.algorithms
    assert item.algorithm == algorithm
    assert item.ratio == pytest.approx(ratio, rel=0.08)
    assert item.ratio_low < item.ratio < item.ratio_high
    assert (item.ratio_high - item.ratio_low) / item.ratio < 0.2
    assert item.compression_ratio == pytest.approx(compression, rel=0.1)
    assert item.incompressible == pytest.approx(raw, abs=0.04)
    assert item.compress_us is not None
    assert item.decompress_us is not None
    assert 40 / estimate._BATCH <= item.compress_us < 40
    assert item.decompress_us == pytest.approx(2 * item.compress_us)
    assert item.gained == result.total.bytes - item.resident
    assert result.total.bytes // PAGE == pytest.approx(6000, rel=0.5)
    assert result.total.sampled == 1500
    assert result.complete
    (group,) = result.groups
    assert (group.pid, group.processes, group.algorithms[0].ratio) == (child, 1, item.ratio)


def test_counting_all_pages_gives_the_truth(child: int) -> None:
    ratio, compression, raw = truth(child, "lz4")
    result = estimate.estimate(Scope("pid", str(child)), ["lz4"], limit=1 << 20)
    (item,) = result.total.algorithms
    assert item.ratio == pytest.approx(ratio, rel=1e-6)
    assert item.ratio_low == pytest.approx(item.ratio, rel=1e-9)
    assert item.ratio_high == pytest.approx(item.ratio, rel=1e-9)
    assert item.compression_ratio == pytest.approx(compression, rel=1e-6)
    assert item.incompressible == pytest.approx(raw)


def test_two_processes_by_process_and_by_user(child: int) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        wait_until(lambda: "(sleep) S" in Path(f"/proc/{other.pid}/stat").read_text())
        scope = Scope("pid", f"{child},{other.pid}")
        result = estimate.estimate(scope, ["lz4"], limit=1000)
        assert [group.pid for group in result.groups] == [child, other.pid]
        assert result.groups[1].name == "sleep"
        assert sum(group.bytes for group in result.groups) == result.total.bytes
        assert sum(group.algorithms[0].resident for group in result.groups) == pytest.approx(
            result.total.algorithms[0].resident, abs=2
        )
        by_user = estimate.estimate(scope, ["lz4"], by="user", limit=1000)
        own = procfs.user_name(os.getuid())
        assert [(group.name, group.user, group.processes, group.pid) for group in by_user.groups] == [
            (own, own, 2, None)
        ]
        assert by_user.groups[0].algorithms[0].ratio == by_user.total.algorithms[0].ratio
    finally:
        other.kill()
        other.wait()


def test_progress_partial_results_and_cancel(child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_PARTIAL_EVERY", 0.0)
    fractions: list[float] = []
    partial: list[estimate.Estimate] = []
    scope = Scope("pid", str(child))
    result = estimate.estimate(
        scope, ["lz4"], limit=300, progress=lambda fraction, _: fractions.append(fraction), partial=partial.append
    )
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert partial
    assert not partial[0].complete
    assert partial[-1].total.algorithms[0].ratio == result.total.algorithms[0].ratio
    asked: list[bool] = []

    def cancel() -> bool:
        asked.append(True)
        return len(asked) > 5

    with pytest.raises(Cancelled):
        estimate.estimate(scope, ["lz4"], limit=3000, cancel=cancel)


def test_a_codec_that_lies_is_found_out(child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Compressor.decompress_pages

    def wrong(self: Compressor, data: object, offsets: object, out: bytearray) -> memoryview:
        back = right(self, data, offsets, out)  # type: ignore[arg-type]
        out[4095] ^= 1
        return back

    monkeypatch.setattr(Compressor, "decompress_pages", wrong)
    with pytest.raises(Failed, match="did not reproduce a page"):
        estimate.estimate(Scope("pid", str(child)), ["lz4"], limit=100)


# ---- whose memory ----

PROCESSES = [
    Process(10, 0, "root", "a", "/system.slice/a.service", 1, 1, 0),
    Process(11, 1000, "ann", "b", "/user.slice/user-1000.slice/s", 1, 1, 0),
    Process(12, 1000, "ann", "c", "/user.slice-not", 1, 1, 0),
]


@pytest.mark.parametrize(
    ("scope", "pids"),
    [
        (Scope(), [10, 11, 12]),
        (Scope("user", "ann"), [11, 12]),
        (Scope("user", "1000"), [11, 12]),
        (Scope("cgroup", "/user.slice"), [11]),
        (Scope("cgroup", "user.slice/"), [11]),
        (Scope("cgroup", "/sys/fs/cgroup/system.slice"), [10]),
        (Scope("cgroup", "/"), [10, 11, 12]),
        (Scope("pid", "12,10"), [10, 12]),
    ],
)
def test_scope(scope: Scope, pids: list[int]) -> None:
    assert [process.pid for process in estimate.select(scope, PROCESSES)] == pids


@pytest.mark.parametrize(
    ("scope", "error", "text"),
    [
        (Scope("user", "bob"), NotFound, "user bob"),
        (Scope("cgroup", "/none"), NotFound, "/none"),
        (Scope("pid", "10,99"), NotFound, "99"),
        (Scope("pid", "-1"), UsageError, "whole number"),
        (Scope("pid", "1,"), UsageError, "whole number"),
        (Scope("pid", "٣"), UsageError, "whole number"),
        (Scope("user", ""), UsageError, "empty"),
        (Scope("galaxy", "x"), UsageError, "galaxy"),
    ],
)
def test_bad_scope(scope: Scope, error: type[TruezramError], text: str) -> None:
    with pytest.raises(error, match=text):
        estimate.select(scope, PROCESSES)


def test_bad_requests(child: int) -> None:
    with pytest.raises(UsageError, match="galaxy"):
        estimate.estimate(by="galaxy")
    with pytest.raises(UsageError, match="nonsense"):
        estimate.estimate(Scope("pid", str(child)), ["nonsense"])
    assert estimate.choose_algorithms(["lz4", "lz4"]) == ["lz4"]
    assert {"lz4", "zstd"} <= set(estimate.choose_algorithms([]))


@pytest.mark.parametrize(
    ("why", "error"), [("not permitted to read its memory", PermissionDenied), ("the time ran out", Failed)]
)
def test_nothing_to_read(monkeypatch: pytest.MonkeyPatch, why: str, error: type[TruezramError]) -> None:
    nothing = SampledPages(memoryview(b""), [], (), (Skipped(PROCESSES[0], why),))
    monkeypatch.setattr(estimate, "sample_pages", lambda *_, **__: nothing)
    with pytest.raises(error, match=why):
        estimate.estimate()


# ---- the verb ----


def arguments(*words: str) -> argparse.Namespace:
    return build_parser("estimate").parse_args(["estimate", *words])


def test_verb_json(child: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.run(arguments("--json", "--pid", str(child), "--pages", "400", "--algorithm", "lz4")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "truezram.estimate/1"
    assert document["scope"] == {"kind": "pid", "value": str(child)}
    assert (document["by"], document["complete"], document["skipped"]) == ("process", True, [])
    (item,) = document["total"]["algorithms"]
    assert item["ratio_low"] < item["ratio"] < item["ratio_high"]
    (group,) = document["groups"]
    assert group["pid"] == child
    assert group["bytes"] == document["total"]["bytes"]


def test_verb_text(child: int, capsys: pytest.CaptureFixture[str]) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        words = ["--pid", str(child), "--pid", str(other.pid), "--pages", "400", "--top", "1"]
        assert verb.run(arguments(*words)) == 0
    finally:
        other.kill()
        other.wait()
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert "2 processes; 400 pages sampled" in lines[0]
    assert any(line.startswith("lz4 ") for line in lines)
    assert any(line.startswith("zstd ") for line in lines)
    assert any(line.split()[:1] == [str(child)] for line in lines)
    assert not any(line.split()[:1] == [str(other.pid)] for line in lines)
    assert any("1 smaller" in line for line in lines)


@pytest.mark.parametrize("words", [["--pages", "0"], ["--pages", "x"], ["--pages", "9" * 30], ["--top", "-1"]])
def test_verb_refuses(words: list[str]) -> None:
    with pytest.raises(UsageError, match="whole number"):
        arguments(*words)
    with pytest.raises(UsageError):
        arguments("--user", "a", "--pid", "1")


def test_names_of_processes_do_not_reach_the_terminal_raw() -> None:
    assert verb.printable("a\x1b[2Jb\nc") == "a?[2Jb?c"
