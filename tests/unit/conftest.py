"""Fixtures of the engine's tests: a registry of their own and a stand-in for the server (fake_server.py)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from truezram.engine.device import server
from truezram.engine.device.client import Entry
from truezram.engine.device.create import CreateOptions, create

NOBODY = 65534
HANG = 120.0
"""Seconds after which a thing that takes one on an idle machine hangs, on however busy a machine."""
FAKE = Path(__file__).with_name("fake_server.py")

# Examples are a number, however long they take.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _alone(alone: None) -> None:
    """No test sees what is this machine's."""


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[None]:
    """The test runs as an ordinary user, who owns what is in `tmp_path` so far, when root runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    above = [path for path in (tmp_path, *tmp_path.parents) if not path.stat().st_mode & 1]
    modes = [path.stat().st_mode for path in above]
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, NOBODY, -1, follow_symlinks=False)
    for path, mode in zip(above, modes, strict=True):
        path.chmod(mode | 0o011)
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)
    for path, mode in zip(above, modes, strict=True):
        path.chmod(mode)


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty registry, not made yet, which is the only one that the code under test sees. (Its path is short: those
    of sockets have 107 bytes.)"""
    with tempfile.TemporaryDirectory(prefix="tz") as folder:
        path = Path(folder) / "run"
        monkeypatch.setenv("TRUEZRAM_RUN_DIR", str(path))
        yield path


class FakeServer:
    """The stand-in's switches and what it received."""

    def __init__(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log = log
        self._monkeypatch = monkeypatch

    def mode(self, mode: str) -> None:
        """How the servers started from now on misbehave."""
        self._monkeypatch.setenv("FAKE_MODE", mode)

    @property
    def received(self) -> list[str]:
        """Command lines and requests, oldest first."""
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def fake(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """Servers are stand-ins; those still running at the end are killed."""
    script = tmp_path / "truezramd"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    log = tmp_path / "log"
    monkeypatch.setenv("TRUEZRAM_SERVER", str(script))
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.delenv("FAKE_MODE", raising=False)
    yield FakeServer(log, monkeypatch)
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and str(run_dir).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def wait_until(condition: Callable[[], bool], timeout: float = HANG) -> None:
    """Returns when the condition holds; fails the test when it does not, on however busy a machine."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it did not come about in time")
        time.sleep(0.01)


def cost(work: Callable[[], object], tries: int = 50) -> float:
    """Time that `work` takes in units of a fixed piece of Python (0.2 ms on a Zen 4 at rest), so that a slow machine
    makes no difference: of the least of many tries, taken in turn, so that a busy one makes none."""

    def unit() -> None:
        table = {}
        for number in range(10000):
            table[number & 255] = number

    def timed(function: Callable[[], object]) -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    times = [(timed(work), timed(unit)) for _ in range(tries)]
    return min(ours for ours, _ in times) / min(units for _, units in times)


LOCAL = CreateOptions(size=1 << 30, algorithm="lz4", transport="local")


def make(**changes: object) -> Entry:
    """A new device, as `LOCAL` with these changes."""
    return create(replace(LOCAL, **changes)).entry  # type: ignore[arg-type]


def kill(pid: int) -> None:
    """SIGKILL, and returns when the process has let go of all it had. (Its command line and the lock that it held are
    gone before: a client is refused, or its connection reset, for a moment more.)"""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        assert ended.poll(HANG * 1000), f"process {pid} outlives SIGKILL"
    finally:
        os.close(pidfd)


def kill_server(entry: Entry) -> int:
    """The same to a device's server; its pid."""
    pid = server.server_of(entry)
    assert pid is not None
    kill(pid)
    return pid


def servers(run_dir: Path) -> list[int]:
    """The pids of the servers of this registry."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and str(run_dir).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def unmount_arenas(run_dir: Path) -> None:
    """The tmpfs of a registry without servers. (A process that has been killed loses its command line before it lets go
    of its files: the mount is busy for a moment more.)"""
    arenas = run_dir / "arena"
    wait_until(lambda: not arenas.is_mount() or subprocess.run(["umount", arenas], check=False).returncode == 0)


def end_servers(run_dir: Path) -> None:
    """Kills what serves there, and unmounts the tmpfs of its arenas."""
    for pid in servers(run_dir):
        with contextlib.suppress(ProcessLookupError):
            kill(pid)
    unmount_arenas(run_dir)
