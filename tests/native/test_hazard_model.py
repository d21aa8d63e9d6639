"""Reading without locks (store.c: announce, retire), as a model of which every order of steps is tried.

One page, one writer that overwrites it, readers; a slot of the arena is free again the moment it is freed, and taken
again in any order. Two things are shown: no reader ever reads a slot that is free or being filled anew, and a writer
never has more objects set aside than two for each reader, which is what store.c has room for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest


class Reader(NamedTuple):
    """`step`: load the entry, announce it, look again, or read."""

    step: str = "load"
    entry: int = -1
    hazard: int = -1


class Writer(NamedTuple):
    """`step`: take a slot and fill it, publish it, look through what is set aside, or retire the old entry."""

    step: str = "fill"
    writes: int = 0
    new: int = -1
    old: int = -1
    index: int = 0
    kept: tuple[int, ...] = ()
    aside: tuple[int, ...] = ()


class State(NamedTuple):
    """`entry` is the page's: the number of a slot."""

    entry: int
    readers: tuple[Reader, ...]
    writer: Writer
    free: frozenset[int]


def reader_steps(entry: int, reader: Reader) -> Reader:
    """What this reader does next."""
    if reader.step == "load":
        return reader._replace(step="announce", entry=entry)
    if reader.step == "announce":
        return reader._replace(step="look", hazard=reader.entry)
    if reader.step == "look":
        same = entry == reader.entry
        return reader._replace(step="read" if same else "announce", entry=entry)
    return Reader()


def writer_steps(state: State) -> Iterator[State]:
    """What the writer may do next: any free slot may be the one that it gets."""
    writer, free = state.writer, state.free
    announced = {reader.hazard for reader in state.readers}
    if writer.step == "fill" and writer.writes:
        for slot in free:
            filled = writer._replace(step="publish", new=slot, writes=writer.writes - 1)
            yield state._replace(writer=filled, free=free - {slot})
    elif writer.step == "publish":
        published = writer._replace(step="collect", old=state.entry, new=-1, index=0, kept=())
        yield state._replace(entry=writer.new, writer=published)
    elif writer.step == "collect" and writer.index < len(writer.aside):
        slot = writer.aside[writer.index]
        kept = slot in announced
        looked = writer._replace(index=writer.index + 1, kept=(*writer.kept, slot) if kept else writer.kept)
        yield state._replace(writer=looked, free=free if kept else free | {slot})
    elif writer.step == "collect":
        yield state._replace(writer=writer._replace(step="retire", aside=writer.kept, kept=(), index=0))
    elif writer.step == "retire":
        kept = writer.old in announced
        done = writer._replace(step="fill", old=-1, aside=(*writer.aside, writer.old) if kept else writer.aside)
        yield state._replace(writer=done, free=free if kept else free | {writer.old})


def successors(state: State) -> Iterator[State]:
    """Every state that one step of anybody leads to."""
    for index, reader in enumerate(state.readers):
        then = (*state.readers[:index], reader_steps(state.entry, reader), *state.readers[index + 1 :])
        yield state._replace(readers=then)
    yield from writer_steps(state)


def most_set_aside(readers: int, slots: int, writes: int) -> int:
    """Tries all orders; the most that the writer had set aside. Fails where a reader reads what is not there."""
    first = State(0, (Reader(),) * readers, Writer(writes=writes), frozenset(range(1, slots)))
    seen, todo, most = {first}, [first], 0
    while todo:
        state = todo.pop()
        most = max(most, len(state.writer.aside))
        for reader in state.readers:
            if reader.step == "read":
                assert reader.entry not in state.free, state
                assert reader.entry != state.writer.new, state
        for then in successors(state):
            if then not in seen:
                seen.add(then)
                todo.append(then)
    return most


@pytest.mark.parametrize(("readers", "slots", "writes"), [(1, 4, 6), (2, 4, 3)])
def test_no_freed_slot_is_read_and_two_per_reader_are_set_aside_at_most(readers: int, slots: int, writes: int) -> None:
    assert most_set_aside(readers, slots, writes) <= 2 * readers


def test_one_per_reader_would_not_do() -> None:
    """The bound is reached: the reader moves from one entry to the next between the writer's two looks."""
    assert most_set_aside(1, 4, 3) == 2
