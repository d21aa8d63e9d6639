"""Looks at the machine: can a ublk device be made here, is it safe as swap, and what is in the way.

Every check is one line with a state and, unless it is "ok", a remedy: a command or a step that puts it right. Nothing
is changed: the kernel is asked (ublk's features, whether tmpfs knows ``noswap``) in ways that leave no trace. What a
test must be able to replace is in `Probes`; all else is read below `root`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from truezram._native import ffi, lib
from truezram.engine import paths
from truezram.engine.answers import Check as Check
from truezram.engine.errors import TruezramError
from truezram.engine.machine import mappings, modules, procfs, users
from truezram.engine.machine.procfs import ROOT
from truezram.engine.model import MachineSnapshot, SwapArea, no_recovery
from truezram.engine.units import format_percent, format_size

STATES = ("ok", "warn", "fail")
CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_PERFMON, CAP_BPF = 14, 21, 24, 38, 39
_CAPABILITIES = {CAP_SYS_ADMIN: "SYS_ADMIN", CAP_SYS_RESOURCE: "SYS_RESOURCE", CAP_IPC_LOCK: "IPC_LOCK"}
_RECOVERY = {1 << 3: "user recovery", 1 << 4: "re-issue"}
_FEATURES: dict[int, str] = {lib.UBLK_F_USER_COPY: "user copy", **_RECOVERY}
_MEMLOCK_LEAST = 64 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, in the order of reading."""

    checks: tuple[Check, ...]
    kernel: str
    no_recovery: str = ""
    """Why a device made here would not outlive its server; "" when it would."""

    @property
    def ublk(self) -> bool:
        """Whether a ublk device can be made here, now, by this user."""
        return all(check.state != "fail" for check in self.checks)


# ---- asking the kernel ----


def ublk_features() -> int:
    """The flags that the ublk driver offers, 0 when it is too old (before 6.5) to say. Raises OSError."""
    control, why = ffi.new("struct tz_ublk *"), ffi.new("char[512]")
    code = lib.tz_ublk_open(control, why, len(why))
    if code < 0:
        raise OSError(-code, ffi.string(why).decode(errors="replace"))
    features = int(control.features)
    lib.tz_ublk_close(control)
    return features


_SYS_FSOPEN, _SYS_FSCONFIG = 430, 431
_FSCONFIG_SET_FLAG = 0
_FSOPEN_CLOEXEC = 1


def tmpfs_noswap() -> bool:
    """Whether tmpfs takes the option ``noswap``: asks with a filesystem context that is never mounted. Raises
    OSError."""
    import ctypes  # slow, and `tune` does without

    libc = ctypes.CDLL(None, use_errno=True)
    context = libc.syscall(ctypes.c_long(_SYS_FSOPEN), b"tmpfs", ctypes.c_uint(_FSOPEN_CLOEXEC))
    if context < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        none = ctypes.c_void_p(None)
        set_flag = ctypes.c_uint(_FSCONFIG_SET_FLAG)
        done = libc.syscall(ctypes.c_long(_SYS_FSCONFIG), context, set_flag, b"noswap", none, ctypes.c_int(0))
        return bool(done == 0)
    finally:
        os.close(context)


def zstd_version() -> str:
    """The version of the system's libzstd. Raises OSError when it cannot be loaded."""
    import ctypes

    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_versionString.restype = ctypes.c_char_p
    version: bytes = library.ZSTD_versionString()
    return version.decode(errors="replace")


def memlock_limit() -> int | None:
    """Bytes that this user's processes may lock; None: any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def dmsetup() -> bool:
    """Whether it is installed."""
    return shutil.which("dmsetup", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin") is not None


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes that do not read files, replaceable in tests."""

    ublk_features: Callable[[], int] = ublk_features
    tmpfs_noswap: Callable[[], bool] = tmpfs_noswap
    zstd_version: Callable[[], str] = zstd_version
    memlock_limit: Callable[[], int | None] = memlock_limit
    server_path: Callable[[], Path] = paths.server_path
    dmsetup: Callable[[], bool] = dmsetup
    euid: int = field(default_factory=os.geteuid)
    machine: str = field(default_factory=platform.machine)


