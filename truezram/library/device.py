"""`truezram.Device`, `truezram.devices`, `truezram.watch`: the compressed devices of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Literal, overload

from truezram.engine.answers import Recompressed
from truezram.engine.device import boot, cold
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.compaction import Progress
from truezram.engine.device.create import Change, create, parse_settings, set_values
from truezram.engine.device.local import LocalDevice
from truezram.engine.device.options import CreateOptions, RecompressOptions
from truezram.engine.device.removal import Progress as RemovalProgress
from truezram.engine.device.removal import Removed, remove_entry
from truezram.engine.device.settings import parse_mem_limit
from truezram.engine.errors import NotFound, TruezramError, UsageError
from truezram.engine.machine import procfs
from truezram.engine.model import DeviceSnapshot, Snapshot
from truezram.engine.pace import every
from truezram.engine.units import parse_disksize, parse_duration, parse_size

RECOMPRESS = RecompressOptions()
LEAST, MOST = 0.01, 86400.0
"""Seconds between two snapshots."""


def devices() -> tuple[DeviceSnapshot, ...]:
    """All compressed devices of this machine that this user can see, as they are now: truezram's, kernel zram's, and
    zswap as if it were one (`kind` says which). Sizes are in bytes, durations in nanoseconds."""
    with Client() as client:
        return client.snapshot().devices


def watch(interval: float = 1.0) -> Iterator[Snapshot]:
    """The machine and its devices, again and again: the first snapshot at once, the next every `interval` seconds (0.01
    to a day), until the iterator is closed or dropped.

        for snapshot in truezram.watch(5):
            print([(device.name, device.ratio) for device in snapshot.devices])

    Looking wakes no device and needs no root. Counters count since a device was created: rates are the difference of
    two snapshots. Raises UsageError for another interval.
    """
    if not LEAST <= interval <= MOST:
        raise UsageError(f"invalid interval {interval}", "it must be between 0.01 s and a day", "Give seconds")
    return _snapshots(interval)


def _snapshots(interval: float) -> Iterator[Snapshot]:
    with Client() as client:
        for _ in every(interval):
            yield client.snapshot()


class Device:
    """A device of truezram's. Get one with `create` or `open`.

    The device outlives this object, and the process: it is served by a process of its own, and `remove` ends it. So
    leaving a `with` block lets go of what is needed to look at it, and removes it only if it was made `temporary`.

        with truezram.Device.create("64M", transport="local", temporary=True) as device:
            device.set(mem_limit="16M")
            print(device.stat().mem_limit)

    All methods raise `TruezramError`, which says what failed, why, and what to do. For one thread at a time.
    """

    def __init__(self, entry: Entry, temporary: bool = False, warnings: tuple[str, ...] = ()) -> None:
        """Use `create` or `open`."""
        self._entry = entry
        self._opened: Client | None = None
        self._temporary = temporary
        self.warnings: tuple[str, ...] = warnings
        """What `create` found that may go wrong later, and what to do about it."""

    @classmethod
    def open(cls, name: str) -> Device:
        """The device of that name, as commands take it: `"ublkb0"`, `"/dev/ublkb0"`, `"local0"`, `"0"`.

        Raises NotFound, UsageError for what is no device's name, and Unsupported for a device of the kernel's own,
        which `devices` shows.
        """
        with Client() as client:
            return cls(client.resolve(name))

    @classmethod
    def create(
        cls,
        size: int | str,
        *,
        transport: Literal["ublk", "nbd", "local"] = "ublk",
        algorithm: str | None = None,
        mem_limit: int | str = 0,
        dictionary: str | None = None,
        dedup: bool = False,
        policy: str | None = None,
        mode: str | None = None,
        data_mode: str | None = None,
        backing: str | None = None,
        backing_limit: int | str = 0,
        backing_plain: bool = False,
        force: bool = False,
        swap: bool = False,
        priority: int | None = None,
        fs: str | None = None,
        mount: str | None = None,
        id: int | None = None,
        queues: int | None = None,
        queue_depth: int | None = None,
        enable: bool = False,
        temporary: bool = False,
    ) -> Device:
        """Makes a device, as `truezram create` does, and returns when it can be used. Sizes are bytes or text such as
        `"8G"`. What fails half-way is undone.

        Args:
            size: What can be stored on it; not the memory that it takes.
            transport: `"ublk"`, a block device in /dev, which needs root and Linux 6.0; `"nbd"`, the same for kernels
                without ublk, for disks only; or `"local"`, which needs neither, and which `attach` reads and writes.
            algorithm: `NAME` or `NAME:LEVEL`. Default: `fast`, or `lz4` where the CPU has no AVX2.
            mem_limit: Memory that it may take, everything counted; 0 or `"none"`: any. Writes beyond it fail.
            dictionary: A file with a dictionary for zstd (`truezram train`).
            dedup: Whether identical pages share one object.
            policy: What is done with idle pages: `off`, `gentle`, `balanced` or `dense`.
            mode: `low-latency`, `balanced` or `max-throughput`.
            data_mode: Who copies the data of a ublk device's requests: `user-copy`, `driver-copy` or `auto`.
            backing: A file, partition or disk for pages that nobody has touched for long.
            backing_limit: How much of that is used at most; 0: all.
            backing_plain: Whether it is not encrypted.
            force: Whether it is taken although there is something on it.
            swap: Whether to make it swap space and turn that on.
            priority: Of the swap space, 0 to 32767.
            fs: Make this filesystem on it: `ext4`, `xfs` or `btrfs`.
            mount: Mount that there.
            id: Its number. Default: the first free one.
            queues: I/O queues.
            queue_depth: Requests in flight per queue.
            enable: Whether it comes back after every restart of the machine.
            temporary: Whether leaving the `with` block removes it.

        Raises:
            UsageError: Something that cannot be; nothing was changed.
            PermissionDenied: A ublk device, without root.
            Unsupported: This machine cannot do that.
            Busy: The number, or the backing file, is in use.
            Failed: It was tried and failed.
        """
        if temporary and enable:
            raise UsageError("cannot create the device", "it is temporary and to come back", "Leave one of them out")
        options = CreateOptions(
            size=parse_disksize(str(size)),
            algorithm=algorithm,
            mem_limit=mem_limit if isinstance(mem_limit, int) else parse_mem_limit(mem_limit),
            id=id,
            queues=queues,
            queue_depth=queue_depth,
            transport=transport,
            swap=swap,
            priority=priority,
            fs=fs,
            mount=mount,
            dictionary=dictionary,
            dedup=dedup,
            policy=policy,
            mode=mode,
            data_mode=data_mode,
            backing=backing,
            backing_limit=backing_limit if isinstance(backing_limit, int) else parse_size(backing_limit),
            backing_plain=backing_plain,
            force=force,
            enable=enable,
        )
        made = boot.create_enabled(options) if enable else create(options)
        return cls(made.entry, temporary, made.warnings)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._temporary and self._entry in self._client.entries():
                self.remove()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"Device({self.path!r})"

    def close(self) -> None:
        """Lets go of its statistics, until they are asked for again. The device stays as it is."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _client(self) -> Client:
        if self._opened is None:
            self._opened = Client()
        return self._opened

    @property
    def name(self) -> str:
        """Such as `ublkb0`, `nbd0` or `local0`."""
        return self._entry.name

    @property
    def path(self) -> str:
        """`/dev/ublkb0`, `/dev/nbd0`; `local:0` for a local device, which has no node in /dev."""
        return self._entry.path

    @property
    def transport(self) -> str:
        """`ublk`, `nbd` or `local`."""
        return self._entry.transport

    def stat(self) -> DeviceSnapshot:
        """All that is known of it, now: its settings, what it holds and takes (bytes), what it has done. Raises
        NotFound if it was removed."""
        if self._entry not in self._client.entries():
            raise NotFound(f"no device {self.name}", "it was removed", "See `truezram list`")
        return self._client.device(self._entry, procfs.machine().swaps)

    def set(self, *, force: bool = False, **settings: str | int | bool | None) -> tuple[Change, ...]:
        """Changes settings of the running device, all or none: `set(mem_limit="2G", algorithm="zstd:3", dedup=True)`.

        Args:
            force: Of `backing`: whether it is taken although there is something on it.
            settings: As `truezram set --help` lists them. A value is text as there, a number, True or False for on and
                off, or None for none.

        Returns:
            What was changed, from what to what, as text.

        Raises:
            UsageError: No such setting, or a value that it cannot have; nothing was changed.
            Failed: The device refused, or is not live; what had been changed was put back.
        """
        values = parse_settings(f"{key}={_text(value)}" for key, value in settings.items())
        return set_values(self._client, self._entry, values, force)

    @overload
    def recompress(
        self,
        to: str = ...,
        idle: float | str = ...,
        *,
        max_cpu: int = ...,
        wait: Literal[True] = ...,
        progress: Progress | None = ...,
    ) -> Recompressed: ...

    @overload
    def recompress(
        self, to: str = ..., idle: float | str = ..., *, max_cpu: int = ..., wait: Literal[False]
    ) -> None: ...

    def recompress(
        self,
        to: str = RECOMPRESS.to,
        idle: float | str = RECOMPRESS.idle,
        *,
        max_cpu: int = RECOMPRESS.max_cpu,
        wait: bool = True,
        progress: Progress | None = None,
    ) -> Recompressed | None:
        """Has pages that nobody has touched for some time written once more with a denser codec.

        Args:
            to: `dense`, `zstd[:LEVEL]`, or `cold` (up to 16 neighbouring pages in one object).
            idle: For how long they have been idle at least: seconds, or text such as `"10m"`; 0: all pages.
            max_cpu: Per cent of a core, 1 to 100.
            wait: Whether to return when it has ended. An exception meanwhile (Ctrl-C) stops it.
            progress: Called meanwhile with the share that is done (0 to 1) and the device.

        Returns:
            What it came to; None without `wait`.

        Raises:
            Busy: One is at work.
            UsageError: No such algorithm, age or share.
        """
        seconds = parse_duration(idle, "idle time") if isinstance(idle, str) else idle
        run = cold.recompress(self._client, self._entry, to, seconds, max_cpu)
        if not wait:
            return None
        try:
            return cold.watch(self._client, run, progress)
        except BaseException:
            with contextlib.suppress(TruezramError):
                self._client.stop_recompress(self._entry)
            raise

    def attach(self) -> LocalDevice:
        """A local device's pages: reads, writes and discards them from this process, in a `with` block of its own.
        Raises Unsupported for a block device: open its `path`."""
        return LocalDevice(self._entry)

    def remove(self, *, force: bool = False, unmount: bool = False, progress: RemovalProgress | None = None) -> Removed:
        """Removes the device and all that is on it; swapoff first.

        Args:
            force: Even if it is in use: its users get I/O errors. A device that is still swap is never stopped.
            unmount: Whether to unmount what is mounted of it first.
            progress: Called with a stage (`swapoff`, `stop`), what is done of it, and all of it.

        Raises:
            Busy: Something other than this process uses it; the message says what.
            PermissionDenied: It is another user's.
            NotFound: It was removed before.
        """
        if self._entry not in self._client.entries():
            raise NotFound(f"no device {self.name}", "it was removed", "See `truezram list`")
        return remove_entry(self._entry, force, progress, unmount)


def _text(value: str | int | bool | None) -> str:
    """A setting's value as a user writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
