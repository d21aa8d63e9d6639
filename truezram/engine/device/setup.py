"""Setting a machine up: what advice.py says it should have is planned, shown, done, and taken back.

A plan is devices and settings, each kept in a file of /etc/truezram that says that `setup` made it (config.py). It is
done as a whole: what fails, or is interrupted, is undone.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from truezram.engine.answers import Advice
from truezram.engine.device import boot, config, kernel_zram
from truezram.engine.device.config import MACHINE, SETUP, Config
from truezram.engine.device.options import CreateOptions
from truezram.engine.device.swap import DEFAULT_PRIORITY
from truezram.engine.errors import NotFound, TruezramError
from truezram.engine.machine import advice, procfs, tune, zram_generator

Progress = Callable[[str], None]
"""Called with what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `setup` would do. Nothing to do: neither devices nor settings."""

    advice: Advice
    devices: tuple[Config, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    """To be set now, and at every start of the machine."""
    notes: tuple[str, ...] = ()
    """What the user should know or do besides."""

    @property
    def empty(self) -> bool:
        return not self.devices and not self.settings

    def commands(self) -> list[str]:
        """The commands that do the same, as root."""
        lines = []
        for device in self.devices:
            assert device.options is not None
            if device.kind == "zram":
                lines += [*kernel_zram.commands(device.options, device.name), f"truezram enable {device.name}"]
            else:
                lines.append(replace(device.options, enable=True).command())
        if self.settings:
            lines.append(shlex.join(["truezram", "tune", "apply", *(f"{key}={value}" for key, value in self.settings)]))
            lines.append(f"truezram enable {MACHINE}")
        return lines


def plan(facts: advice.Facts, use: str = "") -> Plan:
    """What would be done on a machine with these facts. Raises what `advice.advise` raises."""
    found = advice.advise(facts, use)
    devices: tuple[Config, ...] = ()
    if found.use == "truezram":
        options = CreateOptions(
            size=found.size, mem_limit=found.mem_limit, swap=True, priority=_priority(found.priority), id=boot.free_id()
        )
        devices = (Config(f"ublkb{options.id}", options, origin=SETUP),)
    elif found.use == "zram":
        number = kernel_zram.free_number()
        options = CreateOptions(
            size=found.size, mem_limit=found.mem_limit, swap=True, priority=_priority(found.priority), id=number
        )
        devices = (Config(f"zram{number}", options, origin=SETUP),)
    settings = () if found.use == "nothing" else _settings(found.use)
    notes = _notes(facts) if devices else ()
    return Plan(advice=found, devices=devices, settings=settings, notes=notes)


def _priority(priority: int) -> int | None:
    return priority if priority != DEFAULT_PRIORITY else None


def _settings(use: str) -> tuple[tuple[str, str], ...]:
    """What `tune` would suggest afterwards, and is not so already. (Throttling is a device's, not the machine's.)"""
    if use == "zswap":
        wanted = {"zswap": "Y", "zswap-shrinker": "Y"}
        rows = [(item.key, item.current, wanted.get(item.key, "")) for item in tune.tunables()]
    else:
        rows = [(item.key, item.current, item.suggested) for item in tune.tunables(use=use)]
    return tuple((key, value) for key, now, value in rows if value and value != now and not key.startswith("wbt."))


def _notes(facts: advice.Facts) -> tuple[str, ...]:
    if facts.disk_swap:
        return ()
    return ("There is no swap on disk: this machine cannot hibernate, with or without this.",)


def from_zram_generator(path: Path | None, facts: advice.Facts) -> Plan:
    """Devices as a ``zram-generator.conf`` describes them, on truezram. Raises what `zram_generator.read` raises."""
    path = path or zram_generator.find()
    found = zram_generator.read(path, facts.memory)
    if not found:
        raise NotFound(f"nothing to set up from {path}", "it makes no device on a machine with this much memory")
    first, devices, notes = boot.free_id(), [], []
    for number, item in enumerate(found, first):
        options = CreateOptions(
            size=item.size,
            algorithm=item.algorithm,
            mem_limit=item.mem_limit,
            id=number,
            swap=item.mount is None,
            priority=item.priority if item.priority != DEFAULT_PRIORITY else None,
            fs=item.fs,
            mount=item.mount,
        )
        devices.append(Config(f"ublkb{number}", config.canonical(options), origin=SETUP))
        notes += [f"{item.name} becomes ublkb{number}: {note}." for note in item.notes]
        notes += _still_there(item.name)
    notes.append(f"zram-generator still makes its devices at every start. To stop it: sudo mv {path} {path}.old")
    use = "truezram"
    swap = any(device.options is not None and device.options.swap for device in devices)
    reasons = (f"As {path} says.", *_refused(facts))
    return Plan(
        advice=replace(advice.advise(replace(facts, compressed=(), ratio=None)), use=use, reasons=reasons),
        devices=tuple(devices),
        settings=_settings(use) if swap else (),
        notes=tuple(notes),
    )


def _refused(facts: advice.Facts) -> tuple[str, ...]:
    return (f"It cannot be done here: {facts.ublk_why}.",) if facts.ublk_why else ()


def _still_there(name: str) -> list[str]:
    """How to get rid of what zram-generator has made already."""
    if not kernel_zram.is_on(name):
        return []
    return [f"{name} is in use until the next start, or: sudo systemctl stop systemd-zram-setup@{name}.service"]


# ---- doing it ----


def apply(wanted: Plan, progress: Progress = lambda text: None) -> list[str]:
    """Does it; what was done, a line each. Raises `Unsupported` (no init that is known), `PermissionDenied`, `Busy`,
    `Failed`, with everything as it was before."""
    boot.need_init()
    done: list[str] = []
    undo: list[Callable[[], object]] = []
    try:
        for device in wanted.devices:
            progress(f"making {device.name}")
            undo.append(_undo_device(device))
            done += _make(device)
        if wanted.settings:
            progress("settings")
            changes = tune.apply([f"{key}={value}" for key, value in wanted.settings])
            undo.append(lambda: tune.undo([f"#{change.id}" for change in changes]))
            done += [f"{change.key}: {change.before} -> {change.after}" for change in changes]
            done += _keep_settings(wanted.settings, undo)
    except BaseException:
        for step in reversed(undo):
            with contextlib.suppress(TruezramError):
                step()
        raise
    return done


def _undo_device(device: Config) -> Callable[[], object]:
    def undo() -> None:
        if device.name in config.names():
            boot.disable(device.name, now=True)

    return undo


def _make(device: Config) -> list[str]:
    assert device.options is not None
    if device.kind == "zram":
        boot.enable(device)
        return [f"/dev/{device.name}: made, and made at every start"]
    created = boot.create_enabled(device.options, origin=device.origin)
    return [f"{created.path}: made, and made at every start", *(f"warning: {text}" for text in created.warnings)]


def _keep_settings(settings: Sequence[tuple[str, str]], undo: list[Callable[[], object]]) -> list[str]:
    """Into machine.toml, unless the user has one."""
    if MACHINE in config.names() and config.read(MACHINE).origin != SETUP:
        path = config.DIRECTORY / f"{MACHINE}.toml"
        return [f"{path} is there already and was left alone: these settings last until the next start"]
    before = config.read(MACHINE).settings if MACHINE in config.names() else ()
    undo.append(lambda: boot.disable(MACHINE) if MACHINE in config.names() else None)
    boot.enable(Config(MACHINE, settings=tuple({**dict(before), **dict(settings)}.items()), origin=SETUP))
    return ["the settings are made at every start"]


def made() -> list[Config]:
    """What `setup` has made and is still enabled."""
    found = []
    for name in config.names():
        with contextlib.suppress(TruezramError):
            item = config.read(name)
            if item.origin == SETUP:
                found.append(item)
    return found


def undo(progress: Progress = lambda text: None) -> list[str]:
    """Takes back what `setup` has made: devices are removed (swapoff first), settings put back; what was done, a line
    each. What cannot be removed stays, and stays enabled. Raises `NotFound`, `Busy`, `PermissionDenied`, `Failed`."""
    found = made()
    if not found:
        raise NotFound("nothing to undo", "setup has made nothing that is still there", "See truezram config show")
    boot.need_init()
    done = []
    for item in found:
        progress(f"removing {item.name}")
        boot.disable(item.name, now=True)
        done.append(f"{item.name}: {'settings put back' if item.name == MACHINE else 'removed'}, comes back no more")
    return done


def measured_facts(ratio: float | None = None) -> advice.Facts:
    """What decides, on this machine."""
    return advice.facts(procfs.ROOT, ratio=ratio)
