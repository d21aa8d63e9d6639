"""``truezram stat``: everything known about devices, under the names of zram's mm_stat and io_stat."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from truezram.cli.output import print_json, print_json_line
from truezram.cli.verbs.idle import age_json, span
from truezram.engine.device.gains import STEPS
from truezram.engine.device.settings import Setting, in_force
from truezram.engine.errors import NotFound, Unsupported, UsageError
from truezram.engine.machine.mappings import device_of
from truezram.engine.model import BACKING_STATES, IO_STAT, MEMORY, PRESSURES, DeviceSnapshot, QueueSnapshot
from truezram.engine.pace import every
from truezram.engine.rates import latency_floor, percentile
from truezram.engine.units import format_duration, format_ns, format_percent, format_ratio, format_size, parse_duration

NAME = "stat"
EXAMPLE = "truezram stat ublkb0 --mm-stat --watch 5"
HELP = "show everything about devices: memory, requests, latencies, queues"
SCHEMA_VERSION = 2
"""Version 1 had the pool's size classes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "device", nargs="*", metavar="DEVICE", help="0, ublkb0, /dev/ublkb0, local0, zram0 (default: all)"
    )
    which = parser.add_mutually_exclusive_group()
    for file, about in KERNEL_FILES.items():
        option = f"--{file.replace('_', '-')}"
        help = f"only the line of numbers of zram's {file}: {about}"
        which.add_argument(option, dest="file", action="store_const", const=file, help=help)
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_interval,
        const=1.0,
        help="again and again, every second or every SECONDS, until it is interrupted; with --json a document a line",
    )
    parser.epilog = (
        "The lines of --mm-stat, --io-stat and --bd-stat have the fields of the files of that name in /sys/block/zram0,"
        " in their order, a line for each device, so that what reads those reads these. A device of truezram's without"
        " a backing file has 0 0 0 in bd_stat, as one of zram's has; with one, its pages take less than"
        " 4096 bytes there."
    )


KERNEL_FILES = {
    "mm_stat": "memory",
    "io_stat": "requests that failed, and pages freed",
    "bd_stat": "pages on the backing device",
}
"""The kernel's statistics files that are written the same way, and what they are about
(Documentation/admin-guide/blockdev/zram.rst)."""


def _interval(text: str) -> float:
    remedy = "Give seconds; a DEVICE comes before --watch"
    try:
        seconds = parse_duration(text, "interval")
    except UsageError as error:
        raise UsageError(error.what, error.why, remedy) from None
    if not 0.01 <= seconds <= 86400:
        raise UsageError(f"invalid interval {text[:40]!r}", "it must be between 0.01 s and a day", remedy)
    return seconds


def choose(devices: tuple[DeviceSnapshot, ...], words: list[str]) -> list[DeviceSnapshot]:
    """The devices that the words name, in their order; all without words. Raises `NotFound`, `UsageError`."""
    from truezram.engine.device.client import candidates

    if not words:
        return list(devices)
    out = []
    for word in words:
        names = candidates(word)
        found = [device for device in devices if device.name in names]
        if not found:
            known = ", ".join(device.name for device in devices)
            raise NotFound(f"no device {word}", f"there are: {known}" if known else "no device is running", "")
        out += [device for device in found if device not in out]
    return out


def mm_stat(device: DeviceSnapshot) -> dict[str, int]:
    """The kernel's mm_stat, in its order."""
    return {
        "orig_data_size": device.orig_data_size,
        "compr_data_size": device.compr_data_size,
        "mem_used_total": device.mem_used_total,
        "mem_limit": device.mem_limit,
        "mem_used_max": device.mem_used_max,
        "same_pages": device.same_pages,
        "pages_compacted": device.pages_compacted,
        "huge_pages": device.huge_pages,
        "huge_pages_since": device.total.huge_pages_since,
    }


def _settings(device: DeviceSnapshot) -> list[Setting]:
    """The settings in force that are not in mm_stat."""
    return [setting for setting in in_force(device) if setting.key not in mm_stat(device)]


def io_stat(device: DeviceSnapshot) -> dict[str, int]:
    """The kernel's io_stat, in its order, then ours."""
    return {counter.name: counter.of(device.total) for counter in IO_STAT}


