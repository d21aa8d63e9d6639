"""A stand-in for truezramd in Python, for tests of everything around the server: it makes the statistics page, the
lock and the socket, speaks protocol.h, and misbehaves on request. It stores nothing.

FAKE_MODE (comma list): die (exit 1 with a message before it is ready), killed (SIGKILL itself), hang (never ready),
hang-named (never ready after it took a name and made its socket), killed-named (SIGKILL itself then),
fail (ready with an error), garbage-ready, mute (never answers requests), garbage (answers nonsense), slow-stop (ends
1 s after the reply), stuck (never ends on STOP).
FAKE_LOG: file to which every command line and request is appended.
"""

from __future__ import annotations

import argparse
import fcntl
import mmap
import os
import signal
import socket
import sys
import time
from pathlib import Path

from truezram._native import ffi, lib
from truezram.engine.device.stats_page import MODES

STARTING = 6
MODE = set(filter(None, os.environ.get("FAKE_MODE", "").split(",")))


def log(text: str) -> None:
    path = os.environ.get("FAKE_LOG")
    if path:
        with Path(path).open("a") as file:
            file.write(text + "\n")


def bytes_of(cdata) -> bytes:
    return bytes(ffi.buffer(cdata))


def make_stats(path: Path, args, name: str, number: int):
    size = lib.tz_stats_size(args.queues)
    temporary = path.with_suffix(".new")
    with temporary.open("w+b") as file:
        file.truncate(size)
        page = mmap.mmap(file.fileno(), size)
    stats = ffi.cast("struct tz_stats *", ffi.from_buffer(page, require_writable=True))
    assert lib.tz_stats_init(stats, size, args.queues) == 0
    stats.name = name.encode()
    stats.id = number
    stats.transport = ("ublk", "local", "nbd").index(args.transport)
    stats.pid, stats.pid_start = pid_and_start()
    stats.created_ns = time.time_ns()
    stats.queue_depth = args.queue_depth
    stats.disksize = args.size
    stats.mem_limit = args.mem_limit
    stats.algorithm = args.algorithm.encode()
    stats.dedup = args.dedup
    stats.mode = MODES.index(args.mode)
    stats.mode_since_ns = time.monotonic_ns()
    numbers = [*map(int, args.policy.split(":")), 0]
    stats.idle_dense, stats.idle_cold, stats.cpu_percent, stats.idle_backing = numbers[:4]
    if "no-zstd" in MODE:
        stats.idle_cold = 0
    stats.mem_used_total = 1 << 20
    stats.mem_used_max = 2 << 20
    for index in range(args.queues):
        queue = lib.tz_stats_queue(stats, index)
        queue.num_writes = 10 * (index + 1)
        queue.pages_written = 100 * (index + 1)
        queue.pages_now = 1000
        queue.compr_bytes_now = 1000 * 1000
        queue.kind_pages_now[5] = 900
        queue.kind_pages_now[1] = 60
        queue.kind_pages_now[3] = 40
        queue.write_lat[lib.tz_lat_bin(5000)] = 10 * (index + 1)
        queue.cpu = index
        queue.tid = os.getpid()
    stats.state = 1
    temporary.rename(path)
    return stats, page


def ready(fd: int, status: int, exit_code: int, name: str, text: str, number: int = 0) -> None:
    message = ffi.new("struct tz_ready *")
    message.magic, message.version = lib.TZ_MSG_MAGIC, lib.TZ_MSG_VERSION
    message.status, message.exit_code, message.id = status, exit_code, number
    message.name, message.text = name.encode(), text.encode()
    os.write(fd, b"garbage" if "garbage-ready" in MODE else bytes_of(message))
    if status != STARTING:
        os.close(fd)


