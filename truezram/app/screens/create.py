"""The create dialog: fields that are checked as they are typed, the command that will run, and what memory would be
left."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Checkbox, Input, Label, Select, Static

from truezram.app import commandline, plan
from truezram.app.format import capitalized
from truezram.app.screens.dialog import Dialog
from truezram.app.source import Algorithm, CreateSpec, Estimate, Scope
from truezram.app.widgets.choice import Choice
from truezram.app.widgets.chrome import Footer
from truezram.app.widgets.tick import Tick
from truezram.engine.errors import TruezramError, UsageError
from truezram.engine.options import CreateOptions
from truezram.engine.units import format_exact, format_size, parse_size


def whole(text: str, what: str, low: int, high: int) -> int | None:
    """An optional whole number; raises `UsageError` when it is none or out of range."""
    if not text.strip():
        return None
    try:
        value = int(text)
    except ValueError:
        raise UsageError(f"{what} is no whole number", "", f"Give {low} to {high}") from None
    if not low <= value <= high:
        raise UsageError(f"{what} is out of range", "", f"Give {low} to {high}")
    return value


class CreateScreen(Dialog[CreateSpec | None]):
    """Returns what to make, or None."""

    GUIDE: ClassVar[str] = (
        "Every field is checked as you type; what is wrong stands beside it. The command at the bottom does "
        "exactly what Create does. The table shows the device full of data that compresses 1.5, 2, 3 or 4 to "
        "one: what it takes, what is left of the memory that is free now (data that was on disk), and what is"
        " gained when it is used as swap."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="create.cancel"),
        Binding("ctrl+s", "create", "Create", id="create.create"),
        Binding("f2", "preset", "Next preset size", id="create.preset"),
        Binding("up", "app.focus_previous", "Previous field", show=False),
        Binding("down", "app.focus_next", "Next field", show=False),
    ]

    def __init__(self, proposal: CreateOptions | None = None) -> None:
        """`proposal`: what the fields begin with."""
        super().__init__()
        self._start = proposal or CreateOptions(0)
        self.spec: CreateSpec | None = None
        self._preset = -1

    def compose(self) -> ComposeResult:
        """Fields, preview, buttons."""
        can = self.tz.capabilities
        size, limit = self._start.size, self._start.mem_limit
        name, _, level = (self._start.algorithm or "").partition(":")
        usable = [a for a in can.algorithms if not a.unavailable]
        options = [(a.name, a.name) for a in usable]
        first = name if any(a.name == name for a in usable) else (usable[0].name if usable else "")
        size = size or plan.presets(self.tz.memory or 1 << 30)[1]
        transports = [("ublk: in /dev", "ublk")] if can.ublk and can.root else []
        transports.append(("local: in a process", "local"))
        with VerticalScroll(id="dialog"):
            yield Label("Create a device", id="heading")
            with Horizontal(classes="field"):
                yield Label("Size")
                yield Input(format_exact(size), id="size", compact=True)
                yield Static(id="size-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Algorithm")
                yield Choice(options, value=first, allow_blank=False, id="algorithm", compact=True)
                yield Label("level", classes="second")
                yield Input(level, id="level", compact=True, classes="short")
                yield Static(id="level-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Limit")
                yield Input(format_exact(limit) if limit else "", placeholder="none", id="limit", compact=True)
                yield Static(id="limit-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Transport")
                yield Choice(transports, value=transports[0][1], allow_blank=False, id="transport", compact=True)
                yield Tick("at boot", False, id="persist", compact=True, disabled=bool(can.persist_why))
                yield Static(id="persist-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Use")
                ublk = transports[0][1] == "ublk"
                uses = [("plain disk", "disk"), ("swap", "swap"), *((fs, fs) for fs in can.filesystems)]
                first = "swap" if self._start.swap and ublk else "disk"
                yield Choice(uses, value=first, allow_blank=False, id="use", compact=True, disabled=not ublk)
                yield Label("priority", id="use-more", classes="second")
                yield Input("100", id="priority", compact=True, classes="short", disabled=True)
                yield Input(placeholder="not mounted", id="mount", compact=True)
                yield Static(id="use-note", classes="note")
            with Horizontal(classes="field"):
                yield Label("Queues")
                yield Input(placeholder="auto", id="queues", compact=True, classes="short")
                yield Label("depth", classes="second")
                yield Input(placeholder="auto", id="depth", compact=True, classes="short")
                yield Label("number", classes="second")
                yield Input(placeholder="auto", id="number", compact=True, classes="short")
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
        """The size is what one starts with."""
        self.query_one("#size", Input).focus()
        self.check()
        if self.tz.measured is not None:
            self._measured(self.tz.measured)
        elif not self.tz.measuring:
            self._measure()

    # ---- what this machine's memory compresses to

    def _measure(self) -> None:
        """Once a session, in the background: the dialog can be used meanwhile, and left."""
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
        """Ratio and time to compress a page beside the algorithms' names."""
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

    def _checked(self, name: str, problem: UsageError) -> None:
        # Beside the field there is room for the reason and the remedy; the field itself says what was given.
        text = problem.why or problem.what
        self._note(name, f"{capitalized(text)}. {problem.remedy}".removesuffix(". "), True)

    def _algorithm(self) -> Algorithm:
        chosen = self.query_one("#algorithm", Select).value
        return next((a for a in self.tz.capabilities.algorithms if a.name == chosen), Algorithm(str(chosen)))

    @on(Input.Changed)
    @on(Select.Changed)
    @on(Checkbox.Changed)
    def check(self) -> None:
        """Checks all fields and shows what would happen."""
        can, memory = self.tz.capabilities, self.tz.memory
        good = True
        size = limit = 0
        try:
            size, remark = plan.check_size(self._field("size"), memory)
            self._note("size", remark or self._presets_hint())
        except UsageError as error:
            self._checked("size", error)
            good = False
        try:
            limit, remark = plan.check_limit(self._field("limit"), size)
            self._note(
                "limit", remark or ("writes fail with ENOSPC beyond it" if limit else "may grow until memory is full")
            )
        except UsageError as error:
            self._checked("limit", error)
            good = False
        algorithm = self._algorithm()
        level: int | None = None
        has_levels = (algorithm.level_min, algorithm.level_max) != (0, 0)
        self.query_one("#level").disabled = not has_levels
        try:
            low, high = algorithm.level_min, algorithm.level_max
            level = whole(self._field("level"), "the level", low, high) if has_levels else None
            hint = f"{low} to {high}; {algorithm.level_default} if empty" if has_levels else "none"
            self._note("level", hint)
        except UsageError as error:
            self._checked("level", error)
            good = False
        transport = str(self.query_one("#transport", Select).value)
        use, fs = self._use(transport)
        swap = use == "swap"
        persist_box = self.query_one("#persist", Checkbox)
        persist_why = "needs ublk" if transport != "ublk" else can.persist_why
        persist_box.disabled = bool(persist_why)
        self._note("persist", persist_why)
        persist = persist_box.value and not persist_box.disabled
        priority: int | None = None
        mount: str | None = None
        try:
            if swap:
                priority = whole(self._field("priority"), "the priority", 0, 32767)
            elif fs is not None:
                mount = plan.check_mount(fs, size, self._field("mount"))
            self._note("use", "higher is used first" if swap else "" if transport == "ublk" else "needs ublk")
        except UsageError as error:
            self._checked("use", error)
            good = False
        queues = depth = number = None
        try:
            queues = whole(self._field("queues"), "queues", 1, can.max_queues)
            most = can.max_queue_depth if transport == "ublk" else can.max_local_depth
            depth = whole(self._field("depth"), "depth", 1, most)
            number = whole(self._field("number"), "the number", 0, (1 << 20) - 1)
            self._note("queues", "")
        except UsageError as error:
            self._checked("queues", UsageError(f"{error.what}: {error.remedy.lower()}"))
            good = False
        if persist and number is None:
            # A unit names its device; the preview must show which.
            number = self._free_number()
        name = algorithm.name if level is None else f"{algorithm.name}:{level}"
        self.spec = (
            CreateSpec(size, name, limit, number, queues, depth, transport, swap, priority, persist, fs, mount)
            if good
            else None
        )
        self._preview()

    def _use(self, transport: str) -> tuple[str, str | None]:
        """What the device is to be used as, and the filesystem then; shows what belongs to it."""
        choice = self.query_one("#use", Select)
        choice.disabled = transport != "ublk"
        use = "disk" if choice.disabled else str(choice.value)
        fs = use if use not in ("disk", "swap") else None
        self.query_one("#use-more", Label).update("mount on" if fs else "priority")
        self.query_one("#mount").display = fs is not None
        priority = self.query_one("#priority")
        priority.display, priority.disabled = fs is None, use != "swap"
        return use, fs

    def _free_number(self) -> int:
        taken = set(self.tz.history.devices)
        return next(number for number in range(len(taken) + 1) if f"ublkb{number}" not in taken)

    def _presets_hint(self) -> str:
        presets = plan.presets(self.tz.memory or 1 << 30)
        return f"F2: {', '.join(map(format_size, presets))} (25 to 150% of memory)"

    # ---- preview

    def _preview(self) -> None:
        spec = self.spec
        self.query_one("#create", Button).disabled = spec is None
        self.refresh_bindings()
        command, table, warning = (self.query_one(f"#{n}", Static) for n in ("command", "outcome", "warning"))
        if spec is None:
            command.update(Text("Correct the fields marked above first.", "italic"))
            table.update("")
            warning.update("")
            return
        command.update(Text(f"$ {commandline.create(spec)}"))
        snapshot = self.tz.history.latest
        available = snapshot.machine.mem_available if snapshot else 0
        lines = [f"{'ratio':<6}{'holds':>7}{'takes':>8}{'left: disk':>12}{'gain: swap':>12}"]
        measured = self._ratio()
        for ratio in (*plan.RATIOS, *((measured,) if measured else ())):
            o = plan.outcome(spec.size, spec.mem_limit, ratio, available)
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
        warning.update(Text(plan.unsafe(spec, snapshot.machine) if snapshot else ""))

    # ---- what the user does

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Create is offered when every field is right."""
        return self.spec is not None if action == "create" else True

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
        """Makes it, if every field is right."""
        if self.spec is not None:
            self.dismiss(self.spec)

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Makes nothing."""
        self.dismiss(None)
