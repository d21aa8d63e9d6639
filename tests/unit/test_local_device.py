"""The real server with the local transport: pages in and out, limits, deaths, and the demo. Needs the server: the
installed package brings it; from a source tree TRUEZRAM_SERVER names it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from conftest import HANG, kill, kill_server, unmount_arenas, wait_until

from truezram._native import lib
from truezram.cli.main import main
from truezram.engine import paths
from truezram.engine.device import removal, server
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import CreateOptions, create, parse_settings, set_values
from truezram.engine.device.local import LocalDevice
from truezram.engine.device.options import MAX_ID
from truezram.engine.errors import Busy, Failed, NotFound, TruezramError, UsageError
from truezram.engine.measure.load import run_load
from truezram.engine.units import MAX_SIZE, PAGE

OPTIONS = CreateOptions(size=64 << 20, algorithm="lz4", transport="local")

try:
    paths.server_path()
except TruezramError as missing:
    pytest.skip(f"{missing}", allow_module_level=True)


@pytest.fixture(autouse=True)
def devices(run_dir: Path) -> Iterator[None]:
    """Nothing is left running, whatever a test did."""
    yield
    with Client([run_dir]) as client:
        for entry in client.entries():
            pid = server.server_of(entry)
            if pid is not None:
                kill(pid)
            server.cleanup(entry)
    unmount_arenas(run_dir)


def make(**changes: object) -> Entry:
    return create(replace(OPTIONS, **changes)).entry  # type: ignore[arg-type]


def pages(count: int, seed: int = 0) -> bytes:
    """Pages that shrink to about a half."""
    order = random.Random(seed)
    return b"".join(order.randbytes(PAGE // 2) + bytes(PAGE // 2) for _ in range(count))


def test_pages_come_back() -> None:
    entry = make()
    data = pages(100)
    with LocalDevice(entry) as device, Client() as client:
        assert device.pages == 16384
        assert device.read(5) == bytes(PAGE)
        device.write(50, data)
        assert device.read(50, 100) == data
        assert device.read(49, 3) == bytes(PAGE) + data[: 2 * PAGE]
        device.discard(60, 10)
        assert device.read(60, 10) == bytes(10 * PAGE)
        device.flush()
        found = client.device(entry)
        assert found.orig_data_size == 90 * PAGE
        assert dict(found.kind_pages) == {"lz4": 90}
        assert 90 * 2048 < found.compr_data_size < 90 * 2200
        assert (found.total.pages_written, found.total.pages_discarded) == (100, 10)
        assert sum(found.total.write_lat) == found.total.num_writes
        assert found.state == "live"
        # Page 0 … 159 are 16 regions of 10; 50 … 149 hold data but for 60 … 69.
        lz4 = [row[5] for row in client.page_map(entry, 0, 160, 16).regions]
        assert lz4 == [0] * 5 + [10, 0] + [10] * 8 + [0]


def test_out_of_range_and_misuse() -> None:
    with LocalDevice(make()) as device:
        for page, count in ((16384, 1), (16383, 2), (1 << 60, 1)):
            with pytest.raises(OSError, match="Invalid argument"):
                device.read(page, count)
            with pytest.raises(OSError, match="Invalid argument"):
                device.write(page, bytes(count * PAGE))
        with pytest.raises(ValueError, match="whole pages"):
            device.write(0, b"x")
        with pytest.raises(ValueError, match="negative"):
            device.read(-1)
    with pytest.raises(ValueError, match="closed"):
        device.read(0)


def test_closing_waits_for_the_requests_of_other_threads() -> None:
    entry = make()
    for _ in range(20):
        device = LocalDevice(entry)
        ends: list[str] = []

        def load(device: LocalDevice = device, ends: list[str] = ends) -> None:
            try:
                while True:
                    device.read(0, 32)
            except ValueError as error:
                ends.append(str(error))

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        device.close()
        device.close()
        for thread in threads:
            thread.join(HANG)
        assert ends == ["local0 was closed"] * 3


def test_names_of_devices_to_attach_to() -> None:
    make(id=4)
    with LocalDevice("4") as device:
        assert device.name == "local4"
    with pytest.raises(NotFound):
        LocalDevice("5")


def test_mem_limit_is_enospc_and_everything_stays_readable() -> None:
    entry = make(mem_limit=4 << 20)
    data = random.Random(1).randbytes(64 * PAGE)
    with LocalDevice(entry) as device, Client() as client:
        written = 0
        while _written(device, written, data):
            written += 64
        assert 0 < written < 1024
        for page in range(0, written, 64):
            assert device.read(page, 64) == data
        found = client.device(entry)
        assert found.mem_used_total <= found.mem_limit == 4 << 20
        assert found.total.enospc >= 1
        set_values(client, entry, parse_settings(["mem_limit=none", "algorithm=zstd:5"]))
        # What the reserve's thread has not got ready yet is refused, too.
        wait_until(lambda: _written(device, written, data))
        assert device.read(written, 64) == data
        found = client.device(entry)
        assert (found.mem_limit, found.algorithm) == (0, "zstd:5")


def _written(device: LocalDevice, page: int, data: bytes) -> bool:
    """Whether the write worked; any other failure than ENOSPC fails the test."""
    try:
        device.write(page, data)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("option", "most"), [("size", MAX_SIZE), ("mem-limit", MAX_SIZE), ("id", MAX_ID), ("queue-depth", lib.TZ_MAX_DEPTH)]
)
def test_limits_are_the_servers_own_too(run_dir: Path, option: str, most: int) -> None:
    argv = [paths.server_path(), "--transport", "local", "--run-dir", run_dir, f"--{option}", str(most + 1)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANG)
    assert done.returncode == lib.TZ_EXIT_USAGE
    assert done.stderr == f"truezramd: --{option} {most + 1}: not a whole number from 0 to {most}\n"


def test_settings_that_the_server_refuses() -> None:
    entry = make()
    with Client() as client:
        with pytest.raises((UsageError, Failed), match="mem_limit 4K is too small") as refused:
            set_values(client, entry, {"mem_limit": "4096"})
        # What it names is the least that it takes.
        least = int(re.findall(r" take (\d+)K", str(refused.value))[0]) << 10
        with pytest.raises((UsageError, Failed), match=f"mem_limit {(least >> 10) - 1}K is too small"):
            set_values(client, entry, {"mem_limit": str(least - 1024)})
        set_values(client, entry, {"mem_limit": str(least)})
        set_values(client, entry, {"mem_limit": "0"})
        with pytest.raises(TruezramError, match='unknown algorithm "nonsense"'):
            client.set(entry, "algorithm", "nonsense")
        with pytest.raises(TruezramError, match="no such setting: no_such_key"):
            client.set(entry, "no_such_key", "1")
        found = client.device(entry)
        assert (found.mem_limit, found.algorithm, found.state) == (0, "lz4", "live")
        # It continues: what it does take is done.
        set_values(client, entry, {"mem_limit": str(32 << 20), "algorithm": "zstd:3"})
        found = client.device(entry)
        assert (found.mem_limit, found.algorithm) == (32 << 20, "zstd:3")


def test_a_server_that_dies_under_load_is_noticed() -> None:
    entry = make()
    device = LocalDevice(entry, timeout=5)
    pid = server.server_of(entry)
    assert pid is not None

    def kill_under_load() -> None:
        with Client() as client:
            wait_until(lambda: client.device(entry).total.num_writes > 100)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_under_load)
    killer.start()
    started = time.monotonic()
    counts = run_load(device, pages(64), seconds=10 * HANG)
    assert time.monotonic() - started < HANG
    killer.join()
    assert counts.failed_requests >= 1
    assert not counts.good
    assert counts.wrong_pages == 0
    device.close()
    with Client() as client:
        assert client.device(entry).state == "dead"
        assert removal.remove(client, entry.name).name == entry.name
        assert client.devices() == ()


def test_a_server_that_is_halted_is_told_and_goes_on() -> None:
    entry = make()
    pid = server.server_of(entry)
    assert pid is not None
    with Client() as client:
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: client.device(entry).state == "halted")
            with pytest.raises(Failed, match=f"it is halted.*kill -CONT {pid}"):
                set_values(client, entry, parse_settings(["mem_limit=8M"]))
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: client.device(entry).state == "live")
        assert set_values(client, entry, parse_settings(["mem_limit=8M"]))


def test_sigterm_ends_it_in_order(run_dir: Path) -> None:
    entry = make()
    with LocalDevice(entry) as device:
        device.write(0, pages(8))
        pid = server.server_of(entry)
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not list(run_dir.glob("local0.*")))
        with pytest.raises(OSError, match="No such device"):
            device.read(0)


def test_ids_and_stale_entries(run_dir: Path) -> None:
    entry = make(id=9)
    with pytest.raises(Busy, match="in use"):
        make(id=9)
    pid = kill_server(entry)
    # What the dead one left is its user's until it is removed.
    with pytest.raises(Busy, match="truezram remove local9"):
        make(id=9)
    with Client() as client:
        removal.remove(client, "local9")
    assert server.server_of(make(id=9)) not in (None, pid)


def test_programs_that_create_at_once(run_dir: Path) -> None:
    """As units do when a machine starts: each gets a device of its own, in a registry that none of them found, and it
    works. So they are removed."""
    truezram = [sys.executable, "-P", "-m", "truezram"]
    create = [*truezram, "create", "--size", "16M", "--algorithm", "lz4", "--transport", "local"]
    for _ in range(2):
        running = [
            subprocess.Popen(create, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
        ]
        said = [one.communicate() for one in running]
        assert [one.returncode for one in running] == [0] * 4, said
        names = sorted(out.strip() for out, _ in said)
        assert names == [f"local:{number}" for number in range(4)]
        for name in names:
            with LocalDevice(name) as device:
                device.write(0, name.encode().ljust(4096, b"."))
                assert device.read(0).startswith(name.encode())
        gone = [subprocess.Popen([*truezram, "remove", name], stderr=subprocess.PIPE, text=True) for name in names]
        assert [(one.communicate()[1], one.returncode) for one in gone] == [("", 0)] * 4
        assert [path.name for path in run_dir.iterdir()] == []
        run_dir.rmdir()


def test_creates_at_once() -> None:
    results: list[str] = []

    def one() -> None:
        try:
            results.append(make(id=2).name)
        except Busy as error:
            results.append(type(error).__name__)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["Busy", "Busy", "Busy", "local2"]


def test_the_replay_verifies_the_real_thing() -> None:
    entry = make(queues=2)
    with LocalDevice(entry) as device:
        counts = run_load(device, pages(256), seconds=1.5, threads=3)
    assert counts.good
    assert counts.pages_verified > 5000
    with Client() as client:
        found = client.device(entry)
    # Both know how much was read, apart from each other.
    assert found.total.pages_read == counts.pages_read
    # A request that has to wait for the reserve's thread half-way is served again from its start.
    assert counts.pages_written <= found.total.pages_written < counts.pages_written * 1.02 + 64
    assert found.total.checksum_errors == 0


def arena_of(entry: Entry) -> Path:
    """The arena's file, by the descriptor of its server."""
    return next(
        fd
        for fd in Path(f"/proc/{server.server_of(entry)}/fd").iterdir()
        if "arena" in (path := os.readlink(fd)) and not path.endswith(".log")  # noqa: PTH115
    )


