"""Rates and percentiles between two snapshots."""

import random

import pytest

from truezram._native import lib
from truezram.engine.history import DeviceHistory, History
from truezram.engine.model import DeviceSnapshot, MachineSnapshot, QueueSnapshot, Snapshot
from truezram.engine.rates import histogram_difference, latency_floor, percentile, rates


def test_bins_are_those_of_the_server() -> None:
    assert [latency_floor(i) for i in range(lib.TZ_LAT_BINS)] == [lib.tz_lat_floor(i) for i in range(lib.TZ_LAT_BINS)]
    for bin_ in range(1, lib.TZ_LAT_BINS):
        assert lib.tz_lat_bin(latency_floor(bin_)) == bin_
        assert lib.tz_lat_bin(latency_floor(bin_) - 1) == bin_ - 1


def test_percentiles_are_within_a_bin_of_the_truth() -> None:
    order = random.Random(1)
    times = sorted(int(order.lognormvariate(9, 1.5)) for _ in range(20000))
    histogram = [0] * lib.TZ_LAT_BINS
    for time in times:
        histogram[lib.tz_lat_bin(time)] += 1
    for q in (0.01, 0.5, 0.9, 0.99, 0.999):
        true = times[int(q * len(times))]
        found = percentile(histogram, q)
        assert found is not None
        # A bin is an eighth of its power of two wide.
        assert abs(found - true) <= max(64, true / 8)


def test_percentile_of_nothing() -> None:
    assert percentile([0] * 200, 0.5) is None


def device(time: float, **counters: object) -> DeviceSnapshot:
    return DeviceSnapshot(
        "ublkb0",
        "/dev/ublkb0",
        pid=7,
        created=1.0,
        time=time,
        total=QueueSnapshot(**counters),  # type: ignore[arg-type]
    )


def test_rates_are_per_second() -> None:
    lat = [0] * 200
    before = device(10.0, num_reads=100, pages_read=1000, drains=10, read_lat=tuple(lat))
    lat[lib.tz_lat_bin(1000)] = 50
    after = device(
        12.0,
        num_reads=150,
        pages_read=2000,
        drains=20,
        read_lat=tuple(lat),
        enospc=4,
        compress_ns=4000,
        compress_bytes_in=8192,
    )
    found = rates(before, after)
    assert found is not None
    assert found.reads == 25
    assert found.read_bytes == 500 * 4096
    assert found.batch == 5
    assert found.failures == 2
    assert found.compress_ns_per_page == 2000
    assert found.decompress_ns_per_page is None
    assert found.read_p50 == pytest.approx(1000, abs=64)
    assert found.write_p50 is None


def test_another_life_or_no_time_gives_no_rates() -> None:
    before = device(10.0)
    assert rates(before, device(10.0)) is None
    other = DeviceSnapshot("ublkb0", "/dev/ublkb0", pid=8, created=2.0, time=11.0)
    assert rates(before, other) is None


def test_histogram_never_negative() -> None:
    assert histogram_difference((5, 1), (3, 4)) == (0, 3)
    assert histogram_difference((), (3, 4)) == (3, 4)


def test_history_keeps_steps_and_shows_gaps() -> None:
    history = DeviceHistory(step=1.0, length=10)
    for time in (0.0, 0.25, 0.5, 1.0, 1.9, 2.0, 3.0):
        history.add(device(time))
    assert [sample and sample.time for sample in history.samples] == [1.0, 2.0, 3.0]
    history.add(device(8.0))
    assert [sample and sample.time for sample in history.samples] == [1.0, 2.0, 3.0, None, None, None, None, 8.0]
    for time in range(9, 40):
        history.add(device(float(time)))
    assert len(history.samples) == 10


def test_time_to_full() -> None:
    history = DeviceHistory(step=1.0, length=100)
    for time in range(10):
        history.add(DeviceSnapshot("a", "a", time=float(time), mem_used_total=1000 * time))
    assert history.time_to_full(19000) == pytest.approx(10.0)
    assert history.time_to_full(0) is None
    flat = DeviceHistory(step=1.0, length=100)
    for time in range(10):
        flat.add(DeviceSnapshot("a", "a", time=float(time), mem_used_total=1000))
    assert flat.time_to_full(19000) is None


def test_events() -> None:
    history = History()

    def add(time: float, **fields: object) -> list[str]:
        devices = (DeviceSnapshot("a", "/dev/a", time=time, **fields),) if fields is not None else ()  # type: ignore[arg-type]
        return [event.text for event in history.add(Snapshot(MachineSnapshot(time=time), devices))]

    assert add(0.0, algorithm="lz4") == []
    assert add(1.0, algorithm="zstd:3") == ["algorithm lz4 → zstd:3"]
    assert add(2.0, algorithm="zstd:3", total=QueueSnapshot(enospc=3)) == ["3 writes refused: full"]
    assert add(3.0, algorithm="zstd:3", total=QueueSnapshot(enospc=3), state="dead") == ["live → dead"]
    damaged = QueueSnapshot(enospc=3, damaged_entries=2)
    assert add(3.5, algorithm="zstd:3", total=damaged, state="dead", last_error="page 7: entry out of range") == [
        "2 damaged page-table entries",
        "page 7: entry out of range",
    ]
    assert [event.text for event in history.add(Snapshot(MachineSnapshot(time=4.0)))] == ["removed"]
    assert list(history) == []
    assert [event.severity for event in history.events] == ["info", "warning", "error", "error", "error", "info"]
