"""``truezram benchmark device``: what it reports and refuses, that it notices a device that is broken, and leaves none
behind. The load is the real one; files stand in for devices (real ones: tests/device/test_49_benchmark_device.py)."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pagegen
import pytest

from truezram._native import ffi, lib
from truezram.cli import main
from truezram.engine.errors import Failed, NotFound, TruezramError, UsageError
from truezram.engine.measure import device_bench, device_fio, device_report, device_swap, device_targets, zram_bench
from truezram.engine.measure.device_results import (
    Case,
    DeviceProgress,
    DeviceReport,
    DeviceResult,
    Fio,
    Sample,
    SwapDetail,
)
from truezram.engine.measure.device_targets import Wanted
from truezram.engine.measure.results import Cancelled
from truezram.engine.measure.store_bench import Pages
from truezram.engine.measure.store_results import Latency, NotMeasured

PAGE = 4096
SIZE = 1 << 20
COUNT = 96
RESULT = {
    *("target", "algorithm", "mode", "data_mode", "queues", "workload", "block_size", "depth", "jobs", "iops", "mb_s"),
    *("latency_us", "cpu_share", "cpu", "verified", "samples"),
}


class StandIns:
    """Files in place of devices, made and removed as these are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there: list[str] = []
        self.made: list[str] = []

    def path(self, kind: str) -> Path:
        return self.folder / kind

    @contextlib.contextmanager
    def one(self, kind: str, size: int) -> Iterator[str]:
        path = self.path(kind)
        while path.exists():
            path = path.with_name(f"{path.name}+")
        with path.open("wb") as file:
            file.truncate(size)
        self.there.append(kind)
        self.made.append(kind)
        try:
            yield str(path)
        finally:
            self.there.remove(kind)
            path.unlink()

    @contextlib.contextmanager
    def ours(self, wanted: Wanted, size: int, queue_depth: int) -> Iterator[tuple[str, int, int]]:
        with self.one("truezram", size) as path:
            yield path, os.getpid(), max(queue_depth, 64)

    @contextlib.contextmanager
    def null(self, size: int, queues: int | None, queue_depth: int, data_mode: str) -> Iterator[tuple[str, int]]:
        with self.one("null", size) as path:
            yield path, os.getpid()

    @contextlib.contextmanager
    def zram(self, algorithm: str, size: int) -> Iterator[tuple[str, int]]:
        with self.one("zram", size) as path:
            descriptor = os.open(path, os.O_RDWR)
            try:
                yield path, descriptor
            finally:
                os.close(descriptor)


@pytest.fixture(scope="module")
def ring() -> None:
    """io_uring, which containers often forbid."""
    pages = ffi.new("uint8_t[]", PAGE)
    with open(os.devnull, "rb") as file:  # noqa: PTH123
        disk = lib.tz_disk_open(file.fileno(), lib.TZ_DISK_HOLDS_UNKNOWN, pages, 1, 8)
        load = {"kind": lib.TZ_LOAD_READ, "block": 1, "depth": 1, "jobs": 1, "ms": 1, "seed": 0}
        code = lib.tz_disk_run(disk, ffi.new("struct tz_load *", load), ffi.new("struct tz_load_tally *"), [0])
        lib.tz_disk_close(disk)
    if code in (-1, -38):  # EPERM, ENOSYS
        pytest.skip("io_uring is not permitted here")


