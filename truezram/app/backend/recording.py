"""Recordings: what the app saw, as JSON lines, to be played back in tests, screenshots, demos and bug reports.

The first line is a header, ``{"schema": "truezram.recording/2", "origin": ..., "note": ..., "started": ...}``; every
other line is either ``{"snapshot": {...}}`` or ``{"answer": {"call": NAME, "args": ..., "result": ...}}``, in the
order in which they happened. A name that ends in ``.gz`` or ``.zst`` is compressed. Fields that hold their default are
left out, and long tuples of mostly zeros (histograms) are written sparsely: a line costs about a kilobyte per device.

A recording that was cut short (full disk, kill) is good up to its last whole line.

A recording may come from anybody, with a bug report for example. Whatever is in it is a value of the right type or
`Failed`; what it unfolds to is counted before it is made, and is refused when it does not fit into memory.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import types
import typing
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from truezram.engine.errors import Failed
from truezram.engine.machine import procfs
from truezram.engine.model import Snapshot

SCHEMA = "truezram.recording/2"
WITH_CLASSES = "truezram.recording/1"
"""Its devices have the size classes of a store that kept objects in slabs."""
SLAB = 65536
CONVERTED = "made by an earlier version, size classes shown as objects and holes"
SPARSE_FROM = 16
"""Tuples of numbers at least this long are written as {"n": length, "v": {index: value}} when that is shorter."""
SPARSE_LIMIT = 4096
"""No tuple that is written so is longer."""
LINE_LIMIT = 4 << 20
"""Characters of the longest line: that of a snapshot has a thousand for each device."""
_COST = 12
"""Bytes of memory that a character comes to, at most about, sparse tuples aside."""
_POINTER = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording says about itself."""

    origin: str
    """"recorded" for what the engine really answered, "simulated" for invented figures."""
    note: str = ""
    started: float = 0.0
    """CLOCK_REALTIME of the first snapshot, seconds."""
    converted: str = ""
    """What is not as it was recorded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The engine's answer to one call: `call` is the method's name, `result` plain JSON (see `decode`)."""

    call: str
    args: Any
    result: Any


def encode(value: Any) -> Any:
    """A dataclass (of dataclasses, tuples, strings, numbers) as plain JSON values, defaults left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            default = f.default if f.default is not dataclasses.MISSING else None
            if f.default_factory is not dataclasses.MISSING:
                default = f.default_factory()
            elif f.default is dataclasses.MISSING:
                out[f.name] = encode(item)
                continue
            if item != default:
                out[f.name] = encode(item)
        return out
    if isinstance(value, tuple | list):
        if len(value) >= SPARSE_FROM and all(isinstance(item, int) for item in value):
            used = {str(i): item for i, item in enumerate(value) if item}
            if len(used) * 2 < len(value):
                return {"n": len(value), "v": used}
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def map_key(name: str, by: str) -> dict[str, str]:
    """The arguments under which a page map is kept."""
    return {"name": name} if by == "kind" else {"name": name, "by": by}


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


class Room:
    """The memory that a recording may still take."""

    def __init__(self) -> None:
        self._left = procfs.mem_available() * 3 // 4 or 1 << 30

    def take(self, size: int) -> None:
        """Counts that many bytes. Raises `Failed` when they are not there."""
        self._left -= size
        if self._left < 0:
            why = "it unfolds to more than the memory that is available"
            raise Failed("cannot read a recording", why, "Replay a shorter one, or close programs")


def decode(kind: type[T], data: Any, room: Room | None = None) -> T:
    """The value of type `kind` that `encode` wrote as `data`. Raises `Failed` when it is not one."""
    try:
        return typing.cast(T, _decode(kind, data, room or Room()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        name = getattr(kind, "__name__", str(kind))
        why = f"there is no {name} where one is expected ({str(error)[:200]})"
        raise Failed("cannot read a recording", why) from error


def _decode(kind: Any, data: Any, room: Room) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise TypeError(f"expected an object, found {type(data).__name__}")
        hints = _hints(typing.cast(type, kind))
        for name in sorted(data.keys() - hints.keys()):
            # Left out, it would be lost without a word: it may be a field that was renamed.
            why = f"{getattr(kind, '__name__', kind)} has no field {str(name)[:60]!r}"
            raise Failed("cannot read a recording", why, "Play it with the version of truezram that made it")
        return kind(**{name: _decode(hints[name], item, room) for name, item in data.items()})  # type: ignore[operator]
    if origin is tuple:
        args = typing.get_args(kind)
        if isinstance(data, dict) and args[1:] == (Ellipsis,):
            return _unfold(args[0], data, room)
        if not isinstance(data, list):
            raise TypeError(f"expected a list, found {type(data).__name__}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_decode(args[0], item, room) for item in data)
        return tuple(_decode(arg, item, room) for arg, item in zip(args, data, strict=True))
    if origin in (types.UnionType, typing.Union):
        if data is None:
            return None
        return _decode(next(arg for arg in typing.get_args(kind) if arg is not type(None)), data, room)
    if origin is dict:
        return {key: _decode(typing.get_args(kind)[1], item, room) for key, item in data.items()}
    if kind in _PLAIN:
        return _plain(kind, data)
    return data


_PLAIN = (int, float, str, bool)
_INT_LIMIT = 1 << 64
"""Counters have 64 bits."""


def _plain(kind: type, data: Any) -> Any:
    if type(data) is int and not -_INT_LIMIT < data < _INT_LIMIT:
        raise ValueError("a number of more than 64 bits")
    if kind is float and type(data) is int:
        data = float(data)
    if type(data) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(data).__name__}")
    value: Any = data
    if kind is float and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    if kind is str:
        value.encode()  # half a surrogate pair is not text
    return value


def _unfold(kind: Any, data: dict[str, Any], room: Room) -> tuple[Any, ...]:
    """A sparse tuple."""
    if kind not in (int, float):
        raise TypeError(f"a sparse list is of numbers, not of {getattr(kind, '__name__', kind)}")
    length, values = _plain(int, data["n"]), data["v"]
    if not 0 <= length <= SPARSE_LIMIT:
        raise ValueError(f"a list of {length} values")
    room.take(length * _POINTER)
    items = [0] * length
    for index, item in values.items():
        if not (index.isascii() and index.isdecimal() and len(index) < 8 and int(index) < length):
            raise ValueError(f"value {index[:20]!r} of a list of {length}")
        items[int(index)] = _decode(kind, item, room)
    return tuple(items)


COMPRESSED = (".gz", ".zst")


def _open(path: Path, mode: str) -> IO[str]:
    if path.suffix == ".gz":
        return cast("IO[str]", gzip.open(path, mode))
    if path.suffix == ".zst":
        import zstandard  # only who asks for it waits for it

        # From this level on its window holds more than a snapshot, of which the next one repeats most.
        return cast("IO[str]", zstandard.open(path, mode, cctx=zstandard.ZstdCompressor(level=10)))
    return path.open(mode)


class Recorder:
    """Appends to a recording. Every line is flushed, so that what was seen before a crash is there after it."""

    def __init__(self, path: Path, header: Header) -> None:
        try:
            self._file = _open(path, "wt")
        except OSError as error:
            raise Failed(f"cannot record to {path}", error.strerror or str(error), "Choose another file") from error
        self._path = path
        self._line({"schema": SCHEMA, **encode(header)})

    def snapshot(self, snapshot: Snapshot) -> None:
        """Adds a snapshot. Raises `Failed` when the file cannot be written."""
        self._line({"snapshot": encode(snapshot)})

    def answer(self, call: str, args: Any, result: Any) -> None:
        """Adds what the engine answered to a call."""
        self._line({"answer": {"call": call, "args": encode(args), "result": encode(result)}})

    def _line(self, value: Any) -> None:
        try:
            self._file.write(json.dumps(value, separators=(",", ":")) + "\n")
            if self._path.suffix not in COMPRESSED:  # which a flush after every line would undo
                self._file.flush()
        except OSError as error:
            raise Failed(f"cannot record to {self._path}", error.strerror or str(error), "Free some space") from error

    def close(self) -> None:
        """Ends the recording."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole recording in memory."""

    header: Header
    snapshots: tuple[Snapshot, ...]
    answers: tuple[Answer, ...]


