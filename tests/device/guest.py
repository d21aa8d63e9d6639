"""A guest: a stock Debian kernel under QEMU (emulation, no KVM) with this machine's file tree as its root.

The tree comes in through virtiofs, read-only below an overlay that lives in the guest's memory, so a test may change
any file and nothing reaches the host. Scripts go in and their status and output come back over a serial port
(``guest-init`` and ``guest-agent.c`` are the other end). The kernel log goes to a file that tests look through: a
warning in it fails the test.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from kernels import Kernel

HERE = Path(__file__).resolve().parent
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
BOOT_SECONDS = 300.0
BUSY_SECONDS = 120.0
"""Of what takes a moment, if the machine is not busy: a program's start, the guest's end, its answer after a script's
own limit."""
# Under emulation with several CPUs a kernel now and then dies while it boots: it patches its own code (static keys, by
# way of a breakpoint) while another emulated CPU runs it. Nothing of ours runs before the guest is ready, so another
# boot hides nothing of ours; it is reported as a warning of the test run.
BOOTS = 3
PATIENCE = 8
"""Seconds that systemd in a guest waits for what it has told to end (by default it is 90)."""
# QEMU 7.2 leaves garbage in the flags after CMPXCHG16B; an interrupt right then makes the guest's kernel warn about a
# stray debug trap. Without that instruction the kernel's slab allocator takes its other path.
CPU = "max,la57=off,cx16=off"
# Emulated, instructions for long vectors and for strings take longer than what they replace: without them tests took 91
# seconds of CPU instead of 157. Guests with several CPUs have them, so that the codecs' vectors are run there, too.
PLAIN_CPU = CPU + ",avx=off,avx2=off,fma=off,f16c=off,vaes=off,vpclmulqdq=off,erms=off,fsrm=off"
BAD_LOG = re.compile(
    r"WARNING:|BUG:|Oops|Kernel panic|general protection|blocked for more than|soft lockup|hard LOCKUP|rcu.*stall"
    r"|circular locking|possible recursive locking|inconsistent lock state|page allocation failure|refcount_t:"
    r"|corruption|use-after-free|UBSAN|KASAN|invoked oom-killer|Out of memory|unregister_netdevice|sysrq: Show Blocked"
)
# The guest's own file system asks for memory that must not fail when kswapd takes its inodes, which the page allocator
# warns of once memory is as short as some tests make it: nothing of the product's.
VIRTIOFS_WARNING = re.compile(
    r"WARNING: mm/page_alloc\.c(?:(?!end trace).)*? virtio_fs_send_forget\+.*?end trace", re.DOTALL
)
WARNED = 9
TAINT_BAD = {7: "died (oops)", WARNED: "warned", 5: "bad page", 14: "soft lockup"}


class GuestError(Exception):
    """The guest did not boot, died, or no longer answers; the text ends with its kernel log's last lines."""


class KernelBug(GuestError):
    """The guest's kernel died of a bug of its own that no test can avoid: see `has_kernel_bug`."""


class Missing(Exception):
    """Something that a guest needs is not on this machine; the text says what to install."""


@dataclass(frozen=True)
class Result:
    """What a script in the guest came to. ``status`` 124 is its time limit."""

    status: int
    out: str
    err: str


class ScriptError(AssertionError):
    """A script in the guest ended with another status than the test expects."""


def has_kernel_bug(kernel: Kernel) -> bool:
    """Whether it may die when a ublk server is killed (CVE-2025-37906, Linux 6.7 to 6.14.6, and so 6.12).

    If that happens while a request is handed to the server, the kernel may complete a command twice ("ublk: fix race
    between io_uring_cmd_complete_in_task and ublk_cancel_cmd"), and works on with a request or a ring that it has
    freed. No server can do anything about it: it is dead. Under memory pressure it is one kill in five or so, so tests
    kill once or twice there, and more often on later kernels. A test whose guest has died of it is run again.
    """
    return kernel.release.startswith("6.12.")


DIED_OF_IT = re.compile(r"RIP: 0010:_*(io_|ublk_)\w+\+")
"""What it has died in: io_fallback_tw, or io_req_normal_work_add called by ublk_queue_rq."""


def requirements() -> str:
    """The path of virtiofsd. Raises Missing."""
    wanted = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "depmod": "kmod", "fio": "fio"}
    wanted |= {"mkfs.ext4": "e2fsprogs", "mkswap": "util-linux", "gcc": "gcc", "xz": "xz-utils", "fstrim": "util-linux"}
    wanted |= {"strace": "strace", "systemd-run": "systemd"}
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = sorted({package for tool, package in wanted.items() if not shutil.which(tool, path=path)})
    if lacking:
        raise Missing(f"needs the Debian packages {' '.join(lacking)}: apt-get install {' '.join(lacking)}")
    if os.geteuid() != 0:
        raise Missing("needs root: virtiofsd shows the guest the whole file tree")
    for program in VIRTIOFSD:
        if os.access(program, os.X_OK):
            return program
    raise Missing("needs virtiofsd: apt-get install qemu-system-common (Debian 12) or virtiofsd (later)")