@pytest.fixture
def devices(ring: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIns]:
    found = StandIns(tmp_path)
    monkeypatch.setattr(device_targets, "_ours", found.ours)
    monkeypatch.setattr(device_targets, "_null", found.null)
    monkeypatch.setattr(device_targets, "_open", lambda path, flags: os.open(path, flags))
    monkeypatch.setattr(device_bench, "need_ublk", lambda: None)
    monkeypatch.setattr(zram_bench, "device", found.zram)
    monkeypatch.setattr(zram_bench, "check", lambda algorithms: None)
    monkeypatch.setattr(device_bench, "_PROGRESS_SECONDS", 0.0)
    yield found
    assert found.there == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pages: `COUNT` pages, of which some are same-filled."""
    path = tmp_path_factory.mktemp("pages")
    (path / "a.pages").write_bytes(b"".join(pagegen.sample(COUNT, seed=3)))
    return path


def run(folder: Path, against: str = "none", **more: Any) -> DeviceReport:
    options: dict[str, Any] = {"size": SIZE, "runtime": 0.04, "rounds": 2, "depths": [2], **more}
    return device_bench.run([folder], ["fast"], [against], **options)


# ---- what comes out ----


def test_json(devices: StandIns, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All workloads but swap; each read page of what was filled is compared."""
    argv = ["--pages", str(folder), "--algorithm", "fast", "--against", "zram:lz4", "--size", "1M", "--rounds", "2"]
    argv += ["--workload", "randread,randwrite,read,write,mixed", "--block-size", "4K,16K", "--depth", "1,4"]
    assert main.main(["benchmark", "device", *argv, "--jobs", "2", "--runtime", "0.02", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["kind"]) == ("truezram.benchmark/1", "device")
    assert document["kernel"] == document["host"]["kernel"]
    assert document["settings"]["size"] == SIZE
    results = document["results"]
    assert len(results) == 5 * 2 * 2 * 2
    assert {r["target"] for r in results} == {"truezram", "zram"}
    for result in results:
        assert set(result) == RESULT
        assert result["mb_s"] == pytest.approx(result["iops"] * result["block_size"] / 1e6, rel=1e-3)
        assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99"] <= result["latency_us"]["p99.9"]
        assert {len(samples) for samples in result["samples"].values()} == {2}
        assert min(result["samples"]["iops"]) > 0
        assert (result["verified"] > 0) == (result["workload"] not in ("randwrite", "write"))
        assert result["verified"] % (result["block_size"] // PAGE) == 0
        assert (result["cpu"]["server"] is None) == (result["target"] == "zram")


def test_every_case_on_every_target_before_the_next(devices: StandIns, folder: Path) -> None:
    """And each round begins with another one."""
    heard: list[DeviceProgress] = []
    run(folder, "zram:lz4,null", workloads=["randread"], rounds=3, progress=heard.append)
    texts = [step.text for step in heard if step.text.startswith("round")]
    order = list(dict.fromkeys(text.replace(" fast", "").replace(" lz4", "") for text in texts))
    assert [(text.split()[1], text.split()[-1]) for text in order] == [
        *(("1", name) for name in ("truezram", "zram", "null")),
        *(("2", name) for name in ("zram", "null", "truezram")),
        *(("3", name) for name in ("null", "truezram", "zram")),
    ]
    assert heard[-1].fraction == 1
    assert heard[-1].report is not None
    assert len(heard[-1].report.results) == 3


def test_null_is_the_floor(devices: StandIns, folder: Path) -> None:
    found = run(folder, "null", workloads=["randread"])
    ours, null = found.results
    assert found.same_case(ours, "null") is null
    assert null.verified > 0  # zeros
    titles = [field.title for field in device_report.fields(found)]
    cells = device_report.rows(found)
    assert cells[0][titles.index("OF NULL")] == f"{ours.over(null):.2f}x"
    assert cells[1][titles.index("OF NULL")] == "-"
    assert any("without a store" in line for line in device_report.about(found))


def test_each_number_of_queues_is_a_target(devices: StandIns, folder: Path) -> None:
    run(folder, "null", workloads=["randread"], queues=[1])
    assert sorted(devices.made) == ["null", "truezram"]


def test_each_mode_is_a_target(devices: StandIns, folder: Path) -> None:
    report = run(folder, "null", workloads=["randread"], modes=["low-latency", "balanced", "low-latency"])
    assert [(r.target, r.mode) for r in report.results] == [
        ("truezram", "low-latency"), ("truezram", "balanced"), ("null", None),
    ]  # fmt: skip
    assert [field.title for field in device_report.fields(report)][1] == "MODE"
    assert [row[1] for row in device_report.rows(report)] == ["low-latency", "balanced", "-"]
    assert [r["mode"] for r in device_report.to_json(report)["results"]] == ["low-latency", "balanced", None]


def test_each_data_mode_is_a_target(devices: StandIns, folder: Path) -> None:
    """Of null as well; each of ours has the null device beside it that moves data as it does."""
    report = run(folder, "null,zram:lz4", workloads=["randread"], data_modes=["driver-copy", "user-copy"])
    assert [(r.target, r.data_mode) for r in report.results] == [
        ("truezram", "driver-copy"), ("truezram", "user-copy"), ("null", "driver-copy"), ("null", "user-copy"),
        ("zram", None),
    ]  # fmt: skip
    for ours, null in zip(report.results[:2], report.results[2:4], strict=True):
        assert report.same_case(ours, "null") is null
    assert [row[1] for row in device_report.rows(report)][1:] == ["user-copy", "driver-copy", "user-copy", "-"]
    assert device_report.to_json(report)["results"][1]["data_mode"] == "user-copy"
    assert "DATA" not in [field.title for field in device_report.fields(run(folder, workloads=["randread"]))]


# ---- what is broken ----


def spoil(path: Path) -> Callable[[DeviceProgress], None]:
    """Overwrites a device as soon as the rounds have begun."""

    def progress(step: DeviceProgress) -> None:
        if step.text.startswith("round"):
            with path.open("r+b") as file:
                file.write(b"\xa5" * SIZE)

    return progress


@pytest.mark.parametrize("target", ["truezram", "zram", "null"])
@pytest.mark.parametrize("workload", ["randread", "read", "mixed"])
def test_what_differs_is_noticed(devices: StandIns, folder: Path, target: str, workload: str) -> None:
    if (target, workload) == ("null", "mixed"):
        return  # a file keeps what is written: below
    with pytest.raises(Failed, match="differs from what was written there"):
        run(folder, "zram:lz4,null", workloads=[workload], progress=spoil(devices.path(target)), rounds=3)


def test_a_null_device_that_keeps_what_is_written_is_none(devices: StandIns, folder: Path) -> None:
    with pytest.raises(Failed, match="null is broken"):
        run(folder, "null", workloads=["randwrite", "randread"], rounds=3)


def test_a_request_that_fails(devices: StandIns, folder: Path) -> None:
    """A device that has become shorter."""

    def progress(step: DeviceProgress) -> None:
        if step.text.startswith("round 2"):
            os.truncate(devices.path("truezram"), 0)

    with pytest.raises(Failed, match="Input/output error"):
        run(folder, workloads=["read"], rounds=3, progress=progress)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("error", [Cancelled("enough"), KeyboardInterrupt()])
def test_interrupted_it_leaves_nothing(devices: StandIns, folder: Path, after: int, error: BaseException) -> None:
    calls = 0

    def progress(step: DeviceProgress) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise error

    with pytest.raises(type(error)):
        run(folder, "null,zram:lz4", workloads=["randread"], progress=progress)
    assert devices.there == []
    assert list(devices.folder.iterdir()) == []


def test_cancelled(devices: StandIns, folder: Path) -> None:
    with pytest.raises(Cancelled):
        run(folder, workloads=["randread"], cancelled=lambda: bool(devices.there))


# ---- what is asked for ----


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"workloads": ["randreed"]}, "is not a workload"),
        ({"blocks": [5000]}, "no multiple of 4096"),
        ({"blocks": [2 << 20]}, "block size in pages"),
        ({"depths": [0]}, "a depth of 0"),
        ({"depths": [1025]}, "a depth of 1025"),
        ({"jobs": [65]}, "number of jobs"),
        ({"queues": [0]}, "number of queues"),
        ({"modes": ["fastest"]}, "there is no mode"),
        ({"data_modes": ["zero-copy"]}, "there is no data mode"),
        ({"rounds": 0}, "0 rounds"),
        ({"runtime": 0.0}, "a runtime of 0 s"),
        ({"size": 8192}, "is out of range"),
        ({"size": 1 << 62}, "is out of range"),
        ({"destructive": True}, "--destructive is for a device that is there"),
        ({"path": "/dev/null"}, "has its algorithm"),
    ],
)
def test_out_of_range(devices: StandIns, folder: Path, given: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(folder, **given)
    assert why in str(caught.value)
    assert devices.made == []


def test_cases() -> None:
    found = device_bench.cases_of(["swap", "read"], [4096, 8192], [1, 2], [1], False)
    assert [(c.workload, c.block, c.depth) for c in found] == [
        ("read", 4096, 1), ("read", 4096, 2), ("read", 8192, 1), ("read", 8192, 2), ("swap", 4096, 1),
    ]  # fmt: skip
    assert {c.workload for c in device_bench.cases_of([], [], [], [], True)} == {"randread", "read"}
    with pytest.raises(UsageError, match="give --destructive"):
        device_bench.cases_of(["mixed"], [], [], [], True)


def test_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert device_bench.parse_against(["none"]) == ([], [])
    wanted, missing = device_bench.parse_against(None)
    assert wanted == [Wanted("null")]
    assert [(item.implementation, item.algorithm) for item in missing] == [("zram", "lz4"), ("zram", "zstd")]
    with pytest.raises(TruezramError, match="only root"):
        device_bench.parse_against(["zram:lz4"])
    for text in ("zram:", "nul", "null:1", ""):
        with pytest.raises((UsageError, TruezramError)):
            device_bench.parse_against([text])


def test_null_blk_says_why_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device_targets, "CONFIGFS", tmp_path)
    with pytest.raises(TruezramError, match=r"null_blk cannot be loaded|mount -t configfs"):
        device_bench.parse_against(["nullblk"])