def latency(histogram: tuple[int, ...]) -> dict[str, Any]:
    """Percentiles in ns, and the bins that are not empty as [lower bound in ns, requests]."""
    return {
        "requests": sum(histogram),
        "p50_ns": percentile(histogram, 0.50),
        "p99_ns": percentile(histogram, 0.99),
        "p999_ns": percentile(histogram, 0.999),
        "histogram": [[latency_floor(i), count] for i, count in enumerate(histogram) if count],
    }


def queue_json(queue: QueueSnapshot) -> dict[str, Any]:
    """One queue's load."""
    return {
        "cpu": queue.cpu,
        "tid": queue.tid,
        "num_reads": queue.num_reads,
        "num_writes": queue.num_writes,
        "num_discards": queue.num_discards,
        "pages_read": queue.pages_read,
        "pages_written": queue.pages_written,
        "drains": queue.drains,
        "busy_ns": queue.busy_ns,
        "spin_ns": queue.spin_ns,
    }


def dictionary_json(device: DeviceSnapshot) -> dict[str, int] | None:
    """zstd's dictionary; None for a device without one. ``memory_bytes`` is not part of mm_stat."""
    if not device.dictionary_size:
        return None
    return {
        "bytes": device.dictionary_size,
        "id": device.dictionary_id,
        "memory_bytes": device.dictionary_memory,
    }


def memory_json(device: DeviceSnapshot) -> dict[str, int] | None:
    """What mem_used_total consists of, in bytes, and what the reserve is kept at; None for a device of the kernel's."""
    if device.kind != "truezram":
        return None
    return {**{part.key: part.of(device) for part in MEMORY}, "reserve_target": device.reserve_target}


def ages_json(device: DeviceSnapshot) -> dict[str, Any] | None:
    """Pages by age, as they were counted that many seconds ago; None where there are none."""
    if not device.ages:
        return None
    return {"seconds_ago": device.ages_age, "ages": [age_json(age) for age in device.ages]}


def tiers_json(device: DeviceSnapshot) -> dict[str, Any] | None:
    """Pages with an object and what those take now, as written, dense, in groups, and, if there is one, on the backing
    file; and by how much less memory pages took when they came there. None for a device of the kernel's."""
    if device.kind != "truezram":
        return None
    return {tier.name: {"pages": tier.pages, "bytes": tier.bytes, "saved_bytes": tier.saved} for tier in device.tiers}


def backing_json(device: DeviceSnapshot) -> dict[str, Any] | None:
    """The backing file: what it is, how it is, and what is on it. None for a device without one."""
    if device.backing_state == "none":
        return None
    encrypted = device_of(Path(device.backing_path).name) != ""
    return {
        "path": device.backing.removeprefix("plain:"),
        "encrypted": encrypted,
        "written_to": device.backing_path,
        "state": device.backing_state,
        "reason": device.backing_text or None,
        "pages": device.backed_pages,
        "used_bytes": device.backing_used,
        "limit_bytes": device.backing_limit,
        "today_bytes": device.backing_today(time.time()),
        "written_bytes": device.backing_written,
        "discarded_bytes": device.backing_discarded,
        "reads": device.total.backing_reads,
        "errors": device.total.backing_errors,
        "returned_pages": device.total.backing_returned,
    }


def pressure_json(device: DeviceSnapshot) -> dict[str, Any] | None:
    """Whether the policy acts earlier now, why, and how often that has begun; None for a device of the kernel's."""
    if device.kind != "truezram":
        return None
    return {"now": bool(device.pressure), "why": device.pressure or None, "times": device.pressures}


def step_json(pages: int, saved: int, cpu_ns: int) -> dict[str, int]:
    """What one step of recompression has done."""
    return {"pages": pages, "saved_bytes": saved, "cpu_ns": cpu_ns}


def recompression_json(device: DeviceSnapshot) -> dict[str, Any] | None:
    """What recompression has done since the device was created, both steps and each; None for a device of the
    kernel's."""
    if device.kind != "truezram":
        return None
    return {
        "at_work": device.is_recompressing,
        "permille": device.recompress_permille if device.is_recompressing else None,
        **step_json(device.recompressed_pages, device.recompressed_saved, device.recompress_cpu_ns),
        **{
            step.counters: {
                **step_json(*(step.counter(device, name) for name in ("pages", "saved", "cpu_ns"))),
                "no_room": step.counter(device, "no_room"),
                "tried_bytes": step.counter(device, "tried"),
                "runs": step.counter(device, "runs"),
            }
            for step in STEPS
        },
    }


