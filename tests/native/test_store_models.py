"""The store's lock-free parts, as models of which every order of steps is tried.

The mover: compaction moves a page's object (housekeeping.c: move) while a writer overwrites pages, another thread
discards them and a reader reads. Hazards are compared by the room an object is in alone, and a freed room is taken
again at once, by any page, in any order. Shown: nobody reads or copies a room that is free or holds something else by
now, an entry always names what was last written to its page, and no room is lost or freed twice. (Ages are not in it:
an exchange that is tried again when only the age is another is one that does not look at it. Recompression is a mover.)

The table: an empty page of the page table is taken away (housekeeping.c: tidy_table; store.c: slot_to_write,
make_table_page) while writers, a discarder and a reader use entries in it. Shown: nobody touches a page of the table
that is free or somebody else's by now, nothing written is lost, a reader finds what was there while it read, and no
memory is lost.

Each model is run again with one step left out, for each step that matters, and must then find a fault.

How much a thread has to set aside is test_hazard_model.py's subject.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import pytest

S = TypeVar("S")


class Fault(Exception):
    """Something that must not happen."""


def need(condition: object, what: str) -> None:
    if not condition:
        raise Fault(what)


def explore(first: S, successors: Callable[[S], Iterator[S]], check: Callable[[S, bool], None]) -> int:
    """Tries all orders; the number of states. `check` is also told which states are final."""
    seen, todo = {first}, [first]
    while todo:
        state = todo.pop()
        final = True
        for then in successors(state):
            final = False
            if then not in seen:
                seen.add(then)
                todo.append(then)
        check(state, final)
    return len(seen)


def swap(values: tuple[S, ...], index: int, value: S) -> tuple[S, ...]:
    return (*values[:index], value, *values[index + 1 :])


# ---- the mover ----

FREE, FILLING = (-1, 0), (-2, 0)
NO_ROOM = -1
READER, WRITER, DISCARDER, MOVER = range(4)


class Actor(NamedTuple):
    """Any of the four. `page` and `entry` are what it is at; `room`: its new room; `saw`: what the room that it has
    announced held then; `aside`: rooms set aside, of which `looked_at` have been looked at and `kept` stay."""

    step: str = "idle"
    left: int = 0
    page: int = 0
    entry: int = NO_ROOM
    room: int = NO_ROOM
    hazard: int = NO_ROOM
    saw: tuple[int, int] = FREE
    copy: tuple[int, int] = FREE
    looked_at: int = 0
    kept: tuple[int, ...] = ()
    aside: tuple[int, ...] = ()


class Store(NamedTuple):
    """`entries`: the room of each page's object; `newest`: what was written to each page last, 0: nothing, or
    discarded; `rooms`: (page, number of the write), FREE or FILLING."""

    entries: tuple[int, ...]
    newest: tuple[int, ...]
    rooms: tuple[tuple[int, int], ...]
    actors: tuple[Actor, ...]
    writes: int


class MoverModel:
    """`without`: the step that is left out. `sources`: rooms of the segment that is emptied."""

    sources = (0, 1)

    def __init__(self, pages: int, rooms: int, work: tuple[int, int, int, int], without: str = "") -> None:
        self.without = without
        content = tuple((page, 1) for page in range(pages)) + (FREE,) * (rooms - pages)
        self.first = Store(
            tuple(range(pages)), (1,) * pages, content, tuple(Actor(left=left) for left in work), writes=1
        )

    def announced(self, state: Store, room: int) -> bool:
        return self.without != "look for hazards" and any(actor.hazard == room for actor in state.actors)

    def free_rooms(self, state: Store) -> Iterator[int]:
        """Of free rooms that nobody thinks of any more, which are all alike, one in the segment and one outside."""
        known = {room for actor in state.actors for room in (actor.entry, actor.hazard)}
        alike = set()
        for room, content in enumerate(state.rooms):
            if content == FREE and (room in known or (room in self.sources) not in alike):
                if room not in known:
                    alike.add(room in self.sources)
                yield room

    def freed(self, state: Store, room: int) -> Store:
        need(state.rooms[room] not in (FREE, FILLING), "freed twice")
        need(room not in state.entries, "an object in use is freed")
        return state._replace(rooms=swap(state.rooms, room, FREE))

    def retiring(self, state: Store, who: int) -> Iterator[Store]:
        """The steps of tz_store_retire, or of what comes at the end, which has no entry to free."""
        actor = state.actors[who]
        if actor.step == "collect" and actor.looked_at == len(actor.aside):
            actor = actor._replace(step="retire", aside=actor.kept, kept=(), looked_at=0)
        if actor.step == "collect":
            room = actor.aside[actor.looked_at]
            kept = self.announced(state, room)
            after = state if kept else self.freed(state, room)
            looked = actor._replace(looked_at=actor.looked_at + 1, kept=(*actor.kept, room) if kept else actor.kept)
            yield after._replace(actors=swap(after.actors, who, looked))
        elif actor.step == "retire":
            aside, after = actor.aside, state
            if actor.entry != NO_ROOM and self.announced(state, actor.entry):
                aside = (*aside, actor.entry)
            elif actor.entry != NO_ROOM:
                after = self.freed(state, actor.entry)
            done = Actor(left=actor.left, aside=aside)
            yield after._replace(actors=swap(after.actors, who, done))

    def announcing(self, state: Store, actor: Actor, then: str) -> Actor | None:
        """The steps of tz_store_announce."""
        now = state.entries[actor.page]
        if actor.step == "announce":
            hazard = NO_ROOM if self.without == "announce" and then == "copy" else actor.entry
            return actor._replace(step="look", hazard=hazard)
        if actor.step != "look":
            return None
        if now != actor.entry and self.without != "look again":
            empty = now == NO_ROOM
            return actor._replace(step="clear" if empty else "announce", entry=now)
        return actor._replace(step=then, saw=state.rooms[actor.entry])

    def reader(self, state: Store) -> Iterator[Actor]:
        actor = state.actors[READER]
        if actor.step == "idle" and actor.left:
            for page, room in enumerate(state.entries):
                if room != NO_ROOM:
                    yield actor._replace(step="announce", left=actor.left - 1, page=page, entry=room)
        elif actor.step == "read" or actor.step == "clear":
            yield Actor(left=actor.left)
        elif looked := self.announcing(state, actor, "read"):
            yield looked

    def writer(self, state: Store) -> Iterator[Store]:
        actor = state.actors[WRITER]
        if actor.step == "idle" and actor.left:
            for room in self.free_rooms(state):
                filling = actor._replace(step="fill", left=actor.left - 1, room=room)
                yield state._replace(rooms=swap(state.rooms, room, FILLING), actors=swap(state.actors, WRITER, filling))
        elif actor.step == "fill":
            for page in range(len(state.entries)):
                rooms = swap(state.rooms, actor.room, (page, state.writes + 1))
                filled = actor._replace(step="publish", page=page)
                yield state._replace(rooms=rooms, writes=state.writes + 1, actors=swap(state.actors, WRITER, filled))
        elif actor.step == "publish":
            published = actor._replace(step="collect", entry=state.entries[actor.page], room=NO_ROOM)
            yield state._replace(
                entries=swap(state.entries, actor.page, actor.room),
                newest=swap(state.newest, actor.page, state.rooms[actor.room][1]),
                actors=swap(state.actors, WRITER, published),
            )
        else:
            yield from self.retiring(state, WRITER)

    def discarder(self, state: Store) -> Iterator[Store]:
        actor = state.actors[DISCARDER]
        if actor.step == "idle" and actor.left:
            for page, room in enumerate(state.entries):
                gone = actor._replace(step="collect", left=actor.left - 1, page=page, entry=room)
                yield state._replace(
                    entries=swap(state.entries, page, NO_ROOM),
                    newest=swap(state.newest, page, 0),
                    actors=swap(state.actors, DISCARDER, gone),
                )
        else:
            yield from self.retiring(state, DISCARDER)

    def mover(self, state: Store) -> Iterator[Store]:
        actor = state.actors[MOVER]

        def becomes(then: Actor, after: Store = state) -> Store:
            return after._replace(actors=swap(after.actors, MOVER, then))

        if actor.step == "idle" and actor.left:
            for page, room in enumerate(state.entries):
                if room != NO_ROOM:
                    yield becomes(actor._replace(step="announce", left=actor.left - 1, page=page, entry=room))
        elif actor.step == "copy":
            if actor.entry not in self.sources:
                yield becomes(actor._replace(step="clear"))
                return
            for room in self.free_rooms(state):
                if room not in self.sources:
                    copied = actor._replace(step="exchange", room=room, copy=state.rooms[actor.entry])
                    if self.without == "keep it announced":
                        copied = copied._replace(hazard=NO_ROOM)
                    yield becomes(copied, state._replace(rooms=swap(state.rooms, room, FILLING)))
            yield becomes(actor._replace(step="clear"))  # no room
        elif actor.step == "exchange":
            same = state.entries[actor.page] == actor.entry or self.without == "compare"
            entries = swap(state.entries, actor.page, actor.room) if same else state.entries
            after = state._replace(entries=entries, rooms=swap(state.rooms, actor.room, actor.copy))
            yield becomes(actor._replace(step="moved" if same else "failed"), after)
        elif actor.step == "moved":
            yield becomes(actor._replace(step="collect", hazard=NO_ROOM))
        elif actor.step == "failed":
            after = state if self.without == "free the new room" else self.freed(state, actor.room)
            yield becomes(Actor(left=actor.left, aside=actor.aside), after)
        elif actor.step == "clear":
            yield becomes(Actor(left=actor.left, aside=actor.aside))
        elif looked := self.announcing(state, actor, "copy"):
            yield becomes(looked)
        else:
            yield from self.retiring(state, MOVER)

    def successors(self, state: Store) -> Iterator[Store]:
        for then in self.reader(state):
            yield state._replace(actors=swap(state.actors, READER, then))
        yield from self.writer(state)
        yield from self.discarder(state)
        yield from self.mover(state)

    def check(self, state: Store, final: bool) -> None:
        reader, mover = state.actors[READER], state.actors[MOVER]
        for actor, steps in ((reader, ("read",)), (mover, ("copy", "exchange"))):
            if actor.step in steps:
                need(actor.saw[0] == actor.page, "what is announced is another page's")
                if actor is reader or actor.step == "copy":
                    need(state.rooms[actor.entry] == actor.saw, "a room changes while it is read")
        for page, room in enumerate(state.entries):
            found = state.rooms[room] if room != NO_ROOM else (page, 0)
            need(found == (page, state.newest[page]), "an entry does not name what was written last")
        for actor in state.actors:
            need(len(actor.aside) <= 2 * (len(state.actors) - 1), "more is set aside than there is room for")
        if final:
            named = {room for room in state.entries if room != NO_ROOM}
            aside = {room for actor in state.actors for room in actor.aside}
            free = {room for room, content in enumerate(state.rooms) if content == FREE}
            need(named | aside | free == set(range(len(state.rooms))), "a room is lost")
            need(len(named) + len(aside) + len(free) == len(state.rooms), "a room is in two places")


def run_mover(rooms: int = 4, work: tuple[int, int, int, int] = (1, 2, 1, 1), without: str = "") -> int:
    """`work`: what reader, writer, discarder and mover do how often."""
    model = MoverModel(pages=2, rooms=rooms, work=work, without=without)
    return explore(model.first, model.successors, model.check)


@pytest.mark.parametrize(("rooms", "work"), [(4, (1, 2, 1, 1)), pytest.param(4, (1, 2, 1, 2), marks=pytest.mark.slow)])
def test_mover(rooms: int, work: tuple[int, int, int, int]) -> None:
    print(f"{run_mover(rooms, work)} states")


@pytest.mark.parametrize(
    ("without", "fault"),
    [
        ("look for hazards", "a room changes while it is read"),
        ("look again", "what is announced|a room changes"),
        ("announce", "what is announced|a room changes|an entry does not name"),
        ("keep it announced", "an entry does not name|what is announced|a room changes"),
        ("compare", "an entry does not name"),
        ("free the new room", "a room is lost"),
    ],
)
def test_mover_without_a_step(without: str, fault: str) -> None:
    with pytest.raises(Fault, match=fault):
        run_mover(without=without)


# ---- the table ----

NOBODY, OTHERS = -1, -2
"""What a page of memory is: free, or taken for something else. Otherwise the entry that it holds, or UNCLEARED."""
UNCLEARED = -3


class Thread(NamedTuple):
    """`kind`: write, discard or read. `inside`: between begin and end; `watched`: the housekeeper waits until it has
    been outside. `memory`: what it goes to; `found`: what the page has held since this operation began."""

    kind: str
    left: int
    step: str = "idle"
    watched: bool = False
    memory: int = NOBODY
    found: frozenset[int] = frozenset()


class Keeper(NamedTuple):
    """The housekeeper, with `rounds` to go. `at`: which thread it looks at in a grace period."""

    rounds: int
    step: str = "idle"
    memory: int = NOBODY
    at: int = 0


class Table(NamedTuple):
    """One page of the table, of one entry. `directory`: (memory, CLOSING) or None; `memories`: see OTHERS; `newest`:
    what was written last, 0: nothing, or discarded."""

    directory: tuple[int, bool] | None
    memories: tuple[int, ...]
    newest: int
    writes: int
    threads: tuple[Thread, ...]
    keeper: Keeper
    others: int


class TableModel:
    """`others`: how often somebody else takes a free page of memory."""

    def __init__(self, kinds: tuple[tuple[str, int], ...], memories: int, rounds: int, others: int, without: str):
        self.without = without
        threads = tuple(Thread(kind, left) for kind, left in kinds)
        self.first = Table(None, (NOBODY,) * memories, 0, 0, threads, Keeper(rounds), others)

    @staticmethod
    def stored(state: Table, memory: int, value: int) -> Table:
        """An entry is exchanged."""
        need(state.memories[memory] >= 0, "written where there is no page of the table")
        state = state._replace(memories=swap(state.memories, memory, value))
        if state.directory and state.directory[0] == memory:
            found = tuple(
                t._replace(found=t.found | {value}) if t.kind == "read" and t.step != "idle" else t
                for t in state.threads
            )
            return state._replace(newest=value, threads=found)
        need(value == state.newest == 0, "written to a page of the table that is gone")
        return state

    def thread(self, state: Table, who: int) -> Iterator[Table]:
        t = state.threads[who]

        def becomes(then: Thread, after: Table = state) -> Table:
            return after._replace(threads=swap(after.threads, who, then))

        if t.step == "idle" and t.left:
            begun = t._replace(step="look", left=t.left - 1, found=frozenset({state.newest}))
            yield becomes(begun if t.kind == "read" else begun._replace(found=frozenset()))
        elif t.step == "look":
            yield becomes(self.looked(state, t))
        elif t.step == "make":
            if NOBODY not in state.memories:
                yield becomes(t._replace(step="end"))  # -EAGAIN
            for memory in self.free(state):
                made = t._replace(step="clear", memory=memory)
                yield becomes(made, state._replace(memories=swap(state.memories, memory, UNCLEARED)))
        elif t.step == "clear":
            yield becomes(t._replace(step="enter"), state._replace(memories=swap(state.memories, t.memory, 0)))
        elif t.step == "enter":
            if state.directory is None or self.without == "compare when making":
                yield becomes(t._replace(step="look"), state._replace(directory=(t.memory, False)))
            else:
                yield becomes(t._replace(step="give back"))
        elif t.step == "give back":
            after = state if self.without == "give back" else self.freed(state, t.memory)
            yield becomes(t._replace(step="look", memory=NOBODY), after)
        elif t.step == "open":
            same = state.directory == (t.memory, True)
            after = state._replace(directory=(t.memory, False)) if same else state
            yield becomes(t._replace(step="exchange" if same else "look"), after)
        elif t.step == "exchange":
            value = state.writes + 1 if t.kind == "write" else 0
            if t.kind == "discard" and state.memories[t.memory] == 0:
                yield becomes(t._replace(step="end"))
                return
            after = self.stored(state, t.memory, value)
            writes = state.writes + (t.kind == "write")
            yield becomes(after.threads[who]._replace(step="end"), after._replace(writes=writes))
        elif t.step == "load":
            need(state.memories[t.memory] >= 0, "read where there is no page of the table")
            need(state.memories[t.memory] in t.found, "read what was not there at any time")
            yield becomes(t._replace(step="end"))
        elif t.step == "end":
            yield becomes(Thread(t.kind, t.left))

    def looked(self, state: Table, t: Thread) -> Thread:
        """What a thread does next that has read the directory."""
        if state.directory is None:
            if t.kind == "write":
                return t._replace(step="make")
            need(t.kind == "discard" or 0 in t.found, "read zeros when there was something")
            return t._replace(step="end")
        memory, closing = state.directory
        if closing and t.kind == "write" and self.without != "take the mark off":
            return t._replace(step="open", memory=memory)
        return t._replace(step="load" if t.kind == "read" else "exchange", memory=memory)

    @staticmethod
    def free(state: Table) -> Iterator[int]:
        """Free memory is all alike, but for what somebody may still go to."""
        known = {t.memory for t in state.threads}
        alike = False
        for memory, content in enumerate(state.memories):
            if content == NOBODY and (memory in known or not alike):
                alike |= memory not in known
                yield memory

    @staticmethod
    def freed(state: Table, memory: int) -> Table:
        need(state.memories[memory] == 0, "what is freed is not an empty page of the table")
        need(state.directory is None or state.directory[0] != memory, "what is freed is in the directory")
        return state._replace(memories=swap(state.memories, memory, NOBODY))

    def grace(self, state: Table, then: str, skip: bool) -> Iterator[Table]:
        """wait_for_all: every thread that is inside when it is looked at has been outside since."""
        keeper = state.keeper
        if skip or keeper.at == 2 * len(state.threads):
            yield state._replace(keeper=keeper._replace(step=then, at=0))
            return
        who, waits = divmod(keeper.at, 2)
        t = state.threads[who]
        if waits and t.watched:
            return
        watched = t._replace(watched=t.step != "idle" and not waits)
        further = keeper._replace(at=keeper.at + 1)
        yield state._replace(threads=swap(state.threads, who, watched), keeper=further)

    def housekeeper(self, state: Table) -> Iterator[Table]:
        keeper, directory = state.keeper, state.directory

        def becomes(step: str, after: Table = state, memory: int = keeper.memory) -> Table:
            return after._replace(keeper=keeper._replace(step=step, memory=memory))

        if keeper.step == "idle" and keeper.rounds:
            if directory is None or state.memories[directory[0]] != 0:
                return
            begun = keeper._replace(rounds=keeper.rounds - 1, step="mark", memory=directory[0])
            yield state._replace(keeper=begun)
        elif keeper.step == "mark":
            same = directory is not None and directory[0] == keeper.memory
            marked = state._replace(directory=(keeper.memory, True)) if same else state
            yield becomes("wait" if same else "idle", marked)
        elif keeper.step == "wait":
            yield from self.grace(state, "look", self.without == "wait before taking out")
        elif keeper.step == "look":
            empty = state.memories[keeper.memory] == 0 or self.without == "look again"
            yield becomes("take out" if empty else "leave")
        elif keeper.step == "take out":
            same = directory == (keeper.memory, True) or self.without == "compare when taking out"
            gone = state._replace(directory=None) if same else state
            yield becomes("wait again" if same else "idle", gone)
        elif keeper.step == "leave":
            same = directory == (keeper.memory, True)
            yield becomes("idle", state._replace(directory=(keeper.memory, False)) if same else state)
        elif keeper.step == "wait again":
            yield from self.grace(state, "free", self.without == "wait before freeing")
        elif keeper.step == "free":
            yield becomes("idle", self.freed(state, keeper.memory), NOBODY)

    def successors(self, state: Table) -> Iterator[Table]:
        for who in range(len(state.threads)):
            yield from self.thread(state, who)
        yield from self.housekeeper(state)
        if state.others:
            for memory in self.free(state):
                yield state._replace(memories=swap(state.memories, memory, OTHERS), others=state.others - 1)

    @staticmethod
    def check(state: Table, final: bool) -> None:
        if state.directory is None:
            need(state.newest == 0, "what was written is gone with its page of the table")
        else:
            need(state.memories[state.directory[0]] == state.newest, "the table does not hold what was written last")
        if final:
            need(all(t.step == "idle" for t in state.threads), "a thread does not come to an end")
            need(state.keeper.step == "idle", "the housekeeper does not come to an end")
            used = {state.directory[0]} if state.directory else set()
            held = {memory for memory, content in enumerate(state.memories) if content >= 0}
            need(held == used, "memory is lost")


def run_table(*kinds: tuple[str, int], without: str = "") -> int:
    model = TableModel(kinds, memories=3, rounds=2, others=1, without=without)
    return explore(model.first, model.successors, model.check)


SMALL = (
    (("write", 2), ("discard", 1), ("read", 1)),
    (("write", 1), ("write", 1), ("discard", 1)),
    (("write", 2), ("discard", 2)),
)


@pytest.mark.parametrize("kinds", [*SMALL, pytest.param((*SMALL[1], ("read", 1)), marks=pytest.mark.slow)])
def test_table(kinds: tuple[tuple[str, int], ...]) -> None:
    print(f"{run_table(*kinds)} states")


@pytest.mark.parametrize(
    ("without", "fault"),
    [
        ("take the mark off", "gone"),
        ("wait before taking out", "gone"),
        ("look again", "gone"),
        ("compare when taking out", "gone|in the directory"),
        ("wait before freeing", "no page of the table|not there at any time"),
        ("compare when making", "does not hold|is gone"),
        ("give back", "memory is lost"),
    ],
)
def test_table_without_a_step(without: str, fault: str) -> None:
    found = []
    for kinds in SMALL:
        try:
            run_table(*kinds, without=without)
        except Fault as what:
            found.append(str(what))
    assert any(re.search(fault, what) for what in found), found
