"""What a server does with nonsense: on its control socket, and in the memory it shares with clients of a local device.

It answers or hangs up, it keeps serving, and what honest clients stored stays what it was. TRUEZRAM_SERVER may name a
server built with sanitizers.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import random
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_until

from truezram._native import ffi, lib
from truezram.engine.device import server
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.local import LocalDevice

PAGE = 4096
REQUEST = struct.Struct("<IHH4Q216s")
PING, SET, STOP, ATTACH, PAGE_MAP, TRIM, COMPACT, ARENA = range(1, 9)


@pytest.fixture
def device(run_dir: Path) -> Iterator[Entry]:
    entry = create(CreateOptions(size=32 << 20, algorithm="lz4", transport="local")).entry
    yield entry
    pid = server.server_of(entry)
    assert pid is not None, "the server has died"
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: server.server_of(entry) is None)
    assert not entry.stats.exists()


def connect(entry: Entry) -> socket.socket:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(str(entry.stats.with_suffix(".sock")))  # waits while the queue of those not accepted is full
    s.settimeout(20)
    return s


def request(op: int, text: bytes = b"", args: tuple[int, ...] = (0, 0, 0, 0)) -> bytes:
    return REQUEST.pack(lib.TZ_MSG_MAGIC, lib.TZ_MSG_VERSION, op, *args, text)


def status(s: socket.socket, message: bytes) -> int:
    s.send(message)
    reply = s.recv(1 << 16)
    assert len(reply) == ffi.sizeof("struct tz_reply")
    return int(struct.unpack_from("<IHH", reply)[2])


def test_sizes_magic_and_versions_that_are_not_ours_end_the_connection(device: Entry) -> None:
    good = request(PING)
    assert len(good) == ffi.sizeof("struct tz_request")
    for bad in (b"x", good[:-1], good + b"\0", b"\0" * len(good), good[:4] + b"\xff\xff" + good[6:], b"\xff" * 5000):
        with connect(device) as s:
            s.send(bad)
            assert struct.unpack_from("<IHH", s.recv(1 << 16))[2] == 2
            assert s.recv(100) == b""
    with connect(device) as s:
        assert status(s, good) == 0


def test_every_operation_refuses_values_out_of_range(device: Entry) -> None:
    with connect(device) as s:
        for text in (b"", b"=", b"mem_limit", b"mem_limit=", b"mem_limit=-1", b"mem_limit=1x", b"mem_limit=1", b"x=5"):
            assert status(s, request(SET, text)) == 3, text
        for text in (b"algorithm=", b"algorithm=nope", b"algorithm=zstd:99", b"algorithm=" + b"a" * 200):
            assert status(s, request(SET, text)) == 3, text
        assert status(s, request(PAGE_MAP, args=(0, 1, 0, 0))) == 3
        assert status(s, request(PAGE_MAP, args=(0, 1, 257, 0))) == 3
        assert status(s, request(PAGE_MAP, args=(2**64 - 1, 2**64 - 1, 256, 0))) == 0
        assert status(s, request(99)) == 2
    with connect(device) as s:  # an unterminated text is not a message
        s.send(request(SET, b"a" * 216))
        assert struct.unpack_from("<IHH", s.recv(1 << 16))[2] == 2


def test_a_descriptor_of_the_arena_can_only_read(device: Entry) -> None:
    """Its offset is not the server's either, and the server keeps none."""
    files = Path(f"/proc/{server.server_of(device)}/fd")
    before = len([*files.iterdir()])  # it may not have closed an earlier client's connection yet
    for _ in range(50):
        fd = Client.arena(device)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert os.lseek(fd, 4096, os.SEEK_CUR) == 4096
        os.close(fd)
    wait_until(lambda: len([*files.iterdir()]) <= before)


