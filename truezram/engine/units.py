"""Sizes, times and rates as text, and sizes from text. All sizes are binary (1K = 1024 bytes), as the kernel's are."""

from __future__ import annotations

import re

from truezram._native import lib
from truezram.engine.errors import UsageError

PAGE: int = lib.TZ_PAGE_SIZE
MAX_SIZE: int = lib.TZ_MAX_SIZE
"""The largest size that is accepted anywhere: 4 PiB. Page numbers must fit a page-table entry."""

_UNITS = "KMGTP"
_SIZE = re.compile(r"([+-]?)(\d+)(?:\.(\d*))?\s*(?:([KMGTP])(?:I?B)?|(B))?", re.IGNORECASE | re.ASCII)
_EXAMPLES = "Give a size such as 512M, 8G or 1.5GiB"


def parse_size(text: str, what: str = "size") -> int:
    """Bytes from ``512M``, ``8G``, ``1.5GiB``, ``4096``: K, M, G, T, P (case does not matter, ``iB`` or ``B`` may
    follow), always powers of 1024.

    Raises `UsageError`, each with its own reason, for text that is not a size, zero, negative, more than `MAX_SIZE`, or
    not a whole number of bytes. `what` names the value in the message.
    """
    # Imported here: it takes 8 ms, and `truezram list` parses no size.
    from fractions import Fraction

    shown = text if len(text) <= 40 else text[:37] + "..."
    bad = f"invalid {what} {shown!r}"
    stripped = text.strip()
    if not stripped:
        raise UsageError(f"invalid {what}", "it is empty", _EXAMPLES)
    match = _SIZE.fullmatch(stripped)
    if not match:
        raise UsageError(bad, "it is not a number with an optional unit K, M, G, T or P", _EXAMPLES)
    sign, whole, fraction, unit, _ = match.groups()
    if len(whole) > 40 or len(fraction or "") > 40:
        raise UsageError(bad, "it has too many digits", f"The largest size is {format_size(MAX_SIZE)}")
    value = Fraction(int(whole)) + Fraction(int(fraction or 0), 10 ** len(fraction or ""))
    value *= 1024 ** (_UNITS.index(unit.upper()) + 1) if unit else 1
    if sign == "-":
        raise UsageError(bad, "it is negative", "Give a size greater than zero")
    if value == 0:
        raise UsageError(bad, "it is zero", "Give a size greater than zero")
    if value > MAX_SIZE:
        raise UsageError(bad, f"it is more than {format_size(MAX_SIZE)} (2^52 bytes)", "Give a smaller size")
    if value.denominator != 1:
        near = max(1, round(value / 1024))
        raise UsageError(bad, f"it is not a whole number of bytes ({float(value):.2f})", f"Write {near}K, for example")
    return int(value)


def parse_disksize(text: str, what: str = "size") -> int:
    """A device's size in bytes: `parse_size`, and a whole number of 4096-byte pages."""
    size = parse_size(text, what)
    if size % PAGE:
        near = min(-(-size // PAGE) * PAGE, MAX_SIZE)
        raise UsageError(f"invalid {what} {text!r}", f"it is not a multiple of the {PAGE}-byte page", f"Use {near}")
    return size


def format_size(size: float, digits: int = 1) -> str:
    """``4.0K``, ``1.5G``, ``0B``: binary units, `digits` decimals, as zramctl writes them.

    Exact multiples of the unit drop the decimals (``8G``); negative sizes keep their sign.
    """
    sign, size = ("-", -size) if size < 0 else ("", size)
    if size < 1024:
        return f"{sign}{int(size)}B"
    unit = ""
    for unit in _UNITS:  # noqa: B007 (the last unit tried is the one shown)
        size /= 1024
        # 1023.96K would be written 1024.0K: use the next unit instead.
        if round(size, digits) < 1024:
            break
    text = f"{size:.{digits}f}"
    if digits and float(size).is_integer():
        text = str(int(size))
    return f"{sign}{text}{unit}"


def format_exact(size: int) -> str:
    """The shortest text that `parse_size` turns back into exactly `size`: ``8G``, ``1536M``, ``4097``."""
    for power in range(len(_UNITS), 0, -1):
        unit = 1024**power
        if size and size % unit == 0:
            return f"{size // unit}{_UNITS[power - 1]}"
    return str(size)


def format_rate(bytes_per_second: float) -> str:
    """``1.2G/s``."""
    return format_size(bytes_per_second) + "/s"


def format_count(count: float) -> str:
    """``950``, ``12.3k``, ``4.5M``: decimal units, for requests and pages, which are not bytes."""
    for limit, divisor, suffix in ((1e4, 1, ""), (1e7, 1e3, "k"), (1e10, 1e6, "M"), (1e13, 1e9, "G")):
        if abs(count) < limit:
            return f"{count:.0f}" if not suffix else f"{count / divisor:.1f}{suffix}"
    return f"{count / 1e12:.1f}T"


def format_ns(ns: float | None) -> str:
    """``64ns``, ``1.2µs``, ``3.4ms``, ``1.50s``; ``-`` when there is no value."""
    if ns is None:
        return "-"
    if ns < 1e3:
        return f"{ns:.0f}ns"
    if ns < 1e6:
        return f"{ns / 1e3:.1f}µs"
    if ns < 1e9:
        return f"{ns / 1e6:.1f}ms"
    return f"{ns / 1e9:.2f}s"


def format_duration(seconds: float | None) -> str:
    """``42s``, ``3m 5s``, ``2h 14m``, ``5d``; ``-`` when there is no value."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for size, unit, subsize, subunit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // subsize
            return f"{whole // size}{unit} {rest}{subunit}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str, what: str) -> float:
    """Seconds from ``90``, ``90s``, ``10m``, ``2h``, ``1.5d``. Raises `UsageError`."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise UsageError(
            f"invalid {what} {text[:40]!r}", "it is not a number with an optional unit s, m, h or d", "Write 10m or 2h"
        )
    return float(match[1]) * _SECONDS[match[2]]


def format_ratio(ratio: float | None) -> str:
    """``3.21``; ``-`` while there is none."""
    return "-" if ratio is None else f"{ratio:.2f}"


def format_percent(fraction: float | None, digits: int = 0) -> str:
    """``42%`` of a fraction 0…1; ``-`` when there is no value."""
    return "-" if fraction is None else f"{fraction * 100:.{digits}f}%"