def test_a_path_that_is_no_device(ring: None, folder: Path, tmp_path: Path) -> None:
    """Nothing is opened to write."""
    file = tmp_path / "precious"
    file.write_bytes(b"x" * SIZE)
    for destructive in (False, True):
        with pytest.raises(UsageError, match="not a block device"):
            device_bench.run([folder], against=["none"], path=str(file), destructive=destructive, runtime=0.1, rounds=1)
    with pytest.raises(NotFound):
        device_bench.run([folder], against=["none"], path=str(tmp_path / "none"), runtime=0.1, rounds=1)
    assert file.read_bytes() == b"x" * SIZE


def test_swap_says_why_not(monkeypatch: pytest.MonkeyPatch, devices: StandIns, folder: Path) -> None:
    def target(kind: str, keeps: bool) -> Any:
        class Some:
            wanted = Wanted(kind)

        Some.keeps = keeps  # type: ignore[attr-defined]
        return Some()

    assert "does not keep" in str(device_swap.why_not(target("null", False)))
    assert "was there already" in str(device_swap.why_not(target("/dev/x", True)))
    item = NotMeasured("null", "", "as swap, it does not keep what is written", "Leave it out")
    assert item.sentence == "Not measured: null: as swap, it does not keep what is written. Leave it out."


# ---- the program that lives in swap (without swap: its pages stay) ----


