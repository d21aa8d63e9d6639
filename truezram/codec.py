"""The page codecs as a library: `truezram.Compressor`.

A codec works on single pages of 4096 bytes, as a memory device must. Single pages are passed as `bytes`; many pages at
once as buffers (`bytearray`, `memoryview`, `mmap`, NumPy arrays ...), without copies and without the GIL, so that
threads with a compressor each run in parallel.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from truezram._native import ffi, lib

if TYPE_CHECKING:
    from typing_extensions import Buffer

PAGE_SIZE: int = lib.TZ_PAGE_SIZE
"""Bytes in a page."""


def _text(chars: Any) -> str:
    return str(ffi.string(chars).decode())


ISAS: tuple[str, ...] = tuple(_text(lib.tz_isa_name(isa)) for isa in sorted(ffi.typeof("enum tz_isa").elements))
"""Instruction sets, in the order of `enum tz_isa`."""

KINDS: tuple[str, ...] = tuple(_text(lib.tz_kind_name(kind)) for kind in range(lib.TZ_KINDS_STORED))
"""The name of each `enum tz_kind`; the three encodings of same-filled pages share one."""

DICTIONARY_SIZES = range(lib.TZ_DICTIONARY_MIN, lib.TZ_DICTIONARY_MAX + 1)
"""Allowed sizes of a dictionary in bytes."""


class AlgorithmError(ValueError):
    """An algorithm that does not exist, has no such level, or cannot run here; the message says which and what to
    do."""


class CorruptError(ValueError):
    """Bytes that were not made by this algorithm (with the same dictionary, if any). `index` is the object's number in
    a batch, otherwise 0."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm: its name, its levels (None if it has none) and the instruction set of the code that runs here."""

    name: str
    isa: str
    levels: range | None
    default_level: int | None
    summary: str = ""
    """What it is good for, in a few words."""


def algorithms() -> tuple[Algorithm, ...]:
    """All algorithms that are compiled in. One whose library is missing is listed too; `Compressor` raises an error for
    it."""
    found: list[Algorithm] = []
    table = lib.tz_codecs()
    while table[len(found)] != ffi.NULL:
        codec = table[len(found)]
        levels = range(codec.level_min, codec.level_max + 1) if codec.level_min or codec.level_max else None
        default = codec.level_default if levels is not None else None
        found.append(Algorithm(_text(codec.name), ISAS[codec.isa], levels, default, _text(codec.summary)))
    return tuple(found)


def default_algorithm() -> str:
    """The default algorithm: `fast` if this CPU has AVX-512 or AVX2, otherwise `lz4`."""
    fast = lib.tz_codec_by_name(b"fast")
    return "fast" if fast != ffi.NULL and ISAS[fast.isa] in ("avx512", "avx2") else "lz4"


