"""A server that ends, is ended or hangs before its device is ready leaves nothing, or what `list` shows and `remove`
removes: the stand-in at its steps, and the real server with the local transport killed at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FakeServer, end_servers, kill_server, make, servers, wait_until

from truezram.engine import paths
from truezram.engine.device import removal, server
from truezram.engine.device.client import Client, Entry, server_of
from truezram.engine.errors import Busy, Failed, TruezramError

START = server.start


def left(run_dir: Path) -> list[str]:
    """What is in the registry."""
    return sorted(path.name for path in run_dir.iterdir())


@pytest.mark.parametrize("mode", ["hang-named", "killed-named"])
@pytest.mark.parametrize("number", [None, 3])
def test_a_server_that_does_not_become_ready_leaves_nothing(
    fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch, mode: str, number: int | None
) -> None:
    """With an id and without: a missing statistics page is not an obstacle."""
    fake.mode(mode)
    monkeypatch.setattr(server, "start", lambda launch, run_dir: START(launch, run_dir, timeout=1.5))
    with pytest.raises(Failed):
        make(id=number)
    assert left(run_dir) == []
    assert not servers(run_dir)


def test_an_interrupt_leaves_nothing(fake: FakeServer, run_dir: Path) -> None:
    fake.mode("hang-named")

    def interrupt() -> None:
        while not (run_dir / "local0.stats.new").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        make()
    assert left(run_dir) == []
    assert not servers(run_dir)


@pytest.mark.parametrize("part", ["stats.new", "sock", "lock"])
def test_what_is_left_is_a_row_and_can_be_removed(fake: FakeServer, run_dir: Path, part: str) -> None:
    run_dir.mkdir()
    (run_dir / f"local4.{part}").write_bytes(b"")
    with Client() as client:
        (row,) = client.devices()
        assert (row.name, row.state) == ("local4", "dead")
        assert "truezram remove local4" in row.last_error
        assert removal.remove(client, "local4").name == "local4"
        assert client.devices() == ()
    assert left(run_dir) == []


def test_a_device_that_comes_is_shown_once_it_has_something(fake: FakeServer, run_dir: Path) -> None:
    run_dir.mkdir()
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (run_dir / "local4.lock").write_text(f"{os.getpid()} {start}\n")
    with Client() as client:
        assert client.entries() == []
        (run_dir / "local4.sock").touch()
        assert [row.state for row in client.devices()] == ["starting"]
        assert server_of(Entry(run_dir, "local4")) == os.getpid()


# --- the real server


@pytest.fixture
def real(run_dir: Path) -> Iterator[Path]:
    """Its executable. Whatever a test does, nothing is left running or mounted."""
    try:
        yield paths.server_path()
    except TruezramError as missing:
        pytest.skip(str(missing))
    finally:
        end_servers(run_dir)


def test_a_dead_device_is_not_touched_by_the_next(real: Path, run_dir: Path) -> None:
    """Neither by one that would like its number nor by another's removal; it goes when it is removed itself."""
    dead = make(size=64 << 20)
    kill_server(dead)
    arena = run_dir / "arena" / dead.name
    had_arena = arena.exists()
    with Client() as client:
        another = make(size=64 << 20)
        assert another.name == "local1"
        removal.remove(client, another.name)
        assert arena.exists() == had_arena
        assert [row.state for row in client.devices()] == ["dead"]
        removal.remove(client, dead.name)
        assert client.devices() == ()
    assert left(run_dir) == []
    assert not arena.exists()


def test_killed_at_any_moment_of_creation(real: Path, run_dir: Path) -> None:
    """The server is stopped, then killed, between its start and some time after it is ready."""
    run_dir.mkdir()
    rng = random.Random(4)
    shown = 0
    for _ in range(60):
        process = subprocess.Popen(
            [real, "--transport", "local", "--size", str(1 << 30), "--algorithm", "lz4", "--run-dir", str(run_dir)],
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.random() * 0.03)
        os.kill(process.pid, signal.SIGSTOP)
        with Client() as client:
            before = client.devices()
            assert all(row.pid in (0, process.pid) for row in before)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with Client() as client:
            for row in client.devices():
                assert row.state == "dead", row
                shown += 1
                removal.remove(client, row.name)
            assert client.devices() == ()
        # What is not shown is not there.
        assert left(run_dir) == [], left(run_dir)
        assert not (run_dir / "arena").exists()
    assert shown > 10, "the server was hardly ever killed with anything made"


def test_a_live_server_is_not_cleaned_up_after(real: Path, run_dir: Path) -> None:
    entry = make(size=64 << 20)
    with pytest.raises(Busy, match="in use by a running server"):
        server.cleanup(entry)
    with Client() as client:
        assert [row.state for row in client.devices()] == ["live"]
        removal.remove(client, entry.name)


def test_no_descriptors_left_for_clients(real: Path, run_dir: Path) -> None:
    """A client that cannot be accepted is disconnected; the server neither spins nor forgets the others."""
    entry = make(size=64 << 20)
    pid = server_of(entry)
    assert pid is not None
    with Client() as client:
        client.ping(entry)  # once it answers, it has closed the pipe for its creator, which may have a high number
    taken = [int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()]
    limit = max(taken) + 2
    free = limit - len(taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(free + 10):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.connect(str(entry.sock))
            sock.settimeout(5)
            clients.append(sock)
        # Those that it has a descriptor for may ask (two more than counted, if it was just closing some); the others
        # are hung up on at once.
        wait_until(lambda: len(select.select(clients, [], [], 0)[0]) >= 8)
        assert len(select.select(clients, [], [], 0)[0]) < len(clients)
        for sock in clients:
            sock.close()
    with Client() as client:
        client.ping(entry)
        removal.remove(client, entry.name)
