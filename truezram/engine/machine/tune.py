"""The machine's settings that matter to compressed memory: what they are, what they should be and why, changed and
put back.

A setting is a file of the kernel's. Every change is journalled before it is made (journal.py), read back after, and
undone in reverse order. Several changes in one call are one: when one fails, those before it are put back. Changes
last until the machine is restarted. What can be changed on a device while it runs (mem_limit, algorithm) is in
device/settings.py.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from truezram.engine.answers import Tunable
from truezram.engine.errors import Busy, Failed, NotFound, PermissionDenied, TruezramError, Unsupported, UsageError
from truezram.engine.machine import procfs
from truezram.engine.machine.advice import is_enough_for_zswap
from truezram.engine.machine.doctor import is_compressed
from truezram.engine.machine.journal import Change, Journal, boot_id
from truezram.engine.machine.procfs import ROOT
from truezram.engine.model import MachineSnapshot


@dataclass(frozen=True, slots=True)
class _Swap:
    """How this machine swaps, which is what suggestions depend on."""

    ours: bool
    """A ublk device is in use as swap."""
    zram: bool
    disk: bool
    zswap: bool = False
    """The swap on disk is large enough for zswap."""

    @classmethod
    def of(cls, machine: MachineSnapshot) -> _Swap:
        paths = [area.path for area in machine.swaps if is_compressed(area)]
        ours = any(path.startswith("/dev/ublkb") for path in paths)
        zram = any(path.startswith("/dev/zram") for path in paths)
        disks = sum(area.size for area in machine.swaps if area.path not in paths)
        return cls(ours, zram, len(paths) < len(machine.swaps), is_enough_for_zswap(disks, machine.mem_total))

    @property
    def compressed(self) -> bool:
        return self.ours or self.zram


_NONE = "no compressed swap is in use: no better value is known"


def _swappiness(swap: _Swap) -> tuple[str, str]:
    if not swap.compressed:
        return "", _NONE
    if swap.disk:
        return "100", (
            "compressed memory is as good a place as the file cache's disk, but more than 100 would also push pages to"
            " the disk swap once it is full"
        )
    return "150", (
        "reading a page back from compressed memory is several times faster than reading a file from an SSD; 150 says"
        " three times (the kernel weighs both as 150 to 50)"
    )


def _page_cluster(swap: _Swap) -> tuple[str, str]:
    if swap.ours:
        return "3", (
            "a swap-in through ublk costs a round trip, which 8 pages at once share (measured: 3.4 times as fast in"
            " sequence as with 0, 2.2 times in runs of 16 pages; at random the kernel reads nothing ahead)"
        )
    if swap.zram:
        return (
            "0",
            "kernel zram has no round trip to share: reading ahead only decompresses pages that were not asked for",
        )
    return "", _NONE


def _watermark(swap: _Swap) -> tuple[str, str]:
    if not swap.compressed:
        return "", _NONE
    return "125", (
        "the kernel then keeps 1.25% of memory free above its minimum instead of 0.1%, ahead of need: programs wait"
        " less often for pages to be compressed"
    )


def _zswap(swap: _Swap) -> tuple[str, str]:
    if swap.zswap and not swap.compressed:
        return (
            "Y",
            "in front of swap on disk, zswap keeps what is read again in memory and lets the rest go to the disk",
        )
    if not swap.compressed:
        return "", "zswap helps in front of swap on disk, of half the memory or more: there is none"
    return "N", "zswap takes pages before the compressed device sees them, and compresses them a first time"


def _shrinker(swap: _Swap) -> tuple[str, str]:
    if not swap.zswap or swap.compressed:
        return "", "it matters to zswap only"
    return "Y", "zswap then writes pages that nobody reads to the disk ahead of need, not only when it is full"


def _wbt(_: _Swap) -> tuple[str, str]:
    return "0", "writeback throttling holds kswapd back as if this were a slow disk; 0 turns it off"


def _number(low: int, high: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"it must be a whole number from {low} to {high}")
        return str(int(text))

    return parse


_YES = {"y": "Y", "yes": "Y", "1": "Y", "on": "Y", "true": "Y"}
_NO = {"n": "N", "no": "N", "0": "N", "off": "N", "false": "N"}


def _yes_no(text: str) -> str:
    try:
        return (_YES | _NO)[text.lower()]
    except KeyError:
        raise ValueError("it must be Y or N") from None


@dataclass(frozen=True, slots=True)
class _Setting:
    key: str
    path: str
    parse: Callable[[str], str]
    """The value as the kernel shows it; ValueError says what it must be."""
    hint: str
    suggest: Callable[[_Swap], tuple[str, str]]
    """(value or empty, reason)"""
    choices: tuple[str, ...] = ()


def _fixed(root: Path) -> list[_Setting]:
    vm = "proc/sys/vm"
    # Above 100 from 5.8 on.
    most = 200 if procfs.kernel_version(procfs.kernel(root)) >= (5, 8) else 100
    settings = [
        _Setting("swappiness", f"{vm}/swappiness", _number(0, most), f"0 to {most}", _swappiness),
        _Setting("page-cluster", f"{vm}/page-cluster", _number(0, 10), "0 to 10: 2^N pages at once", _page_cluster),
        _Setting(
            "watermark-scale-factor",
            f"{vm}/watermark_scale_factor",
            _number(1, 3000),
            "1 to 3000 hundredths of a per cent",
            _watermark,
        ),
        _Setting("zswap", "sys/module/zswap/parameters/enabled", _yes_no, "Y or N", _zswap, ("Y", "N")),
        _Setting(  # from 6.8 on
            "zswap-shrinker",
            "sys/module/zswap/parameters/shrinker_enabled",
            _yes_no,
            "Y or N",
            _shrinker,
            ("Y", "N"),
        ),
    ]
    return settings


def _setting(key: str, root: Path) -> _Setting:
    """The setting of that key, whether or not this machine has it. Raises `NotFound`."""
    for setting in _fixed(root):
        if setting.key == key:
            return setting
    match = re.fullmatch(r"wbt\.(ublkb\d{1,7})", key, re.ASCII)
    if match:
        path = f"sys/block/{match[1]}/queue/wbt_lat_usec"
        return _Setting(key, path, _number(0, 10**9), "microseconds, 0 is off", _wbt)
    known = ", ".join(setting.key for setting in _fixed(root))
    raise NotFound(f"no setting {key[:60]!r}", "", f"There are: {known}, and wbt.DEVICE of a ublk device (wbt.ublkb0)")


def _all(root: Path) -> list[_Setting]:
    try:
        names = os.listdir(f"{root}/sys/block")  # noqa: PTH208
    except OSError:
        names = []
    devices = sorted(
        (name for name in names if re.fullmatch(r"ublkb\d{1,7}", name, re.ASCII)), key=lambda n: int(n[5:])
    )
    return _fixed(root) + [_setting(f"wbt.{name}", root) for name in devices]


def canonical(key: str) -> str:
    """The key for what a user may write: ``vm.swappiness``, ``page_cluster``, ``zswap.enabled``."""
    key = key.strip().removeprefix("vm.")
    if key in ("zswap.enabled", "zswap_enabled"):
        return "zswap"
    return key if key.startswith("wbt.") else key.replace("_", "-")


def parse(key: str, value: str, root: Path = ROOT) -> str:
    """A value of a setting as the kernel shows it. Raises `NotFound`, `UsageError`."""
    setting = _setting(canonical(key), root)
    try:
        return setting.parse(value)
    except ValueError as error:
        raise UsageError(f"invalid value {value[:40]!r} for {key}", str(error), setting.hint) from None


def _read(setting: _Setting, root: Path) -> str | None:
    return procfs.read_text(f"{root}/{setting.path}")


def _readonly(setting: _Setting, root: Path) -> str:
    path = f"{root}/{setting.path}"
    if os.access(path, os.W_OK):
        return ""
    if os.geteuid():
        return "only root may change it"
    return "this system mounts it read-only"


def tunables(root: Path = ROOT, use: str = "") -> tuple[Tunable, ...]:
    """Every setting that this machine has, with its value and a suggestion for the way it swaps now, or would swap
    with `use` as well ("truezram", "zram")."""
    swap = _Swap.of(procfs.machine(root))
    swap = replace(swap, ours=swap.ours or use == "truezram", zram=swap.zram or use == "zram")
    found = []
    for setting in _all(root):
        current = _read(setting, root)
        if current is None:
            continue
        suggested, reason = setting.suggest(swap)
        found.append(
            Tunable(
                key=setting.key,
                path=f"/{setting.path}",
                current=current,
                suggested=suggested,
                reason=reason,
                hint=setting.hint,
                choices=setting.choices,
                readonly=_readonly(setting, root),
            )
        )
    return tuple(found)


# ---- changing ----


@dataclass(frozen=True, slots=True)
class _Planned:
    setting: _Setting
    before: str
    after: str


def _plan(assignments: Sequence[str], root: Path) -> list[_Planned]:
    """What ``KEY=VALUE``, ``KEY`` (its suggestion) or nothing (every suggestion) comes to; checked, nothing changed."""
    known = {item.key: item for item in tunables(root)}
    if not assignments:
        assignments = [item.key for item in known.values() if item.differs]
    planned: dict[str, _Planned] = {}
    for text in assignments:
        word, equals, value = text.partition("=")
        key = canonical(word)
        setting = _setting(key, root)
        tunable = known.get(key)
        if tunable is None:
            why = f"/{setting.path} is not there or cannot be read"
            raise Unsupported(f"cannot set {key}", why, "See `truezram tune` for what this machine has")
        if not equals and not tunable.suggested:
            raise UsageError(f"no value for {key}", tunable.reason, f"Write {key}=VALUE ({setting.hint})")
        value = parse(key, value.strip() if equals else tunable.suggested, root)
        if key in planned:
            raise UsageError(f"{key} is given twice", "", "Give each setting one value")
        planned[key] = _Planned(setting, tunable.current, value)
    changes = [item for item in planned.values() if item.before != item.after]
    for item in changes:
        if known[item.setting.key].readonly:
            why = known[item.setting.key].readonly
            raise PermissionDenied(f"cannot set {item.setting.key}", why, "Run it with sudo" if os.geteuid() else "")
    return changes


def _write(setting: _Setting, value: str, root: Path) -> None:
    """Writes and reads back. Raises `TruezramError`."""
    what = f"cannot set {setting.key} to {value}"
    try:
        # No O_CREAT: the file is the kernel's or it is not there.
        file = os.open(f"{root}/{setting.path}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(file, value.encode() + b"\n")
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionDenied(what, error.strerror or "", "Run it with sudo" if os.geteuid() else "") from None
        raise Failed(what, error.strerror or str(error)) from None
    now = _read(setting, root)
    if now != value:
        raise Failed(what, f"the kernel shows {now} after it was written")


def preview(assignments: Sequence[str] = (), root: Path = ROOT) -> list[tuple[str, str, str]]:
    """(key, value now, value then) of what `apply` would change; raises what it would raise."""
    return [(item.setting.key, item.before, item.after) for item in _plan(assignments, root)]


def apply(assignments: Sequence[str] = (), root: Path = ROOT, journal: Journal | None = None) -> list[Change]:
    """Sets ``KEY=VALUE``, ``KEY`` to its suggestion, or everything to its suggestion; returns the changes, which may
    be none.

    All or nothing: what was changed before one that fails is put back. Raises `UsageError`, `NotFound`, `Unsupported`,
    `PermissionDenied`, `Failed`.
    """
    journal = journal or Journal()
    if not _plan(assignments, root):
        return []
    done: list[tuple[_Planned, Change]] = []
    with journal.locked():
        try:
            for item in _plan(assignments, root):
                change = journal.add(item.setting.key, item.before, item.after, boot_id(root))
                done.append((item, change))
                _write(item.setting, item.after, root)
        except TruezramError as error:
            _take_back(done, root, journal, error)
            raise
    return [change for _, change in done]


def _take_back(done: list[tuple[_Planned, Change]], root: Path, journal: Journal, error: TruezramError) -> None:
    """Puts back what was changed, last first; what cannot be put back stays on record as in force."""
    for item, change in reversed(done):
        try:
            if _read(item.setting, root) != item.before:
                _write(item.setting, item.before, root)
            journal.mark_undone(change)
        except TruezramError as second:
            error.add_note(str(second))


# ---- undoing ----


def history(root: Path = ROOT, journal: Journal | None = None) -> tuple[list[Change], list[int]]:
    """(changes, oldest first; damaged lines of the journal). A change made before the last restart counts as undone."""
    changes, damaged = (journal or Journal()).read()
    boot = boot_id(root)
    return [change if change.boot == boot else _as_undone(change) for change in changes], damaged


def _as_undone(change: Change) -> Change:
    return replace(change, undone=True)


@dataclass(frozen=True, slots=True)
class Undone:
    """A change that was put back; `note` says when there was nothing left to do."""

    change: Change
    note: str = ""


def _choose(changes: list[Change], words: Sequence[str]) -> list[Change]:
    """The changes in force that keys or ``#ID`` name, all without words; last first."""
    in_force = [change for change in changes if not change.undone]
    if not words:
        return in_force[::-1]
    chosen = set()
    for word in words:
        if re.fullmatch(r"#?\d{1,9}", word, re.ASCII):
            found = {change.id for change in in_force if change.id == int(word.lstrip("#"))}
        else:
            found = {change.id for change in in_force if change.key == canonical(word)}
        if not found:
            raise NotFound(
                f"nothing to undo for {word[:60]}", "no such change is in force", "See `truezram tune journal`"
            )
        chosen |= found
    return [change for change in in_force[::-1] if change.id in chosen]


