"""Units of systemd that bring back what has a file in /etc/truezram: an instance each of two templates.

``truezram@ublkb0.service`` runs ``truezram boot start ublkb0`` before swap.target and ``truezram boot stop ublkb0``
when it is stopped; so does ``truezram@machine.service`` with the machine's settings. A device that is not swap is an
instance of ``truezram-disk@.service``, before local-fs.target. Notes:

- They cannot wait for local-fs.target, as ordinary services do: /tmp on tmpfs is ordered after swap.target, and that
  would be a cycle. They ask for the file systems that Python, the package and /etc/truezram are on, and for no others;
  a drop-in of the instance asks for those of a mount point, of a dictionary and of a backing file.
- systemd makes a swap unit of its own for every swap device it sees. Ours is ordered before that one, so that at
  shutdown swap is switched off first, while the server still serves.
- systemd orders every tmpfs after swap.target, the one that holds the devices' memory too. At shutdown it therefore
  tries to unmount that first and fails, as it is in use: one line in the log, no harm. Ordering against it is a cycle.
- The units are sandboxed as far as they can be without a mount namespace (`_SANDBOX`).
- The server lives in the service's control group, but ``KillMode=process`` leaves it alone: a device that could not be
  removed (its pages fit nowhere) keeps serving. Killing it would kill every program that has a page on it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from truezram.engine import paths
from truezram.engine.device import config
from truezram.engine.device.backing import PLAIN
from truezram.engine.device.config import Config
from truezram.engine.device.swap import tool
from truezram.engine.errors import Failed, UsageError
from truezram.engine.files import Changes

UNIT_DIR = Path("/etc/systemd/system")
PACKAGE_UNIT_DIR = Path("/usr/lib/systemd/system")
"""A distribution's package may have brought the templates; one that is as ours would be is not written again, as it
would hide the one that comes with the next version."""
RUNNING = Path("/run/systemd/system")
"""Exists when systemd is the init of this machine."""
NAME = "systemd"
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
# What /etc/truezram/%i.toml says, at every start of the machine, after: truezram enable %i
# No more after: truezram disable %i

[Unit]
Description=Compressed memory: %i
DefaultDependencies=no
RequiresMountsFor={mounts}
After=systemd-modules-load.service systemd-sysctl.service
Before=umount.target {before}
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


def command() -> list[str]:
    """The command that runs this truezram, whatever PATH is at boot."""
    return [sys.executable, "-P", "-m", "truezram"]


def _command(words: Sequence[str]) -> str:
    """The command line of a truezram verb in a template. (systemd takes the program's own path as it is, dollars
    included.)"""
    program, *rest = command()
    return f"{_quote([program], variables=False)} {_quote([*rest, *words])} %i"


def template(swap: bool) -> str:
    """The text of a template: the one of swap devices and of the machine, or the one of disks."""
    mounts = [str(Path(sys.executable).parent), str(paths.PACKAGE), str(config.DIRECTORY)]
    return _UNIT.format(
        mounts=_quote(list(dict.fromkeys(mounts)), variables=False),
        before="swap.target dev-%i.swap" if swap else "local-fs.target",
        start=_command(["boot", "start"]),
        stop=_command(["boot", "stop"]),
        sandbox="\n".join(_SANDBOX),
        wanted="swap.target" if swap else "local-fs.target",
    )


def template_path(swap: bool) -> Path:
    """Where that is."""
    return UNIT_DIR / ("truezram@.service" if swap else "truezram-disk@.service")


def _is_packaged(swap: bool) -> bool:
    """Whether the package of this very truezram has brought that template."""
    try:
        return (PACKAGE_UNIT_DIR / template_path(swap).name).read_text() == template(swap)
    except OSError:
        return False


def unit(wanted: Config) -> str:
    """The name of its instance."""
    return f"truezram{'' if wanted.swap else '-disk'}@{wanted.name}.service"


def is_disk(name: str) -> bool:
    """Whether it is enabled as a disk, whatever its file says now."""
    return any(UNIT_DIR.glob(f"*.wants/truezram-disk@{name}.service"))


def _device_unit(path: str) -> str:
    """systemd's unit for a node in /dev, by its rules (systemd.unit(5), "String escaping")."""
    name = "".join(
        char if re.fullmatch(r"[\w:.]", char, re.ASCII) else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in path.strip("/").replace("/", "\0")
    )
    return name.replace("\\x00", "-") + ".device"


def _backing_needs(text: str) -> list[str]:
    """What has to be there before a backing file can be used."""
    path = text.removeprefix(PLAIN)
    if not path.startswith("/dev/"):
        return [
            f"RequiresMountsFor={_quote([str(Path(path).parent)], variables=False)}",
            "After=systemd-remount-fs.service",  # it is written to
        ]
    device = _device_unit(path)
    return [f"Requires={device}", f"After={device}"]


def _drop_in(wanted: Config) -> tuple[Path, str]:
    """What this instance needs more than others, and where that is written; "" for nothing."""
    options, mounts = wanted.options, []
    if options is not None and options.mount is not None:
        mounts.append(str(Path(options.mount).parent))
    if options is not None and options.dictionary is not None:
        mounts.append(str(Path(options.dictionary).parent))
    more = _backing_needs(options.backing) if options is not None and options.backing is not None else []
    if mounts:
        more.append(f"RequiresMountsFor={_quote(mounts, variables=False)}")
    text = "\n".join(["[Unit]", *more, ""]) if more else ""
    return UNIT_DIR / f"{unit(wanted)}.d" / "mounts.conf", text


def install(wanted: Config, changes: Changes) -> None:
    """Writes what the instance needs; nothing is enabled yet. Raises `PermissionDenied`, `Failed`."""
    if _is_packaged(wanted.swap):
        changes.remove(template_path(wanted.swap))  # of a truezram that was not packaged, or of another version
    else:
        changes.write(template_path(wanted.swap), template(wanted.swap))
    path, text = _drop_in(wanted)
    if text:
        changes.write(path, text)
    else:
        changes.remove(path)


def uninstall(gone: Config, left: Sequence[Config], changes: Changes) -> None:
    """Removes what only that instance needed."""
    changes.remove(_drop_in(gone)[0])
    if not any(other.swap == gone.swap for other in left):
        changes.remove(template_path(gone.swap))


def enable(wanted: Config) -> None:
    """It comes with the next start of the machine. Raises `Failed`, with nothing enabled."""
    _systemctl("daemon-reload")
    try:
        _systemctl("enable", unit(wanted))
    except BaseException:
        _systemctl("disable", unit(wanted), check=False)
        raise


def disable(gone: Config) -> None:
    """It does not come any more; what is there stays. (Before its files are removed.)"""
    _systemctl("disable", unit(gone))


def forget(gone: Config) -> None:
    """After its files were removed."""
    _systemctl("daemon-reload", check=False)
    _systemctl("reset-failed", unit(gone), check=False)


def start(wanted: Config) -> None:
    """Starts the unit, which takes over a device that is there already. Raises `Failed`."""
    _systemctl("reset-failed", unit(wanted), check=False)
    _systemctl("start", unit(wanted))


def stop(gone: Config) -> None:
    """Stops the unit, if it is active. What it made has been removed before."""
    _systemctl("stop", unit(gone), check=False)


def state(wanted: Config) -> tuple[str, str]:
    """systemd's words: ("enabled", "active")."""
    enabled, active = (_systemctl(word, unit(wanted), check=False) for word in ("is-enabled", "is-active"))
    return enabled, active


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
