"""What comes back after a reboot: one file each in ``/etc/truezram``.

- ``ublkbN.toml``, ``nbdN.toml``: a device of ours. Its keys are the options of `create`, with the same values, and the
  settings of `set` that are no options.
- ``zramN.toml``: kernel zram as swap: ``size``, ``algorithm``, ``mem-limit``, ``priority``.
- ``machine.toml``: the machine's settings, by the keys of `tune`.

Everything in a file is checked before any of it is used: an unknown key, or a value that `create` would refuse, is an
error that names the file.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from truezram.engine import paths
from truezram.engine.algorithms import default_algorithm
from truezram.engine.device import swap
from truezram.engine.device.create import check_options
from truezram.engine.device.options import OPTIONS, CreateOptions, Option
from truezram.engine.device.settings import BY_KEY, DEFAULT_MODE, DEFAULT_POLICY, SETTINGS, Setting
from truezram.engine.errors import Failed, NotFound, PermissionDenied, TruezramError, UsageError
from truezram.engine.machine import advice, procfs, tune
from truezram.engine.model import DeviceSnapshot
from truezram.engine.transports import ENABLED, TRANSPORTS
from truezram.engine.units import format_exact, parse_size

DIRECTORY = Path("/etc/truezram")
MACHINE = "machine"
SETUP = "setup"
_NAME = re.compile(rf"({'|'.join(ENABLED)}|zram)(\d{{1,7}})|machine", re.ASCII)
_ORIGIN = "made-by"
_NOT_HERE = {"id", "transport", "enable"}
"""Options that a file's name or place says."""
_ZRAM = ("size", "algorithm", "mem_limit", "priority")
_KEYS = {option.name.removeprefix("--"): option for option in OPTIONS if option.field not in _NOT_HERE}
_KEPT = {
    setting.key.replace("_", "-"): setting
    for setting in SETTINGS
    if not setting.within and setting.key not in {option.field for option in OPTIONS}
}
"""The settings of a device that are neither options of `create` nor in the value of one, by key."""


@dataclass(frozen=True, slots=True)
class Config:
    """One file. `options` of a device; `settings` of the machine, or of a device those that are no options, each as a
    user writes it."""

    name: str
    options: CreateOptions | None = None
    settings: tuple[tuple[str, str], ...] = ()
    origin: str = ""
    """What made it, if that was `SETUP`."""

    @property
    def path(self) -> Path:
        return DIRECTORY / f"{self.name}.toml"

    @property
    def kind(self) -> str:
        """``ublkb``, ``nbd``, ``zram``, ``machine``."""
        return self.name.rstrip("0123456789")

    @property
    def swap(self) -> bool:
        """Whether it has to be there before swap is used."""
        return self.options is None or self.options.swap

    def summary(self) -> str:
        """What it is, in a line."""
        if self.options is None:
            return ", ".join(f"{key}={value}" for key, value in self.settings)
        words = self.options.words()[1:]
        place = words.index("--id")
        return " ".join([*words[:place], *words[place + 2 :], *(f"{key}={value}" for key, value in self.settings)])

    def to_set(self) -> dict[str, str]:
        """The settings of a device that are set once it is made, as the server takes them."""
        return {_KEPT[key].key: _KEPT[key].parse(value) for key, value in self.settings}

    def text(self) -> str:
        """The file."""
        about = {
            "zram": "Kernel zram as swap.",
            "machine": "Settings of the machine; the keys are those of `truezram tune`.",
        }.get(self.kind, "A compressed RAM device; the keys are the options of `truezram create`, and settings.")
        lines = [f"# {about} It is made at every start of the machine.", "# See: truezram config --help", ""]
        if self.origin:
            lines.append(f"{_ORIGIN} = {_toml(self.origin)}")
        default = CreateOptions(0)
        for key, option in keys_of(self.kind).items() if self.options is not None else ():
            value = getattr(self.options, option.field)
            if value != getattr(default, option.field):
                lines.append(f"{key} = {_toml(option.write(value) if _is_size(option) else value)}")
        lines += [f"{_key(key)} = {_toml(value)}" for key, value in self.settings]
        return "\n".join(lines) + "\n"


def keys_of(kind: str) -> dict[str, Option]:
    """The options that a file of that kind may have, by key."""
    return {key: option for key, option in _KEYS.items() if kind != "zram" or option.field in _ZRAM}


def _is_size(option: Option) -> bool:
    return option.write is format_exact


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _toml(key)


