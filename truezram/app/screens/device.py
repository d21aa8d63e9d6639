"""One device in depth: page map, histograms, what its memory is for, queues, settings in force, events."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from truezram.app.columns import Row, mountpoint
from truezram.app.format import short_rate, short_size
from truezram.app.screens.page import Page
from truezram.app.series import DeviceSeries, queue_rates
from truezram.app.widgets.event_list import EventList
from truezram.app.widgets.grid import Grid, Head, Item, TextBlock
from truezram.app.widgets.histogram import AgeHistogram, LatencyHistogram, SizeHistogram
from truezram.app.widgets.page_map import PageMapView
from truezram.app.widgets.tiers import TierBar
from truezram.engine.answers import ArenaCheck, PageMap
from truezram.engine.device.options import RecompressOptions, WritebackOptions
from truezram.engine.device.sanity import UNMEASURED
from truezram.engine.device.settings import in_force
from truezram.engine.model import BAD_STATES, MEMORY, DeviceSnapshot
from truezram.engine.rates import histogram_difference
from truezram.engine.transports import TRANSPORTS
from truezram.engine.units import PAGE, format_duration, format_percent, format_size

MAP_EVERY = 5.0
"""Seconds between page maps: the server walks its whole table for one."""
MAP_TIMEOUT = 5.0
"""Seconds in which the server must answer."""
COMPACT_TIMEOUT = 60.0
"""Seconds without an answer."""
CHECK_TIMEOUT = 600.0
"""All of a large arena is read."""
PER_CALL = 256
"""Regions in one answer (protocol.h, TZ_MAP_REGIONS)."""

Parts = list[list[tuple[str, str]]]


class DevicePage(Page):
    """The device under the dashboard's cursor."""

    MODE = "device"
    TITLE_TEXT = "Device"
    CREATES = REMOVES = True
    GUIDE = (
        "The page map shows the device's table from the first page to the last: each cell is a region, "
        "coloured by the kind of most of its pages, darker if it is emptier; without colours it is a letter, a "
        "capital if it is more than half full. The arrow keys select a region, Enter zooms into it, Backspace zooms "
        "out. a colours it by age: for how long most of a region's pages have not been read or written.\n"
        "Objects: what pages take as they were written (hot), those that were idle and are compressed once more, each "
        "by itself (dense) or with its neighbours (cold), and by how much less they took when they became so. r does "
        "that now, a policy by itself (e). Backing: what is on the backing file, if the device has one (e sets it; w "
        "writes idle pages there now, b brings all back).\n"
        "Pages by ratio: how small pages are stored, from 16 to 1 on the left to pages that do not shrink on "
        "the right. Service time: reads above, writes below, over the last minute or (t) since the device was"
        " created.\n"
        "Memory is what the device takes (mem_used_total) by what it is for. Holes are filled by new objects and "
        "closed by compaction (m); the reserve is ready for the next writes, and shrinks when there are none. Each "
        "queue is a thread of the device.\n"
        "Recovery: when the server of a block device dies, its standby takes over, and reads and writes wait until "
        "then. If there is no standby either, R starts another server. U has the installed version take over from the "
        "one that runs. Nothing is lost."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "other(1)", "Next device", id="device.next"),
        Binding("N", "other(-1)", "Previous device", show=False, id="device.previous"),
        Binding("t", "span", "Minute/all", id="device.span"),
        Binding("e", "edit", "Tune", id="device.edit"),
        Binding("a", "colour", "Kind/age", id="device.colour"),
        Binding("r", "recompress", "Recompress", id="device.recompress"),
        Binding("s", "stop_recompress", "Stop recompression", id="device.stop_recompress"),
        Binding("w", "write_back(False)", "Write back", id="device.writeback"),
        Binding("b", "write_back(True)", "Bring back", show=False, id="device.bring"),
        Binding("m", "compact", "Compact", id="device.compact"),
        Binding("v", "check_arena", "Check arena", id="device.check"),
        Binding("escape", "app.go('dashboard')", "Back", show=False, id="device.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.name_shown = ""
        self.since_start = False
        self.by = "kind"
        """What the map shows, and the first histogram: or "age"."""
        self._range = (0, 0)
        self._map_time = -MAP_EVERY
        self._asking = False

    def content(self) -> ComposeResult:
        """Map and settings above, histograms and tables below."""
        view = self.tz.view
        yield TextBlock(id="title")
        yield TierBar(view, id="tiers")
        with Horizontal(id="upper"):
            yield PageMapView(view, id="map")
            yield Grid([Head("SETTING", 14, left=True), Head("VALUE", 10, left=True, grow=True)], id="facts")
        with Horizontal(id="lower"):
            with Vertical(id="histograms"):
                yield SizeHistogram(view, id="sizes")
                yield AgeHistogram(view, id="ages")
                yield LatencyHistogram(view, id="latencies")
            with Vertical(id="tables"):
                yield Grid(
                    [Head("QUEUE", 5), Head("CPU", 3), Head("READ/s", 6), Head("WRITE/s", 7), Head("BUSY", 4),
                     Head("", 4, left=True, grow=True)],
                    empty="No per-queue counters.", id="queues",
                )  # fmt: skip
                yield Grid(
                    [Head("MEMORY", 16, left=True), Head("BYTES", 5), Head("SHARE", 5),
                     Head("", 4, left=True, grow=True)],
                    empty="Not reported by the kernel.", id="parts",
                )  # fmt: skip
        yield EventList(id="events")

    def on_mount(self) -> None:
        """Keys go to the map."""
        self.query_one(PageMapView).focus()

    # ---- drawing

    def tick(self, sampled: bool) -> None:
        """Figures at every sample; the map less often."""
        app = self.tz
        series = app.history.devices.get(app.selected)
        device = series.latest if series else None
        if series is None or device is None:
            self.query_one("#title", TextBlock).show(lambda width: [[("No device. Press c to create one.", "muted")]])
            for name in ("#tiers", "#upper", "#lower"):
                self.query_one(name).display = False
            return
        for name in ("#upper", "#lower"):
            self.query_one(name).display = True
        self.query_one("#tiers").display = device.kind == "truezram" and device.state != "unreadable"
        both = self.has_class("-tall")
        self.query_one("#sizes").display = both or self.by == "kind"
        self.query_one("#ages").display = both or self.by == "age"
        if app.selected != self.name_shown:
            self.name_shown = app.selected
            self._range = (0, 0)
            self._map_time = -MAP_EVERY
            self.query_one(PageMapView).forget()
            sampled = True
        self._ask_for_map(device)
        if sampled:
            self._figures(series, device)

    def _figures(self, series: DeviceSeries, device: DeviceSnapshot) -> None:
        trouble = self.tz.trouble.get(device.name, "")
        waited = self.tz.waited(device)
        self.query_one("#title", TextBlock).show(lambda width: _title(device, trouble, self.tz.clock(), waited))
        self.query_one("#facts", Grid).show(facts(device))
        self.query_one(TierBar).show(device)
        self.query_one(SizeHistogram).show(device.size_pages, _not_reported(device))
        self.query_one(AgeHistogram).show(device.ages, device.ages_age, _not_reported(device))
        self._latencies(series, device)
        self._queues(series)
        self._memory(device)
        self.query_one(EventList).show(self.tz.events.events, device.name)

    def _latencies(self, series: DeviceSeries, device: DeviceSnapshot) -> None:
        total = device.total
        if reason := _not_reported(device):
            self.query_one(LatencyHistogram).show((), (), "", reason)
            return
        if self.since_start or not series.minute:
            reads, writes, span = total.read_lat, total.write_lat, "since creation"
        else:
            then, old = series.minute[0]
            reads = histogram_difference(old.read_lat, total.read_lat)
            writes = histogram_difference(old.write_lat, total.write_lat)
            span = f"last {format_duration(max(round(device.time - then), 1))}"
        self.query_one(LatencyHistogram).show(reads, writes, span)

    def _queues(self, series: DeviceSeries) -> None:
        new, old = series.sampled, series.before
        items = []
        if new is not None and old is not None and len(new.queues) == len(old.queues):
            for number, (a, b) in enumerate(zip(new.queues, old.queues, strict=True)):
                read, write, busy = queue_rates(a, b, new.time - old.time)
                known = busy == busy
                items.append(
                    Item(
                        str(number),
                        (
                            str(number),
                            "-" if a.cpu is None else str(a.cpu),
                            short_rate(read),
                            short_rate(write),
                            f"{busy * 100:.0f}%" if known else "-",
                            busy if known else 0.0,
                        ),
                    )
                )
        grid = self.query_one("#queues", Grid)
        grid.glyph_set = self.tz.view.glyphs
        grid.show(items)

    def _memory(self, device: DeviceSnapshot) -> None:
        items = []
        parts = [(part, part.of(device)) for part in MEMORY] if device.kind == "truezram" else []
        # Of their sum: the total was read at another instant.
        total = sum(size for _, size in parts)
        for part, size in parts:
            share = size / total if total else 0.0
            items.append(Item(part.key, (part.title, short_size(size), f"{share * 100:.0f}%", share)))
        grid = self.query_one("#parts", Grid)
        grid.glyph_set = self.tz.view.glyphs
        grid.show(items)

    # ---- page map

    def _ask_for_map(self, device: DeviceSnapshot) -> None:
        view = self.query_one(PageMapView)
        if reason := _not_reported(device):
            view.show(None, reason)
            return
        if device.state != "live":
            view.show(None, f"The device is {device.state}.")
            return
        now = time.monotonic()
        if self._asking or now - self._map_time < MAP_EVERY or not view.size.height:
            return
        self._asking, self._map_time = True, now
        pages = device.disksize // PAGE
        first, count = self._range if self._range[1] else (0, pages)
        regions = min(view.regions_wanted(), count)
        name, engine, by = device.name, self.tz.engine, self.by

        def call(_: object) -> PageMap:
            # One answer holds 256 regions; more cells need more calls, each for its part of the range.
            parts: list[tuple[int, ...]] = []
            calls = -(-regions // PER_CALL)
            for number in range(calls):
                start, end = count * number // calls, count * (number + 1) // calls
                share = regions * (number + 1) // calls - regions * number // calls
                parts += engine.page_map(name, first + start, end - start, min(share, end - start), by).regions
            return PageMap(first=first, pages=count, regions=tuple(parts), by=by)

        def done(found: PageMap) -> None:
            self._asking = False
            if name == self.name_shown and by == self.by:
                view.show(found, letters=self.tz.theme == "no-colour", ages=device.ages)
                self.refresh_bindings()

        def failed(why: str) -> None:
            self._asking = False
            if name == self.name_shown and by == self.by:
                view.show(None, why)

        self.tz.work(
            f"page map of {name}", call, done=done, failed=failed, device=name, timeout=MAP_TIMEOUT, quiet=True
        )

    @on(PageMapView.Range)
    def _ranged(self, event: PageMapView.Range) -> None:
        self._range = (event.first, event.pages)
        self._map_time = -MAP_EVERY
        self.tick(False)

    # ---- what the user does

    def action_other(self, step: int) -> None:
        """The next device of the dashboard's order."""
        names = [row.device.name for row in self.tz.rows()]
        if names:
            place = names.index(self.tz.selected) if self.tz.selected in names else -1
            self.tz.selected = names[(place + step) % len(names)]
            self.tick(True)
            self.refresh_bindings()

    def action_colour(self) -> None:
        """The map by kind or by age, and the histogram of that."""
        self.by = "age" if self.by == "kind" else "kind"
        self._map_time = -MAP_EVERY
        self.tick(True)

    def action_span(self) -> None:
        """Service times of the last minute, or since the device was made."""
        self.since_start = not self.since_start
        self.tick(True)

    def action_edit(self) -> None:
        """Its settings, on the tune page."""
        self.tz.action_go("tune")

    def _ours(self) -> DeviceSnapshot | None:
        """The device, if it is one of ours."""
        series = self.tz.history.devices.get(self.tz.selected)
        device = series.latest if series else None
        return device if device is not None and device.kind == "truezram" else None

    def action_compact(self) -> None:
        """Packs its segments. A job that is cancelled is only no longer watched."""
        name, app = self.tz.selected, self.tz

        def done(gained: int) -> None:
            app.report("info", f"compacted: {format_size(gained)} given back", name)

        def failed(why: str) -> None:
            if why == "cancelled":
                app.report("info", "its server goes on compacting", name)

        app.work(
            f"compact {name}",
            lambda progress: app.engine.compact(name, progress),
            done=done,
            failed=failed,
            device=name,
            timeout=COMPACT_TIMEOUT,
            quiet=True,
        )

    def action_recompress(self) -> None:
        """Asks what is to be done, and has it done. A job that is cancelled is only no longer watched; the log says
        what came of it (eventlog.py), whoever began it."""
        from truezram.app.screens.recompress import RecompressScreen

        device, app = self._ours(), self.tz
        if device is None:
            return
        name = device.name

        def failed(why: str) -> None:
            if why == "cancelled":
                app.report("info", "its server goes on recompressing", name)

        def answered(options: RecompressOptions | None) -> None:
            if options is not None:
                app.work(
                    f"recompress {name}",
                    lambda progress: app.engine.recompress(name, options, progress),
                    failed=failed,
                    device=name,
                    timeout=COMPACT_TIMEOUT,
                    quiet=True,
                )

        app.push_screen(RecompressScreen(device), answered)

    def action_write_back(self, back: bool) -> None:
        """Idle pages go to the backing file, or all come back. The log says what came of it."""
        name, app = self.tz.selected, self.tz
        options = WritebackOptions(back=back)

        def failed(why: str) -> None:
            if why == "cancelled":
                app.report("info", "its server goes on", name)

        app.work(
            f"bring pages of {name} back" if back else f"write idle pages of {name} back",
            lambda progress: app.engine.write_back(name, options, progress),
            failed=failed,
            device=name,
            timeout=COMPACT_TIMEOUT,
            quiet=True,
        )

    def action_stop_recompress(self) -> None:
        """Ends the one at work, whoever began it."""
        name, app = self.tz.selected, self.tz
        app.work(f"stop recompressing {name}", lambda _: app.engine.stop_recompress(name), device=name, quiet=True)

    def action_check_arena(self) -> None:
        """Reads all of its arena and reports what is wrong with it."""
        name, app = self.tz.selected, self.tz

        def done(found: ArenaCheck) -> None:
            app.report(*_verdict(found), name)

        app.work(
            f"check the arena of {name}",
            lambda progress: app.engine.check_arena(name),
            done=done,
            device=name,
            timeout=CHECK_TIMEOUT,
            quiet=True,
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only available actions."""
        if action == "other":
            return len(self.tz.history.devices) > 1
        if action in ("compact", "check_arena"):
            device = self._ours()
            return device is not None and (action == "check_arena" or device.state not in UNMEASURED)
        if action in ("recompress", "stop_recompress", "colour"):
            device = self._ours()
            at_work = device is not None and device.is_recompressing
            served = device is not None and device.state not in UNMEASURED
            return served and (action == "colour" or at_work == (action == "stop_recompress"))
        if action == "write_back":
            device = self._ours()
            there = device is not None and device.state not in UNMEASURED and device.backing_state != "none"
            return there and device is not None and not device.is_recompressing
        if action in ("span", "edit"):
            return bool(self.tz.history.devices)
        return True


def _verdict(found: ArenaCheck) -> tuple[str, str]:
    """Level and text of the event that a check ends with."""
    if found.sound:
        size = format_size(found.populated_bytes)
        return "info", f"its arena is sound: {found.pages} pages, {found.objects} objects, {size}"
    first = found.problems[0]
    where = "" if first.page is None else f"page {first.page}: "
    more = f", and {found.problems_found - 1} more" if found.problems_found > 1 else ""
    return "error", f"its arena is damaged: {where}{first.what}{more}. See `truezram check {found.source}`"


def _not_reported(device: DeviceSnapshot) -> str:
    """Why a device of the kernel has nothing to show; "" for ours."""
    return "" if device.kind == "truezram" else f"Not reported by the kernel's {device.kind}."


def _title(device: DeviceSnapshot, trouble: str, now: float, waited: float | None) -> Parts:
    row = Row(device, waited=waited)
    state = row.status() if device.kind == "truezram" else "kernel"
    bad = trouble or device.state in BAD_STATES
    parts = [(f"{device.name} ", "heading"), (f"{device.path}  ", "muted")]
    if device.waits:
        wait = f"{'' if row.warns else ', recover it'}: nothing is lost, reads and writes wait"
        return [[*parts, (state, "warn" if row.warns else "bad"), (wait, "warn")]]
    parts.append((trouble or state, "bad" if bad else "good"))
    if device.last_error and not trouble:
        parts.append((f": {device.last_error}", "bad" if bad else "warn"))
    if use := mountpoint(device):
        parts.append((f"  {use}", "plain"))
    if device.pid:
        parts.append((f"  server pid {device.pid}", "muted"))
    if device.created and now > device.created:
        parts.append((f"  up {format_duration(now - device.created)}", "muted"))
    return [parts]


def facts(device: DeviceSnapshot) -> list[Item]:
    """Settings in force and the figures that do not fit in the table; none for an unreadable device."""
    if device.state == "unreadable":
        return []
    ratio = "-" if device.compression_ratio is None else f"{device.compression_ratio:.2f}"
    isa = {"algorithm": f" {device.isa}"} if device.isa else {}
    rows = [
        *((setting.key, setting.shown(device) + isa.get(setting.key, "")) for setting in in_force(device)),
        ("disksize", short_size(device.disksize)),
        ("transport", "local, no node" if device.transport == "local" else device.transport),
        ("queues", f"{device.nr_queues} of depth {device.queue_depth}" if device.nr_queues else "-"),
        ("codec ratio", ratio),
        ("same-filled", f"{device.same_pages} pages"),
        ("huge", f"{device.huge_pages} pages"),
        ("packing", "-" if device.packing is None else f"{device.packing:.3f}"),
        ("peak", short_size(device.mem_used_max)),
    ]
    if device.data_mode:
        rows.append(("data", device.data_mode.replace("_", " ")))
    if device.dup_pages:
        rows.append(("duplicates", f"{device.dup_pages} pages"))
    if device.total.slots_freed:
        rows.append(("freed slots", f"{device.total.slots_freed} pages"))
    if device.spin_share is not None and device.total.spin_ns:
        rows.append(("spinning", f"{format_percent(device.spin_share)} of a core"))
    rows += _idle(device)
    if device.dictionary_size:
        rows.insert(1, ("dictionary", f"{short_size(device.dictionary_size)}, id {device.dictionary_id}"))
    items = [Item(name, (name, value)) for name, value in rows]
    if device.backing_state not in ("none", "ready"):
        text = f"{device.backing_state}: {device.backing_text}".removesuffix(": ")
        at = next(number for number, item in enumerate(items) if item.key == "backing") + 1
        items.insert(at, Item("backing is", ("backing is", text), "warn"))
    if device.kind == "truezram":
        safe = [("locked", device.memory_locked), ("noswap tmpfs", device.noswap_tmpfs)]
        if device.transport == "ublk":
            safe.append(("swap-safe", device.io_flusher))
        if device.slot_tracking not in ("", "off"):
            text = device.slot_tracking if device.slot_tracking == "on" else device.slot_tracking_text
            items.append(
                Item("slot tracking", ("slot tracking", text), "warn" if device.slot_tracking == "unavailable" else "")
            )
        items += [Item(name, (name, "yes" if good else "no"), "" if good else "warn") for name, good in safe]
        at = 1 + next(number for number, item in enumerate(items) if item.key == "transport")
        items[at:at] = _recovery(device)
    return items


IDLE_STEPS = (3, 5, 7)
"""Of the ages: those that the page shows, each with all older ones."""


def _idle(device: DeviceSnapshot) -> list[tuple[str, str]]:
    """How much nobody has touched for how long, and what recompression has done with it."""
    rows = []
    for step in IDLE_STEPS if device.ages else ():
        old = device.ages[step:]
        pages, size = sum(age.pages for age in old), sum(age.bytes for age in old)
        if pages:
            least = format_duration(old[0].least_ns / 1e9).partition(" ")[0]
            rows.append((f"idle {least}+", f"{pages} pages, {short_size(size)}"))
    if device.backing_state != "none":
        rows.append(("on backing", f"{device.backed_pages}, {short_size(device.backing_used)}"))
        rows.append(("today", f"{short_size(device.backing_today(time.time()))} written"))
    if device.recompressed_pages or device.is_recompressing:
        share = f", {device.recompress_permille // 10}%" if device.is_recompressing else ""
        rows.append(("recompressed", f"{device.recompressed_pages}, -{short_size(device.recompressed_saved)}{share}"))
    return rows


def _recovery(device: DeviceSnapshot) -> list[Item]:
    """Whether it outlives its server, and how often it has."""
    bad = TRANSPORTS[device.transport].is_disk and not device.recoverable
    items = [Item("recovery", ("recovery", device.recovery), "warn" if bad else "")]
    if device.recoverable:
        alone = not device.standby and not device.waits
        who = f"pid {device.standby}" if device.standby else "none"
        items.append(Item("standby", ("standby", who), "warn" if alone else ""))
    if device.recoveries:
        times = "once" if device.recoveries == 1 else f"{device.recoveries} times"
        items.append(Item("taken over", ("taken over", times)))
    return items