def as_json(device: DeviceSnapshot) -> dict[str, Any]:
    """One device of the document ``truezram.stat/2``."""
    total = device.total
    return {
        "name": device.name,
        "path": device.path,
        "kind": device.kind,
        "transport": device.transport,
        "state": device.state,
        "pid": device.pid,
        "created": device.created,
        **{setting.key: setting.value(setting.of(device)) for setting in _settings(device)},
        "isa": device.isa,
        "dictionary": dictionary_json(device),
        "disksize": device.disksize,
        "ratio": device.ratio,
        "compression_ratio": device.compression_ratio,
        "packing": device.packing,
        "mm_stat": mm_stat(device),
        "io_stat": io_stat(device),
        "memory": memory_json(device),
        "dup_pages": device.dup_pages,
        "idle": ages_json(device),
        "recompression": recompression_json(device),
        "tiers": tiers_json(device),
        "backing_file": backing_json(device),
        "pressure": pressure_json(device),
        "kind_pages": dict(device.kind_pages),
        "kind_bytes": dict(device.kind_bytes),
        "size_pages": [[(i + 1) * 64, count] for i, count in enumerate(device.size_pages) if count],
        "compress_ns": total.compress_ns,
        "compress_bytes_in": total.compress_bytes_in,
        "compress_bytes_out": total.compress_bytes_out,
        "decompress_ns": total.decompress_ns,
        "decompress_bytes_out": total.decompress_bytes_out,
        "read_latency": latency(total.read_lat),
        "write_latency": latency(total.write_lat),
        "spin_ns": total.spin_ns,
        "spin_hits": total.spin_hits,
        "spin_share": device.spin_share,
        "data_mode": device.data_mode or None,
        "data_mode_why": device.data_mode_why or None,
        "nr_queues": device.nr_queues,
        "queue_depth": device.queue_depth,
        "queues": [queue_json(queue) for queue in device.queues],
        "memory_locked": device.memory_locked,
        "noswap_tmpfs": device.noswap_tmpfs,
        "io_flusher": device.io_flusher,
        "swap_priority": device.swap_priority,
        "swap_used": device.swap_used,
        "recovery": device.recovery or None,
        "standby": device.standby or None,
        "recoveries": device.recoveries,
        "slot_tracking": device.slot_tracking or None,
        "slot_tracking_text": device.slot_tracking_text,
        "mountpoints": list(device.mountpoints),
        "server_cpu_ns": device.server_cpu_ns,
        "last_error": device.last_error,
        "last_error_time": device.last_error_time,
    }


def slot_tracking(device: DeviceSnapshot) -> str:
    """Whether the kernel reports freed swap slots, and how, or why not."""
    if device.slot_tracking == "on":
        return f"on, by {device.slot_tracking_text}: {device.total.slots_freed} pages given back"
    return f"{device.slot_tracking}: {device.slot_tracking_text}" if device.slot_tracking_text else device.slot_tracking


def recompression(device: DeviceSnapshot) -> list[tuple[str, str]]:
    """What each step of it has done, where the pages are now, and how far the one at work is."""
    steps = (
        ("made dense", device.dense_pages, device.dense_saved, device.dense_cpu_ns),
        ("put in groups", device.cold_pages, device.cold_saved, device.cold_cpu_ns),
        ("written back", device.backing_pages, device.backing_saved, device.backing_cpu_ns),
    )
    out = [
        (name, f"{pages} pages, which took {format_size(saved)} less then ({format_ns(cpu)} of CPU)")
        for name, pages, saved, cpu in steps
        if pages
    ]
    if out:
        tiers = (f"{tier.name} {tier.pages} pages in {format_size(tier.bytes)}" for tier in device.tiers)
        out.append(("pages by tier", ", ".join(tiers)))
    if device.is_recompressing:
        out.append(("recompression", f"at work: {format_percent(device.recompress_permille / 1000)}"))
    return out


def spinning(device: DeviceSnapshot) -> str:
    """What waiting awake costs, and brings."""
    total = device.total
    share = format_percent(device.spin_share or 0.0)
    return f"{share} of a core since the mode was set; {total.spin_hits} times a request came meanwhile"


