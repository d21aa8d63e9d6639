"""What a device is asked to be: one value for the command line, persistent devices, and the app's form."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from truezram.engine.device.stats_page import TRANSPORTS as TRANSPORTS
from truezram.engine.units import format_exact

MAX_ID = (1 << 20) - 1
"""Device numbers are minors, which have 20 bits."""
MAX_QUEUE_DEPTH = {"ublk": 4096, "local": 64}


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
    persist: bool = False
    """Made by a systemd unit, now and at every start of the machine; needs an id."""

    def words(self) -> list[str]:
        """The command line that does the same, without the program's name."""
        words = ["persist", "add"] if self.persist else ["create"]
        words += ["--size", format_exact(self.size)]
        for option, value in (
            ("--algorithm", self.algorithm),
            ("--dictionary", self.dictionary),
            ("--mem-limit", format_exact(self.mem_limit) if self.mem_limit else None),
            ("--id", self.id),
            ("--queues", self.queues),
            ("--queue-depth", self.queue_depth),
            ("--transport", self.transport if self.transport != "ublk" else None),
        ):
            if value is not None:
                words += _option(option, str(value))
        if self.swap:
            words.append("--swap")
        for option, value in (("--priority", self.priority), ("--fs", self.fs), ("--mount", self.mount)):
            if value is not None:
                words += _option(option, str(value))
        if self.persist:
            words.append("--now")
        return words

    def command(self) -> str:
        """The command line that does the same."""
        return shlex.join(["truezram", *self.words()])


def _option(name: str, value: str) -> list[str]:
    """An option as words of a command line; a value that looks like an option is written after a "="."""
    return [f"{name}={value}"] if value.startswith("-") else [name, value]