def _toml(value: bool | int | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise UsageError("cannot write the configuration", f"{value!r} contains a control character")
    return json.dumps(value, ensure_ascii=False)


def values(item: Config) -> dict[str, Any]:
    """Its keys and values for JSON: sizes in bytes, and only what is not left to the start of the machine."""
    default = CreateOptions(0)
    found = (
        {key: getattr(item.options, option.field) for key, option in keys_of(item.kind).items()} if item.options else {}
    )
    found = {key: value for key, value in found.items() if value != getattr(default, _KEYS[key].field)}
    if item.options is None:
        return dict(item.settings)
    return {**found, **{key: _KEPT[key].value(_KEPT[key].parse(value)) for key, value in item.settings}}


# ---- reading ----


def number(name: str) -> int:
    """N of ublkbN, nbdN and zramN."""
    return int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))


def parse(name: str, text: str) -> Config:
    """The configuration of that name. Raises `UsageError`, and for a dictionary what `create.check_options` raises."""
    what = f"cannot use {DIRECTORY / name}.toml"
    if not _NAME.fullmatch(name):
        raise UsageError(what, "it is not called ublkbN.toml, nbdN.toml, zramN.toml or machine.toml", "Rename it")
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(what, str(error) or "it is nested too deeply", "It must be TOML") from None
    origin = found.pop(_ORIGIN, "")
    if origin not in ("", SETUP):
        raise UsageError(
            what, f"{_ORIGIN} is {str(origin)[:40]!r}", f"Remove that line, or write {_ORIGIN} = {SETUP!r}"
        )
    if name == MACHINE:
        return Config(name, settings=_settings(what, found), origin=origin)
    kept = {key: found.pop(key) for key in _KEPT if key in found and not name.startswith("zram")}
    options = _options(what, name, found)
    return Config(name, options, _kept(what, kept, options), origin)


def _kept(what: str, found: Mapping[str, Any], options: CreateOptions) -> tuple[tuple[str, str], ...]:
    """Settings of a device that are no options, each as a user writes it."""
    settings = []
    for key, value in found.items():
        setting = _KEPT[key]
        if setting.needs and not getattr(options, setting.needs):
            raise UsageError(what, f"{key} is for {setting.needs}, which is not there", f"Remove {key}")
        settings.append((key, setting.write(_parsed(what, key, value, setting.parse))))
    return tuple(settings)


def _parsed(what: str, key: str, value: object, parse: Callable[[str], str]) -> str:
    """A setting's value; a number is as good as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UsageError(what, f"{key[:40]} is {str(value)[:40]!r}", "It must be a number, or text in quotes")
    try:
        return parse(str(value))
    except TruezramError as error:
        raise UsageError(what, f"{key[:40]}: {error.why or error.what}", error.remedy) from None


def _options(what: str, name: str, found: Mapping[str, Any]) -> CreateOptions:
    zram = name.startswith("zram")
    kind = Config(name).kind
    keys = keys_of(kind)
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key not in keys:
            there = ", ".join((*keys, *(() if zram else _KEPT)))
            raise UsageError(what, f"there is no key {key[:40]!r}", f"There are: {there}")
        values[keys[key].field] = _value(what, key, keys[key], value)
    if "size" not in values:
        raise UsageError(what, "it has no size", 'Write size = "4G", for example')
    options = CreateOptions(**values, id=number(name))
    try:
        if zram:
            check_options(replace(options, algorithm=None, swap=True))
            return replace(options, swap=True)
        return canonical(replace(options, transport=ENABLED[kind].name))
    except UsageError as error:
        raise UsageError(what, error.why or error.what, error.remedy) from None


def _value(what: str, key: str, option: Option, value: object) -> object:
    """A key's value as `CreateOptions` has it."""
    kind = CreateOptions.__annotations__[option.field]
    if _is_size(option) and isinstance(value, str):
        try:
            return parse_size(value, key)
        except UsageError as error:
            raise UsageError(what, f"{key}: {error.why or error.what}", error.remedy) from None
    wanted: type = bool if kind == "bool" else int if kind.startswith("int") else str
    if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
        names = {bool: "true or false", int: "a whole number", str: "text in quotes"}
        raise UsageError(what, f"{key} is {str(value)[:40]!r}", f"It must be {names[wanted]}")
    return value


def _settings(what: str, found: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            _parsed(what, key, key, tune.canonical),
            _parsed(what, key, value, partial(tune.parse, key)),
        )
        for key, value in found.items()
    )


