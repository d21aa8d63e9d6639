"""``truezram benchmark store``: what it reports, what it refuses, and that it notices a store that is broken. The C
code is the real one; zram is a file in place of its device (a real one: tests/device/test_37_benchmark_store.py)."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from typing import Any

import pagegen
import pytest

from truezram import Compressor
from truezram._native import ffi, lib
from truezram.cli import main
from truezram.engine.errors import Failed, Unsupported, UsageError
from truezram.engine.measure import store_bench, store_report, zram_bench
from truezram.engine.measure.results import Cancelled, Speed
from truezram.engine.measure.store_results import StoreProgress, StoreReport, StoreResult, Usage

PAGE = 4096
SAME = [bytes(PAGE), b"\x07" * PAGE]
COUNT = 300
SIZE = COUNT * PAGE
MB_S, NS, MEMORY = {"median", "samples"}, {"p50", "p99", "p99.9"}, {"compr_bytes", "used_bytes", "reserve_bytes"}
RESULT = {
    *("implementation", "algorithm", "threads", "size", "orig_bytes", *MEMORY, "after_overwrites", "after_free"),
    *("write_mb_s", "read_mb_s", "write_ns", "read_ns", "cpu_s_per_gib"),
}


def sample() -> list[bytes]:
    return [page for page in pagegen.sample(2 * COUNT, seed=7) if page[:8] * 512 != page][:COUNT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pages: `COUNT` pages and two same-filled ones."""
    path = tmp_path_factory.mktemp("pages")
    (path / "a.pages").write_bytes(b"".join([SAME[0], *sample(), SAME[1]]))
    return path


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for that is not looked at."""
    monkeypatch.setattr(store_bench, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(store_bench, "FREE_SECONDS", 0.05)
    monkeypatch.setattr(store_bench, "_PROGRESS_SECONDS", 0.0)


@pytest.fixture
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


class StandIn:
    """A file in place of each zram device; what mm_stat says are constants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "device"
        """Of the last one."""
        self.open = 0
        self.opened: list[tuple[str, int]] = []
        (folder / "mm_stat").write_text(f"{SIZE} {SIZE // 2} {SIZE // 2 + 4096} 0 0 0 0 0 0\n")

    @contextlib.contextmanager
    def device(self, algorithm: str, size: int) -> Iterator[tuple[str, int]]:
        self.opened.append((algorithm, size))
        self.path = self.folder / f"device{len(self.opened)}"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)
        self.open += 1
        try:
            os.ftruncate(descriptor, size)
            yield str(self.folder), descriptor
        finally:
            self.open -= 1
            os.close(descriptor)


