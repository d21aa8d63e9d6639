"""``truezram benchmark codec``: what it reports, what it refuses, and that it notices a codec that is broken."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import json
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import lz4
import pagegen
import pytest
import zstandard
from conftest import HANG, wait_until

import truezram
from truezram._native import ffi, lib
from truezram.cli import main
from truezram.engine.errors import Failed, TruezramError, Unsupported, UsageError
from truezram.engine.machine import doctor
from truezram.engine.measure import baselines, benchmark, page_files, report, results
from truezram.engine.measure.baselines import Subject

PAGE = 4096
SAME = [bytes(PAGE), b"\x07" * PAGE, b"12345678" * 512]


def random_page(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pages: 70 + 3 same-filled, b.pages.zst: 40 pages, and a file that is none."""
    path = tmp_path_factory.mktemp("pages")
    pages = [page for page in pagegen.sample(200, seed=4) if page[:8] * 512 != page]
    (path / "a.pages").write_bytes(b"".join([SAME[0], *pages[:70], *SAME[1:]]))
    (path / "b.pages.zst").write_bytes(zstandard.compress(b"".join(pages[70:110])))
    (path / "notes.txt").write_text("not pages")
    return path


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main.main(("benchmark", "codec", *argv))
    out, err = capsys.readouterr()
    return code, out, err


# ---- what comes out ----


def check_speed(speed: dict[str, Any], rounds: int) -> None:
    assert set(speed) == {"median", "samples"}
    assert len(speed["samples"]) == rounds
    assert all(sample > 0 for sample in speed["samples"])
    assert speed["median"] == pytest.approx(median(speed["samples"]), rel=1e-3)


@pytest.mark.parametrize(
    ("cpuinfo", "wanted"),
    [
        ("cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nmodel name\t: B", "AMD EPYC (family 26, model 2)"),
        ("model name\t: AMD EPYC\n", "AMD EPYC"),
        ("processor\t: 0\nCPU part\t: 0xd0b\n", platform.machine()),
        ("", platform.machine()),
    ],
)  # fmt: skip
def test_cpu_is_named_with_its_generation(cpuinfo: str, wanted: str) -> None:
    assert benchmark._cpu(cpuinfo) == wanted


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against = "liblz4:8,liblz4,lz4hc,libzstd:1,libzstd:-1,memcpy"
    code, out, err = call(
        capsys, "--pages", str(folder), "--rounds", "3", "--against", against, "--algorithm", "lz4", "--algorithm",
        "zstd:3", "--json", "-",
    )  # fmt: skip
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["schema"] == "truezram.benchmark/1"
    assert document["kind"] == "codec"
    assert {"cpu", "machine", "cores", "isa", "kernel", "truezram", "time"} <= set(document["host"])
    assert document["inputs"] == [
        {"name": "a", "pages": 73, "same_filled": 3},
        {"name": "b", "pages": 40, "same_filled": 0},
    ]
    assert (document["rounds"], document["cold"]) == (3, False)
    assert document["baseline"] == {"implementation": "liblz4", "algorithm": "lz4:8"}
    keys = [(r["implementation"], r["algorithm"], r["input"]) for r in document["results"]]
    codecs = [
        ("truezram", "lz4"),
        ("truezram", "zstd:3"),
        ("liblz4", "lz4:8"),
        ("liblz4", "lz4"),
        ("liblz4", "lz4hc:9"),
        ("libzstd", "zstd:1"),
        ("libzstd", "zstd:-1"),
        ("libc", "memcpy"),
    ]
    assert sorted(keys) == sorted((*codec, name) for codec in codecs for name in ("a", "b", "total"))
    for result in document["results"]:
        check_speed(result["compress_mb_s"], 3)
        check_speed(result["decompress_mb_s"], 3)
        ours = result["implementation"] == "truezram"
        if ours:
            wanted = f"libzstd {doctor.zstd_version()} (this system's)" if result["algorithm"] == "zstd:3" else None
            assert result.get("version") == wanted
        assert result["isa"] in ("portable", "avx2", "avx512", "neon") if ours else result["isa"] is None
        if result["algorithm"] == "memcpy":
            assert result["ratio"] == 1
        if result["implementation"] == "liblz4":
            assert result["version"].startswith(lz4.library_version_string())
        if result["implementation"] == "libzstd":
            assert result["version"].startswith(".".join(map(str, zstandard.ZSTD_VERSION)))