NATIVE = HERE.parents[1] / "truezram" / "native"


def compile_c(name: str, program: Path, *more: str) -> None:
    """Compiles a program of these tests, with more files of the product's."""
    include = [f"-I{NATIVE / part}" for part in ("store", "codecs", "transport")]
    files = [str(HERE / f"{name}.c"), *(str(NATIVE / file) for file in more)]
    warnings_ = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-O2", *warnings_, *include, "-o", str(program), *files], check=True)


class Guest:
    """One running guest. Close it, or use it as a context manager."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        memory: int = 1024,
        cpus: int = 1,
        systemd: bool = False,
        folder: Path,
        files: Path | None = None,
    ) -> None:
        """Boots: ``memory`` in MiB; sockets and logs go to ``folder``. With ``systemd`` that is the first process.
        ``files``: what is in that folder is there before it, as what an earlier boot left on its disk. Raises
        GuestError, Missing."""
        self.kernel = kernel
        self.memory = memory
        self.cpus = cpus
        self.systemd = systemd
        self.files = files
        self.folder = folder
        self.log_file = folder / "kernel.log"
        self.mark = 0
        """Where in the kernel log the present test begins."""
        self.restart_wanted = False
        """Set by a test that leaves the guest in another state than it found it."""
        self.spoilt = False
        """Set by a test after which only a restart helps: what it leaves behind is not looked at."""
        self.warm = False
        """Whether a warm process runs in it (warm.py)."""
        self.taint = 0
        self.virtiofs_warned = False
        """Whether the taint may be that of VIRTIOFS_WARNING."""
        self._ids = itertools.count(1)
        self._buffer = b""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._port: socket.socket | None = None
        self._sockets = Path()
        virtiofsd = requirements()
        self._agent = folder / "guest-agent"
        compile_c("guest-agent", self._agent)
        for attempt in range(1, BOOTS + 1):
            try:
                self._boot(virtiofsd)
                return
            except GuestError as error:
                self.kill()
                if attempt == BOOTS:
                    raise
                warnings.warn(f"kernel {kernel.release}, boot {attempt} of {BOOTS} failed: {error}", stacklevel=2)
            except BaseException:
                self.kill()
                raise

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._processes.insert(0, process)
        return process

    def _boot(self, virtiofsd: str) -> None:
        # Socket addresses are short: not below `folder`, whose path may be long.
        self._sockets = Path(tempfile.mkdtemp(prefix="tzvm"))
        self._buffer = b""
        share, port = self._sockets / "fs", self._sockets / "agent"
        usage = subprocess.run([virtiofsd, "--help"], capture_output=True, text=True, check=False)
        if "--shared-dir" in usage.stdout + usage.stderr:
            options = ["--shared-dir=/", "--cache=always", "--sandbox=chroot", "--no-announce-submounts"]
        else:
            options = ["-o", "source=/,cache=always,sandbox=chroot,no_writeback"]
        self._spawn("virtiofsd", [virtiofsd, *options, f"--socket-path={share}"])
        deadline = time.monotonic() + BUSY_SECONDS
        while not share.exists():
            if time.monotonic() > deadline:
                raise GuestError(f"virtiofsd did not start: {(self.folder / 'virtiofsd.log').read_text()[-600:]}")
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(port))
            listener.listen(1)
            self._spawn("qemu", self._qemu(share, port))
            listener.settimeout(BUSY_SECONDS)
            try:
                self._port, _ = listener.accept()
            except TimeoutError:
                raise GuestError(f"QEMU did not start: {(self.folder / 'qemu.log').read_text()[-600:]}") from None
        # What an earlier boot left is started before the agent, by programs in Python.
        words = self._line(time.monotonic() + BOOT_SECONDS * (4 if self.files else 1)).split()
        if words[:1] != ["ready"]:
            raise GuestError(f"unexpected answer {words} instead of ready")
        if bad := self.bad_log():
            raise GuestError("the kernel log has after boot: " + "\n".join(bad))

    def _qemu(self, share: Path, port: Path) -> list[str]:
        append = (
            "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off rootfstype=virtiofs root=host rw"
            # Emulation on a busy machine is slow: allow for that before calling a task hung, or the timer (at boot).
            " no_timer_check"
            " sysctl.kernel.hung_task_timeout_secs=60 rcupdate.rcu_cpu_stall_timeout=60 watchdog_thresh=30"
            f" init={HERE / 'guest-init'} truezram.modules={self.kernel.modules} truezram.agent={self._agent}"
        )
        if self.systemd:
            append += f" truezram.systemd={PATIENCE}"
        if self.files is not None:
            append += f" truezram.files={self.files}"
        return [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi"),
            *("-cpu", PLAIN_CPU if self.cpus == 1 else CPU),
            *("-m", str(self.memory), "-smp", str(self.cpus), "-nodefaults", "-no-user-config", "-display", "none"),
            *("-no-reboot", "-monitor", "none", "-machine", "q35,memory-backend=memory"),
            *("-object", f"memory-backend-memfd,id=memory,size={self.memory}M,share=on"),
            *("-chardev", f"socket,id=fs,path={share}", "-device", "vhost-user-fs-pci,chardev=fs,tag=host"),
            *("-serial", f"file:{self.log_file}", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=agent,path={port}", "-device", "virtserialport,chardev=agent,name=agent"),
            *("-kernel", str(self.kernel.vmlinuz), "-append", append),
        ]

    def _receive(self, deadline: float) -> None:
        """Adds what has come from the guest to the buffer. Raises GuestError."""
        assert self._port is not None
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._error("the guest does not answer any more")
        self._port.settimeout(left)
        try:
            data = self._port.recv(1 << 16)
        except TimeoutError:
            raise self._error("the guest does not answer any more") from None
        if not data:
            raise self._error("the guest died")
        self._buffer += data

    def _line(self, deadline: float) -> str:
        while b"\n" not in self._buffer:
            self._receive(deadline)
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def _bytes(self, count: int, deadline: float) -> str:
        while len(self._buffer) < count:
            self._receive(deadline)
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data.decode(errors="replace")

    def _send(self, script: str, timeout: int) -> int:
        assert self._port is not None
        number = next(self._ids)
        text = base64.b64encode(script.encode()).decode()
        self._port.settimeout(BUSY_SECONDS)
        try:
            self._port.sendall(f"{number} {timeout} {text}\n".encode())
        except OSError:
            raise self._error("the guest died") from None
        return number

    def run(self, script: str, *, timeout: int = 600, status: int | None = 0) -> Result:
        """Runs a bash script as root in the guest.

        ``timeout`` in seconds; ``status`` is what the script must end with (None: any). Raises ScriptError with the
        output when it ends with another, GuestError when the guest dies or hangs.
        """
        __tracebackhide__ = True
        number = self._send(script, timeout)
        deadline = time.monotonic() + timeout + BUSY_SECONDS
        words = self._line(deadline).split()
        if len(words) != 6 or words[0] != "done" or words[1] != str(number):
            raise GuestError(f"unexpected answer {words}")
        self.taint = int(words[3])
        result = Result(int(words[2]), self._bytes(int(words[4]), deadline), self._bytes(int(words[5]), deadline))
        if status is not None and result.status != status:
            why = f" (its time limit of {timeout} s)" if result.status == 124 else ""
            said = f"--- output\n{result.out[-4000:]}\n--- errors\n{result.err[-4000:]}"
            raise ScriptError(f"status {result.status}{why}, expected {status}\n--- script\n{script}\n{said}")
        return result

    def log_size(self) -> int:
        """Bytes of kernel log so far: a mark for ``log``."""
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def log(self, mark: int = 0) -> str:
        """Kernel log from ``mark`` on."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_bytes()[mark:].decode(errors="replace").replace("\r", "")

    def log_tail(self) -> str:
        """Last lines of the kernel log, for messages."""
        return "--- kernel log\n" + "\n".join(self.log().splitlines()[-25:])

    def _error(self, what: str) -> GuestError:
        """What to raise when the guest has failed."""
        bug = has_kernel_bug(self.kernel) and DIED_OF_IT.search(self.log())
        return (KernelBug if bug else GuestError)(f"{what}\n{self.log_tail()}")

    def bad_log(self) -> list[str]:
        """Lines of the kernel log from ``self.mark`` on that no test may cause, and taint flags that say the same."""
        log, virtiofs = VIRTIOFS_WARNING.subn("", self.log(self.mark))
        self.virtiofs_warned |= virtiofs > 0
        lines = [line for line in log.splitlines() if BAD_LOG.search(line)]
        bad = [bit for bit in TAINT_BAD if self.taint >> bit & 1 and not (bit == WARNED and self.virtiofs_warned)]
        return lines + [f"tainted: {TAINT_BAD[bit]}" for bit in bad]

    def close(self) -> None:
        """Ends the guest in order. Raises GuestError if it won't."""
        try:
            assert self._port is not None
            self._port.sendall(b"off 0 -\n")
            self._processes[0].wait(BUSY_SECONDS)
        except (subprocess.TimeoutExpired, OSError):
            raise self._error(f"the guest did not power off within {BUSY_SECONDS:.0f} s") from None
        finally:
            self.kill()

    def end_by(self, script: str, *, timeout: int) -> None:
        """Runs a script that has the guest power itself off, and waits for it. Raises GuestError if it does not."""
        self._send(script, timeout)
        try:
            self._processes[0].wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._error(f"the guest did not power off within {timeout} s") from None
        finally:
            self.kill()
            self.spoilt = True
        if "reboot: Power down" not in self.log():
            raise self._error("the guest died")

    def kill(self) -> None:
        """Ends the guest at once."""
        if self._port is not None:
            self._port.close()
            self._port = None
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._processes.clear()
        if self._sockets.name:
            shutil.rmtree(self._sockets, ignore_errors=True)
