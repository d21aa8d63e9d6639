"""Collecting freed swap slots (store.c: tz_store_collect), as models of which every order of steps is tried.

The first: one slot. The kernel writes it, frees it (which sets the bit), and writes it again, with contents that may be
the same; the collector visits the page again and again. A freed slot is never read, so what must hold is: when a write
has been answered and the slot has not been freed since, the table has what was written. Entries that name objects
(negative numbers) are the store's to choose: any that is neither in the table nor announced by the collector, so one
may come back. Those of same-filled pages (positive) are what they are. A clock, and who reads, change the age of an
entry that names an object, and the collector tries again when only that is another (store.c: tz_store_exchange).

The second: the program that marks and wakes, against the collector that finds nothing, arms it and goes to sleep.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest


class Slot(NamedTuple):
    """The kernel and the queue thread, which never act at once for one slot. `step`: idle (the kernel may write if the
    slot is free, and may free if it is in use), clear, look, publish. `value` is what is being or was written."""

    step: str = "idle"
    in_use: bool = False
    value: int = 0
    writes: int = 0
    wants_object: bool = False


class Collector(NamedTuple):
    """`step`: come (say which page), load, announce, check, take (the bit), exchange, leave. `entry` is what it looked
    at, `hazard` what it announces."""

    step: str = "come"
    here: bool = False
    entry: int = 0
    hazard: int = 0
    old: bool = False


class State(NamedTuple):
    """`table` is the page's entry, `old` the age in it, which changes `ticks` times more; `bit` is the page's bit."""

    table: int
    bit: bool
    slot: Slot
    collector: Collector
    old: bool = False
    ticks: int = 0


class Rules(NamedTuple):
    """What the design has; each is left out once, to see that it is needed."""

    clears: bool = True
    clears_first: bool = True
    looks: bool = True
    announces: bool = True
    looks_before_bit: bool = True
    compares: bool = True
    retries: bool = True
    """Not needed for safety: without it, what is freed may stay."""


ALL = Rules()
WORDS = (1, 2)
OBJECTS = (-1, -2, -3)


def slot_steps(state: State, rules: Rules) -> Iterator[State]:
    """What the kernel, or the queue thread for it, does next."""
    slot = state.slot
    if slot.step == "idle" and slot.in_use:
        yield state._replace(bit=True, slot=slot._replace(in_use=False))  # freed
    if slot.step == "idle" and slot.writes:  # taken and written, or written once more
        for value in (*WORDS, OBJECTS[0]):
            first = "clear" if rules.clears_first else "publish"
            yield state._replace(
                slot=slot._replace(step=first, in_use=False, value=value, writes=slot.writes - 1, wants_object=False)
            )
    elif slot.step == "clear":
        after = "look" if rules.clears_first else "idle"
        done = slot._replace(step=after, in_use=not rules.clears_first)
        yield state._replace(bit=state.bit and not rules.clears, slot=done)
    elif slot.step == "look":
        yield state._replace(slot=slot._replace(step="publish", wants_object=rules.looks and state.collector.here))
    elif slot.step == "publish":
        done = slot._replace(step="idle" if rules.clears_first else "clear", in_use=rules.clears_first)
        if slot.value > 0 and not slot.wants_object:
            yield state._replace(table=slot.value, old=False, slot=done)
            return
        for entry in OBJECTS:  # a free one
            if entry not in (state.table, state.collector.hazard):
                yield state._replace(table=entry, old=False, slot=done._replace(value=entry))


def clock_steps(state: State) -> Iterator[State]:
    """The clock, or a read."""
    if state.ticks and state.table < 0:
        yield state._replace(old=not state.old, ticks=state.ticks - 1)


def collector_steps(state: State, rules: Rules) -> State:
    """What the collector does next."""
    now = state.collector
    if now.step == "come":
        then = "load" if rules.looks_before_bit else "take"
        return state._replace(collector=now._replace(step=then, here=True))
    if now.step == "load":
        step = "announce" if state.table < 0 and rules.announces else "take" if rules.looks_before_bit else "exchange"
        return state._replace(collector=now._replace(step=step, entry=state.table, old=state.old))
    if now.step == "announce":
        return state._replace(collector=now._replace(step="check", hazard=now.entry))
    if now.step == "check":
        if (state.table, state.old) == (now.entry, now.old):
            return state._replace(collector=now._replace(step="take" if rules.looks_before_bit else "exchange"))
        # Another entry: a same-filled page's, or one that must be announced in its turn.
        step = "announce" if state.table < 0 else "take" if rules.looks_before_bit else "exchange"
        return state._replace(collector=now._replace(step=step, entry=state.table, old=state.old))
    if now.step == "take":
        if not state.bit:
            return state._replace(collector=now._replace(step="leave"))
        return state._replace(bit=False, collector=now._replace(step="exchange" if rules.looks_before_bit else "load"))
    if now.step == "exchange":
        if state.table == now.entry < 0 and state.old != now.old and rules.retries:
            return state._replace(collector=now._replace(old=state.old))
        same = (state.table, state.old) == (now.entry, now.old)
        table = 0 if same or not rules.compares else state.table
        return state._replace(table=table, collector=now._replace(step="leave"))
    return state._replace(collector=Collector())


def is_right(state: State) -> bool:
    """Whether what is in use is there."""
    return not state.slot.in_use or state.slot.step != "idle" or state.table == state.slot.value


def explore(rules: Rules, writes: int) -> tuple[bool, int]:
    """Tries all orders: whether nothing is lost, and how many states there are."""
    first = State(0, False, Slot(writes=writes), Collector(), ticks=3)
    seen, todo = {first}, [first]
    while todo:
        state = todo.pop()
        if not is_right(state):
            return False, len(seen)
        for then in (*slot_steps(state, rules), *clock_steps(state), collector_steps(state, rules)):
            if then not in seen:
                seen.add(then)
                todo.append(then)
    return True, len(seen)


def test_nothing_in_use_is_collected() -> None:
    right, states = explore(ALL, writes=4)
    assert right
    assert states > 3000, f"only {states} states were tried"


@pytest.mark.parametrize("rule", [rule for rule in Rules._fields if rule != "retries"])
def test_every_rule_is_needed(rule: str) -> None:
    """Without any one of them some order loses a page."""
    right, _ = explore(ALL._replace(**{rule: False}), writes=4)
    assert not right


def test_what_is_freed_for_good_is_collected_unless_it_met_a_write() -> None:
    """The collector alone, after a slot was written and freed: nothing is left."""
    for value in (*WORDS, *OBJECTS):
        state = State(value, True, Slot(value=value), Collector())
        for _ in range(8):
            state = collector_steps(state, ALL)
        assert (state.table, state.bit) == (0, False)


def left_behind(rules: Rules) -> bool:
    """Whether what was freed for good may stay after one visit, whenever the page grows old or is read."""
    first = State(OBJECTS[0], True, Slot(value=OBJECTS[0]), Collector(), ticks=3)
    seen, todo = {first}, [first]
    while todo:
        state = todo.pop()
        if state.collector.step == "leave" and state.table:
            return True
        for then in (*clock_steps(state), collector_steps(state, rules)):
            if then not in seen and then.collector.step != "come":
                seen.add(then)
                todo.append(then)
    return False


def test_an_age_that_changes_keeps_nothing() -> None:
    assert not left_behind(ALL)
    assert left_behind(ALL._replace(retries=False))


# ---- waking


class Sleep(NamedTuple):
    """The program on several CPUs (`step` of each: mark, see, take) and the collector: scan (finds or not), arm, scan
    once more, disarm, sleep."""

    bits: int
    armed: bool
    woken: bool
    program: tuple[str, ...]
    collector: str


def sleep_steps(state: Sleep, looks_again: bool) -> Iterator[Sleep]:
    """What anybody does next."""
    for cpu, step in enumerate(state.program):

        def at(then: str, cpu: int = cpu, **more: object) -> Sleep:
            program = (*state.program[:cpu], then, *state.program[cpu + 1 :])
            return state._replace(program=program, **more)  # type: ignore[arg-type]

        if step == "mark":
            yield at("see", bits=state.bits | 1 << cpu)
        elif step == "see":
            yield at("take" if state.armed else "end")
        elif step == "take":  # one exchange: only who takes it wakes
            yield at("end", armed=False, woken=state.woken or state.armed)
    now = state.collector
    if now == "scan":
        yield state._replace(bits=0, collector="scan" if state.bits else "arm")
    elif now == "arm":
        yield state._replace(armed=True, collector="again" if looks_again else "sleep")
    elif now == "again":
        yield state._replace(collector="disarm" if state.bits else "sleep")
    elif now == "disarm":
        yield state._replace(armed=False, collector="scan")
    elif now == "sleep" and state.woken:
        yield state._replace(woken=False, collector="scan")


def lost_wakeups(looks_again: bool, cpus: int) -> tuple[int, int]:
    """States in which nobody will do anything more and a marked slot is left; and states in all."""
    first = Sleep(0, False, False, ("mark",) * cpus, "scan")
    seen, todo, lost = {first}, [first], 0
    while todo:
        state = todo.pop()
        then = list(sleep_steps(state, looks_again))
        lost += not then and bool(state.bits)
        for next_ in then:
            if next_ not in seen:
                seen.add(next_)
                todo.append(next_)
    return lost, len(seen)


def test_no_wake_up_is_lost() -> None:
    lost, states = lost_wakeups(looks_again=True, cpus=3)
    assert lost == 0
    assert states > 200, f"only {states} states were tried"


def test_without_another_look_one_would_be() -> None:
    assert lost_wakeups(looks_again=False, cpus=1)[0] > 0
