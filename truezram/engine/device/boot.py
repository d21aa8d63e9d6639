"""What comes back after a restart: enabling and disabling it, and what is done at the start and the end of the machine.

A file in /etc/truezram says what (config.py), the machine's init when: systemd.py, openrc.py. Enabling is one change:
when anything fails, or it is interrupted, nothing is left of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from truezram.engine import paths
from truezram.engine.device import config, dictionary, kernel_zram, nbd, openrc, systemd
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.config import MACHINE, Config, number
from truezram.engine.device.create import Created, check_options, create
from truezram.engine.device.options import CreateOptions
from truezram.engine.device.removal import remove_entry
from truezram.engine.errors import Busy, Failed, NotFound, PermissionDenied, TruezramError, Unsupported, UsageError
from truezram.engine.files import Changes
from truezram.engine.machine import procfs, tune
from truezram.engine.machine.journal import Journal
from truezram.engine.transports import ENABLED, TRANSPORTS

MODULES = Path("/etc/modules-load.d/truezram.conf")
INITS: tuple[ModuleType, ...] = (systemd, openrc)
_WHAT = "cannot enable anything here"


@dataclass(frozen=True, slots=True)
class Enabled:
    """Something that comes back. `enabled` and `active` are systemd's words ("enabled", "inactive"), empty without an
    init that is known."""

    config: Config
    unit: str = ""
    enabled: str = ""
    active: str = ""


def init() -> ModuleType | None:
    """The module of the init that started this machine; None for one that is not known."""
    return next((module for module in INITS if module.RUNNING.is_dir()), None)


def why_not() -> str:
    """Why nothing can be enabled on this machine; empty: it can."""
    return "" if init() else "neither systemd nor OpenRC started this machine"


def need_init() -> ModuleType:
    """The init. Raises `Unsupported`, `PermissionDenied`."""
    found = init()
    if found is None:
        remedy = "Have your init run `truezram boot start --all` before swap is needed, with files in /etc/truezram"
        raise Unsupported(_WHAT, why_not(), remedy)
    if os.geteuid() != 0:
        raise PermissionDenied(_WHAT, f"only root may tell {found.NAME} what to start", "Run it with sudo")
    return found


def code_writers() -> list[str]:
    """Who else than root can change the programs that are run as root at every start, a clause each."""
    found = [
        paths.foreign_writer(path)
        for path in (Path(sys.executable), paths.PACKAGE / "__init__.py", paths.server_path())
    ]
    return list(dict.fromkeys(filter(None, found)))


def listed() -> list[Enabled]:
    """All that is enabled. Raises what `config.read` raises."""
    found = init()
    return [Enabled(item, found.unit(item), *found.state(item)) if found else Enabled(item) for item in config.all_()]


# ---- enabling ----


@contextlib.contextmanager
def _installed(wanted: Config) -> Iterator[Config]:
    """Its files are there and it is enabled; unless the body ends well, neither is (or both are as they were)."""
    system = need_init()
    before = wanted.name in config.names()
    try:
        with Changes() as changes:
            wanted = _with_dictionary(wanted)
            changes.write(wanted.path, wanted.text())
            changes.write(MODULES, _modules(_modules_of(config.names())))
            system.install(wanted, changes)
            system.enable(wanted)
            try:
                yield wanted
            except BaseException:
                if not before:
                    with contextlib.suppress(TruezramError):
                        system.disable(wanted)
                raise
            changes.keep()
    except BaseException:
        if not before:
            _forget_dictionary(wanted)
        system.forget(wanted)
        raise


def _modules_of(names: Sequence[str]) -> set[str]:
    modules = {"zram": "zram"} | {prefix: row.module for prefix, row in ENABLED.items()}
    kinds = {Config(name).kind for name in names}
    return {module for kind, module in modules.items() if kind in kinds}


def _modules(modules: set[str]) -> str:
    return "\n".join(["# For what is in /etc/truezram. Made by: truezram enable", *sorted(modules)]) + "\n"


def _with_dictionary(wanted: Config) -> Config:
    """With a copy of its dictionary, which is kept until no file names it any more."""
    if wanted.options is None or wanted.options.dictionary is None:
        return wanted
    kept = dictionary.keep(dictionary.load(wanted.options.dictionary))
    return replace(wanted, options=replace(wanted.options, dictionary=str(kept)))


def _forget_dictionary(gone: Config) -> None:
    path = gone.options.dictionary if gone.options is not None else None
    if path is None:
        return
    for name in set(config.names()) - {gone.name}:
        with contextlib.suppress(TruezramError):
            options = config.read(name).options
            if options is not None and options.dictionary == path:
                return
    dictionary.forget(Path(path))


def enable(wanted: Config) -> Enabled:
    """It comes back after every restart; what it describes is there already, or is made now. Raises `UsageError`,
    `Unsupported` (no init that is known), `PermissionDenied`, `Failed`, with nothing changed."""
    system = need_init()
    before = _before(wanted.name) if wanted.name in config.names() else None
    with _installed(wanted) as wanted:
        if system.state(wanted)[1] == "active":
            start(wanted.name)
        else:
            system.start(wanted)
    if before is not None and system.unit(before) != system.unit(wanted):
        _forget(before, system)  # it was a disk, and is swap now
    return Enabled(wanted, system.unit(wanted), *system.state(wanted))


def create_enabled(options: CreateOptions, origin: str = "") -> Created:
    """Makes a device, and has it come back after every restart. Raises what `create.create` and `enable` raise, with
    neither done."""
    system = need_init()
    check_options(replace(options, enable=False))
    if options.id is None:
        options = replace(options, id=free_id(options.transport))
    name = f"{TRANSPORTS[options.transport].prefix}{options.id}"
    if name in config.names():
        raise _busy(name)
    with _installed(Config(name, config.canonical(options), origin=origin)) as wanted:
        assert wanted.options is not None
        made = create(wanted.options)
        try:
            system.start(wanted)
        except BaseException:
            with contextlib.suppress(TruezramError):
                remove_entry(made.entry, unmount=True)
            raise
    return replace(made, options=replace(made.options, enable=True))


def _busy(name: str) -> TruezramError:
    remedy = f"Choose another --id, or disable it first: truezram disable {name}"
    return UsageError(f"cannot enable {name}", f"{config.DIRECTORY / name}.toml is there already", remedy)


def free_id(transport: str = "ublk") -> int:
    """The lowest id that no device of that transport has, running or enabled."""
    prefix = TRANSPORTS[transport].prefix
    with Client() as client:
        taken = {entry.name for entry in client.entries()} | set(config.names())
    ours = (n for n in itertools.count() if f"{prefix}{n}" not in taken)
    return next(n for n in ours if transport != "nbd" or not nbd.is_taken(n))


def of_device(name: str, dictionary_file: str | None = None) -> Config:
    """The configuration of a device that runs, as it is now. Raises `NotFound`, `UsageError`."""
    if name == MACHINE:
        settings = tuple(settings_in_force())
        if not settings:
            remedy = "Change some first: sudo truezram tune apply"
            raise NotFound("nothing to enable", "none of the machine's settings was changed", remedy)
        return Config(MACHINE, settings=settings)
    with Client() as client:
        entry = client.resolve(name)
        device = client.device(entry, procfs.swaps())
    what = f"cannot enable {entry.name}"
    if why := TRANSPORTS[entry.transport].no_enable:
        raise UsageError(what, why, "Make a block device, as root")
    if device.state == "unreadable":
        raise Failed(what, "its statistics cannot be read", "See truezram stat")
    if device.dictionary_size and dictionary_file is None:
        known = config.read(entry.name).options if entry.name in config.names() else None
        dictionary_file = known.dictionary if known is not None else None
        if dictionary_file is None:
            raise UsageError(what, "it has a dictionary, whose file is not known", "Give it: --dictionary FILE")
    before = _before(entry.name) if entry.name in config.names() else Config(entry.name, CreateOptions(0))
    assert before.options is not None
    options = replace(
        config.of_device(device),
        dictionary=dictionary_file,
        queues=before.options.queues,
        queue_depth=before.options.queue_depth,
    )
    return Config(entry.name, config.canonical(options), config.kept_of(device), before.origin)


def wanted(name: str, dictionary_file: str | None = None) -> Config:
    """What `enable` would have come back: what runs under that name, as it is, or else what its file says. Raises what
    `of_device` and `config.read` raise."""
    if name in config.names() and not (name == MACHINE or _is_there(name)):
        return config.read(name)
    if name.startswith("zram"):
        return config.read(name)
    return of_device(name, dictionary_file)


def settings_in_force() -> list[tuple[str, str]]:
    """The machine's settings that truezram has changed, in this boot or at its start, as they are."""
    changed = {
        change.key
        for journal in (Journal(), boot_journal())
        for change in tune.history(journal=journal)[0]
        if not change.undone
    }
    return [(item.key, item.current) for item in tune.tunables() if item.key in changed]


