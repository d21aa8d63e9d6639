"""Devices that are made at every start of the machine: one systemd unit each, ``truezram-ID.service``.

A unit runs ``truezram create`` before swap.target and ``truezram remove`` when it is stopped. Notes:

- It cannot wait for local-fs.target, as ordinary services do: /tmp on tmpfs is ordered after swap.target, and that
  would be a cycle. It asks for the file systems that Python and the package are on, and for no others.
- systemd makes a swap unit of its own for every swap device it sees. Ours is ordered before that one, so that at
  shutdown swap is switched off first, while the server still serves.
- systemd orders every tmpfs after swap.target, the one that holds the devices' memory too. At shutdown it therefore
  tries to unmount that first and fails, as it is in use: one line in the log, no harm. Ordering against it is a cycle.
- A dictionary is copied (dictionary.py), and the copy is kept until no unit names it any more. If it is gone or has
  changed when the machine starts, that is an error: no device is made, rather than one without a dictionary.
- The unit is sandboxed as far as it can be without a mount namespace (`_SANDBOX`).
- The server lives in the service's control group, but ``KillMode=process`` leaves it alone: a device that could not be
  removed (its pages fit nowhere) keeps serving. Killing it would kill every program that has a page on it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import truezram
from truezram.engine import paths
from truezram.engine.device import dictionary
from truezram.engine.device.client import Client
from truezram.engine.device.create import check_options
from truezram.engine.device.options import CreateOptions
from truezram.engine.device.removal import remove_entry
from truezram.engine.device.swap import tool
from truezram.engine.errors import Busy, Failed, NotFound, PermissionDenied, TruezramError, Unsupported, UsageError

UNIT_DIR = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")
"""Exists when systemd is the init of this machine."""
_NAME = re.compile(r"truezram-(\d{1,7})\.service", re.ASCII)
_COMMAND = "# Made by: "
_TIMEOUT = 120

_SANDBOX = (
    "NoNewPrivileges=yes",
    # Names that every systemd since 240 knows; mkfs and mount may need others.
    "CapabilityBoundingSet=~CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SYS_TIME CAP_SYS_BOOT CAP_SYS_PACCT"
    " CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_LEASE",
    "RestrictAddressFamilies=AF_UNIX AF_NETLINK",  # netlink: udev, for mkfs and mount
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=~@clock @cpu-emulation @obsolete @raw-io @reboot",
    "SystemCallErrorNumber=EPERM",
)
"""What the unit's processes do without, the server included (which gives up more by itself: docs/security.md). Nothing
that gives the unit a mount namespace (ProtectSystem, ProtectHome, PrivateTmp, PrivateDevices, ProtectProc,
ProtectKernelTunables, ProtectControlGroups and others): a filesystem that `create` mounts would be seen by nobody else,
nor would the arenas' tmpfs. RestrictRealtime would take the reserve's thread its priority. MemoryDenyWriteExecute is
left out because Python's ctypes may need such memory."""

