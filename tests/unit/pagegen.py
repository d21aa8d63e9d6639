"""Pages for tests: what memory looks like (pointers, counters, text, records, copies, zeros) and what it does not."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from hypothesis import strategies as st

PAGE = 4096

WORDS = (
    b"the of page static return struct int const void if unsigned self def import None True memory error size ".split()
)


def zeros(rng: random.Random, n: int) -> bytes:
    return bytes(n)


def noise(rng: random.Random, n: int) -> bytes:
    return rng.randbytes(n)


def run(rng: random.Random, n: int) -> bytes:
    """A short period, from 1 to 40 bytes."""
    period = rng.randbytes(rng.randint(1, 40))
    return (period * (n // len(period) + 1))[:n]


def pointers(rng: random.Random, n: int) -> bytes:
    base = rng.getrandbits(47) & ~0xFFF
    values = [base + rng.randrange(0, 1 << 16, 8) if rng.random() < 0.7 else 0 for _ in range(n // 8 + 1)]
    return struct.pack(f"<{len(values)}Q", *values)[:n]


def counters(rng: random.Random, n: int) -> bytes:
    start, step = rng.getrandbits(24), rng.choice((1, 2, 8, 255))
    return b"".join(struct.pack("<I", (start + i * step) & 0xFFFFFFFF) for i in range(n // 4 + 1))[:n]


def text(rng: random.Random, n: int) -> bytes:
    return b" ".join(rng.choice(WORDS) for _ in range(n // 2 + 1))[:n]


def records(rng: random.Random, n: int) -> bytes:
    """A structure of 24 to 96 bytes, some of its bytes different each time."""
    record = bytearray(rng.randbytes(rng.randrange(24, 97, 8)))
    out = bytearray()
    while len(out) < n:
        for _ in range(rng.randint(0, 4)):
            record[rng.randrange(len(record))] = rng.getrandbits(8)
        out += record
    return bytes(out[:n])


def floats(rng: random.Random, n: int) -> bytes:
    return b"".join(struct.pack("<d", rng.gauss(0, 1)) for _ in range(n // 8 + 1))[:n]


def log_lines(rng: random.Random, n: int) -> bytes:
    """Lines of differing lengths, most of each as the one before. (Not among the kinds: parts of it are text.)"""
    out = bytearray()
    while len(out) < n:
        start = f"Nov 24 04:17:{len(out) // 300:02} host truezramd[1234]: ublkb0: request of 4096 bytes at "
        out += f"{start}{rng.getrandbits(30)} done{'.' * rng.randrange(12)}\n".encode()
    return bytes(out[:n])


KINDS: tuple[Callable[[random.Random, int], bytes], ...] = (
    zeros,
    noise,
    run,
    pointers,
    counters,
    text,
    records,
    floats,
)


def build(parts: list[tuple[int, int, int, int]], seed: int) -> bytes:
    """A page of parts (kind, length, copy from, copy length): each part, then a copy of what came before."""
    rng = random.Random(seed)
    page = bytearray()
    for kind, length, source, copied in parts:
        page += KINDS[kind % len(KINDS)](rng, length)
        source %= max(len(page), 1)
        page += page[source : source + copied]
        if len(page) >= PAGE:
            break
    while len(page) < PAGE:
        page += KINDS[rng.randrange(len(KINDS))](rng, rng.randint(1, PAGE - len(page)))
    return bytes(page[:PAGE])


def pages() -> st.SearchStrategy[bytes]:
    """Hypothesis strategy: structured pages."""
    part = st.tuples(st.integers(0, len(KINDS) - 1), st.integers(0, 3000), st.integers(0, 4095), st.integers(0, 300))
    return st.builds(build, st.lists(part, max_size=30), st.integers(0, 1 << 32))


def sample(count: int, seed: int = 1) -> list[bytes]:
    """``count`` pages without hypothesis, always the same ones; the first are the extreme cases."""
    rng = random.Random(seed)
    extreme = [bytes(PAGE), b"\xff" * PAGE, rng.randbytes(PAGE), bytes(PAGE - 1) + b"\x01", b"\x01" + bytes(PAGE - 1)]
    extreme += [rng.randbytes(n) + bytes(PAGE - n) for n in (1, 5, 12, 13, 16, 63, 64, 255, 270, 4084)]
    extreme += [bytes(PAGE - n) + rng.randbytes(n) for n in (1, 4, 5, 6, 11, 12, 13, 16, 64, 4080)]
    extreme += [KINDS[i](rng, PAGE) for i in range(len(KINDS))]
    while len(extreme) < count:
        parts = [
            (rng.randrange(len(KINDS)), rng.randint(0, 600), rng.randrange(PAGE), rng.randint(0, 300))
            for _ in range(rng.randint(1, 30))
        ]
        extreme.append(build(parts, rng.getrandbits(32)))
    return extreme[:count]