@dataclass(frozen=True, slots=True)
class CompressedPages:
    """Objects of a batch, packed: object `i` is `data[offsets[i]:offsets[i + 1]]`, 4096 bytes when stored raw."""

    data: memoryview
    """The bytes of all objects; part of the caller's buffer if one was given."""
    offsets: memoryview
    """n + 1 unsigned 64-bit integers, from 0 to `len(data)`."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> memoryview:
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        return self.data[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[memoryview]:
        return (self[i] for i in range(len(self)))


class Compressor:
    """Compresses and decompresses pages with one algorithm.

    A page that does not shrink is stored raw: its object is the page, 4096 bytes long; all others are shorter. Objects
    of one instruction set can be decompressed with any other. An instance may be shared between threads, but calls on
    it are serialized: give each thread its own.
    """

    def __init__(
        self, algorithm: str | None = None, *, isa: str | None = None, dictionary: Buffer | None = None
    ) -> None:
        """`algorithm` is `NAME` or `NAME:LEVEL`; the default is `default_algorithm()`. `isa` (one of `ISAS`) selects an
        instruction set other than this CPU's best one, for comparisons. `dictionary` is for `zstd`: a trained zstd
        dictionary (`truezram train`, `zstd --train`) of `DICTIONARY_SIZES` bytes. Its objects can only be decompressed
        with the same dictionary, at any level.

        Raises AlgorithmError: unknown name, level out of range, library missing, instruction set not available, data
        that is not a dictionary, or an algorithm that takes none.
        """
        level, why = ffi.new("int *"), ffi.new("char[1024]")
        name = default_algorithm() if algorithm is None else algorithm
        codec = lib.tz_parse_algorithm(name.encode(), level, why, len(why))
        if codec == ffi.NULL:
            raise AlgorithmError(_text(why))
        self._codec = codec if isa is None else _variant(codec, isa)
        self._level: int = level[0]
        self._lock = threading.Lock()
        self._dst = ffi.new("uint8_t[]", lib.TZ_DST_SIZE)
        self._page = ffi.new("uint8_t[]", PAGE_SIZE)
        self._dictionary = 0
        if dictionary is None:
            self._memory, self._workspace = make_workspace(self._codec, self._level)
            return
        data = _dictionary_bytes(dictionary)
        self._dictionary = len(data)
        self._codec, self._memory, self._workspace = make_dictionary_workspace(self._codec, self._level, data)

    @property
    def name(self) -> str:
        """Name without level."""
        return _text(self._codec.name)

    @property
    def level(self) -> int | None:
        """The level in use, or None for an algorithm without levels."""
        return self._level if self._codec.level_min or self._codec.level_max else None

    @property
    def isa(self) -> str:
        """Instruction set of the code that runs, one of `ISAS`."""
        isa: str = ISAS[self._codec.isa]
        return isa

    def __repr__(self) -> str:
        level = "" if self.level is None else f":{self.level}"
        dictionary = f", dictionary=<{self._dictionary} bytes>" if self._dictionary else ""
        return f"Compressor({self.name + level!r}, isa={self.isa!r}{dictionary})"

    @property
    def _maker(self) -> str:
        """Describes the objects that this one can read, for messages."""
        return f"{self.name} object" + (" made with this dictionary" if self._dictionary else "")

    @property
    def _others(self) -> str:
        has_some = self._codec.kind in (lib.TZ_KIND_ZSTD, lib.TZ_KIND_ZSTD_DICT)
        return "algorithm or dictionary" if has_some else "algorithm"

    def compress(self, page: Buffer) -> bytes:
        """Returns the object of one page (exactly 4096 bytes, else ValueError): 1 to 4096 bytes."""
        with borrow(page, "page") as source:
            if len(source) != PAGE_SIZE:
                raise ValueError(f"page has {len(source)} bytes: a page is exactly {PAGE_SIZE}. Pad or split the data")
            with self._lock:
                length = self._codec.compress(self._workspace, source, self._dst)
                return bytes(ffi.buffer(self._dst, length) if length else ffi.buffer(source))

    def decompress(self, blob: Buffer) -> bytes:
        """Returns the page (4096 bytes) of an object made by `compress`. Raises CorruptError for other bytes."""
        with borrow(blob, "blob") as source:
            if len(source) == PAGE_SIZE:
                return bytes(ffi.buffer(source))
            with self._lock:
                if not self._codec.decompress(self._workspace, source, len(source), self._page):
                    return bytes(ffi.buffer(self._page))
            raise CorruptError(
                f"these {len(source)} bytes are not a valid {self._maker}: damaged, cut short, or made by"
                f" another {self._others}"
            )

    def compress_pages(self, pages: Buffer, out: Buffer | None = None) -> CompressedPages:
        """Compresses n pages that lie one after another.

        `pages` is a C-contiguous buffer of n * 4096 bytes, of any shape and element type. The objects are packed into
        `out` (writable, not overlapping `pages`) or a new buffer; n * 4096 bytes are always enough. Bytes of `out`
        after the last object may be overwritten.

        Raises ValueError: size not a multiple of 4096, or `out` too small.
        """
        with borrow(pages, "pages") as source:
            count, rest = divmod(len(source), PAGE_SIZE)
            if rest:
                raise ValueError(f"pages has {len(source)} bytes: not a multiple of {PAGE_SIZE}. Pad the last page")
            target = bytearray(len(source)) if out is None else out
            offsets = array("Q", bytes(8 * (count + 1)))
            with borrow(target, "out", writable=True) as sink, borrow(offsets, "offsets", writable=True) as table:
                room = len(sink)
                with self._lock:
                    done = lib.tz_compress_pages(
                        self._codec, self._workspace, source, count, sink, room, ffi.cast("uint64_t *", table)
                    )
        if done < count:
            raise ValueError(
                f"out has {room} bytes: the object of page {done} of {count} does not fit. Give it"
                f" {count * PAGE_SIZE} bytes, which are always enough"
            )
        return CompressedPages(_bytes_of(target, offsets[count]), memoryview(offsets))

    def decompress_pages(self, data: Buffer, offsets: Buffer, out: Buffer | None = None) -> memoryview:
        """Decompresses a batch: object i is `data[offsets[i]:offsets[i + 1]]`.

        `offsets` holds n + 1 64-bit integers. The pages go into `out` (writable, n * 4096 bytes or more) or a new
        buffer; returns a view of these n * 4096 bytes.

        Raises CorruptError, with `index`, for an invalid object or one outside `data`; the pages before it are then in
        `out`. Raises ValueError for offsets of the wrong type, or an `out` that is too small.
        """
        count = _count_objects(offsets)
        target = bytearray(count * PAGE_SIZE) if out is None else out
        with (
            borrow(data, "data") as source,
            borrow(offsets, "offsets") as table,
            borrow(target, "out", writable=True) as sink,
        ):
            if len(sink) < count * PAGE_SIZE:
                raise ValueError(f"out has {len(sink)} bytes: {count} pages need {count * PAGE_SIZE}")
            bounds = ffi.cast("uint64_t *", table)
            with self._lock:
                done = lib.tz_decompress_pages(self._codec, self._workspace, source, len(source), bounds, count, sink)
            if done < count:
                raise CorruptError(
                    f"object {done} of {count} (bytes {bounds[done]} to {bounds[done + 1]} of {len(source)}) is not a"
                    f" valid {self._maker}: damaged, outside the data, or made by another {self._others}",
                    done,
                )
        return _bytes_of(target, count * PAGE_SIZE)


def borrow(obj: Buffer, what: str, writable: bool = False) -> Any:
    """The buffer's bytes as a C array of its length, not copied. `what` names the argument for messages.

    Use it in a `with` statement: the buffer is released at once even if an exception keeps the frame alive, so that its
    owner can resize or close it (and because collecting such a frame crashes CPython before 3.11.9, gh-77894).
    """
    try:
        return ffi.from_buffer("uint8_t[]", obj, require_writable=writable)
    except (TypeError, ValueError, BufferError) as error:
        kind = "a writable, C-contiguous buffer" if writable else "a C-contiguous buffer"
        raise TypeError(f"{what} must be {kind} of bytes, not this {type(obj).__name__}: {error}") from error


def _count_objects(offsets: Buffer) -> int:
    with memoryview(offsets) as table:
        if table.ndim != 1 or table.itemsize != 8 or table.format not in ("Q", "q", "L", "l") or not len(table):
            raise ValueError(
                "offsets must be a one-dimensional buffer of one or more 64-bit integers, not one of shape"
                f" {table.shape} and format {table.format!r}"
            )
        return len(table) - 1


def _bytes_of(obj: Buffer, size: int) -> memoryview:
    """The first bytes of a buffer of any shape. (A buffer with a zero in its shape cannot be cast.)"""
    return memoryview(obj).cast("B")[:size] if size else memoryview(b"")


def _variant(codec: Any, isa: str) -> Any:
    name = _text(codec.name)
    if isa not in ISAS:
        raise AlgorithmError(f"unknown instruction set {isa!r}. Use one of: {', '.join(ISAS)}")
    variant = lib.tz_codec_variant(codec.name, ISAS.index(isa))
    if variant == ffi.NULL:
        raise AlgorithmError(
            f"algorithm {name!r} has no {isa} code that this CPU can run (or TRUEZRAM_DISABLE_CPU"
            f" forbids it). Leave isa out to get the best there is, {ISAS[codec.isa]}"
        )
    return variant


def make_workspace(codec: Any, level: int) -> tuple[Any, Any]:
    """Memory and, in it, the 64-byte-aligned workspace of a codec (cffi's `struct tz_codec *`). Raises
    AlgorithmError."""
    why = ffi.new("const char **")
    size = codec.workspace_size(level, why)
    memory, workspace = _aligned(size)
    if not size or codec.workspace_init(workspace, size, level, why):
        raise AlgorithmError(_text(why[0]))
    return memory, workspace


def dictionary_fault(data: bytes) -> str:
    """Why these bytes are not a dictionary (a quick check, without libzstd); empty if they may be one."""
    why = lib.tz_dictionary_fault(data, len(data))
    return "" if why == ffi.NULL else _text(why)


def _dictionary_bytes(dictionary: Buffer) -> bytes:
    with borrow(dictionary, "dictionary") as source:
        return bytes(ffi.buffer(source))


def _aligned(size: int) -> tuple[Any, Any]:
    """Memory, and in it `size` bytes that begin at a multiple of 64."""
    memory = ffi.new("uint8_t[]", size + 64)
    return memory, memory + (-int(ffi.cast("uintptr_t", memory)) % 64)


def make_dictionary_workspace(codec: Any, level: int, data: bytes) -> tuple[Any, Any, Any]:
    """The variant of `codec` with the dictionary `data`, memory to keep, and the workspace in it. Raises
    AlgorithmError."""
    if codec.kind != lib.TZ_KIND_ZSTD:
        raise AlgorithmError(f"algorithm {_text(codec.name)!r} takes no dictionary. Use zstd, or leave it out")
    why = ffi.new("const char **")
    bad = f"cannot use this dictionary of {len(data)} bytes"
    if fault := dictionary_fault(data):
        raise AlgorithmError(f"{bad}: {fault}. Train one: truezram train")
    size = lib.tz_dictionary_size(len(data), level, why)
    kept, place = _aligned(size)
    made = lib.tz_dictionary_init(place, size, data, len(data), level, why) if size else ffi.NULL
    if made == ffi.NULL:
        raise AlgorithmError(f"{bad}: {_text(why[0])}. Train one: truezram train")
    size = lib.tz_dictionary_workspace_size(made, why)
    memory, workspace = _aligned(size)
    if not size or lib.tz_dictionary_workspace_init(made, workspace, size, why):
        raise AlgorithmError(_text(why[0]))
    return lib.tz_codec_by_kind(lib.TZ_KIND_ZSTD_DICT), (kept, memory), workspace
