"""The baselines that our codecs are compared with: liblz4, libzstd and memcpy, called from C at addresses that are
found here, and kernel zram (zram_bench.py).

liblz4 comes from the `lz4` package (its extension exports it, or is linked with the system's), libzstd from the
`zstandard` package (its cffi module knows the addresses) or else from the system. libzstd gets the same parameters as
our own `zstd`: the best ones for single pages, without magic number, checksum and content size.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from truezram._native import ffi, lib
from truezram.engine.errors import Unsupported, UsageError

Find = Callable[[str], int]
"""The address of a function by its name. Raises `Unsupported`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that compresses and decompresses pages, ready to be timed (native/python/bench.h)."""

    algorithm: str
    """Its name in results: `fast`, `lz4:8`, `zstd:1`."""
    implementation: str
    """`truezram`, `liblz4`, `libzstd` or `libc`."""
    struct: Any
    """`struct tz_bench_subject *`."""
    isa: str | None = None
    """The instruction set of our code; None for other libraries, which do not report it."""
    version: str = ""
    """Version and origin of the library; of our codecs only zstd has one."""
    keep: tuple[Any, ...] = field(default=(), repr=False)
    """Memory that `struct` points to."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One name for `--against`."""

    implementation: str
    algorithm: str
    levels: range
    default: int


_KINDS = {
    "liblz4": _Kind("liblz4", "lz4", range(1, 65537), 1),
    "lz4hc": _Kind("liblz4", "lz4hc", range(1, 13), 9),
    "libzstd": _Kind("libzstd", "zstd", range(-131072, 23), 1),
    "memcpy": _Kind("libc", "memcpy", range(0), 0),
}
NAMES = tuple(_KINDS)
DEFAULT = ("liblz4", "libzstd:1", "memcpy")
KERNEL = "zram"
"""The baseline that is a kernel device (zram_bench.py): `zram[:COMPRESSOR]`."""
_KERNEL_DEFAULT = "lz4"


def _parse(text: str) -> tuple[str, int]:
    name, colon, level_text = text.strip().partition(":")
    kind = _KINDS.get(name)
    bad = f"invalid baseline {text[:40]!r}"
    if kind is None:
        why = f"there is no {name!r}" if name else "it has no name"
        raise UsageError(bad, why, f"Choose from {', '.join((*NAMES, KERNEL))}")
    if not colon:
        return name, kind.default
    if not kind.levels:
        raise UsageError(bad, f"{name} has no levels", f"Write {name} alone")
    bounds = f"Levels of {name} go from {kind.levels[0]} to {kind.levels[-1]}"
    digits = level_text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 8):
        raise UsageError(bad, f"{level_text[:20]!r} is not a whole number", bounds)
    if int(level_text) not in kind.levels:
        raise UsageError(bad, f"level {level_text} is out of range", bounds)
    return name, int(level_text)


def _parts(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]


def _is_kernel(part: str) -> bool:
    return part.partition(":")[0] == KERNEL


def parse(texts: Sequence[str]) -> list[tuple[str, int]]:
    """(name, level) of each library in comma-separated lists such as `liblz4:8,memcpy,zram`, without duplicates.

    Raises `UsageError`: unknown name, bad level, an empty list.
    """
    return list(dict.fromkeys(_parse(part) for part in _parts(texts) if not _is_kernel(part)))


def parse_kernel(texts: Sequence[str]) -> list[str]:
    """The compressors of kernel zram in such lists, without duplicates. Raises `UsageError` for an invalid name."""
    found = []
    for part in filter(_is_kernel, _parts(texts)):
        _, colon, name = part.partition(":")
        name = name if colon else _KERNEL_DEFAULT
        if not re.fullmatch(r"[a-z0-9_-]{1,32}", name):
            raise UsageError(
                f"invalid baseline {part[:40]!r}",
                f"{name[:20]!r} is not a compressor",
                "Write zram:lz4 or zram:zstd",
            )
        found.append(name)
    return list(dict.fromkeys(found))


def kernel_first(texts: Sequence[str]) -> bool:
    """Whether the first of them, which figures are compared with, is kernel zram."""
    return _is_kernel(_parts(texts)[0])


def open_baseline(name: str, level: int) -> Subject:
    """The baseline `name` (one of `NAMES`), ready for use. Raises `Unsupported` when its library is missing."""
    kind = _KINDS[name]
    struct = ffi.new("struct tz_bench_subject *")
    if kind.implementation == "libc":
        lib.tz_bench_use_memcpy(struct)
        return Subject("memcpy", "libc", struct)
    keep, version = (_lz4 if kind.implementation == "liblz4" else _zstd)(struct, name, level)
    plain = name == "liblz4" and level == 1
    algorithm = kind.algorithm if plain else f"{kind.algorithm}:{level}"
    return Subject(algorithm, kind.implementation, struct, version=version, keep=keep)


