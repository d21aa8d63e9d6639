"""The live settings of a device, one row each: `set`, `stat`, `tune`, the app's Tune and Device pages and its log are
made from them.

Each is a field of `DeviceSnapshot` and a key of the server's SET message. A value has three forms: what the server
takes (``1073741824``), what a user writes (``1G``), and what is shown, which may be rounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from truezram.engine.answers import Tunable
from truezram.engine.device import gains
from truezram.engine.errors import UsageError
from truezram.engine.machine import advice
from truezram.engine.model import DeviceSnapshot, MachineSnapshot
from truezram.engine.units import format_duration, format_exact, format_size, parse_duration, parse_size


def parse_mem_limit(text: str) -> int:
    """Bytes of a memory limit; ``none`` is 0, which means no limit. Raises `UsageError`."""
    if text.strip().lower() == "none":
        return 0
    try:
        return parse_size(text, "mem_limit")
    except UsageError as error:
        if error.why == "it is zero":
            raise UsageError(error.what, error.why, "Write none for no limit") from None
        raise


def _algorithm(text: str) -> str:
    from truezram.engine.algorithms import canonical

    return canonical(text)


def _on_off(text: str) -> str:
    word = text.strip().lower()
    if word not in ("on", "off"):
        raise UsageError(
            f"cannot understand dedup={text[:60]}", "it is neither on nor off", "Write dedup=on or dedup=off"
        )
    return word


POLICIES = {
    "off": "0:0:3:0",
    "gentle": "7200:80100:1:80100",
    "balanced": "600:7200:3:72000",
    "dense": "180:2340:10:21780",
}
"""What is done with idle pages: after how many seconds with `dense`, after how many in groups, per cent of a core, and
after how many seconds to the backing file, where there is one."""
DEFAULT_POLICY = "balanced"
"""Of a new device."""


def _proposed(place: int) -> int:
    return int(POLICIES[DEFAULT_POLICY].split(":")[place])


def parse_policy(text: str) -> str:
    """A policy's name, or the numbers of one's own, as the server takes it: with three, nothing goes to the backing
    file. Raises `UsageError`."""
    word = text.strip().lower()
    if re.fullmatch(r"\d+:\d+:\d+(:\d+)?", word):
        return word if word.count(":") == 3 else f"{word}:0"
    if word not in POLICIES:
        names = ", ".join(POLICIES)
        raise UsageError(f"there is no policy {text[:40]!r}", "it is not in the list", f"One of: {names}")
    return POLICIES[word]


def write_policy(text: str) -> str:
    """The reverse of it. (Three numbers are from a recording of before there were backing files.)"""
    return next((name for name, policy in POLICIES.items() if text in (policy, policy.rpartition(":")[0])), text)


def describe_policy(text: str, backed: bool = False) -> str:
    """What a policy does, in a few words; `backed`: on a device with a backing file. Raises `UsageError`."""
    dense, cold, percent, backing = parse_policy(text).split(":")
    pairs = (("dense", dense), ("groups", cold), ("to the backing file", backing if backed else "0"))
    steps = [f"{_show_idle(idle)} {word}" for word, idle in pairs if int(idle)]
    return f"after {', '.join(steps)}; {percent}% CPU" if steps else "stay as they were written"


def _show_policy(text: str) -> str:
    name = write_policy(text)
    return name if name in POLICIES else "off" if re.fullmatch(r"0:0:\d+:0", text) else "custom"


MODES = {
    "balanced": "queues sleep until a request comes",
    "low-latency": "queues wait awake a little: up to half a core each, while requests come",
    "max-throughput": "queues wait awake 1 ms, and answer in large batches: up to a core each",
}
"""What a device's queues are to be good at."""
DEFAULT_MODE = "balanced"
"""Of a new device."""


def parse_mode(text: str) -> str:
    """The name of a mode, as the server takes it. Raises `UsageError`."""
    return _one_of(MODES, "mode", text)


DATA_MODES = {
    "auto": "user-copy where the kernel has it",
    "user-copy": "the server copies, when it wants the data: one system call more a request, one buffer a queue",
    "driver-copy": "the driver copies: requests of up to 32 KiB, and a buffer of that size for each",
}
"""How a request's data gets to the server of a ublk device and back."""
DEFAULT_DATA_MODE = "auto"
"""Of a new device."""