def canonical(options: CreateOptions) -> CreateOptions:
    """Checked, as `create.create` would, and independent of the user and the folder that they are used in: paths are
    absolute. What was left open stays open, so that the boot decides. Raises `UsageError`."""
    if why := TRANSPORTS[options.transport].no_enable:
        raise UsageError("cannot enable it", why, "Use ublk, or nbd for a disk")
    if options.force:
        why = "--force would overwrite what is on the backing file at every start"
        raise UsageError("cannot enable it", why, f"Once: wipefs --all {options.backing}; then without it")
    checked = check_options(replace(options, enable=False))
    return replace(
        options,
        mount=checked.mount,
        backing=checked.backing,
        backing_plain=checked.backing_plain,
        dictionary=checked.dictionary,
        algorithm=checked.algorithm if options.algorithm is not None else None,
        policy=checked.policy if options.policy is not None else None,
        mode=checked.mode if options.mode is not None else None,
        data_mode=checked.data_mode,
        enable=False,
    )


def names() -> list[str]:
    """Everything that has a file, devices by number, the machine last."""
    try:
        found = [path.name.removesuffix(".toml") for path in DIRECTORY.iterdir() if path.name.endswith(".toml")]
    except OSError:
        return []
    known = [name for name in found if _NAME.fullmatch(name)]
    return sorted(
        known, key=lambda name: (name == MACHINE, name.startswith("zram"), name != MACHINE and number(name), name)
    )


def strange() -> list[Path]:
    """Files in the folder with a name that is none of ours."""
    try:
        return sorted(path for path in DIRECTORY.glob("*.toml") if not _NAME.fullmatch(path.stem))
    except OSError:
        return []


def read(name: str) -> Config:
    """Raises `NotFound`, `PermissionDenied` (for root: others could change it), `UsageError`, `Failed`."""
    path = DIRECTORY / f"{name}.toml"
    if os.geteuid() == 0 and (who := paths.foreign_writer(path)):
        remedy = f"sudo chown root: {path}; sudo chmod go-w {path}"
        raise PermissionDenied(f"will not use {path} as root", who, remedy)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"{name} is not enabled", f"{path} is not there", "See truezram config show") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"cannot read {path}", getattr(error, "strerror", "") or str(error)) from None
    return parse(name, text)


def all_() -> list[Config]:
    """All files. Raises what `read` raises."""
    return [read(name) for name in names()]


# ---- of what runs ----


def of_device(device: DeviceSnapshot) -> CreateOptions:
    """What would make a device as this one is now, settings included. What is as by default is left open. The
    dictionary's file is not known, nor whether queues were asked for."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        setting = BY_KEY.get(option.field)
        if setting is not None:
            values[option.field] = _in_force(option, setting.write(setting.of(device)))
    if values.get("policy") == DEFAULT_POLICY:
        values["policy"] = None
    if values.get("mode") == DEFAULT_MODE:
        values["mode"] = None
    if device.data_asked:
        values["data_mode"] = device.data_mode.replace("_", "-")
    if values["algorithm"] == default_algorithm():
        values["algorithm"] = None
    if values.get("backing") is not None:
        values["backing_limit"] = device.backing_limit
    priority = device.swap_priority
    mount = device.mountpoints[0] if device.mountpoints else None
    known = {field.name for field in fields(CreateOptions)}
    return CreateOptions(
        size=device.disksize,
        id=number(device.name),
        transport=device.transport,
        swap=priority is not None,
        priority=priority if priority not in (None, swap.DEFAULT_PRIORITY) else None,
        fs=_filesystem(mount) if mount else None,
        mount=mount,
        **{key: value for key, value in values.items() if key in known},
    )


def kept_of(device: DeviceSnapshot) -> tuple[tuple[str, str], ...]:
    """Its settings that are no options of `create`, as they are now; none of what it has no use for."""
    return tuple(
        (key, setting.write(setting.of(device)))
        for key, setting in _KEPT.items()
        if not setting.needs or _is_set(BY_KEY[setting.needs], device)
    )


def _is_set(setting: Setting, device: DeviceSnapshot) -> bool:
    return setting.of(device) not in ("none", "0", "off")


def _in_force(option: Option, text: str) -> object:
    kind = CreateOptions.__annotations__[option.field]
    if kind == "bool":
        return text == "on"
    if _is_size(option):
        return parse_size(text) if text not in ("none", "0") else 0
    return text if text != "none" else None


def _filesystem(point: str) -> str:
    text = procfs.read_text("/proc/self/mountinfo") or ""
    return next((mount.kind for mount in reversed(procfs.mounts(text)) if mount.point == point), "ext4")


def default(memory: int) -> Config:
    """What `setup` would write for a device on a machine with so much memory."""
    limit = advice.mem_limit(memory)
    return Config("ublkb0", CreateOptions(size=advice.swap_size(memory), mem_limit=limit, swap=True, id=0))
