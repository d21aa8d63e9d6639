"""Recordings: what the app saw, as JSON lines, to be played back in tests, screenshots, demos and bug reports.

The first line is a header, ``{"schema": "truezram.recording/1", "origin": ..., "note": ..., "started": ...}``; every
other line is either ``{"snapshot": {...}}`` or ``{"answer": {"call": NAME, "args": ..., "result": ...}}``, in the
order in which they happened. A name that ends in ``.gz`` or ``.zst`` is compressed. Fields that hold their default are
left out, and long tuples of mostly zeros (histograms) are written sparsely: a line costs about a kilobyte per device.

A recording that was cut short (full disk, kill) is good up to its last whole line.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import types
import typing
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from truezram.engine.errors import Failed
from truezram.engine.model import Snapshot

SCHEMA = "truezram.recording/1"
SPARSE_FROM = 16
"""Tuples of numbers at least this long are written as {"n": length, "v": {index: value}} when that is shorter."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording says about itself."""

    origin: str
    """"recorded" for what the engine really answered, "simulated" for invented figures."""
    note: str = ""
    started: float = 0.0
    """CLOCK_REALTIME of the first snapshot, seconds."""


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


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def decode(kind: type[T], data: Any) -> T:
    """The value of type `kind` that `encode` wrote as `data`. Raises `Failed` when it is not one."""
    try:
        return typing.cast(T, _decode(kind, data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failed("cannot read a recording", f"no {getattr(kind, '__name__', kind)} in it ({error})") from error


def _decode(kind: Any, data: Any) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise TypeError(f"expected an object, found {type(data).__name__}")
        hints = _hints(typing.cast(type, kind))
        return kind(**{name: _decode(hints[name], item) for name, item in data.items() if name in hints})  # type: ignore[operator]
    if origin is tuple:
        args = typing.get_args(kind)
        if isinstance(data, dict):
            items = [0] * int(data["n"])
            for index, item in data["v"].items():
                items[int(index)] = item
            return tuple(items)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_decode(args[0], item) for item in data)
        return tuple(_decode(arg, item) for arg, item in zip(args, data, strict=True))
    if origin in (types.UnionType, typing.Union):
        if data is None:
            return None
        return _decode(next(arg for arg in typing.get_args(kind) if arg is not type(None)), data)
    if origin is dict:
        return {key: _decode(typing.get_args(kind)[1], item) for key, item in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind in (int, float, str, bool) and (not isinstance(data, kind) or (kind is int and isinstance(data, bool))):
        raise TypeError(f"expected {kind.__name__}, found {data!r}")
    return data


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
            yield from file
        except EOFError:
            return  # a compressed recording that was cut short: what came before is good
        except damaged as error:
            raise OSError(str(error)) from error


def load(path: Path) -> Recording:
    """Reads a recording. Raises `Failed` when it is none, holds no snapshot or has a bad line before its last."""
    snapshots: list[Snapshot] = []
    answers: list[Answer] = []
    header: Header | None = None
    pending: Failed | None = None
    try:
        for number, line in enumerate(_lines(path), 1):
            if pending:
                raise pending
            try:
                data = json.loads(line)
            except ValueError as error:
                # Only the last line may be broken: it was being written when the recording ended.
                pending = Failed(f"cannot replay {path}", f"line {number} is not JSON ({error})")
                continue
            if header is None:
                if not isinstance(data, dict) or data.get("schema") != SCHEMA:
                    raise Failed(f"cannot replay {path}", f"it is not a recording ({SCHEMA})")
                header = decode(Header, data)
            elif "snapshot" in data:
                snapshots.append(decode(Snapshot, data["snapshot"]))
            elif "answer" in data:
                answers.append(decode(Answer, data["answer"]))
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"cannot replay {path}", getattr(error, "strerror", None) or str(error)) from error
    if header is None or not snapshots:
        raise pending or Failed(f"cannot replay {path}", "it holds no snapshot")
    return Recording(header, tuple(snapshots), tuple(answers))
