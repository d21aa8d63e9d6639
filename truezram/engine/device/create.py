"""A device's life from the outside: create it and change its settings. (Removal: removal.py.)

Everything is checked before anything is changed, and what fails half-way is undone.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from truezram._native import lib
from truezram.engine import paths
from truezram.engine.algorithms import canonical, default_algorithm
from truezram.engine.device import backing, dictionary, driver, filesystem, nbd, server, swap
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.compaction import Progress
from truezram.engine.device.options import MAX_ID, MAX_QUEUE_DEPTH, TRANSPORTS
from truezram.engine.device.options import CreateOptions as CreateOptions
from truezram.engine.device.settings import BY_KEY as SETTINGS
from truezram.engine.device.settings import (
    DEFAULT_MODE,
    DEFAULT_POLICY,
    parse_data_mode,
    parse_mode,
    parse_policy,
    write_policy,
)
from truezram.engine.device.settings import parse_mem_limit as parse_mem_limit
from truezram.engine.errors import Busy, Failed, PermissionDenied, TruezramError, Unsupported, UsageError
from truezram.engine.machine import advice, procfs
from truezram.engine.machine.users import Swaps
from truezram.engine.model import BAD_STATES, DeviceSnapshot, SwapArea
from truezram.engine.units import MAX_SIZE, PAGE, format_exact, format_size

CONTROL = Path("/dev/ublk-control")


@dataclass(frozen=True, slots=True)
class Created:
    """A device that was created."""

    entry: Entry
    options: CreateOptions
    """With the defaults filled in: algorithm, policy, and priority of a swap device."""
    warnings: tuple[str, ...] = ()
    """What may go wrong later with these options, and what to do about it."""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def path(self) -> str:
        return self.entry.path


def check_options(options: CreateOptions) -> CreateOptions:
    """The options with defaults filled in, checked as far as that is possible without changing anything. Raises
    `UsageError`, and for a dictionary what `dictionary.load_for` raises."""
    bad = "cannot create the device"
    if options.transport not in TRANSPORTS:
        raise UsageError(bad, f"unknown transport {options.transport!r}", f"Choose one of {', '.join(TRANSPORTS)}")
    transport = TRANSPORTS[options.transport]
    if options.size <= 0 or options.size % PAGE or options.size > lib.TZ_DISK_MAX:
        raise UsageError(bad, f"its size must be a multiple of {PAGE} bytes, up to {format_size(lib.TZ_DISK_MAX)}")
    if options.mem_limit < 0 or options.mem_limit > MAX_SIZE:
        raise UsageError(bad, f"its memory limit must be 0 (none) to {format_size(MAX_SIZE)}")
    for name, value, low, high in (
        ("id", options.id, 0, MAX_ID),
        ("number of queues", options.queues, 1, lib.TZ_MAX_QUEUES),
        ("queue depth", options.queue_depth, 1, MAX_QUEUE_DEPTH[options.transport]),
        ("priority", options.priority, 0, swap.MAX_PRIORITY),
    ):
        if value is not None and not low <= value <= high:
            raise UsageError(bad, f"its {name} is {value}", f"Choose {low} to {high}")
    cpus = os.cpu_count() or 1
    if options.transport == "ublk" and options.queues is not None and options.queues > cpus:
        raise UsageError(
            bad, f"{options.queues} queues were asked for, and ublk has at most one per CPU", f"Choose 1 to {cpus}"
        )
    if transport.one_queue and options.queues not in (None, 1):
        raise UsageError(bad, f"{options.queues} queues were asked for; {transport.one_queue}", "Leave --queues out")
    if options.swap and transport.no_swap:
        raise UsageError(bad, transport.no_swap, "Use --transport ublk for --swap")
    if options.data_mode is not None and options.transport != "ublk":
        raise UsageError(bad, "a data mode is for ublk", "Leave --data-mode out, or use --transport ublk")
    if options.priority is not None and not options.swap:
        raise UsageError(bad, "a priority is for swap only", "Add --swap, or leave --priority out")
    mount = _check_filesystem(options, bad)
    algorithm = canonical(options.algorithm if options.algorithm is not None else default_algorithm())
    priority = (swap.DEFAULT_PRIORITY if options.priority is None else options.priority) if options.swap else None
    file = None
    if options.dictionary is not None:
        file = str(dictionary.load_for(options.dictionary, algorithm).path)
    idle_file = _check_backing(options, bad)
    policy = write_policy(parse_policy(options.policy if options.policy is not None else DEFAULT_POLICY))
    data_mode = parse_data_mode(options.data_mode) if options.data_mode is not None else None
    mode = parse_mode(options.mode if options.mode is not None else DEFAULT_MODE)
    return replace(
        options,
        algorithm=algorithm,
        dictionary=file,
        policy=policy,
        mode=mode,
        data_mode=data_mode,
        priority=priority,
        mount=mount,
        backing=idle_file.path if idle_file else None,
        backing_plain=idle_file.plain if idle_file else False,
    )


def _check_backing(options: CreateOptions, what: str) -> backing.Backing | None:
    """The backing file, if there is to be one; nothing is looked at yet. Raises `UsageError`."""
    if options.backing is None:
        for given, name in ((options.backing_limit, "--backing-limit"), (options.backing_plain, "--backing-plain")):
            if given:
                raise UsageError(what, f"{name} is for a backing file", f"Add --backing PATH, or leave {name} out")
        if options.force:
            raise UsageError(what, "--force is for a backing file that has something on it", "Leave it out")
        return None
    found = backing.parse(options.backing, options.backing_limit)
    if found is None:
        return None
    return replace(found, plain=found.plain or options.backing_plain)


def _check_filesystem(options: CreateOptions, what: str) -> str | None:
    """The folder to mount on, absolute. Raises `UsageError`."""
    if options.fs is None:
        if options.mount is not None:
            raise UsageError(what, "--mount is for a filesystem", "Add --fs ext4, or leave --mount out")
        return None
    if options.swap:
        raise UsageError(what, "it cannot be swap and hold a filesystem", "Leave --swap or --fs out")
    if not TRANSPORTS[options.transport].is_disk:
        raise UsageError(what, "a local device is not a block device", "Use --transport ublk for --fs")
    return filesystem.check(options.fs, options.size, options.mount)


def create(options: CreateOptions, settings: Mapping[str, str] | None = None) -> Created:
    """Makes a device and returns when it can be used. `settings`, as the server takes them, are in force before
    anything is on it. Raises `TruezramError`, with nothing left behind."""
    given = options.priority
    options = check_options(options)
    lost = Swaps().lost if options.swap else []
    if given is None and options.swap:
        options = replace(options, priority=swap.priority_above(lost))
    machine = procfs.machine()
    if options.swap:
        for name in ("mkswap", "swapoff"):
            swap.tool(name)
    if options.fs is not None:
        filesystem.need(options.fs, options.mount)
    paths.server_path()
    _need_driver(options.transport)
    wanted = _check_backing(options, "")
    if wanted is not None:
        backing.check(wanted, f"cannot use {wanted.path} as backing file", force=options.force)
    is_new = wanted is not None and not os.path.lexists(wanted.path)
    run_dir = paths.make_run_dir()
    if options.id is not None:
        _free_id(Entry(run_dir, f"{TRANSPORTS[options.transport].prefix}{options.id}"))
    entry = server.start(options, run_dir)
    try:
        if entry.is_disk:
            swap.node_ready(entry.path)
        if settings or wanted is not None:
            with Client([run_dir]) as client:
                for key, value in (settings or {}).items():
                    client.set(entry, key, value)
                if wanted is not None:
                    backing.attach(client, entry, wanted, options.size, options.force)
        if options.swap and options.priority is not None:
            swap.enable(entry.path, options.priority)
        if options.fs is not None:
            filesystem.make(entry.path, options.fs)
            if options.mount is not None:
                filesystem.mount(entry.path, options.fs, options.mount)
    except BaseException:
        _undo(entry)
        if wanted is not None and is_new:
            Path(wanted.path).unlink(missing_ok=True)
        raise
    warnings = [*warnings_of(options, entry.name, machine.mem_total), *_dead_before(options, lost)]
    warnings += backing.warnings_of(wanted, options.size) if wanted is not None else []
    with Client([run_dir]) as client:
        device = client.device(entry)
    warnings += [*without_recovery(device), *without_groups(options, device)]
    return Created(entry, options, tuple(warnings))


def _dead_before(options: CreateOptions, lost: Sequence[SwapArea]) -> list[str]:
    """Swap areas without a device that the kernel would try before the new one, or in turn with it."""
    before = [area for area in lost if options.priority is not None and area.priority >= options.priority]
    if not before:
        return []
    names = " and ".join(f"{area.path} (priority {area.priority})" for area in before)
    better = swap.priority_above(before, 0)
    return [f"the kernel tries {names} first, and its device is gone. Give a higher --priority: {better}"]


def warnings_of(options: CreateOptions, name: str, memory: int) -> list[str]:
    """What may surprise the user of a device with these options; `memory` is the size of the machine's."""
    if not options.swap or options.mem_limit or options.size <= memory:
        return []
    limit = format_exact(advice.mem_limit(memory))
    return [
        f"{name} has no memory limit, and its size of {format_size(options.size)} is more than this machine's"
        f" {format_size(memory)}: swapped pages that compress badly could take all of it."
        f" Set one: truezram set {name} mem_limit={limit}"
    ]


