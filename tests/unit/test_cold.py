"""`truezram idle` and `truezram recompress`: what is old is seen, and takes less room afterwards; a run can be stopped,
and what is wrongly asked is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HANG, FakeServer, kill_server, make, wait_until
from pagegen import sample

from truezram._native import lib
from truezram.cli.main import main
from truezram.engine import paths
from truezram.engine.answers import AGES, MAP_AGES
from truezram.engine.device import cold, removal, settings
from truezram.engine.device.check import check_device
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.local import LocalDevice
from truezram.engine.errors import Busy, Failed, TruezramError, UsageError
from truezram.engine.units import parse_duration

PAGES = 1200
STEP = 18_000
"""Of the clock: pages get older every hundredth of a second."""


@pytest.fixture
def device(run_dir: Path) -> Iterator[Entry]:
    try:
        paths.server_path()
    except TruezramError:
        pytest.skip("the server is not built here")
    entry = create(CreateOptions(64 << 20, "lz4", transport="local", policy="off")).entry
    yield entry
    removal.remove_entry(entry)


def memory(pid: int) -> int:
    """Bytes that a process has for itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def grow_old(client: Client, device: Entry) -> None:
    """Until all pages have been idle for two hours at least, by the clock; which is as it should be then."""
    client.set(device, "age_speed", str(STEP))
    wait_until(lambda: not any(age.pages for age in cold.count_ages(client, device).ages[:5]))
    client.set(device, "age_speed", "1")


