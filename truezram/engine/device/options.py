"""What a device is asked to be, and what is to be done with its idle pages: one value for the command line, enabled
devices, and the app's forms."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from truezram._native import lib
from truezram.engine.device.settings import parse_policy
from truezram.engine.transports import TRANSPORTS as TRANSPORTS
from truezram.engine.units import format_exact

MAX_ID: int = lib.TZ_MAX_ID
MAX_QUEUE_DEPTH: dict[str, int] = {
    "ublk": lib.TZ_MAX_DEPTH,
    "nbd": lib.TZ_NBD_MAX_DEPTH,
    "local": lib.TZ_RING_MAX_DEPTH,
}


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """What `create` is asked for. Sizes in bytes; None leaves the choice to us or to the server."""

    size: int
    algorithm: str | None = None
    mem_limit: int = 0
    id: int | None = None
    queues: int | None = None
    queue_depth: int | None = None
    transport: str = "ublk"
    swap: bool = False
    priority: int | None = None
    fs: str | None = None
    """A filesystem to make on it: one of `filesystem.KINDS`."""
    mount: str | None = None
    """The folder to mount that on."""
    dictionary: str | None = None
    """A file with a dictionary for zstd."""
    dedup: bool = False
    """Identical pages share one object."""
    policy: str | None = None
    """What is done with idle pages: one of `settings.POLICIES`, or one's own."""
    mode: str | None = None
    """What its queues are to be good at: one of `settings.MODES`."""
    data_mode: str | None = None
    """How requests' data is moved: one of `settings.DATA_MODES`."""
    backing: str | None = None
    """A file or block device for pages that have been idle for long."""
    backing_limit: int = 0
    """Bytes of it that are used at most; 0: all, or of a new file the device's size."""
    backing_plain: bool = False
    """It is not encrypted."""
    force: bool = False
    """It is taken although there is something on it."""
    enable: bool = False
    """It comes back after every restart of the machine."""

    def words(self) -> list[str]:
        """The command line that does the same, without the program's name. Defaults are left out."""
        default = CreateOptions(0)
        words = ["create"]
        for option in OPTIONS:
            value = getattr(self, option.field)
            if value is True:
                words.append(option.name)
            elif value != getattr(default, option.field):
                words += _option(option.name, option.write(value))
        return words

    def server_words(self) -> list[str]:
        """The options as the server takes them: sizes in bytes; what is None is left to the server."""
        words = []
        for option in OPTIONS:
            value = getattr(self, option.field) if option.server else None
            if value is True:
                words.append(option.name)
            elif value is not None and value is not False:
                words += [option.name, option.serve(value)]
        return words

    def command(self) -> str:
        """The command line that does the same."""
        return shlex.join(["truezram", *self.words()])


@dataclass(frozen=True, slots=True)
class Option:
    """One option of `create` on a command line."""

    field: str
    """Of `CreateOptions`."""
    server: bool = False
    """Whether the server takes it too, under the same name."""
    write: Callable[[Any], str] = str
    """The value as a user writes it."""
    serve: Callable[[Any], str] = str
    """The value as the server takes it."""

    @property
    def name(self) -> str:
        return f"--{self.field.replace('_', '-')}"


OPTIONS = (
    Option("size", server=True, write=format_exact),
    Option("algorithm", server=True),
    Option("dictionary", server=True),
    Option("dedup", server=True),
    Option("policy", server=True, serve=parse_policy),
    Option("mode", server=True),
    Option("data_mode", server=True),
    Option("mem_limit", server=True, write=format_exact),
    Option("backing"),
    Option("backing_limit", write=format_exact),
    Option("backing_plain"),
    Option("force"),
    Option("id", server=True),
    Option("queues", server=True),
    Option("queue_depth", server=True),
    Option("transport", server=True),
    Option("swap"),
    Option("priority"),
    Option("fs"),
    Option("mount"),
    Option("enable"),
)
"""In the order of a command line."""


@dataclass(frozen=True, slots=True)
class WritebackOptions:
    """What `writeback` is asked for."""

    idle: str = "20h"
    """For how long pages have been idle at least, as a user writes it."""
    max_cpu: int = 10
    """Per cent of a core."""
    back: bool = False
    """The other way round: all pages come back to memory."""

    def words(self, name: str) -> list[str]:
        """The command line that does the same with a device, without the program's name. Defaults are left out."""
        return _words("writeback", name, self, WritebackOptions())


@dataclass(frozen=True, slots=True)
class RecompressOptions:
    """What `recompress` is asked for."""

    idle: str = "10m"
    """For how long pages have been idle at least, as a user writes it."""
    to: str = "dense"
    """``dense``, ``zstd[:LEVEL]`` or ``cold``."""
    max_cpu: int = 10
    """Per cent of a core."""

    def words(self, name: str) -> list[str]:
        """The command line that does the same with a device, without the program's name. Defaults are left out."""
        return _words("recompress", name, self, RecompressOptions())


def _words(verb: str, name: str, options: Any, default: Any) -> list[str]:
    """Of a verb with a device, and with the fields of `options` that are not as in `default` as its options."""
    words = [verb, name]
    for field in fields(options):
        value = getattr(options, field.name)
        option = f"--{field.name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value != getattr(default, field.name):
            words += _option(option, str(value))
    return words


def _option(name: str, value: str) -> list[str]:
    """An option as words of a command line; a value that looks like an option is written after a "="."""
    return [f"{name}={value}"] if value.startswith("-") else [name, value]