# ---- disabling ----


def disable(name: str, now: bool = False) -> Config:
    """It does not come back any more. What is there stays, as made by hand; with `now` it is removed first, and
    settings are put back. Raises `NotFound`, `Unsupported`, `PermissionDenied`, `Busy`, `Failed`; what cannot be
    removed stays enabled."""
    system = need_init()
    gone = _before(name)
    if now:
        remove_now(gone)
        system.stop(gone)
    _forget(gone, system, also=gone.path)
    _forget_dictionary(gone)
    return gone


def _forget(gone: Config, system: ModuleType, also: Path | None = None) -> None:
    """It is enabled no more; its own files are removed, and `also`."""
    system.disable(gone)
    left = [_before(name) for name in config.names() if also is None or name != gone.name]
    with Changes() as changes:
        if also is not None:
            changes.remove(also)
        if left:
            changes.write(MODULES, _modules(_modules_of([item.name for item in left])))
        else:
            changes.remove(MODULES)
        system.uninstall(gone, left, changes)
        changes.keep()
    system.forget(gone)


def _before(name: str) -> Config:
    """What was enabled under that name. A file that is damaged since can still be disabled. Raises `NotFound`,
    `PermissionDenied`."""
    try:
        return config.read(name)
    except (NotFound, PermissionDenied):
        raise
    except TruezramError:
        return Config(name, CreateOptions(0, swap=not systemd.is_disk(name)) if name != MACHINE else None)


