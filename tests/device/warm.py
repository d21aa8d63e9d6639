"""A Python process in a guest that has imported the installed product and forks for each command: under emulation,
that spares the two seconds which the start of Python and the imports take. Device tests marked ``warm`` use it
(product.py); it is started before the first of them, and ``warmcall`` (warmcall.c) is the command that asks it.

    python3 warm.py PROGRAM    imports what truezram consists of without the app, then serves, detached

The child runs PROGRAM, the installed console script, from its first line to the end of its interpreter, with the
caller's arguments, environment, working folder, umask, ignored signals and standard streams, and without any other
descriptor. Its exit status is the caller's, and so is the signal that ends it; the caller's signals are passed on, and
it is killed when the caller is. test_00_warm.py compares what it is given with what a start of its own gives it.

What a fork cannot take over from the caller is compared: users, capabilities, limits, cgroup, namespaces, CPUs,
priority, variables that are read at the start. When one differs, the command is refused: status 125, and the test fails
whatever status it expects. The same when this process is gone. No command is run in another way instead.

What it does not show: that the program starts, and what its start and imports need and cost; its name and arguments in
/proc, its place among the caller's children, process group and session; descriptors beyond the standard streams that
it inherits; addresses and hashes, which are the same in all forks. Tests use the program itself unless they are marked
``warm``: those about its start, about little memory, other users and security do. And in each test the program itself
is what `command truezram` runs, and anything but the test's own shell: `env`, `setpriv`, `bash -c`, systemd.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import pkgutil
import runpy
import select
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

ADDRESS = "\0truezram-warm"
FAILED = Path("/dev/shm/warm.failed")
"""What was refused; a test that finds it there fails (product.py)."""
REFUSED = 125
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "GLIBC_", "MALLOC_", "TRUEZRAM_DISABLE_CPU")
"""Variables that begin so have an effect on the interpreter or on C libraries. Those that a module reads while it is
imported are added."""
STATUS = (
    *("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"),
    *("Cpus_allowed", "Mems_allowed"),
)
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)


def import_all() -> set[str]:
    """Imports everything that a verb may import, and nothing is done with it yet: no cache is filled, no thread runs.
    The variables that it has read."""
    read = set()
    environment = type(os.environ)
    getitem = environment.__getitem__

    def note(self: Any, key: Any) -> Any:
        read.add(key)
        return getitem(self, key)

    environment.__getitem__ = note  # type: ignore[method-assign]
    for root in ("truezram.engine", "truezram.cli"):
        package = importlib.import_module(root)
        for module in pkgutil.walk_packages(package.__path__, f"{root}."):
            importlib.import_module(module.name)
    for name, module_ in list(sys.modules.items()):
        if name.partition(".")[0] == "truezram":
            for key, value in vars(module_).items():
                info = getattr(value, "cache_info", None)
                assert info is None or info().currsize == 0, f"{name}.{key} has cached something at its import"
    environment.__getitem__ = getitem  # type: ignore[method-assign]
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208
    return read


def properties(process: int | str) -> dict[str, str]:
    """What a process hands down to its children and a fork of another one cannot take over, by name."""
    folder = Path(f"/proc/{process}")
    found = {key: value for key, _, value in (line.partition(":") for line in _lines(folder / "status"))}
    found = {key: found.get(key, "") for key in STATUS}
    for name in ("limits", "cgroup", "oom_score_adj", "personality"):
        found[name] = "\n".join(_lines(folder / name))
    for link in sorted((folder / "ns").iterdir()):
        found[str(link.relative_to(folder))] = str(link.readlink())
    found["root"] = str((folder / "root").readlink())
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    found["nice"], found["policy"] = fields[16], fields[38]
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def words(path: Path) -> list[str]:
    """Arguments or environment from /proc."""
    return [os.fsdecode(word) for word in path.read_bytes().split(b"\0")[:-1]]


def become(caller: int, streams: list[int], own: dict[str, str], read: set[str]) -> str:
    """Turns this process, just forked, into what the caller would have started; the program to run."""
    folder = Path(f"/proc/{caller}")
    theirs = properties(caller)
    environment = dict(word.partition("=")[::2] for word in words(folder / "environ"))
    program, *arguments = words(folder / "cmdline")[1:]
    environment["_"] = program
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for found, variables in ((theirs, environment), (own, os.environ)):
        found |= {key: variables[key] for key in variables if key in read or key.startswith(READ_AT_START)}
    if differ := [f"{key} {theirs.get(key)!r}" for key in {**own, **theirs} if theirs.get(key) != own.get(key)]:
        refuse(f"{program} {arguments}: the caller is not like the warm process; use the program itself: {differ}")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    os.chdir(f"{folder}/cwd")
    status = dict(line.split(":", 1) for line in _lines(folder / "status"))
    os.umask(int(status["Umask"], 8))
    ignored = int(status["SigIgn"], 16)
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if ignored >> signum - 1 & 1 or signum in PYTHON_IGNORES:
            signal.signal(signum, signal.SIG_IGN)
        else:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        raw.name = f"<{name}>"
        buffer = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
        line = number == 2 or os.isatty(number)
        new = io.TextIOWrapper(buffer, old.encoding, old.errors, "\n", line_buffering=line)
        new.mode = raw.mode[0]  # type: ignore[misc]
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    Path("/proc/self/comm").write_text(Path(program).name)
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).parent)
    return program


def refuse(why: str) -> NoReturn:
    """Ends the child without running anything; `after_test` finds why."""
    with FAILED.open("a") as file:
        print(why, file=file)
    os.write(2, f"warm.py: {why}\n".encode())
    os._exit(REFUSED)


def serve(listener: socket.socket, read: set[str]) -> str:
    """Forks for each caller. Returns in the child only: the program to run."""
    own = properties("self")
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    callers: dict[int, tuple[socket.socket, int]] = {}  # by descriptor: the caller, the child
    children: dict[int, int] = {}  # by pidfd: the caller's descriptor
    while True:
        descriptor = poll.poll()[0][0]  # one at a time: what it leads to may make the others void
        if descriptor == listener.fileno():
            caller, _ = listener.accept()
            pid = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            _, streams, _, _ = socket.recv_fds(caller, 1, 3)
            child = os.fork()
            if child == 0:
                try:
                    for mine in (listener, caller, *(other for other, _ in callers.values())):
                        mine.close()
                    return become(pid, streams, own, read)
                except BaseException as error:
                    if not Path(f"/proc/{pid}").exists():
                        os._exit(REFUSED)  # the caller was killed: nobody is to be answered
                    refuse(f"{type(error).__name__}: {error}")
            for stream in streams:
                os.close(stream)
            pidfd = os.pidfd_open(child)
            callers[caller.fileno()] = caller, child
            children[pidfd] = caller.fileno()
            poll.register(caller, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
        elif descriptor in children:
            caller, child = callers.pop(children.pop(descriptor))
            _, status = os.waitpid(child, 0)
            with contextlib.suppress(OSError):  # the caller was killed in the meantime
                caller.send(struct.pack("i", status))
            with contextlib.suppress(KeyError):
                poll.unregister(caller)
            poll.unregister(descriptor)
            os.close(descriptor)
            caller.close()
        else:
            caller, child = callers[descriptor]
            signals = caller.recv(64)
            for signum in signals or (signal.SIGKILL,):
                os.kill(child, signum)
            if not signals:
                poll.unregister(caller)


def main() -> str:
    sys.path[0] = str(Path(sys.argv[1]).parent)
    read = import_all()
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(ADDRESS)
    listener.listen(64)
    if os.fork():
        os._exit(0)  # ready
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)
    Path("/proc/self/comm").write_text("warm")
    return serve(listener, read)


if __name__ == "__main__":
    runpy.run_path(main(), run_name="__main__")