def without_recovery(device: DeviceSnapshot) -> list[str]:
    """That a device does not outlive its server, and why; nothing of a local one, which never does."""
    if not TRANSPORTS[device.transport].is_disk or device.recoverable:
        return []
    return [f"{device.name} does not outlive its server (recovery {device.recovery}): what is on it is lost then"]


def without_groups(options: CreateOptions, device: DeviceSnapshot) -> list[str]:
    """That a policy is not wholly in force, and why."""
    if device.idle_cold or parse_policy(options.policy or "off").split(":")[1] == "0":
        return []
    return [
        f"{device.name} does not pack idle pages in groups, as the policy {options.policy} would: libzstd is not"
        f" there. See truezram doctor, then: truezram set {device.name} policy={options.policy}"
    ]


def _undo(entry: Entry) -> None:
    """Removes a device that could not be finished. What goes wrong here must not hide why."""
    from truezram.engine.device.removal import remove_entry

    with contextlib.suppress(TruezramError):
        remove_entry(entry, force=True, unmount=True)


def need_ublk() -> None:
    """Returns when ublk devices can be made; loads the module if it is missing. Raises with the remedy."""
    what = "cannot create a ublk device"
    if os.geteuid() != 0:
        remedy = "Run it with sudo, or make a device without a node in /dev: --transport local"
        raise PermissionDenied(what, "only root may make one", remedy)
    if (said := driver.load(TRANSPORTS["ublk"].module, CONTROL.exists)) is None:
        return
    why = f"kernel {platform.release()} has no {CONTROL}" + (f" ({said})" if said else "")
    others = "--transport nbd, for a disk, or --transport local" if nbd.may_be_had() else "--transport local"
    remedy = f"Use a kernel from 6.0 on with CONFIG_BLK_DEV_UBLK (modprobe ublk_drv), or {others}"
    raise Unsupported(what, why, remedy)


