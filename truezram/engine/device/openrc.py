"""The service ``truezram`` of OpenRC, which brings back everything that has a file in /etc/truezram: OpenRC has no
templates, so one script starts and stops all of them. It has what systemd.py has."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from truezram.engine.device.config import Config
from truezram.engine.device.swap import tool
from truezram.engine.device.systemd import command
from truezram.engine.errors import Failed
from truezram.engine.files import Changes

SCRIPT = Path("/etc/init.d/truezram")
RUNNING = Path("/run/openrc")
"""Exists when OpenRC starts this machine's services."""
RUNLEVELS = Path("/etc/runlevels")
NAME = "OpenRC"
_TIMEOUT = 1000

_TEXT = """\
#!/sbin/openrc-run
# What the files in /etc/truezram say, at every start of the machine. Made by: truezram enable

description="Compressed memory: devices and settings in /etc/truezram"

depend() {{
	need localmount
	after modules sysctl
	keyword -prefix -lxc -docker
}}

start() {{
	ebegin "Starting compressed memory"
	{command} boot start --all
	eend $?
}}

stop() {{
	ebegin "Stopping compressed memory"
	{command} boot stop --all
	eend $?
}}
"""


def script() -> str:
    """The text of the script."""
    return _TEXT.format(command=shlex.join(command()))


def unit(wanted: Config) -> str:
    """The name of the service: one for all."""
    return "truezram"


def install(wanted: Config, changes: Changes) -> None:
    """Writes the script; nothing is enabled yet."""
    changes.write(SCRIPT, script(), 0o755)


def uninstall(gone: Config, left: Sequence[Config], changes: Changes) -> None:
    """Removes it with the last."""
    if not left:
        changes.remove(SCRIPT)


def enable(wanted: Config) -> None:
    """It comes with the next start of the machine. Raises `Failed`."""
    if not _is_enabled():
        _run("rc-update", "add", "truezram", "boot")


def disable(gone: Config) -> None:
    """With the last file, the service does not come any more."""
    if _is_enabled() and not _others(gone):
        _run("rc-update", "del", "truezram", "boot")


def forget(gone: Config) -> None:
    """There is nothing that OpenRC remembers."""


def start(wanted: Config) -> None:
    """Starts the service. If it runs already, OpenRC does nothing, and nothing is to be done. Raises `Failed`."""
    _run("rc-service", "truezram", "start")


def stop(gone: Config) -> None:
    """Marks the service as stopped, with the last file."""
    if not _others(gone):
        _run("rc-service", "truezram", "zap", check=False)


def state(wanted: Config) -> tuple[str, str]:
    """("enabled", "active"), in systemd's words."""
    started = (RUNNING / "started/truezram").exists()
    return "enabled" if _is_enabled() else "disabled", "active" if started else "inactive"


def _is_enabled() -> bool:
    return os.path.lexists(RUNLEVELS / "boot/truezram")


def _others(gone: Config) -> bool:
    from truezram.engine.device.config import names

    return bool(set(names()) - {gone.name})


def _run(program: str, *words: str, check: bool = True) -> None:
    done = subprocess.run(
        [tool(program, "openrc", "see truezram boot"), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT,
        check=False,
    )
    if check and done.returncode:
        raise Failed(f"{program} {' '.join(words)} failed", done.stderr.strip() or f"exit code {done.returncode}")