def by_age(client: Client, device: Entry) -> tuple[int, ...]:
    """The page map by age, all regions together."""
    disksize = client.device(device).disksize
    found = client.page_map(device, 0, disksize // 4096, 100, "age")
    return tuple(map(sum, zip(*found.regions, strict=True)))


def test_ages_and_recompression(device: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    pages = sample(PAGES, seed=3)
    with LocalDevice(device) as disk, Client() as client:
        disk.write(0, b"".join(pages))
        young = cold.count_ages(client, device)
        assert young.ages[0].pages == sum(age.pages for age in young.ages) == PAGES - young.same_pages
        assert young.ages[0].bytes == young.object_bytes
        assert young.ages_age < HANG
        assert by_age(client, device)[:3] == (disk.pages - PAGES, young.same_pages, young.ages[0].pages)
        grow_old(client, device)
        for page in range(0, PAGES, 4):
            assert disk.read(page) == pages[page]
        assert main(["idle", "local0", "--json"]) == 0
        body = json.loads(capsys.readouterr().out)
        assert (body["schema"], body["same_pages"]) == ("truezram.idle/1", young.same_pages)
        assert 0 < body["ages"][0]["pages"] <= PAGES // 4
        assert sum(age["pages"] for age in body["ages"]) == young.ages[0].pages
        assert by_age(client, device)[2:10] == tuple(age["pages"] for age in body["ages"])
        assert main(["idle", "0"]) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[1].startswith("under 3m")
        assert "12m to 2h 1m" in out or "12m to 2h" in out
        before = client.device(device)
        assert main(["recompress", "0", "--idle", "2h", "--max-cpu", "100", "--wait", "--json"]) == 0
        done = json.loads(capsys.readouterr().out)
        after = client.device(device)
        assert (done["schema"], done["stopped"]) == ("truezram.recompress/1", False)
        assert done["idle_at_least_ns"] == 7200 * 10**9
        assert 0 < done["pages"] <= PAGES * 3 // 4
        assert done["saved_bytes"] == before.object_bytes - after.object_bytes > before.object_bytes // 16
        assert dict(after.kind_pages)["dense"] == done["pages"] == after.recompressed_pages
        assert done["saved_bytes"] < after.dense_tried <= sum(age["bytes"] for age in body["ages"][5:])
        assert (after.dense_runs, after.cold_runs) == (1, 0)
        assert [age.pages for age in cold.count_ages(client, device).ages] == [age["pages"] for age in body["ages"]]
        for page in range(PAGES):
            assert disk.read(page) == pages[page]
        assert main(["stat", "0", "--json"]) == 0
        stat = json.loads(capsys.readouterr().out)["devices"][0]
        assert stat["recompression"]["pages"] == stat["recompression"]["dense"]["pages"] == done["pages"]
        assert stat["recompression"]["dense"]["saved_bytes"] == done["saved_bytes"]
        assert stat["tiers"]["dense"]["saved_bytes"] == done["saved_bytes"]
        assert not any(stat["recompression"]["cold"].values())
        assert stat["recompression"]["dense"]["tried_bytes"] == after.dense_tried
        assert stat["recompression"]["dense"]["runs"] == 1
        assert stat["tiers"]["dense"]["pages"] == done["pages"]
        assert sum(tier["pages"] for tier in stat["tiers"].values()) == PAGES - young.same_pages
        assert sum(tier["bytes"] for tier in stat["tiers"].values()) == after.object_bytes
        assert not stat["recompression"]["at_work"]
        assert sum(age["pages"] for age in stat["idle"]["ages"]) == young.ages[0].pages
        assert main(["stat", "0"]) == 0
        out = capsys.readouterr().out
        assert "pages by age" in out
        assert f"made dense        {done['pages']} pages, which took" in out
        assert f", dense {done['pages']} pages in" in out
        assert "put in groups" not in out
    assert check_device(device).sound


def test_groups(device: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    """Neighbours that have been idle are packed together; who is read twice, or written, has its own object again."""
    few = sample(PAGES // 16, seed=6)
    pages = [few[page // 16][:64] + bytes([page % 251]) * 4 + few[page // 16][68:] for page in range(len(few) * 16)]
    with LocalDevice(device) as disk, Client() as client:
        disk.write(0, b"".join(pages))
        before = client.device(device)
        assert main(["recompress", "0", "--idle", "2h", "--to", "cold", "--wait", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["pages"] == 0
        grow_old(client, device)
        assert main(["recompress", "0", "--idle", "2h", "--to", "cold", "--max-cpu", "100", "--wait", "--json"]) == 0
        done = json.loads(capsys.readouterr().out)
        after = client.device(device)
        assert dict(after.kind_pages)["cold"] == done["pages"] > len(pages) // 2
        assert done["saved_bytes"] == before.object_bytes - after.object_bytes > before.object_bytes // 2
        assert (after.cold_pages, after.cold_saved, after.dense_pages) == (done["pages"], done["saved_bytes"], 0)
        assert 0 < after.group_bytes <= after.object_bytes
        assert done["saved_bytes"] < after.cold_tried <= before.object_bytes
        assert (after.dense_runs, after.cold_runs) == (0, 2)
        assert (after.tiers[2].pages, after.tiers[2].bytes) == (done["pages"], after.group_bytes)
        assert not any(age.pages for age in cold.count_ages(client, device).ages[:5])
        assert after.memory_locked
        for _ in range(2):
            for page, data in enumerate(pages):
                assert disk.read(page) == data
        assert "cold" not in dict(client.device(device).kind_pages)
    assert check_device(device).sound


def test_a_policy_works_by_itself(device: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    """Idle pages become dense, and then members of groups, and a server that is told to stop does."""
    few = sample(PAGES // 16, seed=7)
    pages = [few[page // 16][:64] + bytes([page % 251]) * 4 + few[page // 16][68:] for page in range(len(few) * 16)]

    def kinds() -> dict[str, int]:
        return dict(client.device(device).kind_pages)

    with LocalDevice(device) as disk, Client() as client:
        disk.write(0, b"".join(pages))
        for setting in ("policy=balanced", "idle_cold=off", "idle_dense=1s", "cpu_percent=90"):
            assert main(["set", "0", setting]) == 0
        now = client.device(device)
        assert (now.policy, now.idle_dense, now.idle_cold, now.cpu_percent) == ("1:0:90:72000", 1, 0, 90)
        client.set(device, "age_speed", str(STEP))
        wait_until(lambda: kinds().get("dense", 0) > len(pages) // 8)
        assert "cold" not in kinds()
        assert main(["set", "0", "idle_cold=2s"]) == 0
        wait_until(lambda: kinds().get("cold", 0) > len(pages) // 2)
        assert main(["set", "0", "policy=off"]) == 0
        for page, data in enumerate(pages):
            assert disk.read(page) == data
        capsys.readouterr()
        assert main(["stat", "0", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["devices"][0]["policy"] == "off"
        assert main(["set", "0", "policy=eager"]) == 2
        assert "One of: off, gentle, balanced, dense" in capsys.readouterr().err
        assert main(["set", "0", "idle_dense=3d"]) == 2
    assert check_device(device).sound


def test_a_new_device_has_a_policy(device: Entry, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes memory when there is something to do for it, and not before. Without libzstd it does what it can."""
    made = create(CreateOptions(64 << 20, "lz4", transport="local"))
    pages = sample(PAGES, seed=8)
    with Client() as client, LocalDevice(made.entry) as disk:
        now, off = client.device(made.entry), client.device(device)
        assert (now.policy, off.policy) == (settings.POLICIES["balanced"], settings.POLICIES["off"])
        at_rest = memory(now.pid)
        assert abs(at_rest - memory(off.pid)) < 256 << 10
        disk.write(0, b"".join(pages))
        before = client.device(made.entry).object_bytes
        for key, value in {"policy": "1:0:100", "age_speed": str(STEP)}.items():
            client.set(made.entry, key, value)
        wait_until(lambda: client.device(made.entry).dense_pages > PAGES // 4)
        # What is written in another way from now on is read by it, too.
        client.set(made.entry, "algorithm", "zstd:1")
        disk.write(PAGES, b"".join(pages[: PAGES // 2]))
        written = dict(client.device(made.entry).kind_pages)["zstd"]
        wait_until(lambda: dict(client.device(made.entry).kind_pages)["zstd"] < written)
        client.set(made.entry, "idle_cold", "2")
        wait_until(lambda: client.device(made.entry).cold_pages > PAGES // 4)
        assert memory(now.pid) - at_rest > 1 << 20
        now = client.device(made.entry)
        assert now.object_bytes < before * 3 // 2
        assert now.last_error == ""
        for page in range(PAGES):
            assert disk.read(page) == pages[page]
    removal.remove_entry(made.entry)
    monkeypatch.setenv("TRUEZRAM_LIBZSTD", "/nonexistent/libzstd.so.1")
    made = create(CreateOptions(64 << 20, "lz4", transport="local"))
    with Client() as client:
        assert client.device(made.entry).policy == "600:0:3:72000"
        assert len(made.warnings) == 1
        assert "does not pack idle pages in groups" in made.warnings[0]
        for policy in ("600:0:0", "0:0:101", "1:2:", "1:2:3:4:5", "-1:2:3"):
            with pytest.raises(UsageError, match=r"1 to 100 per cent|three or four whole numbers"):
                client.set(made.entry, "policy", policy)
        with pytest.raises(Failed, match=r"groups of pages need libzstd: .*cannot be opened"):
            client.set(made.entry, "policy", settings.POLICIES["balanced"])
    removal.remove_entry(made.entry)


def test_a_run_is_stopped(device: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    """By another one's `--stop`, and by Ctrl-C of who waits for it. A second one is refused meanwhile."""
    pages = sample(PAGES, seed=4) * 10
    with LocalDevice(device) as disk, Client() as client:
        disk.write(0, b"".join(pages))
        assert main(["recompress", "0", "--stop"]) == 0
        assert capsys.readouterr().out == "local0: nothing is at work\n"
        run = cold.recompress(client, device, "dense", 0, 1)
        with pytest.raises(Busy, match="a recompression is at work"):
            cold.recompress(client, device, "dense", 0, 1)
        assert main(["recompress", "0", "--stop"]) == 0
        assert capsys.readouterr().out == "local0: stopped\n"
        done = cold.watch(client, run)
        assert done.stopped
        assert done.pages < len(pages)
        command = [sys.executable, "-P", "-m", "truezram", "recompress", "0", "--idle", "0", "--max-cpu", "1", "--wait"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: client.device(device).is_recompressing)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG)
        assert (process.returncode, out) == (130, "")
        assert err == "truezram: local0: stopped\ntruezram: interrupted\n"
        wait_until(lambda: not client.device(device).is_recompressing)
        for page in range(0, len(pages), 7):
            assert disk.read(page) == pages[page]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--to", "fast"], "pages are recompressed with dense, zstd or cold, not with fast"),
        (["--to", "zstd:99"], "level"),
        (["--max-cpu", "0"], "1 to 100 per cent"),
        (["--max-cpu", "101"], "1 to 100 per cent"),
        (["--max-cpu", "-1"], "1 to 100 per cent"),
        (["--idle", "3d"], "longer than 80100 s are not told apart"),
        (["--idle", "soon"], "not a number with an optional unit"),
        (["--idle", "-5m"], "not a number with an optional unit"),
        (["--idle", "999999999d"], "not told apart"),
    ],
)
def test_what_cannot_be_asked(
    device: Entry, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    option, value = arguments
    assert main(["recompress", "0", f"{option}={value}"]) == 2
    assert why in capsys.readouterr().err


def test_the_server_refuses_a_clock_that_stands(device: Entry) -> None:
    with Client() as client:
        for speed in ("0", "-1", "fast", "10000001", ""):
            with pytest.raises(UsageError, match="age_speed is a number"):
                client.set(device, "age_speed", speed)


def test_a_server_that_dies_while_it_recompresses(fake: FakeServer) -> None:
    fake.mode("endless")
    entry = make()

    def progress(share: float, device: object) -> None:
        kill_server(entry)

    with Client() as client:
        run = cold.recompress(client, entry, "dense", 0, 10)
        with pytest.raises(Failed, match="cannot watch the recompression of local0: it is dead"):
            cold.watch(client, run, progress)
    removal.remove_entry(entry, force=True)


def test_durations() -> None:
    assert [parse_duration(text, "x") for text in ("0", "90", "90s", "1.5m", "2h", "1d")] == [
        0,
        90,
        90,
        90,
        7200,
        86400,
    ]
    for text in ("", "m", "1w", "1e3", "-1", "٣"):
        with pytest.raises(UsageError):
            parse_duration(text, "x")


def test_what_a_map_by_age_counts() -> None:
    assert lib.TZ_AGES == AGES == len(MAP_AGES) - lib.TZ_MAP_AGE_0
    assert MAP_AGES[lib.TZ_MAP_AGE_EMPTY] == "empty"
    assert MAP_AGES[lib.TZ_MAP_AGE_NONE] == "no age"
    assert MAP_AGES[lib.TZ_MAP_AGE_0] == "0"