def _bytes_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def test_a_damaged_entry_is_an_error_of_its_page_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    entry = make()
    data = pages(64)
    with LocalDevice(entry) as device, Client() as client:
        device.write(0, data)
        with arena_of(entry).open("r+b", buffering=0) as arena:
            directory = int.from_bytes(_bytes_at(arena, 88, 8), "little")  # docs/arena.md
            table = (int.from_bytes(_bytes_at(arena, directory, 8), "little") >> 17 & (1 << 35) - 1) * 16
            for page in (7, 8):
                arena.seek(table + 8 * page + 4)
                byte = arena.read(1)[0]
                arena.seek(-1, os.SEEK_CUR)
                arena.write(bytes([byte ^ 0x10]))
        with pytest.raises(OSError, match="Input/output error") as caught:
            device.read(7)
        assert caught.value.errno == errno.EIO
        device.write(7, data[7 * PAGE : 8 * PAGE])  # and written again, it is there again
        device.discard(8)
        assert (
            device.read(0, 8) + device.read(8) + device.read(9, 55) == data[: 8 * PAGE] + bytes(PAGE) + data[9 * PAGE :]
        )
        found = client.device(entry)
        assert (found.total.damaged_entries, found.total.checksum_errors, found.total.failed_reads) == (3, 0, 1)
        assert found.last_error == "page 8: entry is damaged"
        assert abs(found.last_error_time - time.time()) < 600
        assert main(["stat", entry.name]) == 0
        shown = capsys.readouterr().out
        assert "damaged_entries   3" in shown
        assert "page 8: entry is damaged" in shown