def backing(device: DeviceSnapshot) -> list[tuple[str, str]]:
    """How the backing file is, and what is on it."""
    if device.backing_state == "none":
        return []
    state = BACKING_STATES[device.backing_state].text
    size, most = format_size(device.backing_used), format_size(device.backing_limit)
    today, most_today = format_size(device.backing_today(time.time())), format_size(device.backing_daily)
    total = device.total
    return [
        ("backing file", f"{state} ({device.backing_text})" if device.backing_text else state),
        ("  on it", f"{device.backed_pages} pages in {size} of {most}"),
        ("  written", f"{today} today" + (f" of {most_today}" if device.backing_daily else "")
         + f", {format_size(device.backing_written)} in all, {format_size(device.backing_discarded)} given back"),
        ("  read", f"{total.backing_reads} pages, {total.backing_returned} came back to memory"
         + (f", {total.backing_errors} could not be read" if total.backing_errors else "")),
    ]  # fmt: skip


def lines(device: DeviceSnapshot) -> list[tuple[str, str]]:
    """(label, value) lines for people."""
    kind = (
        f"transport {device.transport}" if device.kind == "truezram" else f"kernel {device.kind}, read-only to truezram"
    )
    if device.transport == "local" and device.kind == "truezram":
        kind += ": no node in /dev, for truezram's own programs"
    out = [("", f"{device.path}  {device.state}  ({kind})")]
    if device.state != "live" and device.last_error:
        out.append(("reason", device.last_error))
    if device.state == "unreadable":
        return out
    yes = {True: "yes", False: "no"}
    for setting in _settings(device):
        isa = f" ({device.isa})" if setting.key == "algorithm" and device.isa else ""
        out.append((setting.key, setting.shown(device) + isa))
    if device.dictionary_size:
        size, memory = format_size(device.dictionary_size), format_size(device.dictionary_memory)
        out.append(("dictionary", f"{size} for zstd, id {device.dictionary_id}; with its tables {memory} of memory"))
    out.append(("disksize", format_size(device.disksize)))
    for name, value in mm_stat(device).items():
        is_size = name.endswith("_size") or name.startswith("mem_")
        text = format_size(value) if is_size else str(value)
        out.append((name, "none" if name == "mem_limit" and not value else text))
    if device.dup_pages or device.dedup == "on":
        out.append(("dup_pages", f"{device.dup_pages}, each in the object of another page"))
    out.append(("ratio", f"{format_ratio(device.ratio)} (objects alone {format_ratio(device.compression_ratio)})"))
    if device.kind == "truezram":
        if device.packing is not None:
            out.append(
                ("packing", f"{device.packing:.3f} bytes of memory for each compressed byte, without the reserve")
            )
        out += [(f"  {part.title}", format_size(part.of(device))) for part in MEMORY]
        kinds = ", ".join(f"{name} {count}" for name, count in device.kind_pages)
        out.append(("pages by kind", kinds or "none stored"))
        ages = ", ".join(f"{span(age)} {age.pages}" for age in device.ages if age.pages)
        if ages:
            out.append(("pages by age", f"{ages} (counted {format_duration(device.ages_age)} ago)"))
        out += recompression(device)
        out += backing(device)
        if device.idle_dense or device.idle_cold:
            why = f"yes, {PRESSURES[device.pressure]}: the policy acts earlier" if device.pressure else "no"
            out.append(("pressure", why))
    out += [(name, str(value)) for name, value in io_stat(device).items()]
    for name, histogram in (("read latency", device.total.read_lat), ("write latency", device.total.write_lat)):
        if sum(histogram):
            text = f"p50 {format_ns(percentile(histogram, 0.5))}, p99 {format_ns(percentile(histogram, 0.99))}"
            out.append((name, text))
    if device.kind == "truezram":
        if device.spin_share is not None and device.total.spin_ns:
            out.append(("spin_share", spinning(device)))
        out.append(("queues", f"{device.nr_queues} of depth {device.queue_depth}"))
        if device.data_mode:
            out.append(("data_mode", f"{device.data_mode}: {device.data_mode_why}"))
        for index, queue in enumerate(device.queues):
            where = f"CPU {queue.cpu}" if queue.cpu is not None else "any CPU"
            text = f"{where}, {queue.num_reads} reads, {queue.num_writes} writes, {queue.num_discards} discards"
            out.append((f"queue {index}", text))
        locked = f"locked {yes[device.memory_locked]}, noswap tmpfs {yes[device.noswap_tmpfs]}"
        out.append(("memory", f"{locked}, io_flusher {yes[device.io_flusher]}"))
        standby = f", standby pid {device.standby}" if device.standby else ", no standby"
        out.append(("recovery", device.recovery + (standby if device.recoverable else "")))
        if device.recoveries:
            out.append(("recoveries", str(device.recoveries)))
        out.append(("server", f"pid {device.pid}, {format_ns(device.server_cpu_ns)} of CPU"))
        out.append(("created", datetime.fromtimestamp(device.created).isoformat(" ", "seconds")))
    if device.swap_priority is not None:
        out.append(("swap", f"priority {device.swap_priority}, {format_size(device.swap_used)} used"))
    if device.slot_tracking and (device.slot_tracking != "off" or device.swap_priority is not None):
        out.append(("slot_tracking", slot_tracking(device)))
    if device.mountpoints:
        out.append(("mounted on", ", ".join(device.mountpoints)))
    if device.state == "live" and device.last_error:
        when = datetime.fromtimestamp(device.last_error_time).isoformat(" ", "seconds")
        out.append(("last error", f"{device.last_error} ({when})"))
    return out


