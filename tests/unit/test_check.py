"""`truezram check`: sound arenas, live ones under load, every sort of damage, and files that are not arenas. What
docs/arena.md says is tried by a reader of its own, written after that page."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from arena_reader import Group, Reader, crc, seal
from conftest import kill, kill_server, unmount_arenas
from hypothesis import given
from hypothesis import strategies as st
from pagegen import noise, sample

from truezram._native import ffi, lib
from truezram.cli.main import main
from truezram.engine import paths
from truezram.engine.answers import ArenaCheck
from truezram.engine.device import server
from truezram.engine.device.check import check, check_device, check_file
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.local import LocalDevice
from truezram.engine.errors import Failed, NotFound, PermissionDenied, TruezramError, Unsupported, UsageError
from truezram.engine.units import PAGE

try:
    paths.server_path()
except TruezramError as missing:
    pytest.skip(f"{missing}", allow_module_level=True)

PAGES = 2400
DISK = 16 << 20
SAME = bytes(PAGE)
WORD = b"seven!!\x7f" * 512
"""Too much for an entry: an object of 8 bytes."""


def contents() -> list[bytes]:
    rng = random.Random(1)
    compressible = sample(PAGES, seed=1)
    return [
        SAME if i % 10 == 0 else WORD if i % 10 == 1 else noise(rng, PAGE) if i % 10 == 2 else compressible[i]
        for i in range(PAGES)
    ]


@pytest.fixture
def device(run_dir: Path) -> Iterator[Entry]:
    entry = create(CreateOptions(DISK, "lz4", transport="local")).entry
    with LocalDevice(entry) as disk:
        disk.write(0, b"".join(contents()))
    yield entry
    pid = server.server_of(entry)
    if pid is not None:
        kill(pid)
    server.cleanup(entry)
    unmount_arenas(run_dir)


def copy_of(fd: int, path: Path) -> None:
    """With its holes."""
    size, at = os.fstat(fd).st_size, 0
    with path.open("wb") as out:
        out.truncate(size)
        while True:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return
            end = os.lseek(fd, at, os.SEEK_HOLE)
            os.pwrite(out.fileno(), os.pread(fd, end - at, at), at)
            at = end


@pytest.fixture
def arena(device: Entry, tmp_path: Path) -> Path:
    """A copy of the device's arena, which may be written to."""
    fd = Client.arena(device)
    copy_of(fd, tmp_path / "arena")
    os.close(fd)
    return tmp_path / "arena"


# ---- docs/arena.md in Python (arena_reader.py)