_UNIT = """\
# A compressed RAM device that is made at every start of the machine.
{comment}{command}
# Remove it with: truezram persist remove {id}

[Unit]
Description=Compressed RAM device /dev/ublkb{id}
DefaultDependencies=no
RequiresMountsFor={mounts}
{needs}After={after}
Before={before}
Conflicts=umount.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={start}
ExecStop={stop}
KillMode=process
LimitMEMLOCK=infinity
{sandbox}
TimeoutStartSec=90
TimeoutStopSec=900

[Install]
WantedBy={wanted}
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """A persistent device. `enabled` and `active` are systemd's words ("enabled", "inactive"), empty without
    systemd."""

    id: int
    path: Path
    command: str
    """The ``truezram create`` that it runs."""
    enabled: str = ""
    active: str = ""

    @property
    def name(self) -> str:
        return f"truezram-{self.id}.service"


def _quote(words: Sequence[str], variables: bool = True) -> str:
    """As systemd wants words: quotes, and no specifiers. In a command's arguments `variables` are expanded, too, and a
    dollar is written twice; elsewhere it is an ordinary character."""
    quoted = []
    for word in words:
        if any(ord(char) < 32 for char in word):
            raise UsageError("cannot write a unit", f"{word!r} contains a control character")
        word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        word = word.replace("$", "$$") if variables else word
        quoted.append(f'"{word}"' if not re.fullmatch(r"[\w./:=+,@%$-]+", word, re.ASCII) else word)
    return " ".join(quoted)


def _python() -> list[str]:
    """The command that runs this truezram, whatever PATH is at boot."""
    return [sys.executable, "-P", "-m", "truezram"]


def unit_text(options: CreateOptions) -> str:
    """The unit file for a device; `options` has an id. Raises `UsageError`."""
    options = canonical(options)
    mounts = [str(Path(sys.executable).parent), str(Path(truezram.__file__).parent)]
    if options.mount is not None:
        mounts.append(str(Path(options.mount).parent))
    if options.dictionary is not None:
        mounts.append(str(Path(options.dictionary).parent))
    if options.backing is not None:
        mounts.append(str(Path(options.backing).parent))
    after, needs = ["systemd-modules-load.service"], ""
    if options.backing is not None:
        if options.backing.startswith("/dev/"):
            after.append(_device_unit(options.backing))
            needs = f"Requires={after[-1]}\n"
        else:
            after.append("systemd-remount-fs.service")  # it is written to
    create = shlex.split(options.command())[1:]
    wanted = "swap.target" if options.swap else "local-fs.target"
    before = ["umount.target", wanted, *([f"dev-ublkb{options.id}.swap"] if options.swap else [])]
    return _UNIT.format(
        comment=_COMMAND,
        command=options.command(),
        id=options.id,
        sandbox="\n".join(_SANDBOX),
        after=" ".join(after),
        needs=needs,
        mounts=_quote(list(dict.fromkeys(mounts)), variables=False),
        before=" ".join(before),
        start=_command(create),
        stop=_command(["remove", *(["--umount"] if options.mount is not None else []), f"ublkb{options.id}"]),
        wanted=wanted,
    )


def _device_unit(path: str) -> str:
    """systemd's unit for a node in /dev, by its rules (systemd.unit(5), "String escaping")."""
    name = "".join(
        char if re.fullmatch(r"[\w:.]", char, re.ASCII) else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in path.strip("/").replace("/", "\0")
    )
    return name.replace("\\x00", "-") + ".device"


def _command(words: Sequence[str]) -> str:
    """The command line of a truezram verb. (systemd takes the program's own path as it is, dollars included.)"""
    program, *rest = _python()
    return f"{_quote([program], variables=False)} {_quote([*rest, *words])}"


def code_writers() -> list[str]:
    """Who else than root can change the programs that a unit runs as root at every start, a clause each."""
    python = Path(sys.executable)
    found = [paths.foreign_writer(path) for path in (python, Path(truezram.__file__), paths.server_path())]
    return list(dict.fromkeys(filter(None, found)))


def canonical(options: CreateOptions) -> CreateOptions:
    """Checked, as `create.create` would, and independent of the user and the folder that they are used in: paths
    are absolute. What was left open stays open, so that the boot decides."""
    if options.force:
        why = "--force would overwrite what is on the backing file at every start"
        raise UsageError("cannot make it persistent", why, f"Once: wipefs --all {options.backing}; then without it")
    checked = check_options(replace(options, persist=False))
    options = replace(
        options,
        mount=checked.mount,
        backing=checked.backing,
        backing_plain=checked.backing_plain,
        dictionary=checked.dictionary,
        algorithm=checked.algorithm if options.algorithm is not None else None,
        policy=checked.policy if options.policy is not None else None,
        persist=False,
    )
    if options.transport != "ublk":
        raise UsageError("cannot make it persistent", "a local device exists only in a user's session", "Use ublk")
    if options.id is None:
        raise UsageError("cannot make it persistent", "it has no id", "Add --id N")
    return options