def undo(
    words: Sequence[str] = (), force: bool = False, root: Path = ROOT, journal: Journal | None = None
) -> list[Undone]:
    """Puts settings back, last change first: all changes in force, or those of the keys or ids (``#3``) in `words`.

    Raises `Busy`, with nothing changed, when a setting no longer has the value that the change gave it, since someone
    else has changed it (`force` puts it back anyway); `NotFound`, `PermissionDenied`, `Failed`.
    """
    journal = journal or Journal()
    if not _choose(history(root, journal)[0], words):
        return []
    undone = []
    with journal.locked():
        chosen = _choose(history(root, journal)[0], words)
        if not force:
            _check_undo(chosen, root)
        for change in chosen:
            undone.append(Undone(change, _undo_one(change, root)))
            journal.mark_undone(change)
    return undone


def _check_undo(chosen: list[Change], root: Path) -> None:
    """A dry run: each change must find what it left, or what it had found."""
    values: dict[str, str | None] = {}
    for change in chosen:
        now = values.setdefault(change.key, _read(_setting(change.key, root), root))
        if now not in (None, change.before, change.after):
            raise Busy(
                f"cannot undo change {change.id} of {change.key}",
                f"it is {now} now, not {change.after} as this change left it",
                f"Undo the later change first, or put {change.before} back anyway with --force",
            )
        values[change.key] = None if now is None else change.before


def _undo_one(change: Change, root: Path) -> str:
    """Puts one back; says so when there was nothing to do."""
    setting = _setting(change.key, root)
    now = _read(setting, root)
    if now is None:
        return "it is no longer there"
    if now == change.before:
        return "it had that value already"
    try:
        value = setting.parse(change.before)
    except ValueError as error:
        raise Failed(
            f"cannot undo change {change.id} of {change.key}", f"{change.before!r} in the journal: {error}"
        ) from None
    _write(setting, value, root)
    return ""