def pid_and_start() -> tuple[int, int]:
    return os.getpid(), int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def serve(sock: socket.socket, stats) -> None:
    while True:
        peer, _ = sock.accept()
        with peer:
            data = peer.recv(65536)
            request = ffi.new("struct tz_request *")
            ffi.memmove(request, data, min(len(data), ffi.sizeof("struct tz_request")))
            text = ffi.string(request.text).decode()
            log(f"op {request.op} {list(request.arg)} {text}")
            if "mute" in MODE:
                time.sleep(60)
            if "garbage" in MODE:
                peer.send(b"what?")
                continue
            reply = ffi.new("struct tz_reply *")
            reply.magic, reply.version = lib.TZ_MSG_MAGIC, lib.TZ_MSG_VERSION
            if request.op == 2:
                key, _, value = text.partition("=")
                if key == "mem_limit" and int(value) == 13 * 4096:
                    reply.status, reply.text = 3, b"that limit is unlucky"
                elif key == "mem_limit":
                    stats.mem_limit = int(value)
                elif key == "mode":
                    stats.mode = MODES.index(value)
                elif key == "dedup":
                    stats.dedup = value == "on"
                elif key == "backing" and "no-backing" in MODE:
                    reply.status, reply.text = 3, b"it does not like that file"
                elif key == "backing":
                    limit, _, name = value.rpartition(":")
                    there = value != "none"
                    stats.backing_path = name.encode() if there else b""
                    stats.backing_limit = int(limit) if there else 0
                    stats.backing_state = lib.TZ_BACKING_READY if there else lib.TZ_BACKING_NONE
                elif key in ("idle_backing", "backing_daily", "backing_rate"):
                    setattr(stats, key, int(value))
                else:
                    stats.algorithm = value.encode()
            elif request.op == 5:
                for region in range(request.arg[2]):
                    reply.map[region][5] = region
                reply.value[0] = 0 if "ageless" in MODE else request.arg[3]
            elif request.op == 6:
                reply.value[0] = 12345
            elif request.op == 7:
                reply.value[0] = 1
                stats.compact_done = 0 if "endless" in MODE else 1
            elif request.op == 10:
                stats.ages_counted = reply.value[0] = 1
            elif request.op == 11:
                reply.value[0] = stats.recompress_started = 1
                stats.recompress_done = 0 if "endless" in MODE else 1
                queue = lib.tz_stats_queue(stats, 0)
                if text == "backing":
                    stats.backing.pages = queue.kind_pages_now[lib.TZ_KIND_BACKED] = 7
                    stats.backing.saved, stats.backing_used, stats.backing_written = 700, 8192, 8192
                elif text == "memory" and "no-room" not in MODE:
                    queue.kind_pages_now[lib.TZ_KIND_BACKED], queue.backing_returned = 0, 7
            peer.send(bytes_of(reply))
            if request.op == 3:
                if "stuck" in MODE:
                    time.sleep(60)
                if "slow-stop" in MODE:
                    time.sleep(1)
                return


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--transport", required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--algorithm")
    parser.add_argument("--dictionary")
    parser.add_argument("--dedup", action="store_true")
    parser.add_argument("--policy", default="0:0:0")
    parser.add_argument("--mode", default="balanced")
    parser.add_argument("--mem-limit", type=int, default=0)
    parser.add_argument("--id", type=int)
    parser.add_argument("--queues", type=int, default=2)
    parser.add_argument("--queue-depth", type=int, default=64)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--cleanup", action="store_true")
    args = parser.parse_args()
    log("argv " + " ".join(sys.argv[1:]))
    Path("/proc/self/comm").write_text("truezramd")  # as a server's process is called
    prefix = "ublkb" if args.transport == "ublk" else args.transport
    if args.cleanup:
        for suffix in ("stats", "stats.new", "sock", "lock", "log"):
            (args.run_dir / f"{prefix}{args.id}.{suffix}").unlink(missing_ok=True)
        return 0
    if "die" in MODE:
        print("truezramd: the arena cannot be made: Cannot allocate memory", file=sys.stderr)
        return 1
    if "killed" in MODE:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hang" in MODE:
        time.sleep(60)
    number = args.id
    for candidate in range(100) if number is None else [number]:
        if any((args.run_dir / f"{prefix}{candidate}.{part}").exists() for part in ("stats", "stats.new", "sock")):
            continue
        lock = (args.run_dir / f"{prefix}{candidate}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        number = candidate
        lock.truncate(0)
        lock.write("{} {}\n".format(*pid_and_start()))
        lock.flush()
        break
    else:
        ready(args.ready_fd, 5, 4, "", f"{prefix}{number} is in use")
        return 4
    name = f"{prefix}{number}"
    ready(args.ready_fd, STARTING, 0, name, "", number)
    if MODE & {"hang-named", "killed-named"}:
        (args.run_dir / f"{name}.stats.new").write_bytes(b"")
        if "killed-named" in MODE:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if "fail" in MODE:
        ready(args.ready_fd, 1, 3, name, "the kernel has no ublk. Load ublk_drv.")
        return 3
    stats, _page = make_stats(args.run_dir / f"{name}.stats", args, name, number)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    (args.run_dir / f"{name}.sock").unlink(missing_ok=True)
    sock.bind(str(args.run_dir / f"{name}.sock"))
    sock.listen(8)
    ready(args.ready_fd, 0, 0, name, "", number)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve(sock, stats)
    finally:
        for suffix in ("stats", "sock", "lock"):
            (args.run_dir / f"{name}.{suffix}").unlink(missing_ok=True)
    return 0


sys.exit(main())