def test_the_document_describes_the_file(arena: Path) -> None:
    """Every page that can be read without a codec is read by it: same-filled ones and raw ones; and every checksum."""
    reader, found = Reader(arena), check_file(arena)
    pages = contents()
    objects = payload = taken = 0
    for page, expected in enumerate(pages):
        kind, offset, length = reader.object(page)
        if kind in (1, 2):
            word = reader.entry(page) >> 5
            word = (word & 0xFFFFFFFF) * 0x100000001 if kind == 2 else (word & (1 << 51) - 1)
            assert word.to_bytes(8, "little") * 512 == expected
            continue
        checksum, owner = struct.unpack("<II", reader.read(offset, 8))
        data = reader.read(offset + 8, length)
        assert owner == page
        assert checksum == crc((page * 0x9E3779B1 & 0xFFFFFFFF) + kind & 0xFFFFFFFF, data)
        assert kind not in (3, 4) or data * (PAGE // length) == expected
        objects, payload, taken = objects + 1, payload + length, taken + (length + 8 + 15) // 16 * 16
    assert reader.entry(PAGES) == 0
    assert (found.objects, found.payload_bytes, found.object_bytes) == (objects, payload, taken)
    assert (found.pages, found.same_filled) == (PAGES, sum(page in (SAME, WORD) for page in pages))
    assert found.table_pages == -(-PAGES // 512)
    assert (found.sound, found.live, found.version, found.generation) == (True, False, 2, 1)
    assert (found.disksize, found.algorithm, found.state) == (DISK, "lz4", "live")
    assert found.uuid == reader.head[40:56].hex()
    assert found.populated_bytes == arena.stat().st_blocks * 512


def test_the_document_describes_groups(device: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Members are read without the server's code, and counted as the checker does; one that was written has left."""
    pages = contents()
    with LocalDevice(device) as disk:
        command = ["recompress", "0", "--idle", "0", "--to", "cold", "--max-cpu", "100", "--wait", "--json"]
        assert main(command) == 0
        packed = json.loads(capsys.readouterr().out)["pages"]
        with Client() as client:
            assert client.device(device).group_pages == packed
        fd = Client.arena(device)
        copy_of(fd, tmp_path / "arena")
        reader, found = Reader(tmp_path / "arena"), check_file(tmp_path / "arena")
        assert struct.unpack_from("<Q", reader.head, 32) == (1,)
        groups: dict[int, Group] = {}
        alone = []
        for page, expected in enumerate(pages):
            kind, offset, length = reader.object(page)
            if kind == 12:
                group = groups.setdefault(offset, Group(reader, page))
                assert group.pages[page] == expected
            elif kind > 2:
                alone.append(length)
        assert sum(len(group.members) for group in groups.values()) == packed > PAGES // 2
        assert (found.group_pages, found.objects, found.sound) == (packed, len(groups) + len(alone), True)
        assert found.payload_bytes == sum(group.payload for group in groups.values()) + sum(alone)
        taken = sum(group.units * 16 for group in groups.values()) + sum(-(-(8 + size) // 16) * 16 for size in alone)
        assert found.object_bytes == taken
        member = next(iter(groups.values())).members[0]
        disk.write(member, noise(random.Random(5), PAGE))
        copy_of(fd, tmp_path / "later")
        os.close(fd)
    assert Reader(tmp_path / "later").object(member)[0] == 4
    assert check_file(tmp_path / "later").group_pages == packed - 1
    assert main(["check", str(tmp_path / "later"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["group_pages"] == packed - 1
    assert main(["check", str(tmp_path / "later")]) == 0
    assert f" duplicates, {packed - 1} in groups" in capsys.readouterr().out


# ---- devices


def test_a_device_and_its_figures(device: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    with Client() as client:
        found = check(client, "local0")
        snapshot = client.device(device)
    assert found.sound
    assert found.live
    assert (found.pages * PAGE, found.payload_bytes) == (snapshot.orig_data_size, snapshot.compr_data_size)
    assert found.object_bytes == snapshot.object_bytes
    # The reserve may just be refilled, or shrink.
    arena_bytes = snapshot.mem_used_total - snapshot.overhead_bytes
    assert found.populated_bytes == pytest.approx(arena_bytes, abs=2 << 20)
    assert main(["check", "local:0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("local0: sound\n  arena       ")
    assert f"pages       {PAGES}, of which" in out
    assert main(["check", "0", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["sound"], body["problems"]) == ("truezram.check/1", True, [])
    assert (body["live"], body["pages"], body["objects"]) == (True, PAGES, found.objects)


def test_a_live_device_under_load(run_dir: Path, device: Entry) -> None:
    """Segments, pages of the table and objects come and go meanwhile: none of it is a problem."""
    stop, started = threading.Event(), threading.Event()
    rng = random.Random(3)
    pages = contents()

    def load() -> None:
        with LocalDevice(device) as disk:
            while not stop.is_set():
                first = rng.randrange(4096 - 64)
                if rng.random() < 0.3:
                    disk.discard(first, 64)
                else:
                    disk.write(first, b"".join(rng.choices(pages, k=64)))
                started.set()

    thread = threading.Thread(target=load)
    thread.start()
    started.wait()
    try:
        found = [check_device(device) for _ in range(60)]
    finally:
        stop.set()
        thread.join()
    assert [item.problems for item in found] == [()] * 60
    assert len({item.pages for item in found}) > 5


def test_a_dead_server(run_dir: Path, device: Entry, arena: Path) -> None:
    """Its arena is checked where it has a name, and said to be gone where it had none."""
    kill_server(device)
    named = run_dir / "arena" / device.name
    if not named.exists():
        with pytest.raises(Failed, match="in the memory of its server, and is gone with it"):
            check_device(device)
        named.parent.mkdir(exist_ok=True, mode=0o700)
        shutil.copy(arena, named)
    found = check_device(device)
    assert (found.sound, found.live, found.pages) == (True, False, PAGES)


def test_a_stopped_server(device: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = server.server_of(device)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(Client.arena, "__defaults__", (0.2,))
    try:
        named = device.directory / "arena" / device.name
        if named.exists():
            assert check_device(device).sound
        else:
            with pytest.raises(Failed, match="did not answer"):
                check_device(device)
    finally:
        os.kill(pid, signal.SIGCONT)


# ---- damage


def raw_page(reader: Reader, number: int = 0) -> int:
    return [page for page in range(PAGES) if reader.object(page)[0] == 4][number]


def flip(reader: Reader, offset: int) -> None:
    reader.write(offset, bytes([reader.read(offset, 1)[0] ^ 4]))


def damaged_object(r: Reader) -> None:
    flip(r, r.object(7)[1] + 8 + 5)


def damaged_owner(r: Reader) -> None:
    flip(r, r.object(7)[1] + 5)


def damaged_entry(r: Reader) -> None:
    flip(r, r.table(7) + 3)


def unknown_kind(r: Reader) -> None:
    r.point(7, 29, r.object(7)[1], 100)


def out_of_range(r: Reader) -> None:
    r.point(7, 5, r.segments + r.nr_segments * (128 << 10), 100)


def before_segments(r: Reader) -> None:
    r.point(7, 5, 4096, 100)


def across_segments(r: Reader) -> None:
    r.point(7, 5, r.segments + (128 << 10) - 32, 100)


def in_a_hole(r: Reader) -> None:
    r.point(7, 5, r.segments + (r.nr_segments - 1) * (128 << 10), 100)


def shared(r: Reader) -> None:
    """A sound object of page 7 within the room of a sound raw page."""
    page = raw_page(r)
    _, offset, _ = r.object(page)
    r.put(7, 3, offset + 16, b"12345678")
    r.put(page, 4, offset, r.read(offset + 8, PAGE))


def lost_directory(r: Reader) -> None:
    flip(r, r.directory + 3)


def table_in_a_hole(r: Reader) -> None:
    end = r.segments + (r.nr_segments - 1) * (128 << 10)
    r.write(r.directory, struct.pack("<Q", seal(1 << 40, 31 | end >> 4 << 17)))


def table_beyond_the_end(r: Reader) -> None:
    os.truncate(r.file.fileno(), r.segments + (r.nr_segments + 8) * (128 << 10))
    end = r.segments + (r.nr_segments + 4) * (128 << 10)
    r.write(end, bytes(PAGE))
    r.write(r.directory, struct.pack("<Q", seal(1 << 40, 31 | end >> 4 << 17)))


def table_twice(r: Reader) -> None:
    (entry,) = struct.unpack("<Q", r.read(r.directory, 8))
    r.write(r.directory + 8, struct.pack("<Q", seal((1 << 40) + 1, entry & (1 << 56) - 1)))


def head_copy(r: Reader) -> None:
    flip(r, 4096 + 90)


DAMAGE = [
    (damaged_object, 7, "its object's checksum does not match"),
    (damaged_owner, 7, "its object belongs to another page"),
    (damaged_entry, 7, "its entry is damaged"),
    (unknown_kind, 7, "its entry is of an unknown kind"),
    (out_of_range, 7, "its object is out of range"),
    (before_segments, 7, "its object is out of range"),
    (across_segments, 7, "its object is out of range"),
    (in_a_hole, 7, "its object is where the file has a hole"),
    (shared, None, "its object shares room with another one"),
    (lost_directory, 0, "the directory's entry is damaged: pages 0 to 511 are lost"),
    (table_in_a_hole, 0, "the page of the table is where the file has a hole: pages 0 to 511 are lost"),
    (table_beyond_the_end, 0, "the directory's entry is damaged: pages 0 to 511 are lost"),
    (table_twice, 512, "page 1 of the table shares room with something else"),
    (head_copy, None, "copy 1 of the head is damaged"),
]


@pytest.mark.parametrize(("damage", "page", "what"), DAMAGE, ids=[item[0].__name__ for item in DAMAGE])
def test_damage_is_found(
    arena: Path,
    damage: Callable[[Reader], None],
    page: int | None,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(Reader(arena))
    found = check_file(arena)
    first = found.problems[0]
    assert first.what == what
    assert page is None or first.page == page
    assert damage is table_twice or found.problems_found == 1
    assert main(["check", str(arena)]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{arena}: {'1 problem' if found.problems_found == 1 else '513 problems'}"
    assert what in out


def test_many_problems_are_counted(arena: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = Reader(arena)
    for page in range(1500):
        flip(reader, reader.table(page))
    found = check_file(arena)
    assert (found.problems_found, len(found.problems)) == (1500, 1000)
    assert main(["check", "--json", str(arena)]) == 1
    body = json.loads(capsys.readouterr().out)
    assert (body["problems_found"], body["problems"][3]) == (1500, {"page": 3, "what": "its entry is damaged"})
    assert main(["check", str(arena)]) == 1
    assert "  and 1480 more\n" in capsys.readouterr().out


# ---- what is not an arena


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"", b"x" * 8191, bytes(8192), os.urandom(100000)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(Failed, match=r"too short for an arena|not an arena, or both copies of its head"):
            check_file(tmp_path / "x")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path, why in (
        (tmp_path / "sparse", "not an arena"),
        (tmp_path, "not a regular file"),
        (tmp_path / "fifo", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "loop", "Too many levels"),
        (tmp_path / "x\0y", "null"),
    ):
        with pytest.raises(Failed, match=why):
            check_file(path)
    with pytest.raises(UsageError, match="no such device and no such file"):
        check_file(tmp_path / "none")
    for word, code in ((tmp_path / "none", 2), (tmp_path / "x", 1), (tmp_path, 1), ("local7", 1)):
        assert main(["check", "--json", str(word)]) == code
        assert json.loads(capsys.readouterr().out)["schema"] == "truezram.error/1"
    with Client() as client, pytest.raises(NotFound):
        check(client, "local7")


def test_one_that_may_not_be_read(ordinary_user: None, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(bytes(8192))
    path.chmod(0)
    with pytest.raises(PermissionDenied, match="may not be read"):
        check_file(path)


@pytest.mark.parametrize(
    ("offset", "data", "error", "why"),
    [
        (8, struct.pack("<I", 3), Unsupported, "version 3 .* this program knows version 2"),
        (32, struct.pack("<Q", 4), Unsupported, "features 0x4"),
        (76, struct.pack("<I", 65536), Failed, "does not make sense"),
        (80, struct.pack("<Q", 1 << 63), Failed, "does not make sense"),
        (80, struct.pack("<Q", 0), Failed, "does not make sense"),
        (88, struct.pack("<Q", (1 << 64) - 4096), Failed, "does not make sense"),
        (96, struct.pack("<Q", (1 << 64) - (128 << 10)), Failed, "does not make sense"),
        (104, struct.pack("<Q", 1 << 60), Failed, "does not make sense"),
        (104, struct.pack("<Q", 3 << 20), Failed, "cut short"),
        (112, struct.pack("<I", 0xFFFFFFFF), Failed, "does not make sense"),
    ],
)
def test_impossible_heads(arena: Path, offset: int, data: bytes, error: type[TruezramError], why: str) -> None:
    Reader(arena).change_head(offset, data)
    with pytest.raises(error, match=why):
        check_file(arena)


def test_a_huge_sparse_arena_is_checked_at_once(arena: Path) -> None:
    """The largest there can be, all of it holes but what was there."""
    reader = Reader(arena)
    os.truncate(arena, 512 << 30)
    reader.change_head(104, struct.pack("<Q", ((512 << 30) - reader.segments) // (128 << 10)))
    assert check_file(arena).sound


def test_cut_short_and_grown_meanwhile(arena: Path) -> None:
    """By somebody else, while it is read: problems, or no arena; never the end of this process."""
    size = arena.stat().st_size
    stop = threading.Event()

    def cut() -> None:
        rng = random.Random(5)
        while not stop.is_set():
            os.truncate(arena, rng.choice((0, 5000, size // 2, size * 3 // 4, size, size * 2)))

    thread = threading.Thread(target=cut)
    thread.start()
    results = []
    try:
        for _ in range(300):
            try:
                results.append(str(check_file(arena).sound))
            except Failed as error:
                results.append(error.why)
    finally:
        stop.set()
        thread.join()
    assert len(results) == 300


WORDS = st.sampled_from([0, 1, 4095, 4096, 1 << 17, 1 << 35, 1 << 40, 1 << 44, 1 << 63, (1 << 64) - 1]) | st.integers(
    0, (1 << 64) - 1
)
EDITS = st.one_of(
    st.tuples(st.just("head"), st.integers(8, 248), WORDS),
    st.tuples(st.just("entry"), st.integers(0, PAGES - 1), st.integers(0, (1 << 56) - 1)),
    st.tuples(st.just("object"), st.integers(0, PAGES - 1), WORDS),
    st.tuples(st.just("directory"), st.integers(0, 7), st.integers(0, (1 << 51) - 1)),
    st.tuples(st.just("byte"), st.integers(0, 1 << 20), st.integers(0, 255)),
    st.tuples(st.just("cut"), st.integers(0, 1 << 26), st.just(0)),
)


class Scribbled:
    """An arena that is damaged and put right again, many times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.whole = path.with_name("whole")
        with path.open("rb") as file:
            copy_of(file.fileno(), self.whole)
        self.reader = Reader(path)

    def apply(self, edit: tuple[str, int, int]) -> None:
        reader, (what, where, value) = self.reader, edit
        if what == "head":
            reader.change_head(where, struct.pack("<Q", value))
        elif what == "entry" and (at := reader.table(where)):
            reader.write(at, struct.pack("<Q", seal(where, value)))
        elif what == "object" and (at := reader.table(where)):
            reader.write(at, struct.pack("<Q", seal(where, 5 | value % 4096 << 5 | (value >> 12) % (1 << 35) << 17)))
        elif what == "directory":
            entry = seal((1 << 40) + where, 31 | value >> 8 << 8 << 5 & (1 << 56) - 1)
            reader.write(reader.directory + where * 8, struct.pack("<Q", entry))
        elif what == "byte":
            reader.write(where, bytes([value]))
        elif what == "cut":
            os.truncate(self.path, where)

    def restore(self) -> None:
        os.truncate(self.path, 0)
        with self.whole.open("rb") as file:
            copy_of(file.fileno(), self.path)


def test_scribbles_never_crash(arena: Path) -> None:
    """With valid checksums and check bits, so that what is behind them is reached; at rest and as if live."""
    scribbled = Scribbled(arena)
    found: list[ArenaCheck] = []

    @given(st.lists(EDITS, min_size=1, max_size=6), st.booleans())
    def scribble(edits: list[tuple[str, int, int]], live: bool) -> None:
        try:
            for edit in edits:
                try:
                    scribbled.apply(edit)
                except AssertionError:
                    continue  # its directory is no longer one
            problems = ffi.new("struct tz_check_problem[2]")
            result = ffi.new("struct tz_check *", {"problems": problems, "room": 2, "live": live})
            why = ffi.new("char[216]")
            with arena.open("rb") as file:
                code = lib.tz_check_arena(file.fileno(), result, why, len(why))
            assert code <= 0
            assert (code == 0) != bool(ffi.string(why))
            if code == 0:
                assert result.pages <= result.disksize // PAGE
                assert result.same_filled <= result.pages
                assert result.objects * 16 <= result.object_bytes <= result.objects * 4112
                found.append(result)
        finally:
            scribbled.restore()

    scribble()
    assert check_file(arena).sound
    assert found