@pytest.mark.parametrize("name", ["a", "b", "total"])
def test_ratio_is_what_the_library_makes(folder: Path, name: str) -> None:
    """Counted here in another way: without the same-filled pages, a page that does not shrink as 4096."""
    found = benchmark.run([folder], ["lz4", "zstd"], ["liblz4,libzstd"], rounds=1)
    pages = [
        bytes(item.data[i : i + PAGE])
        for item in page_files.read(page_files.find([folder]))
        if name in (item.name, "total")
        for i in range(0, len(item.data), PAGE)
    ]
    pages = [page for page in pages if page[:8] * 512 != page]
    results = {result.key: result for result in found.of(name)}
    for algorithm in ("lz4", "zstd"):
        compressor = truezram.Compressor(algorithm)
        sizes = [len(compressor.compress(page)) for page in pages]
        result = results["truezram", algorithm]
        assert result.ratio == pytest.approx(PAGE * len(pages) / sum(sizes))
        assert result.raw_pages == sizes.count(PAGE)
        assert result.raw_pages > 0 or name == "b"
    # The package's own lz4.block.compress() calls LZ4_compress_fast_continue, which finds other matches.
    liblz4 = ctypes.CDLL(importlib.import_module("lz4.block._block").__file__)
    room = ctypes.create_string_buffer(2 * PAGE)
    theirs = sum(min(PAGE, liblz4.LZ4_compress_default(page, room, PAGE, 2 * PAGE)) for page in pages)
    assert results["liblz4", "lz4"].ratio == pytest.approx(PAGE * len(pages) / theirs)
    options = {"format": zstandard.FORMAT_ZSTD1_MAGICLESS, "write_content_size": False}
    parameters = zstandard.ZstdCompressionParameters.from_level(1, source_size=PAGE, **options)
    packer = zstandard.ZstdCompressor(compression_params=parameters)
    theirs = sum(min(PAGE, len(packer.compress(page))) for page in pages)
    assert results["libzstd", "zstd:1"].ratio == pytest.approx(PAGE * len(pages) / theirs, rel=2e-3)


def test_all_algorithms_by_default(folder: Path) -> None:
    found = benchmark.run([folder / "a.pages"], against=baselines.DEFAULT, rounds=1)
    named = [result.algorithm for result in found.of("a") if result.implementation == "truezram"]
    assert named == [item.name for item in truezram.algorithms()]
    assert [result.key for result in found.of("a")[len(named) :]] == [
        ("liblz4", "lz4"),
        ("libzstd", "zstd:1"),
        ("libc", "memcpy"),
    ]
    assert found.baseline == ("liblz4", "lz4")


def test_relative_goes_round_by_round() -> None:
    def speed(*samples: float) -> results.Speed:
        return results.Speed(samples)

    ours = results.Result("x", "truezram", "avx2", "a", 3.0, 0, speed(20, 200, 60), speed(1, 1, 1))
    base = results.Result("lz4", "liblz4", None, "a", 2.0, 0, speed(10, 100, 20), speed(2, 2, 2))
    infos = (results.InputInfo(name="a", pages=1, same_filled=0),)
    found = results.Report({}, infos, (ours, base), base.key, False, 3, 0.0)
    assert found.relative(ours) == (1.5, 2.0, 0.5)
    assert found.relative(base) == (1.0, 1.0, 1.0)
    alone = results.Report({}, infos, (ours,), base.key, False, 3, 0.0)
    assert alone.relative(ours) is None


