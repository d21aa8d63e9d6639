"""zram_bench.py: kernel zram as a baseline, on a real device where possible and on a file in place of one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from truezram.engine.errors import Failed, Unsupported, UsageError
from truezram.engine.measure import baselines, benchmark, results, zram_bench

PAGES = b"".join(random.Random(n).randbytes(1024) * 4 for n in range(100))


def test_what_may_be_named() -> None:
    assert baselines.parse(["liblz4,zram,zram:zstd", "zram:lz4"]) == [("liblz4", 1)]
    assert baselines.parse_kernel(["liblz4,zram,zram:zstd", "zram:lz4"]) == ["lz4", "zstd"]
    assert baselines.kernel_first(["zram:zstd,liblz4"])
    assert not baselines.kernel_first(["liblz4,zram"])
    for text in ("zram:", "zram:../x", "zram:LZ4"):
        with pytest.raises(UsageError, match="is not a compressor"):
            baselines.parse_kernel([text])


def test_without_root_or_module_it_is_left_out_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert benchmark.default_baselines() == baselines.DEFAULT
    with pytest.raises(Unsupported, match="only root"):
        benchmark.run(against=["liblz4,zram"], rounds=1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(zram_bench, "CONTROL", tmp_path)
    assert benchmark.default_baselines() == baselines.DEFAULT
    with pytest.raises(Unsupported, match="modprobe zram"):
        benchmark.run(against=["zram:zstd"], rounds=1)


@pytest.fixture
def device_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file in place of the device, with figures of its own in mm_stat."""
    path = tmp_path / "device"
    (tmp_path / "mm_stat").write_text("409600 102400 120000 0 120000 0 0 7 7\n")

    @contextlib.contextmanager
    def stand_in(algorithm: str, size: int) -> Iterator[tuple[str, int]]:
        assert (algorithm, size) == ("lz4", len(PAGES))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            yield str(tmp_path), descriptor
        finally:
            os.close(descriptor)

    monkeypatch.setattr(zram_bench, "device", stand_in)
    return path


def test_pages_are_written_read_and_counted(device_file: Path) -> None:
    item = benchmark.make_input("some", PAGES)
    report = benchmark.measure([item], *benchmark.open_subjects(["lz4"], ["memcpy,zram"]), rounds=7)
    found = zram_bench.add(report, [item], ["lz4"])
    assert found is not None
    assert device_file.read_bytes() == PAGES
    assert found.results[: len(report.results)] == report.results
    added = found.results[len(report.results) :]
    assert [(r.key, r.input, r.ratio, r.raw_pages) for r in added] == [
        (("zram", "lz4"), "some", 4.0, 7),
        (("zram", "lz4"), results.TOTAL, 4.0, 7),
    ]
    for result in added:
        assert len(result.compress.samples) == len(result.decompress.samples) == zram_bench.MAX_ROUNDS
        assert min(*result.compress.samples, *result.decompress.samples) > 0
    heard: list[results.Progress] = []
    zram_bench.add(report, [item], ["lz4"], progress=heard.append)
    assert [step.fraction for step in heard] == [zram_bench.SHARE, 1.0]
    assert zram_bench.add(report, [item], ["lz4"], cancelled=lambda: True) is None


def test_a_device_that_returns_something_else_is_said(device_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(descriptor: int, part: memoryview, offset: int) -> int:
        count = os.preadv(descriptor, [part], offset)
        if offset:
            part[5] ^= 1
        return count

    monkeypatch.setattr(zram_bench, "_pread", read)
    item = benchmark.make_input("some", PAGES)
    with pytest.raises(Failed, match="differs from what was written"):
        zram_bench.measure("lz4", item.data, item.order, 1)
    monkeypatch.setattr(zram_bench, "_pread", lambda descriptor, part, offset: 0)
    with pytest.raises(Failed, match="its device failed"):
        zram_bench.measure("lz4", item.data, item.order, 1)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Devices 987654, which do not exist, can be made; the list of those removed."""
    removed: list[int] = []
    (tmp_path / "hot_add").write_text("987654")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(zram_bench, "CONTROL", tmp_path)
    monkeypatch.setattr(zram_bench, "_remove", removed.append)
    return removed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_device_behind(made: list[int], number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # pytest's workers have a handler of their own
    try:
        with pytest.raises(SystemExit) as ended, zram_bench._fresh():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number
    assert made == [987654]


def test_a_second_interrupt_waits_for_the_removal(made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def remove(number: int) -> None:
        signal.raise_signal(signal.SIGINT)
        made.append(number)

    monkeypatch.setattr(zram_bench, "_remove", remove)
    try:
        with pytest.raises(KeyboardInterrupt), zram_bench._fresh():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert made == [987654]


def test_an_interrupt_while_it_is_made_leaves_no_device_behind(
    made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exists already, and its number is not known yet."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    read = Path.read_text

    def read_text(path: Path, *args: object, **options: object) -> str:
        if path.name == "hot_add":
            signal.raise_signal(signal.SIGINT)
        return read(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", read_text)
    try:
        with pytest.raises(KeyboardInterrupt), zram_bench._fresh():
            pytest.fail("the interrupt was lost")
    finally:
        signal.signal(signal.SIGINT, before)
    assert made == [987654]


@pytest.mark.skipif(not zram_bench.available(), reason="needs root and the zram module")
def test_a_real_device_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[int] = []
    remove = zram_bench._remove

    def watched(number: int) -> None:
        assert Path(f"/sys/block/zram{number}").exists()
        remove(number)
        removed.append(number)

    monkeypatch.setattr(zram_bench, "_remove", watched)
    known = zram_bench.compressors()
    assert known
    assert len(removed) == 1
    item = benchmark.make_input("some", PAGES)
    measured = zram_bench.measure(known[0], item.data, item.order, 2)
    assert measured is not None
    assert measured.stored == len(PAGES)
    assert 0 < measured.objects < len(PAGES) / 2
    assert len(measured.write_ns) == len(measured.read_ns) == 2
    with pytest.raises(Unsupported, match="has no 'nothing'"):
        zram_bench.check(["nothing"])
    # Each of its devices. (Not what /sys/block lists: other tests' devices come and go meanwhile.)
    assert len(removed) == 3
