"""Files of the system that are written whole or not at all, and put back when what they belong to fails."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from truezram.engine.errors import Failed, PermissionDenied, TruezramError

_REMEDIES = {
    errno.EROFS: "Make it writable first (sudo mount -o remount,rw /)",
    errno.ENOSPC: "Free space on that disk first",
    errno.EDQUOT: "Free space on that disk first",
}


def error_of(what: str, error: OSError) -> TruezramError:
    """`what` failed with that error of the system's, and what to do about it."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(what, error.strerror or "", "Run it with sudo" if os.geteuid() else "")
    return Failed(what, error.strerror or str(error), _REMEDIES.get(error.errno or 0, ""))


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a file atomically and flushes it to disk; its folder is made when missing. Raises `PermissionDenied`,
    `Failed`, with nothing changed."""
    made: list[Path] = []
    temporary = ""
    try:
        for folder in reversed([folder for folder in path.parents if not folder.exists()]):
            folder.mkdir(mode=0o755)
            made.append(folder)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            if temporary:
                Path(temporary).unlink()
        remove_empty(reversed(made))
        if isinstance(error, OSError):
            raise error_of(f"cannot write {path}", error) from None
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are there and have nothing in them."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


class Changes:
    """Files that are written and removed as one: unless `keep` is called, all is as it was when the context is
    left, whatever ends it."""

    def __init__(self) -> None:
        self._before: list[tuple[Path, str | None, int]] = []
        self._kept = False

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._kept:
            return
        for path, text, mode in reversed(self._before):
            with contextlib.suppress(TruezramError, OSError):
                if text is None:
                    path.unlink(missing_ok=True)
                    remove_empty([path.parent])
                else:
                    write(path, text, mode)

    def keep(self) -> None:
        """The changes stay."""
        self._kept = True

    def write(self, path: Path, text: str, mode: int = 0o644) -> None:
        """As the function, if the file does not have that text already."""
        before = self._remember(path)
        if before != text:
            write(path, text, mode)

    def remove(self, path: Path) -> None:
        """Removes a file, and its folder if nothing else is in it. Raises `PermissionDenied`, `Failed`."""
        if self._remember(path) is not None:
            try:
                path.unlink()
            except OSError as error:
                raise error_of(f"cannot remove {path}", error) from None
            remove_empty([path.parent])

    def _remember(self, path: Path) -> str | None:
        try:
            text, mode = path.read_text(encoding="utf-8", errors="surrogateescape"), path.stat().st_mode & 0o7777
        except FileNotFoundError:
            self._before.append((path, None, 0))
            return None
        except OSError as error:
            raise error_of(f"cannot read {path}", error) from None
        self._before.append((path, text, mode))
        return text