def test_speeds_are_those_of_this_machine(folder: Path) -> None:
    """Samples agree with the wall clock: no more can have been done in the time that all of it took. The fastest of
    many is a codec's own speed, whatever else the machine does; zstd:19 is slower than anything that is only copied."""
    subjects, baseline = benchmark.open_subjects(["zstd:19"], ["memcpy"])
    inputs = benchmark.read_inputs([folder / "b.pages.zst"])
    began = time.monotonic()
    found = benchmark.measure(inputs, subjects, baseline, rounds=15)
    seconds = time.monotonic() - began
    ours, copy = found.of("total")
    samples = [
        sample for result in (ours, copy) for speed in (result.compress, result.decompress) for sample in speed.samples
    ]
    assert len(samples) == 4 * 15
    assert sum(40 * PAGE / sample / 1e6 for sample in samples) < seconds
    assert max(ours.compress.samples) < max(ours.decompress.samples) < max(copy.decompress.samples)
    assert 100 < max(copy.compress.samples) < 1e6


def test_cold_is_slower_and_as_right(folder: Path) -> None:
    warm = benchmark.run([folder / "a.pages"], ["lz4"], ["memcpy"], rounds=5)
    cold = benchmark.run([folder / "a.pages"], ["lz4"], ["memcpy"], rounds=5, cold=True)
    assert cold.cold
    assert [r.ratio for r in cold.results] == [r.ratio for r in warm.results]
    copy = [next(r for r in found.of("a") if r.algorithm == "memcpy") for found in (warm, cold)]
    assert max(copy[1].decompress.samples) < 0.7 * max(copy[0].decompress.samples)


def test_cold_shuffles_pages() -> None:
    data = b"".join(map(random_page, range(100)))
    work = benchmark._Measurement([benchmark.make_input("x", data)], [], ("", ""), True)
    orders = [[i for part in work.groups_of(work.inputs[0], number) for i in part] for number in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(100))


class Wellformed(HTMLParser):
    """Fails for tags that do not nest, notes what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_and_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(
        capsys, "--pages", str(folder / "a.pages"), "--pages", str(folder / "b.pages.zst"), "--rounds", "2",
        "--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"),
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "a: 73 pages, 3 of them same-filled and left out" in out
    assert "total: 113 pages, 3 of them same-filled and left out" in out
    document = json.loads((tmp_path / "r.json").read_text())
    total = {(r["implementation"], r["algorithm"]): r for r in document["results"] if r["input"] == "total"}
    line = next(line for line in out.split("\ntotal: ")[1].splitlines() if line.startswith("lz4 ("))
    ours = total["truezram", "lz4"]
    shown = [float(word.replace(",", "")) for word in (line.split()[2], line.split()[4])]
    assert shown[0] == pytest.approx(ours["ratio"], abs=1e-3)
    assert shown[1] == pytest.approx(ours["compress_mb_s"]["median"], abs=1)
    assert line.split()[3].endswith("x")
    page = Wellformed()
    page.feed((tmp_path / "r.html").read_text())
    assert page.open == []
    assert line.split()[2] in page.text
    assert line.split()[4] in page.text


def test_table_fits_the_terminal(folder: Path) -> None:
    found = benchmark.run([folder / "b.pages.zst"], ["lz4"], rounds=1)
    for width in (80, 100, 200):
        lines = report.to_text(found, width).splitlines()
        assert max(len(line) for line in lines if line.startswith(("lz4", "zstd", "memcpy", " "))) < width
    assert "\u2588" in report.to_text(found, 100)
    plain = report.to_text(found, 100, unicode=False)
    assert plain.isascii()
    assert "####" in plain


def test_samples_memory_without_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """This test's own child is among the processes."""
    code = "import sys; x = list(range(10**6)); print('ready', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        code, out, _ = call(capsys, "--rounds", "1", "--algorithm", "lz4", "--json", "-")
        if code == 1:
            pytest.skip("this user may read no process here")
        document = json.loads(out)
        assert [item["name"] for item in document["inputs"]] == ["memory"]
        assert {r["input"] for r in document["results"]} == {"memory", "total"}
    finally:
        child.communicate(b"")