@pytest.fixture
def zram(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    made = StandIn(tmp_path)
    monkeypatch.setattr(zram_bench, "device", made.device)
    monkeypatch.setattr(zram_bench, "check", lambda algorithms: None)
    return made


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main.main(("benchmark", "store", *argv))
    out, err = capsys.readouterr()
    return code, out, err


def arenas() -> int:
    """Arenas that this process has mapped or open."""
    return Path("/proc/self/maps").read_text().count("truezram-benchmark")


# ---- what comes out ----


def check_result(result: dict[str, Any], rounds: int) -> None:
    assert set(result) == RESULT
    for speed in (result["write_mb_s"], result["read_mb_s"]):
        assert set(speed) == MB_S
        assert len(speed["samples"]) == rounds
        assert min(speed["samples"]) > 0
        assert speed["median"] == pytest.approx(median(speed["samples"]), rel=1e-3)
    for latency in (result["write_ns"], result["read_ns"]):
        assert set(latency) == NS
        assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"]
    assert set(result["after_overwrites"]) == MEMORY
    assert set(result["after_free"]) == {*MEMORY, "seconds"}
    assert set(result["cpu_s_per_gib"]) == {"write", "read"}
    assert min(result["cpu_s_per_gib"].values()) > 0


def test_json(folder: Path, no_root: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = arenas()
    code, out, err = call(
        capsys, "--pages", str(folder), "--size", "2M", "--rounds", "2", "--algorithm", "fast", "--algorithm", "lz4",
        "--threads", "1", "--threads", "3", "--json", "-",
    )  # fmt: skip
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["schema"], document["kind"]) == ("truezram.benchmark/1", "store")
    assert {"cpu", "machine", "cores", "isa", "kernel", "truezram", "time"} <= set(document["host"])
    assert document["inputs"] == [{"name": "a", "pages": COUNT + 2, "same_filled": 2}]
    keys = [(r["implementation"], r["algorithm"], r["threads"]) for r in document["results"]]
    assert keys == [("truezram", name, threads) for threads in (1, 3) for name in ("fast", "lz4")]
    for result in document["results"]:
        check_result(result, 2)
        assert result["size"] == result["orig_bytes"] == 2 << 20
        for usage in (result, result["after_overwrites"], result["after_free"]):
            assert 0 < usage["compr_bytes"] <= usage["used_bytes"] - usage["reserve_bytes"]
        # Same-filled pages would have no object; with other pages in the same places, the sum is about the same.
        assert result["after_overwrites"]["compr_bytes"] == pytest.approx(result["compr_bytes"], rel=0.2)
        assert result["after_free"]["compr_bytes"] == pytest.approx(0.3 * result["compr_bytes"], rel=0.2)
        assert 0 <= result["after_free"]["seconds"] <= 0.05
    assert document["rounds"] == 2
    # That zram was not measured is said, and why.
    assert [(item["algorithm"], item["implementation"]) for item in document["not_measured"]] == [
        ("lz4", "zram"),
        ("zstd", "zram"),
        ("lzo-rle", "zram"),
    ]
    assert all("only root" in item["why"] and item["remedy"] for item in document["not_measured"])
    assert arenas() == before


def test_text_and_files(folder: Path, no_root: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "x.json", tmp_path / "x.html"
    argv = ["--pages", str(folder), "--size", "2M", "--rounds", "1", "--algorithm", "lz4"]
    code, out, err = call(capsys, *argv, "--json", str(files[0]), "--html", str(files[1]))
    assert (code, err) == (0, "")
    document = json.loads(files[0].read_text())
    result = document["results"][0]
    ratio = f"{result['orig_bytes'] / result['used_bytes']:.3f}"
    assert ratio in out
    assert "Not measured: lzo-rle of zram: it creates a zram device, which only root may do. Run it with sudo." in out
    assert "2 of them same-filled and left out" in out
    HTMLParser().feed(files[1].read_text())
    assert ratio in files[1].read_text()
    assert "only root" in files[1].read_text()


def test_objects_are_what_the_codec_makes(folder: Path) -> None:
    """Each page once: the objects have the sum of their lengths, a page that does not shrink 4096."""
    found = store_bench.run([folder], ["lz4"], ["none"], size=SIZE, rounds=1).results[0]
    compressor = Compressor("lz4")
    lengths = [len(compressor.compress(page)) for page in sample()]
    assert found.filled.orig == SIZE
    assert found.filled.compr == pytest.approx(sum(min(length, PAGE) for length in lengths), rel=0.01)


def test_the_same_pages_for_all(folder: Path) -> None:
    """In every run and for every subject with as many threads."""
    first, second = (store_bench.run([folder], ["lz4"], ["none"], size=SIZE, rounds=r).results[0] for r in (1, 3))
    for a, b in (
        (first.filled, second.filled),
        (first.after_overwrites, second.after_overwrites),
        (first.after_free, second.after_free),
    ):
        assert a is not None
        assert b is not None
        assert a.orig == b.orig
    assert first.filled.compr == second.filled.compr


def test_percentiles() -> None:
    """Bins are at most 1/64 wide, so a middle is within 1 % of what was counted."""
    histogram = [0] * lib.TZ_BENCH_LAT_BINS
    assert store_bench.latency(histogram) is None
    middles = [lib.tz_bench_lat_middle(i) for i in range(lib.TZ_BENCH_LAT_BINS)]
    assert middles[:64] == list(range(64))
    assert middles == sorted(middles)
    assert middles[-1] > 60e9
    widest = max(b / a for a, b in itertools.pairwise(middles[64:]))
    assert widest < 1.02
    for index, count in ((100, 989), (500, 10), (900, 1)):
        histogram[index] = count
    found = store_bench.latency(histogram)
    assert found is not None
    assert (found.p50, found.p99, found.p999) == (middles[100], middles[500], middles[500])


# ---- a device ----


def test_a_device_is_measured_like_a_store(folder: Path, zram: StandIn) -> None:
    heard: list[StoreProgress] = []
    found = store_bench.run(
        [folder], ["lz4"], ["zram:lz4,zram:zstd"], size=SIZE, rounds=2, threads=[2], progress=heard.append
    )
    assert zram.opened == [("lz4", SIZE), ("zstd", SIZE)]
    assert zram.open == 0
    assert [(r.implementation, r.algorithm, r.threads) for r in found.results] == [
        ("truezram", "lz4", 2),
        ("zram", "lz4", 2),
        ("zram", "zstd", 2),
    ]
    ours, first, second = found.results
    assert first.filled == Usage(SIZE, SIZE // 2, SIZE // 2 + 4096, 0)
    assert first.free_seconds < 0.05  # 1 % more than its objects
    assert found.baseline(ours) is first
    assert found.baseline(second) is None
    over = found.speed_over(ours)
    assert over is not None
    wanted = median(a / b for a, b in zip(ours.write.samples, first.write.samples, strict=True))
    assert over[0] == pytest.approx(wanted)
    # 70 % of what is there in the end was discarded.
    left = zram.path.read_bytes()
    empty = sum(left[i : i + PAGE] == bytes(PAGE) for i in range(0, SIZE, PAGE))
    assert empty == int(0.7 * COUNT)
    assert any("that is empty took" in note for note in found.notes)
    assert heard[-1].fraction == 1.0
    assert [step.fraction for step in heard] == sorted(step.fraction for step in heard)


def at(text: str, do: Callable[[], None]) -> Callable[[StoreProgress], None]:
    """Progress that calls `do` once, when that step is done."""
    waiting = [do]

    def progress(step: StoreProgress) -> None:
        if text in step.text and waiting:
            waiting.pop()()

    return progress


@pytest.mark.parametrize("step", ["round 1 of 2, lz4 of zram", "verifying, lz4 of zram"])
def test_a_device_that_returns_something_else_is_said(
    folder: Path, zram: StandIn, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run = lib.tz_bench_run
    done = []

    class Native:
        """The library, with one bit of each page on the device flipped before the pages are read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(lib, name)

        def tz_bench_run(self, target: Any, op: int, *rest: Any) -> int:
            if op == lib.TZ_BENCH_READ and done == [step]:
                done.append("flipped")
                data = bytearray(zram.path.read_bytes())
                for place in range(0, len(data), PAGE):
                    data[place + 77] ^= 4
                zram.path.write_bytes(data)
            return int(run(target, op, *rest))

    monkeypatch.setattr(store_bench, "lib", Native())
    with pytest.raises(Failed, match=r"lz4 of zram is broken on this machine: what was read of page .* differs"):
        store_bench.run(
            [folder], ["lz4"], ["zram:lz4"], size=SIZE, rounds=2, progress=at(step, lambda: done.append(step))
        )
    assert done == [step, "flipped"]
    assert zram.open == 0


def test_a_device_that_fails_is_said(folder: Path, zram: StandIn) -> None:
    def shorten() -> None:
        os.truncate(zram.path, 0)

    with pytest.raises(Failed, match=r"reading page .* failed: Input/output error"):
        store_bench.run(
            [folder], ["lz4"], ["zram:lz4"], size=SIZE, rounds=1, progress=at("verifying, lz4 of zram", shorten)
        )
    assert zram.open == 0


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
def test_nothing_is_left_behind(folder: Path, zram: StandIn, how: str) -> None:
    """Wherever it is stopped: no device and no memory."""
    before = arenas()
    for steps in (1, 4, 12, 30):
        seen = 0

        def cancelled(steps: int = steps) -> bool:
            nonlocal seen
            seen += 1
            if seen >= steps and how == "interrupted":
                raise KeyboardInterrupt
            return seen >= steps

        with pytest.raises(Cancelled if how == "cancelled" else KeyboardInterrupt):
            store_bench.run([folder], ["lz4"], ["zram:lz4"], size=SIZE, rounds=2, cancelled=cancelled)
        assert zram.opened
        assert zram.open == 0
        assert arenas() == before


# ---- what it refuses ----


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rounds": 0}, "0 rounds"),
        ({"rounds": 11}, "Choose 1 to 10"),
        ({"threads": [0]}, "0 threads"),
        ({"threads": [1, 65]}, "Choose 1 to 64"),
        ({"size": 1 << 41}, "out of range"),
        ({"size": 2 * PAGE, "threads": [3]}, "out of range"),
        ({"size": 1 << 40}, "do not fit into the memory available"),
        ({"against": ["liblz4"]}, "compared with kernel zram, not with 'liblz4'"),
        ({"against": ["zram:LZ4"]}, "is not a compressor"),
        ({"algorithms": ["nothing"]}, "unknown algorithm"),
    ],
)
def test_bad_requests(folder: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        store_bench.run([folder], **{"against": ["none"], **options})


def test_exit_codes(folder: Path, no_root: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = ["--pages", str(folder)]
    assert call(capsys, *pages, "--size", "5000")[0] == 2
    assert call(capsys, *pages, "--against", "memcpy")[0] == 2
    # Asked for by name and not there: refused, nothing else is measured.
    code, out, err = call(capsys, *pages, "--against", "zram:lz4")
    assert (code, out) == (3, "")
    assert "only root" in err
    (tmp_path / "same.pages").write_bytes(b"".join(SAME))
    code, _, err = call(capsys, "--pages", str(tmp_path / "same.pages"), "--against", "none")
    assert code == 1
    assert "same-filled" in err


def test_without_the_module(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(zram_bench, "CONTROL", tmp_path)
    found = store_bench.run([folder], ["lz4"], size=SIZE, rounds=1)
    assert {item.why for item in found.not_measured} == {"the module zram is not loaded"}
    assert all("modprobe zram" in line for line in store_report.about(found) if "Not measured" in line)
    with pytest.raises(Unsupported, match="modprobe zram"):
        store_bench.run([folder], ["lz4"], ["zram:zstd"], size=SIZE, rounds=1)


def test_c_checks_its_arguments(folder: Path) -> None:
    """Whoever calls it: more than a window, or past the last place."""
    pages = store_bench.Pages(store_bench.benchmark.read_inputs([folder]))
    tally, place = ffi.new("struct tz_bench_tally *"), ffi.new("uint32_t *")
    with store_bench.opened(pages, 100, "truezram", "lz4", 1) as subject:
        for first, count in ((0, lib.TZ_BENCH_WINDOW + 1), (101, 0), (50, 51)):
            code = lib.tz_bench_run(subject.target, lib.TZ_BENCH_FILL, first, count, 1, tally, place)
            assert code == -22
        assert lib.tz_bench_order(subject.target, ffi.new("uint32_t[]", [99, 0]), 2) == 0
        assert lib.tz_bench_order(subject.target, ffi.new("uint32_t[]", [100]), 1) == -22
        assert lib.tz_bench_order(subject.target, ffi.new("uint32_t[]", 101), 101) == -22
    with pytest.raises(Failed, match="1 to 64 threads"), store_bench.opened(pages, 2, "truezram", "lz4", 3):
        pass


# ---- results ----


def result(implementation: str, write: tuple[float, ...], threads: int = 1) -> StoreResult:
    usage = Usage(4096, 1024, 2048, 0)
    return StoreResult(implementation, "lz4", threads, 4096, usage, Speed(write), Speed(write))


def test_compared_with_zram_of_as_many_threads() -> None:
    ours = result("truezram", (2.0, 9.0, 8.0), 2)
    results = (ours, result("zram", (1.0,), 1), result("zram", (1.0, 3.0), 2))
    report = StoreReport({}, (), 4096, 3, results, (), ())
    assert report.baseline(ours) is results[2]
    # Only rounds that both have done count.
    assert report.speed_over(ours) == (2.5, 2.5)
    assert report.speed_over(results[1]) is None
    alone = StoreReport({}, (), 4096, 3, (ours,), (), ())
    assert alone.speed_over(ours) is None
    assert [cells[3] for cells in store_report.rows(alone)] == ["2.000"]


def test_cache_size(tmp_path: Path) -> None:
    for index, text in enumerate(("32K\n", "1024K\n", "strange\n")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(text)
    assert store_bench.last_cache_bytes(tmp_path) == 1 << 20
    assert store_bench.last_cache_bytes(tmp_path / "none") == 0


def test_default_size_fits_into_memory(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    pages = store_bench.Pages(store_bench.benchmark.read_inputs([folder]))
    monkeypatch.setattr(store_bench.procfs, "mem_available", lambda: 64 << 30)
    assert store_bench._size(None, pages, 4, 1) == store_bench.DEFAULT_SIZE
    monkeypatch.setattr(store_bench.procfs, "mem_available", lambda: 400 << 20)
    assert 0 < store_bench._size(None, pages, 4, 1) < store_bench.DEFAULT_SIZE
    with pytest.raises(UsageError, match="4 stores of 512M do not fit"):
        store_bench._size(512 << 20, pages, 4, 1)


def test_interruptions_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a share of the timings on."""
    found = []
    for share in (-1.0, 1.0):
        monkeypatch.setattr(store_bench, "DISTURBED", share)
        found.append(store_bench.run([folder], ["lz4"], ["none"], size=SIZE, rounds=1))
    said = [any("interrupted by other work" in note for note in report.notes) for report in found]
    assert said == [True, False]


def test_incompressible_pages(tmp_path: Path) -> None:
    """Stored as they are; the memory is more than they are."""
    path = tmp_path / "noise.pages"
    path.write_bytes(random.Random(1).randbytes(64 * PAGE))
    found = store_bench.run([path], ["fast"], ["none"], size=64 * PAGE, rounds=1).results[0]
    assert found.filled.compr == found.filled.orig == 64 * PAGE
    assert found.ratio < 1