def bd_stat(device: DeviceSnapshot) -> dict[str, int]:
    """zram's counters of its backing device, in pages: on it now, read from it, written to it."""
    return {
        "bd_count": device.backed_pages,
        "bd_reads": device.total.backing_reads,
        "bd_writes": device.backing_pages,
    }


def kernel_file(device: DeviceSnapshot, file: str) -> dict[str, int]:
    """The fields of one of `KERNEL_FILES`, in the kernel's order. Raises `Unsupported` where there is none."""
    from truezram.engine.machine import zram

    ours = {
        "mm_stat": mm_stat(device),
        "io_stat": {counter.name: counter.of(device.total) for counter in IO_STAT[:4]},
        "bd_stat": bd_stat(device),
    }[file]
    if device.kind == "truezram":
        return ours
    numbers = zram.statistics(device.name, file) if device.kind == "zram" else []
    if not numbers:
        why = "zswap is no block device" if device.kind == "zswap" else "this kernel has no such file"
        raise Unsupported(f"{device.name} has no {file}", why, "Leave it out")
    return dict(zip(ours, numbers, strict=False))


def _show(devices: list[DeviceSnapshot], args: argparse.Namespace) -> None:
    """Prints them once, as the options say."""
    if args.json:
        found = [
            {"name": device.name, args.file: kernel_file(device, args.file)} if args.file else as_json(device)
            for device in devices
        ]
        if args.watch:
            print_json_line(NAME, {"time": time.time(), "devices": found}, SCHEMA_VERSION)
        else:
            print_json(NAME, {"devices": found}, SCHEMA_VERSION)
    elif args.file:
        for device in devices:
            print(" ".join(f"{value:8d}" for value in kernel_file(device, args.file).values()))  # as the kernel does
    else:
        _print_all(devices)


def _print_all(devices: list[DeviceSnapshot]) -> None:
    if not devices:
        print("No compressed device. Make one: truezram create --size 1G (as root), or see one at work: truezram demo")
    for index, device in enumerate(devices):
        if index:
            print()
        for label, value in lines(device):
            print(f"  {label:<18}{value}" if label else value)


def _watch(look: Callable[[], list[DeviceSnapshot]], args: argparse.Namespace) -> None:
    """Shows them again and again: a page that is written over on a terminal, else one after the other. Ends with an
    interrupt, or an error."""
    pages = not (args.json or args.file)
    clear = pages and sys.stdout.isatty()
    for _ in every(args.watch):
        devices = look()
        if pages:
            when = datetime.now().isoformat(" ", "seconds")
            print("\x1b[H\x1b[2J" + when if clear else when)
        _show(devices, args)
        if pages and not clear:
            print()
        sys.stdout.flush()


def run(args: argparse.Namespace) -> int:
    from truezram.engine.device.client import Client

    with Client() as client:

        def look() -> list[DeviceSnapshot]:
            found = choose(client.snapshot().devices, args.device)
            # Of all devices, those that have such a file; of those that were named, each.
            return [d for d in found if d.kind != "zswap"] if args.file and not args.device else found

        if args.watch:
            _watch(look, args)
        _show(look(), args)
    return 0