def _need_driver(transport: str) -> None:
    """Returns when devices of that transport can be made; raises with the remedy otherwise."""
    if transport == "ublk":
        need_ublk()
    elif transport == "nbd":
        nbd.need()


def free_entry(transport: str) -> Entry:
    """The place of the next device of a transport: its lowest number that nothing has now. Another program may take it
    at any moment. Raises `Busy` when all are taken."""
    run_dir = paths.own_run_dir()
    with Client() as client:
        taken = {entry.name for entry in client.entries()}
    for number in range(MAX_ID + 1):
        entry = Entry(run_dir, f"{TRANSPORTS[transport].prefix}{number}")
        with contextlib.suppress(Busy):
            if entry.name not in taken:
                _free_id(entry)
                return entry
    raise Busy(f"there is no free number for a {transport} device", "all are taken", "Remove a device")


def _free_id(entry: Entry) -> None:
    """Makes sure that the id is free. What a dead server left is not touched: only `remove` removes that."""
    what = f"cannot create {entry.name}"
    another = "Choose another --id, or leave it out"
    if entry.stats.exists():
        pid = server.server_of(entry)
        if pid is not None:
            raise Busy(what, f"it is in use by truezramd (pid {pid})", another)
        raise Busy(
            what,
            f"{entry.name} still exists, although its server died",
            f"First: truezram remove {entry.name}. Or choose another --id, or leave it out",
        )
    if not entry.is_disk:
        return
    if entry.transport == "ublk" and Path(f"/dev/ublkc{entry.id}").exists():
        raise Busy(what, f"/dev/ublkc{entry.id} belongs to another ublk server", another)
    if entry.transport == "nbd" and nbd.is_taken(entry.id):
        raise Busy(what, f"another program has connected {entry.path}", another)
    if os.path.lexists(entry.path):
        swap.check_node(entry.path)


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that was changed; values as text, sizes in bytes."""

    key: str
    before: str
    after: str


def parse_settings(pairs: Iterable[str]) -> dict[str, str]:
    """``key=value`` words checked and as the server takes them. Raises `UsageError`."""
    out: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(
                f"cannot understand {pair[:60]!r}", "it is not KEY=VALUE", "Write mem_limit=512M, for example"
            )
        if key not in SETTINGS:
            raise UsageError(f"cannot set {key[:40]!r}", "no such setting", f"Settings: {', '.join(SETTINGS)}")
        if key in out:
            raise UsageError(f"cannot set {key}", "it is given twice", "Give it once")
        out[key] = SETTINGS[key].parse(value)
    if not out:
        raise UsageError("nothing to set", "no KEY=VALUE was given", f"Settings: {', '.join(SETTINGS)}")
    return out


def set_values(
    client: Client,
    entry: Entry,
    settings: dict[str, str],
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Change, ...]:
    """Changes settings (from `parse_settings`) of a running device; all or none. `force`: takes a backing file that has
    something on it; `progress` is called while pages come back from one. Raises `TruezramError`."""
    device = client.device(entry)
    if device.state != "live":
        remedy = f"Remove it: truezram remove {entry.name}" if device.state in BAD_STATES else ""
        if device.waits:
            remedy = "Wait until another server has taken over"
            if device.state == "dead":
                remedy = f"Recover it: truezram recover {entry.name}"
        if device.state == "halted":
            remedy = f"Let its server continue: kill -CONT {device.pid}"
        raise Failed(f"cannot change {entry.name}", f"it is {device.state}", remedy)
    before = {key: SETTINGS[key].of(device) for key in settings}
    done: list[Change] = []
    try:
        # The backing file last: it cannot be put back, since pages do not go there again at once.
        for key, value in sorted(settings.items(), key=lambda item: item[0] == "backing"):
            if key == "backing":
                backing.change(client, entry, value, force, progress)
            else:
                client.set(entry, key, value)
            done.append(Change(key, before[key], value))
    except TruezramError as error:
        for change in reversed(done):
            client.set(entry, change.key, change.before)
        if done:
            put_back = ", ".join(change.key for change in done)
            remedy = f"{error.remedy} {put_back} was put back".strip()
            raise type(error)(error.what, error.why, remedy) from None
        raise
    return tuple(done)
