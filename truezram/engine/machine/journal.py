"""The journal of changes to the machine's settings: what was set, when, and what had been there before.

One JSON object a line in ``journal.jsonl``, only ever appended to and flushed to disk before the setting itself is
written, so that a change that was made is always on record. A line is a change, or says that an earlier one was
undone. Settings of the kernel are gone after a restart: a change is in force only in the boot (`boot_id`) that it was
made in.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from truezram.engine import paths
from truezram.engine.answers import Change as Change
from truezram.engine.errors import Failed, PermissionDenied, TruezramError
from truezram.engine.machine import procfs

SYSTEM_STATE_DIR = Path("/var/lib/truezram")
_FIELDS: dict[str, tuple[type, ...]] = {
    "id": (int,),
    "time": (int, float),
    "key": (str,),
    "before": (str,),
    "after": (str,),
    "boot": (str,),
}


def state_dir() -> Path:
    """``/var/lib/truezram``, or what TRUEZRAM_STATE_DIR says. Raises `PermissionDenied` for root if others than
    root can change that."""
    given = os.environ.get("TRUEZRAM_STATE_DIR")
    return paths.private("TRUEZRAM_STATE_DIR", Path(given).absolute()) if given else SYSTEM_STATE_DIR


def boot_id(root: Path = procfs.ROOT) -> str:
    """Which boot this is; empty when the kernel does not say."""
    return procfs.read_text(f"{root}/proc/sys/kernel/random/boot_id") or ""


class Journal:
    """The journal in a folder, which is made when first written to."""

    def __init__(self, directory: Path | None = None) -> None:
        self.path = (directory or state_dir()) / "journal.jsonl"

    def read(self) -> tuple[list[Change], list[int]]:
        """(all changes, oldest first; numbers of the lines that cannot be parsed and were left out).

        Raises `PermissionDenied`, `Failed`; a journal that is not there is empty.
        """
        try:
            text = self.path.read_text(errors="replace")
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise _error("read", self.path, error) from None
        changes: dict[int, Change] = {}
        damaged = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            entry = _parse(line)
            if isinstance(entry, Change):
                changes[entry.id] = entry
            elif entry in changes:
                changes[entry] = replace(changes[entry], undone=True)
            else:
                damaged.append(number)
        return list(changes.values()), damaged

    def add(self, key: str, before: str, after: str, boot: str) -> Change:
        """Records a change that is about to be made. Call it inside `locked`."""
        number = max((change.id for change in self.read()[0]), default=0) + 1
        change = Change(id=number, time=time.time(), key=key, before=before, after=after, boot=boot)
        fields = {name: getattr(change, name) for name in _FIELDS}
        self._append(fields)
        return change

    def mark_undone(self, change: Change) -> None:
        """Records that the change is no longer in force. Call it inside `locked`."""
        self._append({"undone": change.id, "time": time.time()})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others from changing settings meanwhile; waits for them. Raises `PermissionDenied`, `Failed`."""
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise _error("write", self.path, error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _append(self, fields: dict[str, object]) -> None:
        line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
        try:
            with self.path.open("r+b") as file:
                # A line that was cut short (by a power cut, say) must not swallow this one.
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.seek(0, os.SEEK_END)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _error("write", self.path, error) from None


def _parse(line: str) -> Change | int | None:
    """A change, the id of one that was undone, or None for anything else."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    undone = fields.get("undone")
    if isinstance(undone, int) and not isinstance(undone, bool):
        return undone
    if any(not isinstance(fields.get(name), kind) or isinstance(fields[name], bool) for name, kind in _FIELDS.items()):
        return None
    return Change(**{name: fields[name] for name in _FIELDS})


def _error(what: str, path: Path, error: OSError) -> TruezramError:
    if isinstance(error, PermissionError):
        return PermissionDenied(f"cannot {what} the journal {path}", error.strerror or "", "Run it with sudo")
    return Failed(f"cannot {what} the journal {path}", error.strerror or str(error))