def test_random_messages_and_many_clients(device: Entry) -> None:
    rng = random.Random(5)
    clients = [connect(device) for _ in range(40)]  # more than it takes
    for _ in range(3000):
        s = rng.choice(clients)
        args = (rng.getrandbits(64), rng.getrandbits(64), 9, 0)
        message = bytearray(request(rng.choice([PING, PAGE_MAP, TRIM, COMPACT, ARENA, 77]), args=args))
        for _ in range(rng.randrange(4)):
            message[rng.randrange(len(message))] = rng.randrange(256)
        # Without a reply being read: a client that never reads must not hold up the server.
        if struct.unpack_from("<H", message, 6)[0] == STOP:
            continue
        try:
            s.send(message, socket.MSG_DONTWAIT)
        except OSError:
            clients.remove(s)
            s.close()
            clients.append(connect(device))
    for s in clients:
        s.close()
    with connect(device) as s:
        assert status(s, request(PING)) == 0


def test_a_flood_silence_and_a_crowd(device: Entry) -> None:
    """100 MB in one message, in garbage, in requests whose replies are never read, parts of a request, 200 clients that
    say nothing: whoever comes then is answered, what is stored is whole, and none of it stays with the server."""
    kept = bytes(range(256)) * 16
    pid = server.server_of(device)

    def memory() -> int:
        text = Path(f"/proc/{pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon"))

    with LocalDevice(device) as honest:
        honest.write(7, kept)
        before = memory()
        with connect(device) as s, pytest.raises(OSError, match="too long"):
            s.send(bytes(100 << 20))  # the kernel takes no message of that size
        for message in (os.urandom(100_000), request(PING), request(ARENA), request(PAGE_MAP, args=(0, 8192, 256, 0))):
            with connect(device) as s:
                sent = 0
                try:
                    while sent < 100 << 20:
                        sent += s.send(message)
                except OSError:
                    pass  # hung up on
                assert sent < 100 << 20, "it took all, and a client that reads nothing was answered to the end"
        crowd = [connect(device) for _ in range(200)]
        with connect(device) as s:
            assert status(s, request(PING)) == 0
        for s in crowd[::2]:
            s.close()
        half = []
        for _ in range(20):
            half.append(connect(device))
            half[-1].send(request(PING)[:100])
        with connect(device) as s:
            assert status(s, request(SET, b"mem_limit=16777216")) == 0
        for s in (*crowd, *half):
            s.close()
        assert honest.read(7) == kept
        assert memory() - before < 1024, "KiB"
    # None of their connections, and none of the descriptors that were lent, is left.
    wait_until(lambda: len([*Path(f"/proc/{pid}/fd").iterdir()]) < 40)


def ring_of(entry: Entry) -> mmap.mmap:
    with connect(entry) as s:
        s.send(request(ATTACH))
        _, ancillary, _, _ = s.recvmsg(1 << 16, socket.CMSG_SPACE(4))
        (fd,) = array.array("i", ancillary[0][2])
    try:
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(fd, 4096)  # would be the server's SIGBUS
        return mmap.mmap(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def test_a_client_that_scribbles_over_the_ring_harms_itself_only(device: Entry) -> None:
    kept = bytes(range(256)) * 16
    with LocalDevice(device) as honest:
        honest.write(7, kept)
    ring = ring_of(device)
    rng = random.Random(6)
    stop = threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            # Slots (behind the head's page) and the head itself, with small and large values.
            at = rng.randrange(0, 4096 + 64 * 20, 4)
            value = rng.choice([0, 1, 2, 3, 4, 17, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)])
            struct.pack_into("<I", ring, at, value)
            if at >= 4096 + 64 and rng.random() < 0.5:  # a submitted read of anything, so that pages stay as they are
                slot = 4096 + 64 + (at - 4096 - 64) // 64 * 64
                struct.pack_into("<IIIiQ", ring, slot, 2, 0, rng.getrandbits(32), 0, rng.getrandbits(64))

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        with Client([device.stats.parent]) as client:
            for _ in range(20):
                assert client.snapshot().devices
                stop.wait(0.1)
    finally:
        stop.set()
        thread.join()
    ring.close()
    with connect(device) as s:
        assert status(s, request(PING)) == 0
    assert server.server_of(device) is not None
