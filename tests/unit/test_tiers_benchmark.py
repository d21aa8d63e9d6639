"""``truezram benchmark tiers``: what it reports, what it refuses, that it notices a device that is broken, and leaves
none behind. Devices, servers and their policies are real ones; zram is a file in place of its device."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pagegen
import pytest
from conftest import HANG, wait_until
from test_store_benchmark import StandIn

from truezram.cli import main
from truezram.engine import paths
from truezram.engine.device.client import Client
from truezram.engine.device.local import LocalDevice
from truezram.engine.errors import Failed, TruezramError, Unsupported, UsageError
from truezram.engine.measure import store_bench, tiers_bench, tiers_report, zram_bench
from truezram.engine.measure.results import Cancelled
from truezram.engine.measure.store_results import Latency, Usage
from truezram.engine.measure.tiers_results import HotReads, TiersProgress, TiersReport, TiersResult

PAGE = 4096
COUNT = 1280
HURRY = (18_000,)
"""Of the clock: with `POLICIES`, pages are dense after 1.2 to 3.6 seconds, and in groups after 4.5 to 6.9."""
POLICIES = {"off": "0:0:3", "balanced": "18000:36000:3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pages: windows of pages that have much in common, and one that is same-filled."""
    path = tmp_path_factory.mktemp("pages")
    some = [page for page in pagegen.sample(COUNT // 4, seed=9) if page[:8] * 512 != page][: COUNT // 16]
    pages = [page[:64] + bytes([i + 1, n % 251]) * 8 + page[80:] for n, page in enumerate(some) for i in range(16)]
    assert len(pages) == COUNT
    (path / "a.pages").write_bytes(b"".join([*pages, bytes(PAGE)]))
    return path


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_bench, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(tiers_bench, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(tiers_bench, "SPEEDS", HURRY)
    monkeypatch.setattr(tiers_bench, "POLICIES", POLICIES)


@pytest.fixture
def devices(run_dir: Path) -> Iterator[Callable[[], list[str]]]:
    """The names of those that there are now; none afterwards."""
    try:
        paths.server_path()
    except TruezramError:
        pytest.skip("the server is not built here")

    def names() -> list[str]:
        with Client() as client:
            return [entry.name for entry in client.entries()]

    yield names
    assert names() == []


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main.main(("benchmark", "tiers", *argv))
    out, err = capsys.readouterr()
    return code, out, err


# ---- what comes out ----


def test_everything_dense(devices: Callable[[], list[str]], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--pages", str(folder), "--algorithm", "lz4", "--scenario", "dense", "--against", "none")
    code, out, _ = call(capsys, *options, "--json", "-")
    assert code == 0
    document = json.loads(out)
    assert (document["schema"], document["kind"]) == ("truezram.benchmark/1", "tiers")
    assert document["inputs"] == [{"name": "a", "pages": COUNT + 1, "same_filled": 1}]
    hot, dense = document["results"]
    assert (hot["scenario"], dense["scenario"]) == ("hot", "dense")
    assert hot["pages"].keys() <= {"lz4", "huge"}
    assert dense["pages"]["dense"] > COUNT // 4
    assert "cold" not in dense["pages"]
    assert dense["compr_bytes"] < hot["compr_bytes"]
    for result, tier in ((hot, "hot"), (dense, "dense")):
        assert result["orig_bytes"] == COUNT * PAGE
        assert sum(result["memory"].values()) == result["used_bytes"]
        assert result["used_over_zram"] is None
        assert list(result["read_ns"]) == [tier]
        assert result["read_ns"][tier]["pages"] == COUNT
        assert 0 < result["read_ns"][tier]["p50"] <= result["read_ns"][tier]["p99"]
    assert hot["cpu_s"] == {"policy": 0, "server": 0}
    assert 0 < dense["cpu_s"]["policy"] <= dense["cpu_s"]["server"] + 0.1
    assert document["hot_reads"] == {"policy_at_work": None, "afterwards": None}


def test_mix(devices: Callable[[], list[str]], folder: Path) -> None:
    """Each page ends in its tier; the neighbours of a window in one, so that groups are whole."""
    heard: list[TiersProgress] = []
    found = tiers_bench.run([folder], ["none"], algorithm="lz4", scenarios=["mix"], rounds=3, progress=heard.append)
    hot, mix = found.results
    kinds = dict(mix.kinds)
    assert sum(kinds.values()) == COUNT
    # (On a busy machine a page may be read too late to stay where it was.)
    assert kinds["cold"] >= 0.4 * COUNT
    assert kinds["dense"] > 0
    assert mix.usage.orig == COUNT * PAGE
    assert mix.usage.compr < hot.usage.compr
    assert {tier: reads.pages for tier, reads in mix.reads} == {
        "hot": COUNT // 5,
        "dense": COUNT * 3 // 10,
        "cold": COUNT // 2,
    }
    assert found.hot_after is not None
    assert len(found.hot_after.samples) == 3
    assert min(found.hot_after.samples) > 0
    assert dict(found.policy) == {"cpu_percent": 100, "idle_cold": 2, "idle_dense": 1}
    assert [step.fraction for step in heard] == sorted(step.fraction for step in heard)
    assert heard[-1].fraction == 1.0


def test_everything_cold(devices: Callable[[], list[str]], folder: Path) -> None:
    """Also what was made dense before."""
    found = tiers_bench.run([folder], ["none"], algorithm="lz4", scenarios=["cold"]).results[1]
    assert dict(found.kinds)["cold"] >= 0.9 * COUNT
    assert dict(found.reads)["cold"].pages == COUNT


def test_tiers() -> None:
    for count in (512, 1000, 20_000):
        found = tiers_bench.tiers_of(count, (0.2, 0.3, 0.5))
        assert found == tiers_bench.tiers_of(count, (0.2, 0.3, 0.5))
        everything = [place for places in found.values() for place in places]
        assert sorted(everything) == list(range(count))
        for places, share in zip(found.values(), (0.2, 0.3, 0.5), strict=True):
            assert len(places) == pytest.approx(share * count, abs=128)
            # A window is in one tier.
            assert len({place // 16 for place in places}) == -(-len(places) // 16)
    assert list(tiers_bench.tiers_of(640, (0, 0, 1))) == ["cold"]
    assert tiers_bench.neighbours([0, 1, 2, 5, 9, 10]) == [(0, 3), (5, 1), (9, 2)]
    assert tiers_bench.neighbours([]) == []


def test_with_zram(
    devices: Callable[[], list[str]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled and read like ours; compared with the first."""
    stand_in = StandIn(tmp_path)
    (tmp_path / "mm_stat").write_text(f"{COUNT * PAGE} 100000 200000 0 0 0 0 0 0\n")
    monkeypatch.setattr(zram_bench, "device", stand_in.device)
    monkeypatch.setattr(zram_bench, "check", lambda algorithms: None)
    found = tiers_bench.run([folder], scenarios=["hot"])
    assert [algorithm for algorithm, _ in stand_in.opened] == ["zstd", "lz4"]
    assert stand_in.open == 0
    hot, zstd, _ = found.results
    assert zstd.usage == Usage(COUNT * PAGE, 100000, 200000, 0)
    assert found.baseline(hot) is zstd
    fields = [field.title for field in tiers_report.fields(found)]
    row = dict(zip(fields, tiers_report.rows(found)[0], strict=True))
    assert row["OF ZRAM ZSTD"] == f"{hot.usage.used / 200000:.3f}x"
    assert found.not_measured == ()


def report() -> TiersReport:
    usage = Usage(8 * PAGE, 9000, 16384, 0)
    ours = TiersResult("truezram", "fast", "mix", usage, policy_cpu_ns=80_000)
    host: dict[str, str | int | float] = {
        **dict.fromkeys(("cpu", "isa", "kernel", "truezram", "time"), "x"),
        "load": 0.5,
    }
    hot = HotReads((1.5, 1.0, 0.9), Latency(1000, 2000, 3000), Latency(1100, 2100, 3000))
    return TiersReport(host, (), 8, (ours,), (), hot_after=hot)


def test_text_and_page() -> None:
    found = report()
    assert "OF ZRAM" not in " ".join(field.title for field in tiers_report.fields(found))
    assert tiers_report.rows(found) == [["truezram", "fast", "mix", "16K", "2.000", "0.00 10.0µs", "-", "-", "-"]]
    lines = [line for line in tiers_report.about(found) if line.startswith("Hot pages")]
    assert len(lines) == 1
    assert "afterwards: 1.000 times as long" in lines[0]
    assert '<tr class="ours"><td>truezram</td>' in tiers_report.to_html(found)


# ---- what it refuses, and what is broken ----


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rounds": 0}, "Choose 1 to 1000"),
        ({"scenarios": ["mix", "warm"]}, "there is no scenario 'warm'"),
        ({"against": ["liblz4"]}, "compared with kernel zram, not with 'liblz4'"),
        ({"algorithm": "nothing"}, "unknown algorithm"),
    ],
)
def test_bad_requests(folder: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        tiers_bench.run([folder], **options)


def test_exit_codes(
    devices: Callable[[], list[str]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pages = ("--pages", str(folder))
    assert call(capsys, *pages, "--scenario", "warm")[0] == 2
    (tmp_path / "few.pages").write_bytes(b"".join(pagegen.sample(40, seed=1)))
    code, _, err = call(capsys, "--pages", str(tmp_path / "few.pages"))
    assert code == 1
    assert "Give more pages" in err

    # What is not there is left out, and why is said.
    def refuse(algorithms: object) -> None:
        raise Unsupported("cannot measure against zram", "it creates a zram device, which only root may do", "")

    monkeypatch.setattr(zram_bench, "check", refuse)
    code, out, _ = call(capsys, *pages, "--scenario", "hot", "--against", "zram:zstd")
    assert code == 0
    assert "Not measured: zstd of zram: it creates a zram device, which only root may do" in out

    def missing(text: str) -> None:
        raise Unsupported("cannot use zstd", "libzstd.so.1 is not installed", "")

    monkeypatch.setattr(tiers_bench, "parse_algorithm", missing)
    code, out, err = call(capsys, *pages)
    assert (code, out) == (3, "")
    assert "groups of cold pages take libzstd: libzstd.so.1 is not installed" in err
    monkeypatch.setenv("TRUEZRAM_SERVER", str(tmp_path / "nowhere"))
    assert call(capsys, *pages, "--scenario", "hot", "--against", "none")[0] == 3


def test_a_device_that_returns_something_else_is_said(devices: Callable[[], list[str]], folder: Path) -> None:
    """One bit of one page."""
    done = []

    def progress(step: TiersProgress) -> None:
        if "reading what is dense" in step.text and not done:
            done.append(step.text)
            with LocalDevice("local1") as disk:
                page = bytearray(disk.read(77))
                page[1000] ^= 1
                disk.write(77, page)

    with pytest.raises(Failed, match="what was read of page 77 differs from what was written"):
        tiers_bench.run([folder], ["none"], scenarios=["dense"], progress=progress)
    assert done


def test_cancelled(devices: Callable[[], list[str]], folder: Path) -> None:
    seen: list[list[str]] = []

    def cancelled() -> bool:
        seen.append(devices())
        return sum("local1" in names for names in seen) > 5

    with pytest.raises(Cancelled):
        tiers_bench.run([folder], ["none"], scenarios=["dense"], cancelled=cancelled)
    assert seen[-1] == ["local0", "local1"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(devices: Callable[[], list[str]], folder: Path, number: signal.Signals, code: int) -> None:
    """Twice, as by someone in a hurry."""
    argv = [sys.executable, "-P", "-m", "truezram", "benchmark", "tiers", "--pages", str(folder), "--against", "none"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "local1" in devices())
    process.send_signal(number)
    process.send_signal(number)
    out, _ = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (code, "")
