"""Compares all algorithms on pages of four kinds: zeros, text, a program's objects, and random bytes.

    python examples/algorithms.py

For each: how many times smaller the pages become (the codec alone, 1.00: stored as they are), and the microseconds of
CPU that one core takes for a page, in and out. `truezram benchmark codec` measures the same, more carefully.
"""

import random
import struct
import time

import truezram

PAGES = 64
ROUNDS = 3
PAGE = truezram.PAGE_SIZE


def zeros() -> bytes:
    return bytes(PAGES * PAGE)


def text() -> bytes:
    """Sentences of common and of rarer words."""
    order = random.Random(1)
    words = ["".join(order.choices("etaoinshrdlu", k=order.randint(2, 9))) for _ in range(2000)]
    sentences = (" ".join(order.choices(words, [1 / (n + 1) for n in range(2000)], k=12)) for _ in range(5000))
    return ". ".join(sentences).encode()[: PAGES * PAGE]


def objects() -> bytes:
    """What a heap looks like: a pointer to a type, a count of references, small numbers, pointers to neighbours."""
    order = random.Random(2)
    heap = 0x7F3A_5C00_0000
    types = [heap + 0x1000 * n for n in range(8)]
    fields = (
        struct.pack(
            "<QQqqQQ",
            order.choice(types),
            order.choice((1, 1, 1, 2)),
            order.randint(-100, 1000),
            order.randint(0, 1 << 20),
            heap + order.randrange(0, 1 << 24, 16),
            0,
        )
        for _ in range(PAGES * PAGE // 48 + 1)
    )
    return b"".join(fields)[: PAGES * PAGE]


def noise() -> bytes:
    return random.Random(3).randbytes(PAGES * PAGE)


KINDS = {"zeros": zeros(), "text": text(), "objects": objects(), "random": noise()}


def measure(algorithm: str, pages: bytes) -> tuple[float, float, float]:
    """How many times smaller, and microseconds per page in and out: of the fastest of some rounds."""
    compressor = truezram.Compressor(algorithm)
    best_in = best_out = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time()
        packed = compressor.compress_pages(pages)
        middle = time.thread_time()
        back = compressor.decompress_pages(packed.data, packed.offsets)
        best_in, best_out = min(best_in, middle - start), min(best_out, time.thread_time() - middle)
        if back != pages:
            raise SystemExit(f"{algorithm} did not give the pages back")
    return len(pages) / len(packed.data), best_in / PAGES * 1e6, best_out / PAGES * 1e6


print("algorithm " + "".join(f"{kind:>22}" for kind in KINDS))
print("          " + f"{'ratio   µs in   out':>22}" * len(KINDS))
for algorithm in truezram.algorithms():
    try:
        cells = [measure(algorithm.name, pages) for pages in KINDS.values()]
    except truezram.AlgorithmError as error:
        print(f"{algorithm.name:<10}{error}")
        continue
    print(f"{algorithm.name:<10}" + "".join(f"{ratio:8.2f}{into:8.1f}{out:6.1f}" for ratio, into, out in cells))
print("(A device does not give zeros to a codec at all: pages of one repeated word take 8 bytes.)")