def _systemctl(*words: str, check: bool = True) -> str:
    """Runs systemctl; its stdout. Raises `Unsupported`, `Failed` with what it said."""
    try:
        done = subprocess.run(
            [tool("systemctl", "systemd", "see --print"), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=1000 if words[0] in ("start", "stop") else _TIMEOUT,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"systemctl {' '.join(words)} did not end in time") from None
    if check and done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise Failed(f"systemctl {' '.join(words)} failed", said, f"See: journalctl -b -u {words[-1]}")
    return done.stdout.strip()


def _need_systemd() -> None:
    if not RUNNING.is_dir():
        remedy = "Write the command of --print into your own init's scripts, before swap is needed"
        raise Unsupported("cannot make devices persistent", "this machine was not started by systemd", remedy)
    if os.geteuid() != 0:
        raise PermissionDenied(
            "cannot make devices persistent", "only root may write systemd's units", "Run it with sudo"
        )


def units(directory: Path | None = None) -> list[Unit]:
    """The persistent devices, by id."""
    found = []
    directory = directory or UNIT_DIR
    try:
        entries = list(directory.iterdir())
    except OSError:
        return []
    for path in entries:
        match = _NAME.fullmatch(path.name)
        if not match or path.is_symlink():
            continue
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        command = next((line.removeprefix(_COMMAND) for line in lines if line.startswith(_COMMAND)), "")
        found.append(Unit(int(match[1]), path, command))
    found.sort(key=lambda unit: unit.id)
    if RUNNING.is_dir():
        found = [
            replace(
                unit,
                enabled=_systemctl("is-enabled", unit.name, check=False),
                active=_systemctl("is-active", unit.name, check=False),
            )
            for unit in found
        ]
    return found


def free_id(directory: Path | None = None) -> int:
    """The lowest id that no persistent device has."""
    taken = {unit.id for unit in units(directory)}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def add(options: CreateOptions, start: bool = False) -> Unit:
    """Writes and enables the unit; with `start`, makes the device now as well. When anything fails, nothing is left
    behind.

    Raises `UsageError`, `Busy` (there is one of that id), `Unsupported` (no systemd), `PermissionDenied`, `Failed`.
    """
    options = canonical(options)  # what is wrong with it shows before a dictionary is kept
    _need_systemd()
    if options.dictionary is not None:
        options = replace(options, dictionary=str(dictionary.keep(dictionary.load(options.dictionary))))
    text = unit_text(options)
    assert options.id is not None
    unit = Unit(options.id, UNIT_DIR / f"truezram-{options.id}.service", options.command())
    try:
        with unit.path.open("x") as file:
            file.write(text)
    except FileExistsError:
        _forget_dictionary(unit)
        remedy = f"Choose another --id, or remove it first: truezram persist remove {options.id}"
        raise Busy(f"cannot make device {options.id} persistent", f"{unit.path} is there already", remedy) from None
    except OSError as error:
        _forget_dictionary(unit)
        raise Failed(f"cannot write {unit.path}", error.strerror or str(error)) from None
    try:
        _systemctl("daemon-reload")
        _systemctl("enable", unit.name)
        if start:
            _systemctl("start", unit.name)
    except TruezramError:
        _forget(unit)
        raise
    enabled, active = (_systemctl(word, unit.name, check=False) for word in ("is-enabled", "is-active"))
    return replace(unit, enabled=enabled, active=active)


def _forget(unit: Unit) -> None:
    _systemctl("disable", unit.name, check=False)
    unit.path.unlink(missing_ok=True)
    _systemctl("daemon-reload", check=False)
    _systemctl("reset-failed", unit.name, check=False)
    _forget_dictionary(unit)


def _dictionary_of(command: str) -> Path | None:
    """The file that a unit's command names; None for none, and for a command that was edited and cannot be parsed."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    return Path(words[words.index("--dictionary") + 1]) if "--dictionary" in words[:-1] else None


def _forget_dictionary(unit: Unit) -> None:
    """Removes the copy that `add` made for this unit, unless another unit names it too."""
    path = _dictionary_of(unit.command)
    if path is not None and path not in {_dictionary_of(other.command) for other in units()}:
        dictionary.forget(path)


def _remove_device(name: str, unmount: bool) -> None:
    """Removes the device if it is there. `unmount`: what its unit mounted is unmounted first."""
    with Client() as client:
        try:
            entry = client.resolve(name)
        except NotFound:
            return
    remove_entry(entry, unmount=unmount)


def remove(number: int, stop: bool = False) -> Unit:
    """The device of that id will not come back at the next start; with `stop`, it is removed now as well (swapoff
    first).

    A device that is running and is not stopped stays, as one made by hand. Raises `NotFound`, `Unsupported`,
    `PermissionDenied`, `Busy`, `Failed`; when the device cannot be removed, it stays persistent.
    """
    unit = next((unit for unit in units() if unit.id == number), None)
    if unit is None:
        raise NotFound(f"no persistent device {number}", "", "See `truezram persist list`")
    _need_systemd()
    if stop:
        # Not left to the unit: this reports what is in the way, and works when the unit has failed to stop before.
        _remove_device(f"ublkb{number}", "--mount" in shlex.split(unit.command))
        _systemctl("stop", unit.name, check=False)
    _forget(unit)
    return unit