def test_the_servers_figures_are_the_kernels(run_dir: Path) -> None:
    """mem_used_total against what the arena's file takes, for users without the noswap tmpfs a memfd."""
    entry = make()
    with LocalDevice(entry) as device, Client() as client:
        device.write(0, pages(4000))
        held = arena_of(entry).stat().st_blocks * 512
        used = client.device(entry).mem_used_total
    assert used == pytest.approx(held, rel=0.02)


def demo(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "truezram", "demo", *argv],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def test_demo_without_a_terminal(run_dir: Path) -> None:
    done = demo("--transport", "local", "--seconds", "2", "--size", "32M")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pages verified, 0 wrong" in done.stdout
    assert "local0  local  live" in done.stdout
    assert done.stdout.endswith("local0 was removed\n")
    with Client() as client:
        assert client.devices() == ()


def test_demo_in_json_on_a_given_device() -> None:
    make(id=6)
    done = demo("--device", "6", "--seconds", "1", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert (document["schema"], document["transport"], document["verified"]) == ("truezram.demo/1", "local", True)
    assert document["result"]["wrong_pages"] == 0
    assert document["result"]["pages_verified"] > 0
    # It holds data now, and is kept: a second demo would overwrite it.
    again = demo("--device", "6", "--seconds", "1", "--json")
    assert again.returncode == 4
    assert "overwrite" in json.loads(again.stdout)["error"]["why"]
    with Client() as client:
        assert [item.state for item in client.devices()] == ["live"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo_interrupted_leaves_nothing(run_dir: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "truezram", "demo", "--transport", "local", "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with Client() as client:
        wait_until(lambda: any(found.total.num_writes for found in client.devices()))
    process.send_signal(how)
    _, err = process.communicate(timeout=HANG)
    assert (process.returncode, err) == (130, "truezram: interrupted\n")
    assert not list(run_dir.glob("*.stats"))


APP = """
import sys, time, types
from truezram.engine.device.client import Client
def run(record, replay, device):
    with Client() as client:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            found = client.devices()
            if found and found[0].total.num_reads > 100:
                print("the app saw", found[0].path, "under load")
                return 0
            time.sleep(0.05)
    return 5
app = types.ModuleType("truezram.app.main")
app.run = run
sys.modules["truezram.app.main"] = app
from truezram._native import lib
from truezram.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_demo_on_a_terminal_ends_with_the_app(run_dir: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", APP, "demo", "--transport", "local"], stdout=follower, stderr=follower
    )
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(leader, 65536):
            shown += chunk
    assert process.wait(HANG) == 0, shown
    os.close(leader)
    assert b"the app saw local:0 under load" in shown
    assert b"pages verified, 0 wrong" in shown
    assert b"local0 was removed" in shown
    assert not list(run_dir.glob("*.stats"))