def test_a_dweller_compares_what_comes_back(folder: Path) -> None:
    pages = Pages(device_bench.benchmark.read_inputs([folder]))
    tally, place = ffi.new("struct tz_dwell_tally *"), ffi.new("uint32_t *")
    with ffi.from_buffer("uint8_t[]", pages.data) as source:
        memory = lib.tz_dweller_open(source, pages.count, 64)
        lib.tz_dweller_shuffle(memory, 1, 8)
        assert lib.tz_dweller_out(memory, 0, 64, tally) in (0, -22)  # EINVAL: a kernel without MADV_PAGEOUT
        # Without swap nothing is out: every page is in memory, and stays.
        assert lib.tz_dweller_settle(memory, 0, 64) in (64, -22)
        assert lib.tz_dweller_settle(memory, 60, 5) == -22
        assert lib.tz_dweller_in(memory, 0, 64, tally, place) == 0
        assert (tally.in_pages, tally.compared, sum(tally.lat)) == (64, 64, 64)
        # Half of them hold another page now, which is what is compared.
        assert lib.tz_dweller_in(memory, 0, 64, tally, place) == 0
        assert lib.tz_dweller_in(memory, 60, 5, tally, place) < 0
        pages.data[:] = bytes(len(pages.data))
        assert lib.tz_dweller_in(memory, 0, 64, tally, place) < 0
        lib.tz_dweller_close(memory)


# ---- fio ----


