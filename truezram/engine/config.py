"""Where things are: the server, the registry of running devices, the user's settings and saved results.

Environment: ``TRUEZRAM_SERVER`` names another server executable and ``TRUEZRAM_RUN_DIR`` another registry; both are for
tests and for running from a source tree.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import truezram
from truezram.engine.errors import Failed, PermissionDenied, Unsupported

SYSTEM_RUN_DIR = Path("/run/truezram")
"""The registry of root's devices, which everybody may read."""


def server_path() -> Path:
    """The server's executable. Raises `Unsupported` when it is not there or cannot be executed."""
    given = os.environ.get("TRUEZRAM_SERVER")
    path = Path(given) if given else Path(truezram.__file__).parent / "bin" / "truezramd"
    if not path.is_file():
        raise Unsupported(
            "cannot start the server",
            f"{path} is not there",
            "Correct TRUEZRAM_SERVER" if given else "Install the package again: pip install --force-reinstall truezram",
        )
    if not os.access(path, os.X_OK):
        raise Unsupported("cannot start the server", f"{path} is not executable", f"chmod +x {path}")
    return path


def own_run_dir() -> Path:
    """The registry that this user's devices are in (it may not exist yet): ``/run/truezram`` for root,
    ``$XDG_RUNTIME_DIR/truezram`` for others, ``/tmp/truezram-UID`` for those who have no runtime folder."""
    given = os.environ.get("TRUEZRAM_RUN_DIR")
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return SYSTEM_RUN_DIR
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_absolute() and Path(runtime).is_dir():
        return Path(runtime) / "truezram"
    return Path(f"/tmp/truezram-{os.geteuid()}")


def run_dirs() -> tuple[Path, ...]:
    """Every registry this user looks into, the own one first."""
    own = own_run_dir()
    if own == SYSTEM_RUN_DIR or "TRUEZRAM_RUN_DIR" in os.environ:
        return (own,)
    return (own, SYSTEM_RUN_DIR)


def is_private(path: Path) -> bool:
    """Whether `path` is a folder (no link) of this user into which nobody else can write."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def make_run_dir() -> Path:
    """The own registry, made when missing; it is this user's and nobody else can write to it, or an error is raised."""
    path = own_run_dir()
    mode = 0o755 if path == SYSTEM_RUN_DIR else 0o700
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        pass
    except PermissionError as error:
        raise PermissionDenied(
            f"cannot make {path}", error.strerror or "", "Set XDG_RUNTIME_DIR to a folder of yours"
        ) from None
    except OSError as error:
        raise Failed(
            f"cannot make {path}", error.strerror or "", f"See whether {path.parent} is there and has space"
        ) from None
    if not is_private(path):
        raise PermissionDenied(
            f"will not use {path} for the registry of devices",
            "it is not a folder of this user, or others can write to it",
            f"Remove it, or set XDG_RUNTIME_DIR to a folder of yours (mode 0{mode:o})",
        )
    return path


def config_dir() -> Path:
    """The user's settings: ``$XDG_CONFIG_HOME/truezram`` or ``~/.config/truezram``. Not made here."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def data_dir() -> Path:
    """Saved results: ``$XDG_DATA_HOME/truezram`` or ``~/.local/share/truezram``. Not made here."""
    return _xdg("XDG_DATA_HOME", ".local/share")


def _xdg(variable: str, default: str) -> Path:
    given = os.environ.get(variable)
    # The XDG specification: a relative path is to be ignored.
    base = Path(given) if given and Path(given).is_absolute() else Path.home() / default
    return base / "truezram"