def remove_now(gone: Config) -> None:
    """Removes the device, or puts the settings back."""
    if gone.kind == MACHINE:
        undo_settings([key for key, _ in gone.settings])
    elif gone.kind == "zram":
        kernel_zram.stop(gone.name)
    else:
        _remove_device(gone.name, gone.options is not None and gone.options.mount is not None)


def undo_settings(keys: Sequence[str]) -> list[tune.Undone]:
    """Puts those settings back that were changed in this boot, by hand or at its start. What someone else changed
    since is left alone."""
    undone = []
    for journal in (Journal(), boot_journal()):
        in_force = {change.key for change in tune.history(journal=journal)[0] if not change.undone}
        for key in keys:
            if key in in_force:
                with contextlib.suppress(Busy):
                    undone += tune.undo([key], journal=journal)
    return undone


def _remove_device(name: str, unmount: bool) -> None:
    with Client() as client:
        try:
            entry = client.resolve(name)
        except NotFound:
            return
    remove_entry(entry, unmount=unmount)


# ---- at the start and the end of the machine ----


def boot_journal() -> Journal:
    """What was set at this start. Early on, only /run can be written to."""
    return Journal(paths.own_run_dir() / "boot")


def start(name: str) -> str:
    """Makes what that file says; what happened, in a few words. A device that is there already is taken as it is.
    Raises what `config.read`, `create.create` and `tune.apply` raise."""
    wanted = config.read(name)
    if wanted.options is None:
        return _apply_settings(wanted.settings)
    if wanted.kind == "zram":
        there = kernel_zram.is_on(name)
        kernel_zram.start(name, wanted.options)
        return "is there already" if there else "made"
    if _is_there(name):
        return "is there already"
    created = create(wanted.options, wanted.to_set())
    for warning in created.warnings:
        sys.stderr.write(f"truezram: warning: {warning}\n")
    mine = [(key, value) for key, value in _machine_settings() if key.startswith("wbt.") and key[4:] == name]
    if mine:
        _apply_settings(mine)
    return "made"


def _is_there(name: str) -> bool:
    with Client() as client:
        entries: list[Entry] = client.entries()
        return any(entry.name == name and client.device(entry).state in ("live", "dead") for entry in entries)


def _machine_settings() -> tuple[tuple[str, str], ...]:
    return config.read(MACHINE).settings if MACHINE in config.names() else ()


def _apply_settings(settings: Sequence[tuple[str, str]]) -> str:
    """Each by itself: one that this kernel does not have does not keep the others from being set."""
    changed, failed = [], []
    for key, value in settings:
        if key.startswith("wbt.") and not Path(f"/sys/block/{key[4:]}").exists():
            continue  # set when its device is made
        try:
            changed += tune.apply([f"{key}={value}"], journal=boot_journal())
        except TruezramError as error:
            failed.append(str(error))
    if failed:
        raise Failed("not all settings could be made", " ".join(failed), f"Correct {config.DIRECTORY / MACHINE}.toml")
    return ", ".join(f"{change.key}={change.after}" for change in changed) or "nothing to change"


def stop(name: str) -> str:
    """The opposite: removes the device, if it is there. Settings stay until the machine is restarted."""
    if name == MACHINE:
        return "settings stay until the next start"
    try:
        wanted = config.read(name)
    except (NotFound, UsageError):
        wanted = Config(name, CreateOptions(0))
    remove_now(wanted)
    return "removed"


def canonical_name(text: str) -> str:
    """The file's name for what a user may write: ``0``, ``ublkb0``, ``/dev/nbd0``, ``zram0``, ``machine``. Raises
    `UsageError`."""
    from truezram.engine.device.client import candidates

    word = text.removeprefix("/dev/")
    if word == MACHINE or (word.startswith("zram") and word[4:].isdecimal()):
        return word
    name = candidates(text)[0]
    prefix = Config(name).kind
    if prefix not in ENABLED:
        raise UsageError(f"{text[:40]} cannot be enabled", "it is not a block device", "Write 0, ublkb0 or nbd0")
    return f"{prefix}{number(name)}"