def test_seconds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a round takes 0.1 s (it is read at the start, and before each round but the first)."""
    ticks = itertools.count(1)
    monkeypatch.setattr(benchmark, "_Plan", partial(benchmark._Plan, began=0.0))
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: next(ticks) / 10}))
    assert benchmark.run([folder], ["lz4"], ["liblz4"], seconds=0.65).rounds == 6
    assert benchmark.run([folder], ["lz4"], ["liblz4"], seconds=1e-6).rounds == 1


# ---- as the app uses it ----


def test_progress_grows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_PROGRESS_SECONDS", 0.0)
    heard: list[results.Progress] = []
    thread_result: list[results.Report] = []

    def work() -> None:
        thread_result.append(benchmark.run([folder], ["lz4"], baselines.DEFAULT, rounds=3, progress=heard.append))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    fractions = [item.fraction for item in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert heard[0].report is None
    steps = list(dict.fromkeys((item.report.rounds, len(item.report.results)) for item in heard if item.report))
    # The first input alone, then both and the total, then more rounds of the same.
    assert steps == [(0, 4), (1, 12), (2, 12), (3, 12)]
    assert heard[-1].report is thread_result[0]
    assert len(thread_result[0].of("a")[0].compress.samples) == 3


def test_cancelled(folder: Path) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(results.Cancelled) as caught:
        benchmark.run([folder], ["lz4"], rounds=1000, cancelled=cancelled)
    assert caught.value.exit_code == 130
    assert asked == 4


def test_interrupted(folder: Path) -> None:
    command = [sys.executable, "-m", "truezram", "benchmark", "codec", "--pages", str(folder), "--rounds", "10000"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        # Once it has opened what it compares with, it measures.
        wait_until(lambda: "/lz4/block/" in Path(f"/proc/{child.pid}/maps").read_text())
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=HANG)
    finally:
        child.kill()
    assert (child.returncode, out) == (130, "")
    assert err == "truezram: interrupted\n"


# ---- broken codecs ----

Compress = Callable[[Any, Any, Any], int]


def subject(change: str) -> Subject:
    """A "codec" that stores 4000 bytes of pages that end in zeros, and breaks as `change` says on the third page."""
    seen: list[int] = []

    @ffi.callback("size_t(void *, const uint8_t *, uint8_t *)")
    def compress(context: Any, page: Any, dst: Any) -> int:
        ffi.memmove(dst, page, 4000)
        return 4000

    @ffi.callback("int(void *, const uint8_t *, size_t, uint8_t *)")
    def decompress(context: Any, src: Any, n: int, out: Any) -> int:
        if change == "writes nothing":
            return 0
        ffi.memmove(out, src, 4000)
        ffi.memmove(out + 4000, bytes(96), 96)
        if src[0] == 3 and change == "one bit":
            out[4095] = 1
        if src[0] == 3 and change == "late round":
            seen.append(1)
            out[17] ^= len(seen) > 2
        return -1 if src[0] == 3 and change == "refuses" else 0

    struct = ffi.new("struct tz_bench_subject *")
    struct.compress, struct.decompress = compress, decompress
    return Subject("mine", "truezram", struct, "portable", keep=(compress, decompress))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("one bit", "the decompressed data differs from the original in page 3 of x"),
        ("writes nothing", "the decompressed data differs from the original in page 1 of x"),
        ("late round", "the decompressed data differs from the original in page 3 of x"),
        ("refuses", "rejects the object that its compressor made of page 3 of x"),
    ],
)
def test_broken_codec_is_found(change: str, why: str) -> None:
    data = bytes(PAGE) + b"".join(bytes([i]) + random_page(i)[1:4000] + bytes(96) for i in range(1, 6))
    work = benchmark.make_input("x", data)
    copy = baselines.open_baseline("memcpy", 0)
    with pytest.raises(Failed) as caught:
        benchmark.measure([work], [copy, subject(change)], ("libc", "memcpy"), rounds=4)
    assert caught.value.what == "mine (truezram) is broken on this machine"
    assert why in caught.value.why
    sound = benchmark.measure([work], [copy, subject("nothing")], ("libc", "memcpy"), rounds=2)
    assert sound.of("x")[1].ratio == 4096 / 4000


# ---- what is refused ----


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


SOME = random_page(1) + random_page(2)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("x.pages", b"", "it is empty"),
        ("x.pages", SOME[:-1], "its 8191 bytes of pages are not a multiple of 4096"),
        ("x.pages", zstandard.compress(SOME), "Name it .zst"),
        ("x.pages.zst", b"", "its name ends in .zst, but it is empty"),
        ("x.pages.zst", SOME, "it is named .zst, but is not zstd"),
        ("x.pages.zst", zstandard.compress(SOME)[:-1], "its zstd data ends too early"),
        ("x.pages.zst", zstandard.compress(SOME)[:3], "its zstd data ends too early"),
        ("x.pages.zst", zstandard.compress(b""), "it is empty"),
        ("x.pages.zst", zstandard.compress(SOME[:-5]), "its 8187 bytes of pages are not a multiple of 4096"),
        ("x.pages.zst", zstandard.compress(SOME) + b"rubbish", "its zstd data is damaged"),
        ("x.pages.zst", zstandard.compress(SOME)[:-20] + bytes(20) * 2, "its zstd data is damaged"),
    ],
)
def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, why: str) -> None:
    path = write(tmp_path / name, data)
    code, out, err = call(capsys, "--pages", str(path))
    assert (code, out) == (1, "")
    assert f"cannot take pages from {path}" in err
    assert why.lower() in err.lower()


def test_frames_one_after_another(tmp_path: Path) -> None:
    path = write(tmp_path / "two.pages.zst", zstandard.compress(SOME) + zstandard.compress(SOME[:PAGE]))
    (found,) = page_files.read([path])
    assert (found.name, bytes(found.data)) == ("two", SOME + SOME[:PAGE])


def test_files_are_limited_by_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file can hold more pages than the machine has memory."""
    path = write(tmp_path / "bomb.pages.zst", zstandard.compress(bytes(300 << 20)))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(page_files.procfs, "mem_available", lambda: 1 << 20)
    with pytest.raises(Failed, match="more than 256 MiB of pages"):
        page_files.read([path])


