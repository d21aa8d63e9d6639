"""Where things are: the server, and the registry of running devices.

Environment: ``TRUEZRAM_SERVER`` names another server executable and ``TRUEZRAM_RUN_DIR`` another registry; both are for
tests and for running from a source tree. As root they must name what only root can change: sudo may have let them
through, and a user who sets a variable must not be able to run programs as root with it.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from truezram.engine.errors import Failed, PermissionDenied, Unsupported

PACKAGE = Path(__file__).parents[1]
"""The folder of the installed package."""
SYSTEM_RUN_DIR = Path("/run/truezram")
"""The registry of root's devices, which everybody may read."""
ARENA = "arena"
"""The folder in it that the memory of devices is mounted on."""


def server_path() -> Path:
    """The server's executable. Raises `Unsupported` when it is not there or cannot be executed."""
    given = os.environ.get("TRUEZRAM_SERVER")
    path = Path(given) if given else PACKAGE / "bin" / "truezramd"
    if not path.is_file():
        raise Unsupported(
            "cannot start the server",
            f"{path} is not there",
            "Correct TRUEZRAM_SERVER" if given else "Install the package again: pip install --force-reinstall truezram",
        )
    if given:
        private("TRUEZRAM_SERVER", path)
    if not os.access(path, os.X_OK):
        raise Unsupported("cannot start the server", f"{path} is not executable", f"chmod +x {path}")
    return path


def state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this user's event log and benchmark results are kept; not made yet."""
    base = environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.local/state").expanduser()) / "truezram"


def own_run_dir() -> Path:
    """The registry that this user's devices are in (it may not exist yet): ``/run/truezram`` for root,
    ``$XDG_RUNTIME_DIR/truezram`` for others, ``/tmp/truezram-UID`` for users without a runtime folder."""
    given = os.environ.get("TRUEZRAM_RUN_DIR")
    if given:
        return private("TRUEZRAM_RUN_DIR", Path(given).absolute())
    if os.geteuid() == 0:
        return SYSTEM_RUN_DIR
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_absolute() and Path(runtime).is_dir():
        return Path(runtime) / "truezram"
    return Path(f"/tmp/truezram-{os.geteuid()}")


def run_dirs() -> tuple[Path, ...]:
    """Every registry visible to this user, their own first; they may not exist yet. What is in one decides which
    processes are asked and, by force, ended: one that others can write to raises `PermissionDenied`."""
    own = own_run_dir()
    found = (own,) if own == SYSTEM_RUN_DIR or "TRUEZRAM_RUN_DIR" in os.environ else (own, SYSTEM_RUN_DIR)
    for path in found:
        owners = {0} if path == SYSTEM_RUN_DIR else {0, os.geteuid()}
        for folder in (path, path / ARENA):
            if os.path.lexists(folder) and not is_private(folder, owners):
                raise _not_private(folder)
    return found


def is_private(path: Path, owners: Collection[int] | None = None) -> bool:
    """Whether `path` is a folder (no link) of one of these users (of this one, without `owners`) that no one else can
    write to."""
    try:
        found = path.lstat()
    except OSError:
        return False
    owners = (os.geteuid(),) if owners is None else owners
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners and not found.st_mode & 0o022


def _not_private(path: Path) -> PermissionDenied:
    return PermissionDenied(
        f"will not use {path} for the registry of devices",
        "it is not a folder of this user, or others can write to it",
        "Remove it, or set XDG_RUNTIME_DIR to a folder of yours (mode 0700)",
    )


def private(variable: str, path: Path) -> Path:
    """The folder or file that an environment variable names. Raises `PermissionDenied` for root where others than root
    could change what that is."""
    if os.geteuid() == 0 and (who := foreign_writer(path)):
        raise _not_as_root(variable, who)
    return path


def _not_as_root(variable: str, who: str) -> PermissionDenied:
    remedy = f"Unset {variable} (sudo does, unless configured otherwise), or give the path to root alone"
    return PermissionDenied(f"will not use {variable} as root", who, remedy)


def foreign_writer(path: Path) -> str:
    """Who but root can change what that path leads to, as a clause ("/home/joe belongs to joe"); empty when only root
    can. Every folder on the way counts, those behind links too; access control lists are not looked at."""
    waiting, seen = [path.absolute()], set()
    while waiting:
        now = waiting.pop()
        for step in (now, *now.parents):
            if step in seen:
                continue
            seen.add(step)
            try:
                found = step.lstat()
                if stat.S_ISLNK(found.st_mode):
                    waiting.append(Path(os.path.normpath(step.parent / step.readlink())))
            except OSError:
                continue  # not there: anyone who may write to its folder can make it
            if who := _writer(step, found):
                return who
    return ""


def _writer(path: Path, found: os.stat_result) -> str:
    if found.st_uid != 0:
        return f"{path} belongs to {_user(found.st_uid)}"
    if stat.S_ISLNK(found.st_mode) or (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
        return ""  # others cannot change what is root's in it
    if found.st_mode & 0o002:
        return f"everyone can write to {path}"
    if found.st_mode & 0o020 and (group := _others_in(found.st_gid)):
        return f"the group {group} can write to {path}"
    return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _others_in(gid: int) -> str:
    """The group's name when anybody but root is in it; a group that cannot be looked up counts as such."""
    import grp  # (`truezram list` does without)

    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return str(gid)
    members = {*group.gr_mem, *(user.pw_name for user in pwd.getpwall() if user.pw_gid == gid)}
    return group.gr_name if members - {"root"} else ""


def make_run_dir() -> Path:
    """The user's own registry, made when missing. Raises an error unless it is this user's and only they can write to
    it."""
    path = own_run_dir()
    mode = 0o755 if path == SYSTEM_RUN_DIR else 0o700
    try:
        path.mkdir(mode=mode)
        path.chmod(mode)  # whatever the umask is
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
    for folder in (path, path / ARENA):
        if (folder is path or os.path.lexists(folder)) and not is_private(folder):
            raise _not_private(folder)
    return path