def _missing(name: str, why: str, remedy: str) -> Unsupported:
    return Unsupported(f"cannot measure against {name}", why, f"{remedy}, or leave {name} out of --against")


def _function(find: Find, signature: str, name: str) -> Any:
    return ffi.cast(signature, find(name))


def version_text(number: int) -> str:
    """`1.5.4` for 10504, as liblz4 and libzstd number themselves."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _exported(library: ctypes.CDLL, what: str, remedy: str) -> Find:
    def find(name: str) -> int:
        try:
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        except AttributeError:
            address = None
        if not address:
            raise _missing(what, f"its library does not export {name}", remedy)
        return address

    return find


def _lz4(struct: Any, name: str, level: int) -> tuple[tuple[Any, ...], str]:
    remedy = "Install the lz4 package (pip install lz4)"
    try:
        block = importlib.import_module("lz4.block._block")
        find = _exported(ctypes.CDLL(str(block.__file__)), name, remedy)
    except (ImportError, OSError) as error:
        raise _missing(name, f"the Python package lz4 cannot be used ({error})", remedy) from error
    is_hc = name == "lz4hc"
    size = _function(find, "int(*)(void)", "LZ4_sizeofStateHC" if is_hc else "LZ4_sizeofState")()
    context, state = ffi.new("struct tz_bench_lz4 *"), ffi.new("uint64_t[]", size // 8 + 1)
    context.state, context.level = state, level
    compress = "int(*)(void *, const char *, char *, int, int, int)"
    if is_hc:
        context.compress_hc = _function(find, compress, "LZ4_compress_HC_extStateHC")
    else:
        context.compress_fast = _function(find, compress, "LZ4_compress_fast_extState")
    context.decompress = _function(find, "int(*)(const char *, char *, int, int)", "LZ4_decompress_safe")
    lib.tz_bench_use_lz4(struct, context)
    version = version_text(_function(find, "int(*)(void)", "LZ4_versionNumber")())
    return (context, state), f"{version} (Python package lz4)"


def _find_zstd(name: str) -> tuple[Find, str]:
    try:
        module = importlib.import_module("zstandard._cffi")
    except ImportError:
        remedy = "Install the zstandard package (pip install zstandard) or libzstd"
        try:
            return _exported(ctypes.CDLL("libzstd.so.1"), name, remedy), "the system's"
        except OSError as error:
            raise _missing(
                name, "neither the package zstandard with its cffi module nor libzstd.so.1 is installed", remedy
            ) from error

    def find(symbol: str) -> int:
        return int(module.ffi.cast("uintptr_t", module.ffi.addressof(module.lib, symbol)))

    return find, "Python package zstandard"


# zstd.h: parameters and their values.
_LEVEL, _CONTENT_SIZE, _CHECKSUM, _DICT_ID, _C_FORMAT, _D_FORMAT, _MAGICLESS = 100, 200, 201, 202, 10, 1000, 1


def _zstd(struct: Any, name: str, level: int) -> tuple[tuple[Any, ...], str]:
    find, origin = _find_zstd(name)
    make, free, set_one = "void *(*)(void)", "size_t(*)(void *)", "size_t(*)(void *, int, int)"
    context = ffi.new("struct tz_bench_zstd *")
    cctx = ffi.gc(_function(find, make, "ZSTD_createCCtx")(), _function(find, free, "ZSTD_freeCCtx"))
    dctx = ffi.gc(_function(find, make, "ZSTD_createDCtx")(), _function(find, free, "ZSTD_freeDCtx"))
    if not cctx or not dctx:
        raise MemoryError("libzstd cannot allocate its contexts")
    is_error = _function(find, "unsigned(*)(size_t)", "ZSTD_isError")
    set_c = _function(find, set_one, "ZSTD_CCtx_setParameter")
    settings = ((_C_FORMAT, _MAGICLESS), (_CONTENT_SIZE, 0), (_CHECKSUM, 0), (_DICT_ID, 0), (_LEVEL, level))
    results = [set_c(cctx, parameter, value) for parameter, value in settings]
    results.append(_function(find, set_one, "ZSTD_DCtx_setParameter")(dctx, _D_FORMAT, _MAGICLESS))
    if any(map(is_error, results)):
        raise _missing(name, "it refuses a parameter", "Install a newer libzstd")
    io = "size_t(*)(void *, void *, size_t, const void *, size_t)"
    context.cctx, context.dctx = cctx, dctx
    context.compress2 = _function(find, io, "ZSTD_compress2")
    context.decompress = _function(find, io, "ZSTD_decompressDCtx")
    lib.tz_bench_use_zstd(struct, context)
    version = version_text(_function(find, "unsigned(*)(void)", "ZSTD_versionNumber")())
    return (context, cctx, dctx), f"{version} ({origin})"