def test_same_filled_only(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "zeros.pages", b"".join(SAME))
    code, _, err = call(capsys, "--pages", str(path))
    assert code == 1
    assert "all pages are same-filled" in err
    # Beside others it is listed, without results.
    found = benchmark.run([path, folder / "a.pages"], ["lz4"], rounds=1)
    assert [(item.name, item.pages - item.same_filled) for item in found.inputs] == [("zeros", 0), ("a", 70)]
    assert {result.input for result in found.results} == {"a", "total"}


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("--algorithm", "nosuch"), 2, "unknown algorithm 'nosuch'"),
        (("--algorithm", "lz4:3"), 2, "lz4 has no levels"),
        (("--algorithm", "zstd:99"), 2, "level 99 is out of range"),
        (("--against", "snappy"), 2, "there is no 'snappy'. Choose from liblz4, lz4hc, libzstd, memcpy, zram"),
        (("--against", ""), 2, "it has no name"),
        (("--against", "liblz4,,memcpy"), 2, "it has no name"),
        (("--against", "libzstd:x"), 2, "'x' is not a whole number"),
        (("--against", "libzstd:23"), 2, "level 23 is out of range"),
        (("--against", "lz4hc:0"), 2, "level 0 is out of range"),
        (("--against", "memcpy:1"), 2, "memcpy has no levels"),
        (("--rounds", "0"), 2, "0 rounds were asked for"),
        (("--rounds", "x"), 2, "it is not a whole number"),
        (("--seconds", "0"), 2, "it is not between 0"),
        (("--rounds", "2", "--seconds", "2"), 2, "not allowed with"),
        (("--pages", "/nonexistent/x.pages"), 2, "there is no such file or folder"),
        (("--json", "/nonexistent/x.json"), 2, "there is no folder /nonexistent"),
        (("--html", "/"), 2, "it is a folder"),
        (("--nosuch",), 2, "--nosuch"),
    ],
)
def test_bad_requests(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], code: int, text: str) -> None:
    found, out, err = call(capsys, *argv)
    assert (found, text in err) == (code, True), err
    if "--json" not in argv:
        assert out == ""