# ---- the checks ----


@dataclass(frozen=True, slots=True)
class _Doctor:
    """What all checks look at."""

    root: Path
    probes: Probes
    machine: MachineSnapshot

    @property
    def is_root(self) -> bool:
        return self.probes.euid == 0

    def capable(self, capability: int) -> bool:
        """Whether this process has it in force."""
        status = procfs.read_text(f"{self.root}/proc/self/status") or ""
        match = re.search(r"^CapEff:\s*([0-9a-fA-F]+)", status, re.MULTILINE)
        return bool(match and int(match[1], 16) >> capability & 1)

    def distribution(self) -> dict[str, str]:
        """os-release."""
        text = procfs.read_text(f"{self.root}/etc/os-release") or procfs.read_text(f"{self.root}/usr/lib/os-release")
        pairs = (line.partition("=") for line in (text or "").split("\n"))
        return {key: value.strip("\"'") for key, _, value in pairs}

    # -- what decides --

    def kernel(self) -> Check:
        release = self.machine.kernel
        if procfs.kernel_version(release) >= (6, 0):
            return Check(name="kernel", state="ok", detail=f"Linux {release} (ublk needs 6.0 or later)")
        return Check(
            name="kernel",
            state="fail",
            detail=f"Linux {release or 'of unknown version'}: ublk came with 6.0",
            remedy=self._new_kernel(),
        )

    def _new_kernel(self) -> str:
        system = self.distribution()
        name, version = system.get("ID", ""), system.get("VERSION_ID", "")
        arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(self.probes.machine, self.probes.machine)
        if name == "debian" and version == "12":
            suite = "bookworm-backports"
            return f"sudo apt install -t {suite} linux-image-{arch} (with {suite} in your apt sources); then restart"
        if name == "debian":
            return f"sudo apt install linux-image-{arch}; then restart"
        if name == "ubuntu":
            return f"sudo apt install linux-modules-extra-{self.machine.kernel}; sudo modprobe ublk_drv"
        return "Install a kernel 6.0 or later that has CONFIG_BLK_DEV_UBLK, then restart"

    def root_rights(self) -> Check:
        if not self.is_root:
            detail = "not root: only root may make ublk devices and use them as swap"
            return Check(name="root", state="fail", detail=detail, remedy="Run it with sudo: sudo truezram doctor")
        missing = [name for number, name in _CAPABILITIES.items() if not self.capable(number)]
        if not missing:
            return Check(
                name="root", state="ok", detail="root, with the capabilities " + ", ".join(_CAPABILITIES.values())
            )
        names = ", ".join(f"CAP_{name}" for name in missing)
        remedy = "Run it outside the container, or start the container with " + " ".join(
            f"--cap-add {name}" for name in missing
        )
        state = "fail" if "SYS_ADMIN" in missing else "warn"
        return Check(name="root", state=state, detail=f"root, but without {names}", remedy=remedy)

    def io_uring(self) -> Check:
        disabled = procfs.read_int(f"{self.root}/proc/sys/kernel/io_uring_disabled")
        remedy = "sudo sysctl -w kernel.io_uring_disabled=0"
        if disabled == 2:
            return Check(
                name="io_uring",
                state="fail",
                detail="kernel.io_uring_disabled is 2: io_uring is disabled for all users",
                remedy=remedy,
            )
        if disabled == 1 and not self.is_root:
            return Check(
                name="io_uring",
                state="warn",
                detail="kernel.io_uring_disabled is 1: only root may use io_uring",
                remedy=remedy,
            )
        return Check(name="io_uring", state="ok", detail="allowed")

    def _module(self, name: str = "ublk_drv") -> str:
        return modules.where(name, self.machine.kernel, Path(self.root))

    def ublk(self) -> Check:
        module = self._module()
        if not Path(f"{self.root}/dev/ublk-control").exists():
            if module == "file":
                state = "warn" if self.is_root else "fail"
                detail = "the driver ublk_drv is installed but not loaded" + (
                    " (create loads it)" if self.is_root else ""
                )
                return Check(name="ublk", state=state, detail=detail, remedy="sudo modprobe ublk_drv")
            if module:
                remedy = "Mount devtmpfs on /dev, or give the container the device: --device /dev/ublk-control"
                return Check(
                    name="ublk",
                    state="fail",
                    detail="the driver is loaded, but there is no /dev/ublk-control",
                    remedy=remedy,
                )
            return Check(
                name="ublk",
                state="fail",
                detail=f"kernel {self.machine.kernel} has no ublk_drv",
                remedy=self._new_kernel(),
            )
        if not self.is_root:
            return Check(
                name="ublk", state="ok", detail="/dev/ublk-control is there (only root can ask for its features)"
            )
        try:
            features = self.probes.ublk_features()
        except OSError as error:
            remedy = "See dmesg; in a container, give it CAP_SYS_ADMIN and io_uring (seccomp)"
            return Check(name="ublk", state="fail", detail=error.strerror or str(error), remedy=remedy)
        if not features:
            return Check(
                name="ublk",
                state="ok",
                detail="/dev/ublk-control answers (kernels before 6.5 do not report its features)",
            )
        names = [name for bit, name in _FEATURES.items() if features & bit]
        return Check(
            name="ublk", state="ok", detail=f"/dev/ublk-control answers: features {features:#x} ({', '.join(names)})"
        )

    def nbd(self) -> Check:
        """For those without ublk: never decisive, as it is no place for swap."""
        where = self._module("nbd")
        if not where:
            return Check(
                name="nbd", state="ok", detail=f"kernel {self.machine.kernel} has no nbd, which only disks need"
            )
        how = {"file": "installed, and loaded when it is needed"}.get(where, "there")
        detail = f"the driver nbd is {how}: disks can be made without ublk (create --transport nbd), swap cannot"
        return Check(name="nbd", state="ok", detail=detail)

    def server(self) -> Check:
        try:
            path = self.probes.server_path()
        except TruezramError as error:
            return Check(name="server", state="fail", detail=error.why or error.what, remedy=error.remedy)
        return Check(name="server", state="ok", detail=str(path))

    # -- what makes it better or safer --

    def _noswap(self) -> tuple[bool, str]:
        """Whether tmpfs can be kept out of swap, and how that is known."""
        how = "by the kernel's version"
        if self.is_root and self.capable(CAP_SYS_ADMIN):
            try:
                return self.probes.tmpfs_noswap(), "tried"
            except OSError:
                how = "by the kernel's version: it could not be tested"
        return procfs.kernel_version(self.machine.kernel) >= (6, 4), how

    def noswap(self) -> Check:
        remedy = "A kernel from 6.4 on; until then the memory is locked, and a device does not outlive its server"
        known, how = self._noswap()
        if known:
            return Check(name="noswap tmpfs", state="ok", detail=f"available ({how})")
        return Check(name="noswap tmpfs", state="warn", detail=f"tmpfs has no option noswap ({how})", remedy=remedy)

    def _handed_over(self) -> bool:
        """Whether ublk lets another server have the device of a dead one."""
        features = 0
        if self.is_root:
            with contextlib.suppress(OSError):
                features = self.probes.ublk_features()
        if not features:  # not to be asked, or before 6.5
            return procfs.kernel_version(self.machine.kernel) >= (6, 1)
        return all(features & bit for bit in _RECOVERY)

    def no_recovery(self) -> str:
        """See `Report.no_recovery`; in the words of `DeviceSnapshot.recovery`."""
        return no_recovery("ublk", self._noswap()[0], self._handed_over())

    @staticmethod
    def recovery(why: str) -> Check:
        if not why:
            return Check(name="recovery", state="ok", detail="a device outlives its server: another one takes over")
        detail = f"a device does not outlive its server: {why}"
        remedy = "A kernel from 6.4 on; until then what is on a device is lost when its server dies"
        return Check(name="recovery", state="warn", detail=detail, remedy=remedy)

    def memory(self) -> Check:
        total, available = self.machine.mem_total, self.machine.mem_available
        if not total:
            return Check(
                name="memory",
                state="warn",
                detail="/proc/meminfo cannot be read",
                remedy="sudo mount -t proc proc /proc",
            )
        detail = f"{format_size(available)} of {format_size(total)} available ({format_percent(available / total)})"
        if available < total / 10:
            return Check(
                name="memory",
                state="warn",
                detail=detail,
                remedy="Close programs first: what a device stores must fit into memory",
            )
        return Check(name="memory", state="ok", detail=detail)

    def memlock(self) -> Check:
        limit = self.probes.memlock_limit()
        if limit is None or self.capable(CAP_IPC_LOCK):
            return Check(name="memlock", state="ok", detail="any amount of memory may be locked")
        detail = f"only {format_size(limit)} may be locked: the memory of local devices can be swapped out"
        if limit >= _MEMLOCK_LEAST:
            return Check(name="memlock", state="ok", detail=f"up to {format_size(limit)} may be locked")
        remedy = "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/truezram.conf; then log in again"
        return Check(name="memlock", state="warn", detail=detail, remedy=remedy)

    def swap(self) -> Check:
        areas = self.machine.swaps
        if not areas:
            return Check(name="swap", state="ok", detail="no swap area in use (truezram setup makes one that fits)")
        used, size = sum(area.used for area in areas), sum(area.size for area in areas)
        detail = f"{format_size(used)} of {format_size(size)} used, on {_listed(areas)}"
        if lost := [area for area in users.Swaps(areas, self.root).lost if _is_gone(area)]:
            names = " and ".join(area.path for area in lost)
            why = f"without a device, what is in it cannot be read back: {names}; {detail}"
            return Check(
                name="swap",
                state="warn",
                detail=why,
                remedy="Save what is open, and restart: the kernel cannot switch it off",
            )
        compressed = [area for area in areas if is_compressed(area, self.root)]
        others = [area for area in areas if area not in compressed]
        first = max((area.priority for area in compressed), default=None)
        before = [area for area in others if first is not None and area.priority >= first]
        if not before:
            return Check(name="swap", state="ok", detail=detail)
        names = " and ".join(area.path for area in before)
        equal = all(area.priority == first for area in before)
        why = f"{names} is used {'in turn with' if equal else 'before'} compressed memory"
        path = max(compressed, key=lambda area: area.priority).path
        priority = min(32767, max(100, *(area.priority + 1 for area in before)))
        remedy = f"sudo swapoff {path} && sudo swapon --discard --priority {priority} {path}"
        return Check(name="swap", state="warn", detail=f"{why}: {detail}", remedy=remedy)

    def zswap(self) -> Check:
        if not self.machine.zswap.enabled:
            return Check(name="zswap", state="ok", detail="off")
        detail = f"on ({self.machine.zswap.compressor}): it compresses pages before any swap device sees them"
        remedy = "sudo truezram tune apply zswap=N (or keep zswap, and make no swap device: one cache is enough)"
        return Check(name="zswap", state="warn", detail=detail, remedy=remedy)

    def readahead(self) -> Check:
        """What the kernel reads besides the page that is wanted: neighbours in the program's memory, unless a swap
        area is on a disk that turns (mm/swap_state.c: swap_use_vma_readahead), or it is switched off."""
        name = "swap readahead"
        switch = "/sys/kernel/mm/swap/vma_ra_enabled"
        turning = [area.path for area in self.machine.swaps if users.is_rotating(area, self.root)]
        if not any(is_compressed(area, self.root) for area in self.machine.swaps):
            return Check(name=name, state="ok", detail="no compressed swap is in use")
        if (procfs.read_text(f"{self.root}{switch}") or "true").strip() == "false":
            why, remedy = f"{switch} is false", f"echo true | sudo tee {switch}"
        elif turning:
            why = f"the kernel takes the disk of {' and '.join(turning)} for one that turns"
            remedy = (
                f"sudo swapoff {turning[0]}. If it does not turn (an SSD, a virtual disk): echo 0 | sudo tee"
                " /sys/block/DISK/queue/rotational before swapon"
            )
        else:
            return Check(name=name, state="ok", detail="by the addresses that a program uses, as far as that helps")
        detail = f"{why}: on all swap, it reads what lies beside a page on the device, not in the program"
        return Check(name=name, state="warn", detail=detail, remedy=remedy)

    def slot_tracking(self) -> Check:
        """What the server needs to learn of freed swap slots; `stat` says of each device whether it does."""
        name, why, remedy = "slot tracking", "", ""
        allowed = self.capable(CAP_SYS_ADMIN) or (self.capable(CAP_BPF) and self.capable(CAP_PERFMON))
        if not Path(f"{self.root}/sys/bus/event_source/devices/kprobe/type").exists():
            why = "the kernel has no kprobes"
            remedy = "A kernel with CONFIG_KPROBE_EVENTS and CONFIG_BPF_EVENTS, as distributions have them"
        elif "[confidentiality]" in (procfs.read_text(f"{self.root}/sys/kernel/security/lockdown") or ""):
            why, remedy = "kernel lockdown forbids kprobes", "Boot with lockdown=integrity, or without lockdown"
        elif procfs.read_int(f"{self.root}/sys/kernel/debug/kprobes/enabled") == 0:
            why = "kprobes are switched off"
            remedy = "echo 1 | sudo tee /sys/kernel/debug/kprobes/enabled; then swapoff and swapon"
        elif self.is_root and not allowed:
            why = "neither CAP_SYS_ADMIN nor CAP_BPF and CAP_PERFMON"
            remedy = "Run it outside the container, or start the container with --cap-add BPF --cap-add PERFMON"
        if why:
            detail = f"{why}: what swap frees stays stored until 512 slots in a row are free"
            return Check(name=name, state="warn", detail=detail, remedy=remedy)
        detail = "kprobes are there (a swap device's slot_tracking says whether it works)"
        return Check(name=name, state="ok", detail=detail)

    def psi(self) -> Check:
        pressure = self.machine.pressure
        if pressure.memory_some is not None:
            return Check(name="PSI", state="ok", detail=f"memory pressure is {pressure.memory_some:.1f}% over 10 s")
        remedy = "Boot with psi=1: add it to GRUB_CMDLINE_LINUX in /etc/default/grub, sudo update-grub, restart"
        return Check(
            name="PSI",
            state="warn",
            detail="the kernel does not measure pressure: no warning before memory is short",
            remedy=remedy,
        )

    def libzstd(self) -> Check:
        try:
            return Check(name="libzstd", state="ok", detail=f"libzstd.so.1, version {self.probes.zstd_version()}")
        except (OSError, AttributeError):
            name, like = (self.distribution().get(key, "") for key in ("ID", "ID_LIKE"))
            family = {"debian": "sudo apt install libzstd1", "fedora": "sudo dnf install libzstd"}
            family |= {"arch": "sudo pacman -S zstd", "alpine": "sudo apk add zstd-libs"}
            remedy = next((family[word] for word in (name, *like.split()) if word in family), "Install libzstd 1.4+")
            return Check(
                name="libzstd",
                state="warn",
                detail="libzstd.so.1 cannot be loaded: zstd is not available",
                remedy=remedy,
            )

    def encryption(self) -> Check:
        """What encrypts backing files, and what dead creations left of it."""
        name = "encryption"
        if left := [item.label for item in mappings.mappings(root=self.root) if not self._is_known(item.device)]:
            why = f"mappings for backing files of devices that are gone: {', '.join(left)}"
            return Check(name=name, state="warn", detail=why, remedy=f"sudo dmsetup remove {' '.join(left)}")
        if not self.probes.dmsetup():
            detail, remedy = "dmsetup is not installed: backing files cannot be encrypted", "Install dmsetup"
            return Check(name=name, state="warn", detail=detail, remedy=f"{remedy} (Debian: apt install dmsetup)")
        if not self._module("dm_crypt"):
            detail = f"kernel {self.machine.kernel} has no dm-crypt: backing files cannot be encrypted"
            return Check(name=name, state="warn", detail=detail, remedy="A kernel with CONFIG_DM_CRYPT")
        return Check(name=name, state="ok", detail="dm-crypt and dmsetup are there, for backing files")

    @staticmethod
    def _is_known(device: str) -> bool:
        """Whether anything of a device is in a registry."""
        found = (part for folder in paths.run_dirs() for part in _parts(folder, device))
        return any(map(os.path.lexists, found))

    def hibernation(self) -> Check:
        states = (procfs.read_text(f"{self.root}/sys/power/state") or "").split()
        areas = self.machine.swaps
        if "disk" in states and areas and all(is_compressed(area, self.root) for area in areas):
            remedy = "Add a swap partition or file of the memory's size on a disk, with a lower priority, to hibernate"
            return Check(
                name="hibernation", state="warn", detail="cannot resume: all swap is compressed memory", remedy=remedy
            )
        return Check(name="hibernation", state="ok", detail="not concerned")

    def all(self, no_recovery: str) -> tuple[Check, ...]:
        decisive = (self.kernel(), self.root_rights(), self.io_uring(), self.ublk(), self.server())
        safety = (
            self.noswap(),
            self.recovery(no_recovery),
            self.memory(),
            self.memlock(),
            self.swap(),
            self.readahead(),
            self.slot_tracking(),
            self.zswap(),
            self.psi(),
        )
        return (*decisive, self.nbd(), *safety, self.libzstd(), self.encryption(), self.hibernation())


