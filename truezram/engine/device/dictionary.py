"""zstd's dictionaries as files: read and checked, and kept for enabled devices.

A device copies its dictionary when it is created and does not need the file afterwards. An enabled device needs it
at every start of the machine, so `keep` puts a copy under ``/var/lib/truezram/dictionaries``: the user's own file may
then change. The copy's name contains a hash of its content, so that a changed copy is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from truezram._native import ffi, lib
from truezram.codec import DICTIONARY_SIZES, AlgorithmError, Compressor, dictionary_fault
from truezram.engine.errors import Failed, PermissionDenied, TruezramError, UsageError
from truezram.engine.machine.journal import state_dir

_SUFFIX = ".zdict"
_TRAIN = "Train one: truezram train FILE"


def id_of(data: bytes) -> int:
    """The number that training gave a dictionary."""
    return int.from_bytes(data[4:8], "little")


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A dictionary that was read from `path`, which is absolute."""

    path: Path
    data: bytes

    @property
    def id(self) -> int:
        return id_of(self.data)


def _cannot_read(path: Path, error: OSError) -> TruezramError:
    kind = PermissionDenied if isinstance(error, PermissionError) else Failed
    return kind(f"cannot read the dictionary {path}", error.strerror or str(error))


def _read(path: Path) -> bytes:
    """The file's bytes, at most one more than is allowed. Only of a regular file: others may never end."""
    what = f"cannot read the dictionary {path}"
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(what, "it is not a regular file", _TRAIN)
            return file.read(DICTIONARY_SIZES.stop)
    except FileNotFoundError:
        gone = f"It was kept for an enabled device: create that again. {_TRAIN}" if _is_kept(path) else _TRAIN
        raise UsageError(what, "there is no such file", gone) from None
    except OSError as error:
        raise _cannot_read(path, error) from None


def load(name: str | Path) -> Dictionary:
    """The dictionary in a file. Raises `UsageError` (no such file), `PermissionDenied`, `Failed` (not a dictionary, or
    one that was kept and has changed since)."""
    path = Path(name).absolute()
    data = _read(path)
    if fault := dictionary_fault(data):
        raise Failed(f"cannot use the dictionary {path}", fault, _TRAIN)
    if _is_kept(path) and path.name != _name(data):
        why = "its content has changed since it was kept for an enabled device"
        raise Failed(f"cannot use the dictionary {path}", why, "Enable the device again: truezram enable")
    return Dictionary(path, data)


def memory_of(dictionary_bytes: int, level: int) -> int:
    """What a device takes for a dictionary of that size with its tables; the level must be one of zstd's."""
    size: int = lib.tz_dictionary_size(dictionary_bytes, level, ffi.new("const char **"))
    return size


def takes_one(algorithm: str) -> bool:
    """Whether ``NAME[:LEVEL]`` takes a dictionary."""
    return algorithm.partition(":")[0] == "zstd"


def load_for(name: str | Path, algorithm: str) -> Dictionary:
    """The same, checked to work with ``zstd[:LEVEL]``. Raises `UsageError` for another algorithm."""
    if not takes_one(algorithm):
        remedy = "Add --algorithm zstd:3, or leave --dictionary out"
        raise UsageError("cannot use a dictionary", f"{algorithm} takes no dictionary, only zstd does", remedy)
    found = load(name)
    try:
        Compressor(algorithm, dictionary=found.data)
    except AlgorithmError as error:
        raise Failed(f"cannot use the dictionary {found.path}", str(error)) from None
    return found


# ---- kept for enabled devices ----


def kept_dir() -> Path:
    """The folder of the dictionaries of enabled devices."""
    return state_dir() / "dictionaries"


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16] + _SUFFIX


def _is_kept(path: Path) -> bool:
    return path.parent == kept_dir()


def keep(dictionary: Dictionary) -> Path:
    """Keeps a copy; its path. Raises `PermissionDenied`, `Failed`."""
    path = kept_dir() / _name(dictionary.data)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write(path, dictionary.data)
    except OSError as error:
        kind = PermissionDenied if isinstance(error, PermissionError) else Failed
        raise kind(f"cannot keep the dictionary as {path}", error.strerror or str(error)) from None
    return path


def forget(path: Path) -> None:
    """Removes a copy that `keep` made; other files are left alone."""
    if _is_kept(path):
        with contextlib.suppress(OSError):
            path.unlink()


def write(path: Path, data: bytes, replace: bool = True) -> None:
    """Writes a file atomically, readable by its owner only, because a dictionary is made of
    pieces of memory. Raises OSError, FileExistsError without `replace`."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(temporary).replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        Path(temporary).unlink(missing_ok=True)