def test_kind_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(("benchmark",)) == 2
    assert "KIND" in capsys.readouterr().err


def test_folders_and_names(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"it has no \*.pages"):
        page_files.find([tmp_path / "empty"])
    with pytest.raises(UsageError, match="would both be called 'a'"):
        page_files.find([folder, write(tmp_path / "a.pages", SOME)])
    with pytest.raises(UsageError, match="'total'"):
        page_files.find([write(tmp_path / "total.pages", SOME)])
    assert [page_files.name_of(Path(name)) for name in ("d/x.pages", "x.pages.zst", "x.bin", "x.zst", ".pages")] == [
        "x",
        "x",
        "x.bin",
        "x",
        ".pages",
    ]


def test_unreadable(tmp_path: Path, ordinary_user: None) -> None:
    path = write(tmp_path / "x.pages", SOME)
    path.chmod(0)
    with pytest.raises(TruezramError) as caught:
        page_files.read([path])
    assert caught.value.exit_code == 3


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4.block._block", None)
    with pytest.raises(Unsupported, match=r"pip install lz4\), or leave liblz4 out of --against"):
        benchmark.open_subjects(["lz4"], ["liblz4"])
    monkeypatch.setitem(sys.modules, "zstandard._cffi", None)
    monkeypatch.setattr(baselines.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    with pytest.raises(Unsupported, match="libzstd out of --against"):
        benchmark.open_subjects(["lz4"], ["libzstd"])


def test_systems_libzstd(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    if not truezram.algorithms() or benchmark.known_algorithms()[-1].unavailable:
        pytest.skip("no libzstd here")
    monkeypatch.setitem(sys.modules, "zstandard._cffi", None)
    found = benchmark.run([folder / "b.pages.zst"], ["zstd:1"], ["libzstd:1"], rounds=1)
    ours, theirs = found.of("b")
    assert theirs.version.endswith("(the system's)")
    assert theirs.ratio == ours.ratio


def test_default_algorithm() -> None:
    from truezram.engine.algorithms import default_algorithm

    names = [item.name for item in truezram.algorithms()]
    assert truezram.Compressor().name == default_algorithm() == ("fast" if "fast" in names else "lz4")


def test_baselines_once() -> None:
    assert baselines.parse(["liblz4,libzstd:1", "liblz4:1,lz4hc:9,lz4hc"]) == [
        ("liblz4", 1),
        ("libzstd", 1),
        ("lz4hc", 9),
    ]


def test_select_leaves_same_filled_out() -> None:
    found = benchmark.make_input("x", SAME[0] + SOME[:PAGE] + SAME[2] + SOME[PAGE:])
    assert list(found.order) == [1, 3]
    assert (found.pages, found.same_filled) == (4, 2)
    assert lib.TZ_BENCH_GROUP >= 1


def test_docs_are_what_the_results_make() -> None:
    docs = Path(__file__).parents[2] / "docs"
    script = [sys.executable, str(docs / "make_benchmarks.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0, "run docs/make_benchmarks.py"
    text = (docs / "benchmarks.md").read_text()
    for path in (docs / "benchmarks").glob("*.json"):
        document = json.loads(path.read_text())
        assert document["schema"] == "truezram.benchmark/1"
        assert all(item["name"] in text for item in document["inputs"])
