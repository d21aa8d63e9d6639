"""The create dialog: fields that are checked as they are typed, the command that will run, and what memory would be
left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Checkbox, Input, Label, Select, Static

from truezram.app import equivalent, plan
from truezram.app.backend.protocol import Estimate
from truezram.app.format import capitalized
from truezram.app.screens.dialog import Dialog
from truezram.app.widgets.choice import Choice
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.tick import Tick
from truezram.engine.algorithms import parse_algorithm
from truezram.engine.answers import Algorithm, Scope
from truezram.engine.device.backing import Backing
from truezram.engine.device.dictionary import takes_one
from truezram.engine.device.options import MAX_ID, MAX_QUEUE_DEPTH, CreateOptions
from truezram.engine.device.settings import (
    DATA_MODES,
    DEFAULT_DATA_MODE,
    DEFAULT_MODE,
    DEFAULT_POLICY,
    MODES,
    POLICIES,
    describe_policy,
)
from truezram.engine.device.swap import DEFAULT_PRIORITY, MAX_PRIORITY
from truezram.engine.errors import TruezramError, UsageError
from truezram.engine.transports import TRANSPORTS
from truezram.engine.units import format_exact, format_size, parse_size


def whole(text: str, what: str, low: int, high: int) -> int | None:
    """An optional whole number; raises `UsageError` when it is not a number or out of range."""
    if not text.strip():
        return None
    try:
        value = int(text)
    except ValueError:
        raise UsageError(f"{what} is not a whole number", "", f"Give {low} to {high}") from None
    if not low <= value <= high:
        raise UsageError(f"{what} is out of range", "", f"Give {low} to {high}")
    return value


class CreateScreen(Dialog[CreateOptions | None]):
    """Returns what to make, or None."""

    GUIDE: ClassVar[str] = (
        "Fields are checked as you type; errors are shown next to them. The command below does exactly what "
        "Create does. The table shows the device when full, at compression ratios of 1.5, 2, 3 and 4: the memory "
        "it takes, what is then left of the memory that is free now (if the data was on disk), and what is "
        "gained if it is used as swap."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="create.cancel"),
        Binding("ctrl+s", "create", "Create", id="create.create"),
        Binding("f2", "preset", "Next preset size", id="create.preset"),
        Binding("up", "app.focus_previous", "Previous field", show=False),
        Binding("down", "app.focus_next", "Next field", show=False),
    ]

    def __init__(self, proposal: CreateOptions | None = None) -> None:
        """`proposal`: what the fields begin with; by default the swap that this machine should have."""
        super().__init__()
        self._start = proposal
        self.options: CreateOptions | None = None
        self._good = True

    def compose(self) -> ComposeResult:
        """Fields, preview, buttons."""
        can, start = self.tz.capabilities, self._start or plan.swap(self.tz.memory or 1 << 30)
        name, _, level = (start.algorithm or "").partition(":")
        usable = [a for a in can.algorithms if not a.unavailable]
        options = [(a.name, a.name) for a in usable]
        first = name if any(a.name == name for a in usable) else (usable[0].name if usable else "")
        transports = [("ublk: in /dev", "ublk")] if can.ublk and can.root else []
        if can.nbd:
            transports.append(("nbd: disks in /dev", "nbd"))
        transports.append(("local: in a process", "local"))
        offered = [name for _, name in transports]
        transport = start.transport if start.transport in offered else offered[0]
        disk = TRANSPORTS[transport].is_disk
        limit = format_exact(start.mem_limit) if start.mem_limit else ""
        priority = DEFAULT_PRIORITY if start.priority is None else start.priority

        def text(value: object) -> str:
            return "" if value is None else str(value)

        with VerticalScroll(id="dialog"):
            yield Label("Create a device", id="heading")
            with Horizontal(classes="field"):
                yield Label("Size")
                yield Input(format_exact(start.size), id="size", compact=True)
                yield Static(id="size-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Algorithm")
                yield Choice(options, value=first, allow_blank=False, id="algorithm", compact=True)
                yield Label("level", classes="second")
                yield Input(level, id="level", compact=True, classes="short")
                yield Static(id="level-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Dictionary")
                yield Input(text(start.dictionary), placeholder="none", id="dictionary", compact=True)
                yield Static(id="dictionary-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Limit")
                yield Input(limit, placeholder="none", id="limit", compact=True)
                yield Static(id="limit-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Idle pages")
                policy = start.policy or DEFAULT_POLICY
                policies = [(name, name) for name in (*POLICIES, *({policy} - set(POLICIES)))]
                yield Choice(policies, value=policy, allow_blank=False, id="policy", compact=True)
                yield Static(id="policy-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Mode")
                mode = start.mode or DEFAULT_MODE
                yield Choice([(name, name) for name in MODES], value=mode, allow_blank=False, id="mode", compact=True)
                yield Label("data", classes="second")
                moves = [(name, name) for name in DATA_MODES]
                data = start.data_mode or DEFAULT_DATA_MODE
                yield Choice(moves, value=data, allow_blank=False, id="data-mode", compact=True)
                yield Static(id="mode-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Backing")
                yield Input(text(start.backing), placeholder="none", id="backing", compact=True)
                yield Label("limit", classes="second")
                least = format_exact(start.backing_limit) if start.backing_limit else ""
                yield Input(least, placeholder="all", id="backing-limit", compact=True, classes="short")
                yield Tick("plain", start.backing_plain, id="backing-plain", compact=True)
                yield Static(id="backing-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Transport")
                yield Choice(transports, value=transport, allow_blank=False, id="transport", compact=True)
                yield Tick("at boot", start.enable, id="persist", compact=True, disabled=bool(can.persist_why))
                yield Static(id="persist-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Use")
                uses = [("plain disk", "disk"), ("swap", "swap"), *((fs, fs) for fs in can.filesystems)]
                use = (start.fs or "disk") if disk else "disk"
                use = "swap" if start.swap and not TRANSPORTS[transport].no_swap else use
                yield Choice(uses, value=use, allow_blank=False, id="use", compact=True, disabled=not disk)
                yield Label("priority", id="use-more", classes="second")
                yield Input(text(priority), id="priority", compact=True, classes="short", disabled=True)
                yield Input(text(start.mount), placeholder="not mounted", id="mount", compact=True)
                yield Static(id="use-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Queues")
                yield Input(text(start.queues), placeholder="auto", id="queues", compact=True, classes="short")
                yield Label("depth", classes="second")
                yield Input(text(start.queue_depth), placeholder="auto", id="depth", compact=True, classes="short")
                yield Label("number", classes="second")
                yield Input(text(start.id), placeholder="auto", id="number", compact=True, classes="short")
                yield Tick("dedup", start.dedup, id="dedup", compact=True)
                yield Static(id="queues-note", classes="note")
            with Vertical(id="preview"):
                yield Static(id="command")
                yield Static(id="outcome")
                yield Static(id="warning")
            with Horizontal(id="buttons"):
                yield Button("Create", id="create", variant="primary", compact=True)
                yield Button("Cancel", id="cancel", compact=True)
        yield Footer()

    def on_mount(self) -> None:
        """The focus is on the size."""
        self.query_one("#size", Input).focus()
        self.check()
        if self.tz.measured is not None:
            self._measured(self.tz.measured)
        elif not self.tz.measuring:
            self._measure()

    # ---- what this machine's memory compresses to

    def _measure(self) -> None:
        """Once per session, in the background; the dialog can be used or closed meanwhile."""
        app = self.tz
        app.measuring = True

        def done(found: Estimate) -> None:
            app.measuring = False
            app.measured = found
            if self.is_attached:
                self._measured(found)

        def failed(why: str) -> None:
            app.measuring = False
            if self.is_attached:
                self.check()

        app.work(
            "measure memory",
            lambda progress: app.engine.estimate(Scope(), "process", progress),
            done=done,
            failed=failed,
            timeout=60,
            quiet=True,
            optional=True,
        )

    def _measured(self, found: Estimate) -> None:
        """Shows ratio and time to compress a page next to the algorithms' names."""
        by_name = {a.algorithm.partition(":")[0]: a for a in found.total.algorithms}
        select = self.query_one("#algorithm", Select)
        chosen = select.value
        options = []
        for algorithm in (a for a in self.tz.capabilities.algorithms if not a.unavailable):
            a = by_name.get(algorithm.name)
            text = f"{algorithm.name:<6}"
            if a is not None:
                text += f"{a.ratio:.2f}×"
                if a.compress_us is not None:
                    text += f" {a.compress_us:.1f} µs"
            options.append((text, algorithm.name))
        select.set_options(options)
        select.value = chosen
        # Select shows the old text for as long as the value is the same.
        current: Any = select.query("SelectCurrent").first()
        current.update(next((text for text, name in options if name == chosen), str(chosen)))
        self.check()

    def _ratio(self) -> float | None:
        """The measured ratio of the chosen algorithm; None when it is not known, or for another level."""
        found, algorithm = self.tz.measured, self._algorithm()
        if found is None or self._field("level").strip() not in ("", str(algorithm.level_default)):
            return None
        names = (algorithm.name, f"{algorithm.name}:{algorithm.level_default}")
        return next((a.ratio for a in found.total.algorithms if a.algorithm in names), None)

    # ---- checking

    def _field(self, name: str) -> str:
        return self.query_one(f"#{name}", Input).value

    def _note(self, name: str, text: str, bad: bool = False) -> None:
        note = self.query_one(f"#{name}-note", Static)
        note.update(Text(text))
        note.set_class(bad, "bad")

    @contextlib.contextmanager
    def _checking(self, name: str) -> Iterator[None]:
        """Shows an error next to its field and disables Create."""
        try:
            yield
        except TruezramError as error:
            # There is room for the reason and the remedy; the field shows the value.
            text = f"{capitalized(error.why or error.what)}. {error.remedy}"
            self._note(name, text.removesuffix(". "), True)
            self._good = False

    def _algorithm(self) -> Algorithm:
        chosen = self.query_one("#algorithm", Select).value
        return next((a for a in self.tz.capabilities.algorithms if a.name == chosen), Algorithm(str(chosen)))

    @on(Input.Changed)
    @on(Select.Changed)
    @on(Checkbox.Changed)
    def check(self) -> None:
        """Checks all fields and shows what would happen."""
        self._good = True
        size, limit = self._check_sizes()
        algorithm, dictionary = self._check_algorithm()
        policy = str(self.query_one("#policy", Select).value)
        backing = self._check_backing(size)
        self._note("policy", describe_policy(policy, backing is not None))
        mode = str(self.query_one("#mode", Select).value)
        transport = str(self.query_one("#transport", Select).value)
        data = self._check_data(transport)
        self._note("mode", MODES[mode] if data is None else DATA_MODES[data])
        persist = self._check_persist(transport)
        swap, priority, fs, mount = self._check_use(transport, size)
        queues, depth, number = self._check_queues(transport)
        if persist and number is None:
            # A unit names its device, so the preview must show the number.
            number = self._free_number(TRANSPORTS[transport].prefix)
        options = CreateOptions(
            size=size,
            algorithm=algorithm,
            mem_limit=limit,
            id=number,
            queues=queues,
            queue_depth=depth,
            transport=transport,
            swap=swap,
            priority=priority,
            fs=fs,
            mount=mount,
            dictionary=dictionary,
            dedup=self.query_one("#dedup", Checkbox).value,
            policy=None if policy == DEFAULT_POLICY else policy,
            mode=None if mode == DEFAULT_MODE else mode,
            data_mode=data,
            backing=backing.path if backing else None,
            backing_limit=backing.limit if backing else 0,
            backing_plain=backing is not None and backing.plain,
            enable=persist,
        )
        self.options = options if self._good else None
        self._preview()

    def _check_data(self, transport: str) -> str | None:
        """How data is moved, of a ublk device; None: as by default."""
        field = self.query_one("#data-mode", Select)
        field.disabled = transport != "ublk"
        data = str(field.value)
        if field.disabled or data == DEFAULT_DATA_MODE:
            return None
        return data

    def _check_sizes(self) -> tuple[int, int]:
        """Size and memory limit."""
        size = limit = 0
        with self._checking("size"):
            size, remark = plan.check_size(self._field("size"), self.tz.memory)
            self._note("size", remark or self._presets_hint())
        with self._checking("limit"):
            limit, remark = plan.check_limit(self._field("limit"), size)
            effect = "writes fail with ENOSPC beyond it" if limit else "may grow until memory is full"
            self._note("limit", remark or effect)
        return size, limit

    def _check_algorithm(self) -> tuple[str, str | None]:
        """``NAME[:LEVEL]`` and the dictionary's file."""
        algorithm, dictionary = self._algorithm(), None
        takes = takes_one(algorithm.name)
        self.query_one("#level").disabled = not algorithm.has_levels
        self.query_one("#dictionary").disabled = not takes
        level_text = self._field("level").strip() if algorithm.has_levels else ""
        name = f"{algorithm.name}:{level_text}" if level_text else algorithm.name
        level = algorithm.level_default
        with self._checking("level"):
            level = parse_algorithm(name)[1]
            hint = f"{algorithm.level_min} to {algorithm.level_max}; {algorithm.level_default} if empty"
            self._note("level", hint if algorithm.has_levels else "none")
        with self._checking("dictionary"):
            remark = "needs zstd"
            if takes:
                dictionary, remark = plan.check_dictionary(self._field("dictionary"), algorithm.name, level)
            self._note("dictionary", remark)
        return name, dictionary

    def _check_backing(self, size: int) -> Backing | None:
        """The file that pages go to which have been idle for long."""
        found = None
        plain = self.query_one("#backing-plain", Checkbox)
        with self._checking("backing"):
            text = self._field("backing")
            found, remark = plan.check_backing(text, self._field("backing-limit"), plain.value, size)
            self._note("backing", remark)
        for name in ("#backing-limit", "#backing-plain"):
            self.query_one(name).disabled = found is None and not self._field("backing").strip()
        return found

    def _check_persist(self, transport: str) -> bool:
        """Whether the device is to be created at every boot."""
        box = self.query_one("#persist", Checkbox)
        why = "needs ublk or nbd" if TRANSPORTS[transport].no_enable else self.tz.capabilities.persist_why
        box.disabled = bool(why)
        self._note("persist", why)
        return box.value and not box.disabled

    def _check_use(self, transport: str, size: int) -> tuple[bool, int | None, str | None, str | None]:
        """Swap or not, its priority, the filesystem, its mount point."""
        use, fs = self._use(transport)
        swap = use == "swap"
        priority: int | None = None
        mount: str | None = None
        with self._checking("use"):
            if swap and TRANSPORTS[transport].no_swap:
                raise UsageError("cannot be swap", "swap needs ublk", "See docs/nbd.md")
            if swap:
                priority = whole(self._field("priority"), "the priority", 0, MAX_PRIORITY)
            elif fs is not None:
                mount = plan.check_mount(fs, size, self._field("mount"))
            self._note("use", "higher is used first" if swap else "" if TRANSPORTS[transport].is_disk else "needs ublk")
        return swap, priority, fs, mount

    def _check_queues(self, transport: str) -> tuple[int | None, int | None, int | None]:
        """Queues, their depth, the device's number."""
        can = self.tz.capabilities
        queues = depth = number = None
        with self._checking("queues"):
            most = 1 if TRANSPORTS[transport].one_queue else can.max_queues
            queues = whole(self._field("queues"), "queues", 1, most)
            depth = whole(self._field("depth"), "depth", 1, MAX_QUEUE_DEPTH[transport])
            number = whole(self._field("number"), "the number", 0, MAX_ID)
            self._note("queues", "")
        return queues, depth, number

    def _use(self, transport: str) -> tuple[str, str | None]:
        """The use of the device, and the filesystem if any; shows the fields that belong to it."""
        choice = self.query_one("#use", Select)
        choice.disabled = not TRANSPORTS[transport].is_disk
        use = "disk" if choice.disabled else str(choice.value)
        fs = use if use not in ("disk", "swap") else None
        self.query_one("#use-more", Label).update("mount on" if fs else "priority")
        self.query_one("#mount").display = fs is not None
        priority = self.query_one("#priority")
        priority.display, priority.disabled = fs is None, use != "swap"
        return use, fs

    def _free_number(self, prefix: str) -> int:
        taken = set(self.tz.history.devices)
        return next(number for number in range(len(taken) + 1) if f"{prefix}{number}" not in taken)

    def _presets_hint(self) -> str:
        presets = plan.presets(self.tz.memory or 1 << 30)
        return f"F2: {', '.join(map(format_size, presets))} (25 to 150% of memory)"

    # ---- preview

    def _preview(self) -> None:
        options = self.options
        self.query_one("#create", Button).disabled = options is None
        self.refresh_bindings()
        command, table, warning = (self.query_one(f"#{n}", Static) for n in ("command", "outcome", "warning"))
        if options is None:
            command.update(Text("Correct the marked fields first.", "italic"))
            table.update("")
            warning.update("")
            return
        command.update(Text(f"$ {equivalent.create(options)}"))
        snapshot = self.tz.history.latest
        available = snapshot.machine.mem_available if snapshot else 0
        lines = [f"{'ratio':<6}{'holds':>7}{'takes':>8}{'left: disk':>12}{'gain: swap':>12}"]
        measured = self._ratio()
        for ratio in (*plan.RATIOS, *((measured,) if measured else ())):
            o = plan.outcome(options.size, options.mem_limit, ratio, available)
            label = f"{ratio:g}×" if ratio in plan.RATIOS else f"{ratio:.2f}×"
            lines.append(
                f"{label:<6}{format_size(o.holds):>7}{format_size(o.resident):>8}{format_size(o.left):>12}"
                f"{format_size(o.gained):>12}"
            )
        if measured:
            lines[-1] += " measured"
        elif self.tz.measuring:
            lines.append("measuring what this machine's memory compresses to…")
        text = Text().append(lines[0], "bold")
        for line in lines[1:]:
            text.append("\n" + line)
        table.update(text)
        unsafe = plan.unsafe(options, snapshot.machine) if snapshot else ""
        if TRANSPORTS[options.transport].is_disk and (why := self.tz.capabilities.recovery_why):
            unsafe = f"{unsafe}\nIt will not outlive its server: {why}.".lstrip()
        warning.update(Text(unsafe))

    # ---- what the user does

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Create is available when every field is valid."""
        return self.options is not None if action == "create" else True

    def action_preset(self) -> None:
        """Puts the next preset size into the field."""
        sizes = plan.presets(self.tz.memory or 1 << 30)
        try:
            now = parse_size(self._field("size"))
        except TruezramError:
            now = 0
        following = next((size for size in sizes if size > now), sizes[0])
        self.query_one("#size", Input).value = format_exact(following)

    @on(Button.Pressed, "#create")
    @on(Input.Submitted)
    def action_create(self) -> None:
        """Creates it, if every field is valid."""
        if self.options is not None:
            self.dismiss(self.options)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Closes the dialog."""
        self.dismiss(None)