def _lines(path: Path) -> Iterator[str]:
    damaged: tuple[type[Exception], ...] = (zlib.error,)
    if path.suffix == ".zst":
        import zstandard

        damaged = (zstandard.ZstdError,)
    with _open(path, "rt") as file:
        try:
            while line := file.readline(LINE_LIMIT + 1):
                if len(line) > LINE_LIMIT:
                    raise Failed(f"cannot replay {path}", f"a line of it has more than {LINE_LIMIT} characters")
                yield line
        except EOFError:
            return  # a compressed recording that was cut short: what came before is good
        except damaged as error:
            raise OSError(str(error)) from error


def _without_classes(data: Any) -> Any:
    """A snapshot of `WITH_CLASSES`: what slabs and objects took in all, instead of by class. A malformed one is left as
    it is: decoding it reports the error."""
    try:
        return {**data, "devices": [_summed(device) for device in data["devices"]]} if "devices" in data else data
    except (KeyError, TypeError, AttributeError):
        return data


def _summed(device: dict[str, Any]) -> dict[str, Any]:
    classes = device.get("classes", ())
    rest = {name: item for name, item in device.items() if name != "classes"}
    if classes:
        rest["segment_bytes"] = sum(item["slabs"] for item in classes) * SLAB
        rest["object_bytes"] = sum(item["objects"] * item["object_size"] for item in classes)
    return rest


def _header(data: Any, path: Path, room: Room) -> tuple[Header, bool]:
    """The header, and whether snapshots are to be converted."""
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema not in (SCHEMA, WITH_CLASSES):
        raise Failed(f"cannot replay {path}", f"it is not a recording ({SCHEMA})")
    header = decode(Header, {name: item for name, item in data.items() if name != "schema"}, room)
    old = schema == WITH_CLASSES
    return (dataclasses.replace(header, converted=CONVERTED) if old else header), old


def load(path: Path) -> Recording:
    """Reads a recording. Raises `Failed` when it is none, holds no snapshot or has a bad line before its last."""
    snapshots: list[Snapshot] = []
    answers: list[Answer] = []
    header: Header | None = None
    pending: Failed | None = None
    old = False
    room = Room()
    try:
        for number, line in enumerate(_lines(path), 1):
            if pending:
                raise pending
            room.take(len(line) * _COST)
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                # Only the last line may be broken: it was being written when the recording ended.
                pending = Failed(f"cannot replay {path}", f"line {number} is not JSON ({error})")
                continue
            if header is None:
                header, old = _header(data, path, room)
            elif not isinstance(data, dict):
                raise Failed(f"cannot replay {path}", f"line {number} is {type(data).__name__}, not an object")
            elif "snapshot" in data:
                taken = data["snapshot"]
                snapshots.append(decode(Snapshot, _without_classes(taken) if old else taken, room))
            elif "answer" in data:
                answers.append(decode(Answer, data["answer"], room))
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"cannot replay {path}", getattr(error, "strerror", None) or str(error)) from error
    if header is None or not snapshots:
        raise pending or Failed(f"cannot replay {path}", "it holds no snapshot")
    return Recording(header, tuple(snapshots), tuple(answers))