def _parts(folder: Path, device: str) -> list[Path]:
    files = (f"{device}.{part}" for part in ("stats", "stats.new", "sock", "lock"))
    return [folder / paths.ARENA / device, *(folder / file for file in files)]


def is_compressed(area: SwapArea, root: Path = ROOT) -> bool:
    """Whether a swap area is compressed memory: ours (any ublk device counts as such) or the kernel's zram."""
    number = users.number_of(f"{root}{area.path}")
    name = (users.name_of(number, root) if number else "") or area.path.removeprefix("/dev/")
    return bool(re.fullmatch(r"(?:ublkb|zram)\d+(?:p\d+)?", name))


def _is_gone(area: SwapArea) -> bool:
    """Whether the area's node was taken away by the kernel, as it does with that of a ublk device whose server died."""
    return re.fullmatch(r"/dev/ublkb\d+(?:p\d+)? \(deleted\)", area.path) is not None


def _listed(areas: Sequence[SwapArea]) -> str:
    """In the order in which the kernel fills them."""
    ordered = sorted(areas, key=lambda area: -area.priority)
    return ", ".join(f"{area.path} (priority {area.priority})" for area in ordered)


def examine(root: Path = ROOT, probes: Probes | None = None) -> Report:
    """Runs all checks; takes some milliseconds. `root` and `probes` are for tests."""
    machine = procfs.machine(root)
    doctor = _Doctor(root, probes or Probes(), machine)
    why = doctor.no_recovery()
    return Report(doctor.all(why), machine.kernel, why)
