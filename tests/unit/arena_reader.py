"""docs/arena.md in Python: what reads an arena, and writes damage into it, without the server's code."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import zstandard

from truezram._native import lib
from truezram.engine.units import PAGE


def crc(seed: int, data: bytes) -> int:
    found: int = lib.tz_crc32c(seed, data, len(data))
    return found


def seal(page: int, data: int) -> int:
    """An entry with its check bits."""
    code = columns = 0
    for number, byte in enumerate(data.to_bytes(7, "little")):
        columns ^= byte
        if byte.bit_count() % 2:
            code ^= (3, 5, 6, 7, 9, 10, 11)[number] << 3
    for bit in range(8):
        if columns >> bit & 1:
            code ^= bit
    code ^= (page * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 57
    entry = data | code << 56
    return entry | (entry.bit_count() % 2) << 63


class Reader:
    """A file as that page describes it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("r+b", buffering=0)
        copies = [self.read(0, PAGE), self.read(PAGE, PAGE)]
        self.head = max((c for c in copies if self.is_head(c)), key=lambda c: struct.unpack_from("<Q", c, 16))
        self.disksize, self.directory, self.segments, self.nr_segments = struct.unpack_from("<4Q", self.head, 80)

    @staticmethod
    def is_head(copy: bytes) -> bool:
        magic, version, checksum = struct.unpack_from("<QII", copy)
        return magic == 0x32415A54455552 and version == 2 and checksum == crc(0, copy[:12] + bytes(4) + copy[16:])

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.file.fileno(), size, offset)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.file.fileno(), data, offset)

    def table(self, page: int) -> int:
        """Where a page's entry is; 0: nowhere."""
        (entry,) = struct.unpack("<Q", self.read(self.directory + page // 512 * 8, 8) or bytes(8))
        if not entry:
            return 0
        assert entry & 31 == 31
        assert seal((1 << 40) + page // 512, entry & (1 << 56) - 1) == entry
        return ((entry >> 17 & (1 << 35) - 1) << 4) + page % 512 * 8

    def entry(self, page: int) -> int:
        at = self.table(page)
        return struct.unpack("<Q", self.read(at, 8))[0] if at else 0

    def object(self, page: int) -> tuple[int, int, int]:
        """(kind, offset, length) of a page that has one."""
        entry = self.entry(page)
        assert seal(page, entry & (1 << 56) - 1) == entry
        return entry & 31, (entry >> 17 & (1 << 35) - 1) << 4, (entry >> 5 & 4095) + 1

    def change_head(self, offset: int, data: bytes) -> None:
        """In both copies, with their checksums."""
        for copy in (0, PAGE):
            page = bytearray(self.read(copy, PAGE))
            page[offset : offset + len(data)] = data
            page[12:16] = bytes(4)
            page[12:16] = struct.pack("<I", crc(0, bytes(page)))
            self.write(copy, bytes(page))

    def point(self, page: int, kind: int, offset: int, length: int) -> None:
        self.write(self.table(page), struct.pack("<Q", seal(page, kind | length - 1 << 5 | offset >> 4 << 17)))

    def put(self, page: int, kind: int, offset: int, payload: bytes) -> None:
        """An object, and the entry to it."""
        checksum = crc((page * 0x9E3779B1 & 0xFFFFFFFF) + kind & 0xFFFFFFFF, payload)
        self.write(offset, struct.pack("<II", checksum, page) + payload)
        self.point(page, kind, offset, len(payload))


class Group:
    """An object of up to 16 pages, with all checksums that the document names."""

    def __init__(self, reader: Reader, page: int) -> None:
        kind, offset, units = reader.object(page)
        data = reader.read(offset, units * 16)
        checksum, self.owner, members, zero, length, payload_checksum = struct.unpack_from("<IIHHII", data)
        self.members = [self.owner + place for place in range(16) if members >> place & 1]
        head = 20 + 4 * len(self.members)
        payload = data[head : head + length]
        assert (kind, self.owner, zero) == (12, page // 16 * 16, 0)
        assert -(-(head + length) // 16) == units
        assert checksum == crc((self.owner * 0x9E3779B1 & 0xFFFFFFFF) + 12 & 0xFFFFFFFF, data[8:head])
        assert payload_checksum == crc(0, payload)
        codec = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        raw = codec.decompress(payload, max_output_size=PAGE * 16)
        self.pages = {number: raw[n * PAGE : (n + 1) * PAGE] for n, number in enumerate(self.members)}
        for n, (number, content) in enumerate(self.pages.items()):
            (expected,) = struct.unpack_from("<I", data, 20 + 4 * n)
            assert expected == crc((number * 0x9E3779B1 & 0xFFFFFFFF) + 12 & 0xFFFFFFFF, content)
        self.payload, self.units = length, units