def parse_data_mode(text: str) -> str:
    """The name of a data mode, as the server takes it. Raises `UsageError`."""
    return _one_of(DATA_MODES, "data mode", text)


def _one_of(names: Collection[str], what: str, text: str) -> str:
    word = text.strip().lower()
    if word not in names:
        raise UsageError(f"there is no {what} {text[:40]!r}", "it is not in the list", f"One of: {', '.join(names)}")
    return word


def _idle(text: str) -> str:
    word = text.strip().lower()
    return "0" if word == "off" else str(int(parse_duration(word, "idle time")))


def _show_idle(text: str) -> str:
    return format_duration(int(text)) if int(text) else "off"


def _percent(text: str) -> str:
    word = text.strip().removesuffix("%")
    if not word.isdecimal() or not 1 <= int(word) <= 100:
        raise UsageError(
            f"invalid cpu_percent {text[:40]!r}", "it is not a number from 1 to 100", "Write cpu_percent=3"
        )
    return word


def _backing(text: str) -> str:
    from truezram.engine.device import backing  # the most, which `list` does without

    return backing.parse_setting(text)


def _bytes_or_none(key: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        return "0" if text.strip().lower() == "none" else str(parse_size(text.removesuffix("/s"), key))

    return parse


def _write_bytes(text: str) -> str:
    return format_exact(int(text)) if int(text) else "none"


def _show_bytes(text: str) -> str:
    return format_size(int(text)) if int(text) else "none"


def _algorithms() -> tuple[str, ...]:
    from truezram.engine.algorithms import algorithms

    return tuple(algorithm.name for algorithm in algorithms() if not algorithm.unavailable)


def _limit(device: DeviceSnapshot, machine: MachineSnapshot) -> str:
    """Without a limit, a device full of incompressible pages could take all of the memory."""
    limit = 0 if device.mem_limit else advice.limit_for(device.disksize, machine.mem_total)
    return format_exact(limit) if limit else ""


def _nothing(device: DeviceSnapshot, machine: MachineSnapshot) -> str:
    return ""


def _no_gain(device: DeviceSnapshot) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `key` is the server's, and the field of `DeviceSnapshot`."""

    key: str
    about: str
    hint: str
    """What may be entered."""
    parse: Callable[[str], str]
    """What a user writes, as the server takes it. Raises `UsageError`, `Unsupported`."""
    write: Callable[[str], str] = str
    """What the server takes, as a user writes it."""
    show: Callable[[str], str] = str
    """The same, to be shown."""
    choices: Callable[[], tuple[str, ...]] = tuple
    """Values to choose from; others may be valid, too."""
    suggest: Callable[[DeviceSnapshot, MachineSnapshot], str] = _nothing
    """A better value, as a user writes it; empty: none is known."""
    gain: Callable[[DeviceSnapshot], str] = _no_gain
    """What it has saved on a device, or would; empty: not a thing that can be said of it."""
    kernel: bool = False
    """Whether the kernel's zram and zswap have it, too."""
    within: str = ""
    """The setting whose value has this one, too: who keeps that keeps both."""
    needs: str = ""
    """The setting without which it has nothing to do."""

    def of(self, device: DeviceSnapshot) -> str:
        """The value in force, as the server takes it."""
        return str(getattr(device, self.key))

    def shown(self, device: DeviceSnapshot) -> str:
        """The value in force, to be shown."""
        return self.show(self.of(device))

    def value(self, text: str) -> int | str:
        """For JSON: a number where `DeviceSnapshot` has one."""
        return int(text) if DeviceSnapshot.__annotations__[self.key] == "int" else self.write(text)


SETTINGS = (
    Setting(
        key="algorithm",
        about="pages written from now on; those already stored keep theirs",
        hint="NAME or NAME:LEVEL",
        parse=_algorithm,
        kernel=True,
        choices=_algorithms,
    ),
    Setting(
        key="mem_limit",
        about="writes beyond it fail cleanly (ENOSPC); without one the device may grow to its disksize and more",
        hint="a size, or none for no limit",
        parse=lambda text: str(parse_mem_limit(text)),
        write=_write_bytes,
        show=_show_bytes,
        suggest=_limit,
        kernel=True,
    ),
    Setting(
        key="dedup",
        about="identical pages share one object, among those written while it is on; costs a little speed and memory",
        hint="on or off",
        parse=_on_off,
        choices=lambda: ("on", "off"),
    ),
    Setting(
        key="policy",
        about="what is done with idle pages: idle_dense, idle_cold, cpu_percent and idle_backing at once",
        hint=f"{', '.join(POLICIES)}, or the numbers as 600:7200:3:72000, in seconds",
        parse=parse_policy,
        write=write_policy,
        show=_show_policy,
        choices=lambda: tuple(POLICIES),
        gain=lambda device: gains.of_policies(POLICIES.items(), device),
    ),
    Setting(
        key="idle_dense",
        within="policy",
        about="pages that nobody has touched for so long are compressed once more, with dense",
        hint="a time as 10m or 2h, or off",
        parse=_idle,
        write=lambda text: f"{text}s" if int(text) else "off",
        show=_show_idle,
        gain=lambda device: gains.of_step(gains.DENSE, device, _proposed(0)),
    ),
    Setting(
        key="idle_cold",
        within="policy",
        about="pages that nobody has touched for so long are packed with their neighbours, up to 16 in one object",
        hint="a time as 10m or 2h, or off",
        parse=_idle,
        write=lambda text: f"{text}s" if int(text) else "off",
        show=_show_idle,
        gain=lambda device: gains.of_step(gains.COLD, device, _proposed(1)),
    ),
    Setting(
        key="cpu_percent",
        within="policy",
        about="share of a core for these steps, a quarter of that while the device is in use",
        hint="1 to 100",
        parse=_percent,
    ),
    Setting(
        key="mode",
        about="low-latency and max-throughput wait awake for requests, which costs CPU; balanced sleeps",
        hint=", ".join(MODES),
        parse=parse_mode,
        choices=lambda: tuple(MODES),
    ),
    Setting(
        key="backing",
        about="an encrypted file or block device for pages that nobody has touched for long; none: all come back first",
        hint="a path, plain:PATH (not encrypted), or none",
        parse=_backing,
    ),
    Setting(
        key="idle_backing",
        within="policy",
        about="pages that nobody has touched for so long are written to the backing file",
        hint="a time as 20h or 2d, or off",
        parse=_idle,
        write=lambda text: f"{text}s" if int(text) else "off",
        show=_show_idle,
        gain=lambda device: gains.of_step(gains.BACKING, device, _proposed(3)),
    ),
    Setting(
        key="backing_daily",
        needs="backing",
        about="bytes that are written to the backing file a day (UTC) at most, to spare a flash disk",
        hint="a size, or none for no limit",
        parse=_bytes_or_none("backing_daily"),
        write=_write_bytes,
        show=_show_bytes,
        gain=gains.of_day,
    ),
    Setting(
        key="backing_rate",
        needs="backing",
        about="bytes that are written to the backing file a second at most, to leave the disk to others",
        hint="a size, or none for no limit",
        parse=_bytes_or_none("backing_rate"),
        write=_write_bytes,
        show=_show_bytes,
        gain=gains.of_rate,
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}


def in_force(device: DeviceSnapshot) -> list[Setting]:
    """The settings that this device has; it may be one of the kernel's."""
    return [setting for setting in SETTINGS if setting.kernel or device.kind == "truezram"]


def tunables(device: DeviceSnapshot, machine: MachineSnapshot) -> tuple[Tunable, ...]:
    """The settings of a device, each with its value and a suggestion."""
    return tuple(
        Tunable(
            key=setting.key,
            device=device.name,
            current=setting.write(setting.of(device)),
            suggested=setting.suggest(device, machine),
            reason=setting.about,
            hint=setting.hint,
            choices=setting.choices(),
            gain=setting.gain(device),
            readonly="" if device.state == "live" else f"it is {device.state}",
        )
        for setting in SETTINGS
    )


def of_devices() -> tuple[Tunable, ...]:
    """The settings of all our devices that can be read."""
    from truezram.engine.device.client import Client
    from truezram.engine.machine import procfs

    machine = procfs.machine()
    with Client() as client:
        devices = [device for device in client.devices() if device.state != "unreadable"]
    return tuple(tunable for device in devices for tunable in tunables(device, machine))
