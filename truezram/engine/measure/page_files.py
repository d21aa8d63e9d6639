"""Files of memory pages, 4096 bytes each, optionally zstd-compressed: the input of benchmarks.

From a folder, `find` takes `NAME.pages` and `NAME.pages.zst`; a file given by itself may have any name.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from truezram.engine.errors import Failed, PermissionDenied, UsageError
from truezram.engine.machine import procfs
from truezram.engine.units import PAGE

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 20
_SUFFIXES = (".pages", ".pages.zst")


@dataclass(frozen=True, slots=True)
class PageFile:
    """The pages of one file."""

    name: str
    """The file's name without `.pages` and `.zst`."""
    data: memoryview
    """n * 4096 bytes, n > 0, in memory that begins at a multiple of 4096."""

    @property
    def pages(self) -> int:
        return len(self.data) // PAGE


def name_of(path: Path) -> str:
    """`csrc` of `corpus/csrc.pages.zst`."""
    name = path.name
    for suffix in (".zst", ".pages"):
        name = name.removesuffix(suffix)
    return name or path.name


def aligned(data: bytes | bytearray | memoryview) -> memoryview:
    """A copy that begins at a multiple of 4096, as pages do in memory; `data` is not empty."""
    view = memoryview(mmap.mmap(-1, len(data)))
    view[:] = data
    return view


def find(given: Iterable[str | Path]) -> list[Path]:
    """The files that `given` names; for a folder, the `*.pages` and `*.pages.zst` in it.

    Raises `UsageError` for a path that does not exist, a folder without such files, and two files of the same name
    (they would be indistinguishable in results).
    """
    found: list[Path] = []
    for item in given:
        path = Path(item)
        try:
            inside = (
                sorted(entry for entry in path.iterdir() if entry.name.endswith(_SUFFIXES)) if path.is_dir() else None
            )
            exists = path.exists()
        except OSError as error:
            raise _cannot_read(path, error) from error
        if not exists:
            raise UsageError(
                f"cannot read {path}", "there is no such file or folder", "Check the name given to --pages"
            )
        if inside == []:
            raise UsageError(
                f"cannot take pages from {path}", "it has no *.pages and no *.pages.zst in it", "Name a file instead"
            )
        found += [path] if inside is None else inside
    names: dict[str, Path] = {}
    for path in found:
        other = names.setdefault(name_of(path), path)
        if other is not path:
            why = f"{other} and {path} would both be called {name_of(path)!r}"
            raise UsageError("cannot take these pages", why, "Give one of them, or rename one")
        if name_of(path) == "total":
            raise UsageError(f"cannot take {path}", "results call the sum of all inputs 'total'", "Rename it")
    return found


def _cannot_read(path: Path, error: OSError) -> Failed | PermissionDenied:
    kind = PermissionDenied if isinstance(error, PermissionError) else Failed
    return kind(f"cannot read {path}", error.strerror or str(error))


class _Reader:
    """Reads one file; `room` is the number of bytes of pages still allowed."""

    def __init__(self, path: Path, room: int) -> None:
        self.path = path
        self.room = room
        self.data = bytearray()

    def bad(self, why: str, remedy: str = "") -> Failed:
        return Failed(f"cannot take pages from {self.path}", why, remedy)

    def add(self, part: bytes) -> None:
        self.data += part
        if len(self.data) > self.room:
            why = f"with it there would be more than {self.room >> 20} MiB of pages, half of the memory available"
            raise self.bad(why, "Give fewer or smaller files")

    def read(self) -> bytearray:
        try:
            with self.path.open("rb") as file:
                head = file.read(_CHUNK)
                chunks: Iterable[bytes] = iter(lambda: file.read(_CHUNK), b"")
                if self.path.name.endswith(".zst"):
                    if not head.startswith(_ZSTD_MAGIC[: len(head)]) or not head:
                        why = (
                            "its name ends in .zst, but it is empty"
                            if not head
                            else "it is named .zst, but is not zstd"
                        )
                        raise self.bad(why, "Rename it if it holds plain pages")
                    self._unpack(head, chunks)
                else:
                    self.add(head)
                    for chunk in chunks:
                        self.add(chunk)
        except OSError as error:
            raise _cannot_read(self.path, error) from error
        return self.data

    def _unpack(self, head: bytes, chunks: Iterable[bytes]) -> None:
        import zstandard

        frame = zstandard.ZstdDecompressor().decompressobj()
        chunk, more = head, iter(chunks)
        try:
            while chunk:
                self.add(frame.decompress(chunk))
                if frame.eof:
                    # One frame after another is one file, as for the zstd tool.
                    chunk = frame.unused_data or next(more, b"")
                    if not chunk:
                        return
                    frame = zstandard.ZstdDecompressor().decompressobj()
                else:
                    chunk = next(more, b"")
        except zstandard.ZstdError as error:
            text = str(error).removeprefix("zstd decompressor error: ").strip()
            raise self.bad(f"its zstd data is damaged ({text})", "Make the file again, or copy it again") from error
        raise self.bad("its zstd data ends too early: it was cut short", "Make the file again, or copy it again")

    def checked(self) -> PageFile:
        data = self.read()
        if not data:
            raise self.bad("it is empty", f"It must hold pages of {PAGE} bytes")
        if len(data) % PAGE:
            looks = data.startswith(_ZSTD_MAGIC) and not self.path.name.endswith(".zst")
            why = f"its {len(data)} bytes of pages are not a multiple of {PAGE}"
            raise self.bad(why, "It looks like zstd: name it .zst" if looks else "Cut or pad it to whole pages")
        return PageFile(name_of(self.path), aligned(data))


def read(paths: Sequence[Path]) -> list[PageFile]:
    """Reads all of them. Raises `Failed` with the file's name if it is unreadable, empty, not whole pages, has damaged
    or truncated zstd data, or would take more than half of the available memory."""
    room = max(procfs.mem_available() // 2, 256 << 20)
    found = []
    for path in paths:
        item = _Reader(path, room).checked()
        room -= len(item.data)
        found.append(item)
    return found