def test_fio_is_understood() -> None:
    times = {"50.000000": 21000, "99.000000": 90000, "99.900000": 400000}
    body = {"jobs": [{"read": {"iops": 41000.5, "clat_ns": {"percentile": times}}}]}
    assert device_fio.parse(f"fio: a warning\n{json.dumps(body)}") == Fio(41000.5, Latency(21000, 90000, 400000))
    for text in ("", "fio: no such file", "{}", '{"jobs": []}'):
        with pytest.raises(Failed, match="not understood"):
            device_fio.parse(text)


def test_fio_only_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_fio, "program", lambda: "fio")
    words = device_fio.command("/dev/x", Case("randread", 8192, 4, 2), 1001, 0.2)
    assert {"--readonly", "--direct=1", "--rw=randread", "--bs=8192", "--iodepth=4", "--numjobs=2"} <= set(words)
    assert f"--size={500 * 8192}" in words
    assert "--runtime=1" in words


# ---- the report ----


def report() -> DeviceReport:
    """Of all that a report can have."""
    host: dict[str, str | int | float] = {
        "cpu": "a <CPU>", "isa": "avx2", "kernel": "7.2", "truezram": "1", "load": 0.1, "time": "now", "cores": 2,
    }  # fmt: skip
    samples = (Sample(1000, 10**9, 900_000, 3 * 10**8, 2 * 10**8), Sample(2000, 10**9, 450_000, 10**8, 10**8))
    zram = tuple(Sample(s.requests * 2, s.ns, s.p50, s.load_ns, None) for s in samples)
    case, lat = Case("randread", 4096, 1, 2), Latency(500_000, 900_000, 2_000_000)
    results = (
        DeviceResult("truezram", "fast", None, 2, case, samples, lat, 3000, fio=Fio(1500.0, lat)),
        DeviceResult("zram", "lz4", None, None, case, zram, lat, 6000),
        DeviceResult("truezram", "fast", None, 2, Case("swap", 4096, 1, 1), samples, lat, 3000, SwapDetail(9, 1.5, 4)),
    )
    return DeviceReport(host, (), SIZE, 2.0, 2, 3, results, (), ("a note",))


def test_figures() -> None:
    ours, zram, swap = report().results
    assert ours.iops == 1500
    assert ours.mb_s == pytest.approx(1500 * 4096 / 1e6)
    assert ours.cpu_share == pytest.approx((0.5 + 0.2) / 2)
    assert ours.cpu_ns == pytest.approx((500_000 + 100_000) / 2)
    assert ours.over(zram) == 0.5
    entry = device_report.to_json(report())["results"]
    assert entry[0]["cpu"] == {"load": 0.2, "server": 0.15, "us_per_request": 300.0}
    assert entry[0]["latency_us"] == {"p50": 500.0, "p99": 900.0, "p99.9": 2000.0}
    assert entry[0]["fio"]["iops"] == 1500
    assert entry[2]["swap"] == {"paged_out": 9, "out_mb_s": 1.5, "major_faults": 4}
    assert swap.case.text == "swap"


def test_table() -> None:
    titles = [field.title for field in device_report.fields(report())]
    assert {"QUEUES", "JOBS", "OF ZRAM LZ4", "FIO /s p50"} <= set(titles)
    assert "OF NULL" not in titles
    cells = dict(zip(titles, device_report.rows(report())[0], strict=True))
    assert (cells["OF ZRAM LZ4"], cells["REQUESTS/s"], cells["VERIFIED"]) == ("0.50x", "1,500", "3,000")
    assert any("vm.page-cluster is 3" in line for line in device_report.about(report()))


def test_charts_tell_all_targets_apart() -> None:
    ours = report().results[0]
    kinds = ((None, None), ("low-latency", None), (None, "driver-copy"), ("low-latency", "driver-copy"))
    many = tuple(replace(ours, mode=mode or "balanced", data_mode=data) for mode, data in kinds)
    page = device_report.to_html(replace(report(), results=many))
    assert len({result.full_name for result in many}) == len(many)
    for result in many:
        assert page.count(f'text-anchor="end">{result.full_name}</text>') == 2  # charts of rates and of times
    starts = [
        float(x) - 7 * len(name) for x, name in re.findall(r'x="([^"]+)" y="\d+" text-anchor="end">([^<]+)<', page)
    ]
    assert min(starts) >= 0  # the longest label has its room
