"""Starts truezramd and waits until it is ready, in bounded time; cleans up after one that died.

`start` returns when the device is usable, or raises with the server's own reason and nothing left behind: the server
first reports the name of the device and writes its pid into that name's lock, so that it can be ended and cleaned up
after at any step. It runs in a session of its own: it outlives the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from truezram._native import ffi, lib
from truezram.engine import paths
from truezram.engine.device.client import Client, Entry, signed
from truezram.engine.device.client import server_of as server_of
from truezram.engine.device.control import Op, printable, request
from truezram.engine.device.options import CreateOptions
from truezram.engine.errors import EXIT_BUSY, Failed, TruezramError, from_exit_code

READY_TIMEOUT = 15.0
RECOVER_TIMEOUT = 120.0
_HAND_OVER_TIMEOUT = 60.0
"""Before Linux 6.16 it takes up to 3 s on a machine that is not busy (native: tz_queues_hold)."""
CLEANUP_TIMEOUT = 15.0
_EXIT_PATIENCE = 3.0
_END_PATIENCE = 10.0
_READY_SIZE = ffi.sizeof("struct tz_ready")
SURVIVOR = "@"
"""A first argument that begins so says to systemd that the process is needed until the very end of a shutdown: it is
not killed with all others, so that a swap area or a mount that is still there can be ended
(https://systemd.io/ROOT_STORAGE_DAEMONS)."""
_children: list[subprocess.Popen[bytes]] = []
"""Servers that this process started, to be reaped when they end (a long-running app would collect zombies)."""


def command_of(options: CreateOptions, run_dir: Path) -> list[str]:
    """The command line of the server for a device with these options. A dictionary is given by its absolute path: the
    server's working folder is /."""
    assert options.algorithm is not None, "`create.check_options` chooses one"
    return [str(paths.server_path()), *options.server_words(), "--run-dir", str(run_dir)]


def start(options: CreateOptions, run_dir: Path, timeout: float = READY_TIMEOUT) -> Entry:
    """Starts a server for these options, which `create.check_options` completed; returns its entry once the device is
    usable. Raises with the server's reason otherwise."""
    reap()
    return _run(f"cannot create the {options.transport} device", command_of(options, run_dir), run_dir, timeout)


def recover(entry: Entry, timeout: float = RECOVER_TIMEOUT) -> None:
    """Starts a server that takes over the device of a dead one; returns once requests flow again. Raises with its
    reason otherwise: the device is as it was then."""
    _take_over("recover", entry, timeout)


def upgrade(entry: Entry, timeout: float = RECOVER_TIMEOUT) -> None:
    """Starts a server that takes over from one that runs, once it is ready to; returns once requests flow again.
    Raises with its reason, or that of the one that runs, otherwise: the device is as it was then."""

    def ask(pid: int) -> None:
        what = f"cannot upgrade {entry.name}"
        request(entry.sock, Op.HAND_OVER, (pid,), what=what, timeout=_HAND_OVER_TIMEOUT)

    _take_over("upgrade", entry, timeout, ask)


def _take_over(verb: str, entry: Entry, timeout: float, starting: Callable[[int], None] | None = None) -> None:
    reap()
    argv = [str(paths.server_path()), f"--{verb}", "--transport", entry.transport, "--id", str(entry.id)]
    argv += ["--run-dir", str(entry.directory)]
    _run(f"cannot {verb} {entry.name}", argv, entry.directory, timeout, undo=False, starting=starting)


def _run(
    what: str,
    argv: list[str],
    run_dir: Path,
    timeout: float,
    undo: bool = True,
    starting: Callable[[int], None] | None = None,
) -> Entry:
    """Starts a server and waits until it is ready. `undo`: if it does not become so, what it made is removed.
    `starting` is called with its pid when it has announced itself."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    # What the server writes before it has its own log. A memfd, because it can neither fill up a disk nor block.
    errors = os.memfd_create("truezramd-stderr", os.MFD_CLOEXEC)
    try:
        try:
            process = subprocess.Popen(
                [SURVIVOR + argv[0], *argv[1:], "--ready-fd", str(write_end)],
                executable=argv[0],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(write_end,),
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise Failed(what, f"{argv[0]} cannot be run: {error.strerror}", "Install the package again") from None
        finally:
            os.close(write_end)
        try:
            told = partial(starting, process.pid) if starting else None
            message = _read_ready(read_end, time.monotonic() + timeout, told)
            entry = _understand(what, message, process, errors, run_dir, timeout)
        except BaseException:
            # Whatever happened, an interrupt too: nothing half-made is left behind.
            if undo:
                _abandon(process, run_dir)
            else:
                process.kill()
            raise
        _children.append(process)
        return entry
    finally:
        os.close(read_end)
        os.close(errors)


def reap() -> None:
    """Collects ended servers that this process started."""
    _children[:] = [process for process in _children if process.poll() is None]


def _read_ready(fd: int, deadline: float, starting: Callable[[], None] | None = None) -> bytes | None:
    """The server's last message, after the one that only names the device (TZ_STARTING: `starting` is called); b"" or
    a part of it when it closed early, None when the time is up."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        data = b""
        while len(data) < _READY_SIZE:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            chunk = os.read(fd, _READY_SIZE - len(data))
            if not chunk:
                return data
            data += chunk
        if ffi.from_buffer("struct tz_ready *", data).status != lib.TZ_STARTING:
            return data
        if starting:
            starting()


def _understand(
    what: str,
    message: bytes | None,
    process: subprocess.Popen[bytes],
    errors: int,
    run_dir: Path,
    timeout: float,
) -> Entry:
    if message is None:
        said = _tail(errors)
        why = f"the server was not ready within {timeout:g} s and was ended" + (f"; it said: {said}" if said else "")
        raise Failed(what, why, "Try again; if it happens again, see the kernel log (dmesg)")
    ready = ffi.new("struct tz_ready *")
    if len(message) == _READY_SIZE:
        ffi.memmove(ready, message, _READY_SIZE)
    if ready.magic != lib.TZ_MSG_MAGIC or ready.version != lib.TZ_MSG_VERSION:
        if not message:
            raise Failed(
                what, f"the server {_ending(process)} before it was ready: {_tail(errors) or 'it said nothing'}"
            )
        raise Failed(what, "the server's message is not understood", "Install the package again")
    text = printable(ffi.string(ready.text))
    if ready.status:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        raise from_exit_code(ready.exit_code, what, text or _tail(errors))
    return Entry(run_dir, printable(ffi.string(ready.name)))


def _ending(process: subprocess.Popen[bytes]) -> str:
    """How a server ended that closed its pipe without a message."""
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        return "closed its message pipe"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tail(fd: int, lines: int = 3) -> str:
    """The last lines that the server wrote, as one."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, 4096, max(0, size - 4096))
    return "; ".join(printable(line.strip()) for line in data.splitlines()[-lines:] if line.strip())


def _abandon(process: subprocess.Popen[bytes], run_dir: Path) -> None:
    """Ends a server that failed to start and removes what it made: every entry that it has signed. In order if it can:
    killed while the kernel looks for partitions on its disk, it leaves the kernel waiting for another server."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        process.wait(_EXIT_PATIENCE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # nobody is to take over
    try:
        process.wait(_END_PATIENCE)
    except subprocess.TimeoutExpired:
        return  # the kernel holds it: `list` shows what it made, and `remove` removes it
    with Client([run_dir]) as client:
        for entry in client.entries():
            who = signed(entry)
            if who is not None and who[0] == process.pid:
                _clean_up(entry)


def _clean_up(entry: Entry) -> None:
    """For as long as the kernel may need to let go of a server that was killed. What stays is shown by `list`."""
    deadline = time.monotonic() + _END_PATIENCE
    while True:
        try:
            return cleanup(entry)
        except TruezramError as error:
            if time.monotonic() > deadline:
                sys.stderr.write(f"truezram: {entry.name} stays behind, for `truezram remove`: {error}\n")
                return None
            time.sleep(0.1)


def cleanup(entry: Entry) -> None:
    """Removes what a dead server left: its ublk device and its files. The caller has made sure that they are
    not in use."""
    argv = [str(paths.server_path()), "--cleanup", "--run-dir", str(entry.directory)]
    argv += ["--id", str(entry.id), "--transport", entry.transport]
    what = f"cannot clean up {entry.name}"
    deadline = time.monotonic() + _EXIT_PATIENCE
    try:
        while True:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=CLEANUP_TIMEOUT, cwd="/", check=False
            )
            # A killed server is dead when its first thread is, and holds its lock until its last one is.
            if done.returncode != EXIT_BUSY or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    except subprocess.TimeoutExpired:
        why = f"truezramd --cleanup did not end within {CLEANUP_TIMEOUT:g} s"
        raise Failed(what, why, "See whether something still has the device open, and the kernel log (dmesg)") from None
    except OSError as error:
        raise Failed(what, f"{argv[0]} cannot be run: {error.strerror}", "Install the package again") from None
    if done.returncode:
        said = "; ".join(printable(line) for line in done.stderr.splitlines()[-3:])
        raise from_exit_code(done.returncode, what, said or f"truezramd --cleanup ended with {done.returncode}")
