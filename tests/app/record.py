"""Makes the recordings of real devices that tests, screenshots and demos play: ``python tests/app/record.py FOLDER``
for local devices; with ``swap`` after FOLDER, as root on a machine of 1 GiB that may swap, for a ublk device in use
as swap (it changes vm.swappiness and puts it back); with ``eight``, as root on a machine of 8 GiB without other
devices, for eight ublk devices, one in use as swap, one mounted on /srv/cache; with ``tiers``, for a local device whose
pages are of all ages, some compressed once more, by itself and by hand.

The first makes three local devices with different algorithms, puts a load of real pages on them, and records the real
engine's snapshots and its answers. Needs truezram installed. What the estimate says is limited to
the processes that this script started, so that nothing of the machine's other users is in the file.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from truezram.app.backend.protocol import Progress
from truezram.app.backend.real import RealEngine
from truezram.app.backend.recording import Header, Recorder, map_key
from truezram.engine.answers import PageMap, Scope
from truezram.engine.device import cold
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.local import LocalDevice
from truezram.engine.device.removal import remove_entry
from truezram.engine.errors import TruezramError

SECONDS = 100
MIB = 1 << 20
DEVICES = (("fast", 192 * MIB, 0), ("zstd:1", 128 * MIB, 64 * MIB), ("dense", 96 * MIB, 0))


def main(folder: Path) -> None:
    """Records into ``folder/local.jsonl.gz``."""
    engine = RealEngine()
    made = [create(CreateOptions(s, a, m, transport="local")) for a, s, m in DEVICES]
    ours = {device.name for device in made}
    load = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "truezram.engine.measure.load", device.name, "1", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for seed, device in enumerate(made)
    ]
    recorder = Recorder(folder / "local.jsonl.gz", Header("recorded", "three local devices under load", time.time()))
    try:
        recorder.answer("capabilities", None, engine.capabilities())
        for second in range(SECONDS):
            if second == 60:
                # What loads a device pauses: figures fall to nothing, and come back.
                load[0].send_signal(signal.SIGSTOP)
            if second == 72:
                load[0].send_signal(signal.SIGCONT)
            snapshot = engine.snapshot()
            snapshot = replace(snapshot, devices=tuple(d for d in snapshot.devices if d.name in ours))
            recorder.snapshot(replace(snapshot, machine=replace(snapshot.machine, kernel="6.18.44")))
            time.sleep(1.0 - time.monotonic() % 1.0)
        for device in made:
            pages = next(d for d in snapshot.devices if d.name == device.name).disksize // 4096
            recorder.answer("page_map", {"name": device.name}, page_map(engine, device.name, pages))
        # Where the program happens to be installed here is not to be shown.
        checks = [replace(check, detail=check.detail.replace(sys.prefix, "/usr/local")) for check in engine.doctor()]
        recorder.answer("doctor", None, tuple(checks))
        recorder.answer("tunables", None, engine.tunables())
        recorder.answer("journal", None, engine.journal())
        for process in load:
            process.send_signal(signal.SIGSTOP)  # times of an estimate are those of a machine at rest
        pids = ",".join(str(pid) for pid in (os.getpid(), *(process.pid for process in load)))
        found = engine.estimate(Scope("pid", pids), "process", Progress())
        recorder.answer("estimate", None, replace(found, scope=Scope()))
        for process in load:
            process.send_signal(signal.SIGCONT)
        end(load)
        with contextlib.suppress(TruezramError):
            recorder.answer("benchmark", None, engine.benchmark(10.0, Progress()))
    finally:
        recorder.close()
        end(load)
        with Client() as client:
            for entry in client.entries():
                if entry.name in {device.name for device in made}:
                    remove_entry(entry, force=True)


def end(load: list[subprocess.Popen[bytes]]) -> None:
    """Ends what loads the devices."""
    for process in load:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)


def page_map(engine: RealEngine, name: str, pages: int, by: str = "kind") -> PageMap:
    """The whole map in 1024 regions: one answer of the server holds 256."""
    parts = [engine.page_map(name, pages * n // 4, pages * (n + 1) // 4 - pages * n // 4, 256, by) for n in range(4)]
    return PageMap(first=0, pages=pages, regions=tuple(region for part in parts for region in part.regions), by=by)


HOG = """
import glob, sys, time
text = b"".join(open(name, "rb").read() for name in sorted(glob.glob(f"{sys.argv[1]}/*.py")))
held, much = bytearray(), int(sys.argv[2])
while len(held) < much:
    held += text[: 4 << 20]
    time.sleep(0.05)
place = 0
while True:
    for page in range(place, min(place + (8 << 20), much), 4096):
        held[page] ^= 1
    place = (place + (8 << 20)) % much
    time.sleep(0.5)
"""
"""A process with more memory than there is, text of this Python's library."""


def swap(folder: Path) -> None:
    """Records into ``folder/swap.jsonl.gz``."""
    engine = RealEngine()
    machine = engine.snapshot().machine
    device = create(CreateOptions(512 * MIB, "fast", 256 * MIB, transport="ublk", swap=True))
    much = machine.mem_available + 100 * MIB
    hog = subprocess.Popen([sys.executable, "-c", HOG, str(Path(os.__file__).parent), str(much)])
    recorder = Recorder(folder / "swap.jsonl.gz", Header("recorded", "swap on a ublk device", time.time()))
    try:
        recorder.answer("capabilities", None, engine.capabilities())
        engine.tune("", "swappiness", "150")
        for _ in range(SECONDS // 2):
            recorder.snapshot(engine.snapshot())
            time.sleep(1.0 - time.monotonic() % 1.0)
        recorder.answer("page_map", {"name": device.name}, page_map(engine, device.name, 512 * MIB // 4096))
        recorder.answer("tunables", None, engine.tunables())
        recorder.answer("journal", None, engine.journal())
    finally:
        recorder.close()
        for change in engine.journal():
            if not change.undone:
                engine.undo(change.id)
        hog.kill()
        hog.wait(20)
        with Client() as client:
            remove_entry(client.resolve(device.name))


# Algorithm, disksize, mem_limit and data, GiB.
EIGHT = (
    ("lz4", 8, 0, 1.4),
    ("zstd:3", 4, 2, 0.6),
    ("fast", 2, 0, 0.8),
    ("lz4", 16, 4, 2.2),
    ("turbo", 1, 0, 0.35),
    ("dense", 6, 0, 1.0),
    ("zstd:1", 12, 3, 0.7),
    ("lz4", 3, 1, 0.9),
)

LOAD = """
import glob, math, mmap, os, random, sys, time
target, data, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng, size = random.Random(number), 128 << 10
files = sorted(glob.glob("/usr/lib/x86_64-linux-gnu/*.so*") + glob.glob(os.path.dirname(os.__file__) + "/*.py"))
rng.shuffle(files)
pool = bytearray()
while len(pool) < 48 << 20:
    with open(files.pop(), "rb") as file:
        pool += file.read(4 << 20)
zeros = bytes(4096)


def pages(buffer):
    for start in range(0, len(buffer), 4096):
        place = rng.randrange(len(pool) // 4096 - 1) * 4096
        buffer[start : start + 4096] = zeros if rng.random() < 0.11 else pool[place : place + 4096]
        if buffer[start] or buffer[start + 1]:
            buffer[start : start + 4] = rng.randbytes(4)


if target == "swap":
    memory = mmap.mmap(-1, data, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    last = [0]

    def out(place):
        # MADV_PAGEOUT writes; only asked again, once they are written, does the kernel let pages go.
        memory.madvise(21, place, size)
        memory.madvise(21, last[0], size)
        last[0] = place

    def write(place):
        part = bytearray(size)
        pages(part)
        memory[place : place + size] = part
        out(place)

    def read(place):
        memory[place]
        if rng.random() < 0.3:
            memory.madvise(21, place // size * size, size)
else:
    file = os.open(target, os.O_RDWR | os.O_DIRECT | os.O_CREAT)
    buffer = mmap.mmap(-1, size)
    some = 4096 << number % 5

    def write(place):
        pages(buffer)
        os.pwrite(file, buffer, place)

    def read(place):
        os.preadv(file, [memoryview(buffer)[:some]], place)

for place in range(0, data - size, size):
    write(place)
if target == "swap":
    time.sleep(5)
    memory.madvise(21)
print("filled", flush=True)
while True:
    now = time.time()
    wave = 0.5 + 0.5 * math.sin(now / (11 + 3 * number) + number)
    burst = 4 if (int(now) + 7 * number) % 31 < 4 else 1
    for _ in range(int(110 * wave * burst)):
        read(rng.randrange(data // 4096 - 16) * 4096)
    for _ in range(int((1.3 - wave) * burst * rng.uniform(0.3, 1.3))):
        write(rng.randrange(data // size - 1) * size)
    time.sleep(0.1)
"""
"""What is done with each device: filled with pages of libraries and programs' text, then read and written in waves."""


def eight(folder: Path) -> None:
    """Records into ``folder/eight.jsonl.zst``."""
    gib = 1 << 30
    engine = RealEngine()
    loads = []
    made = []
    mount = Path("/srv/cache")
    mount.mkdir(parents=True, exist_ok=True)
    for number, (algorithm, disksize, limit, data) in enumerate(EIGHT):
        options = CreateOptions(
            disksize * gib, algorithm, limit * gib, transport="ublk", queues=1 + number % 2, swap=number == 0
        )
        device = create(options)
        made.append(device)
        target = "swap" if number == 0 else f"/dev/{device.name}"
        if number == 1:
            subprocess.run(["mkfs.ext4", "-q", target], check=True)
            subprocess.run(["mount", "-o", "discard", target, mount], check=True)
            target = str(mount / "data")
        arguments = [sys.executable, "-c", LOAD, target, str(int(data * gib)), str(number)]
        loads.append(subprocess.Popen(arguments, stdout=subprocess.PIPE))
    recorder = Recorder(folder / "eight.jsonl.zst", Header("recorded", "eight ublk devices under load", time.time()))
    try:
        for load in loads:
            assert load.stdout is not None
            load.stdout.readline()
        recorder.answer("capabilities", None, engine.capabilities())
        for _ in range(SECONDS + 20):
            recorder.snapshot(engine.snapshot())
            time.sleep(1.0 - time.monotonic() % 1.0)
    finally:
        recorder.close()
        for load in loads:
            load.kill()
            load.wait(20)
        subprocess.run(["umount", mount], check=False)
        with Client() as client:
            for device in made:
                remove_entry(client.resolve(device.name))


def files() -> bytes:
    """Programs and text: what is in the memory of a machine at work."""
    names = [*sorted(Path(os.__file__).parent.glob("*.py")), Path(sys.executable).resolve(), Path("/bin/bash")]
    return b"".join(name.read_bytes() for name in names)


def older(client: Client, device: Entry, step: int) -> None:
    """Until no page with an object is younger than this step, but for those that are being used."""
    client.set(device, "age_speed", "4500")
    try:
        while sum(age.pages for age in cold.count_ages(client, device).ages[:step]) > 50:
            time.sleep(0.02)
    finally:
        client.set(device, "age_speed", "1")


TIERS_SECONDS = 60
PAGE = 4096


def tiers(folder: Path) -> None:
    """Records into ``folder/tiers.jsonl.zst``."""
    engine = RealEngine()
    pool, rng = files(), random.Random(14)
    pages = 128 * MIB // PAGE
    device = create(CreateOptions(128 * MIB, "fast", 96 * MIB, transport="local"))
    recorder = Recorder(
        folder / "tiers.jsonl.zst", Header("recorded", "a local device with idle pages of all ages", time.time())
    )

    def some(count: int) -> bytes:
        place = rng.randrange(len(pool) - count * PAGE) & -PAGE
        data = bytearray(pool[place : place + count * PAGE])
        for start in range(0, len(data), PAGE):
            data[start : start + 8] = rng.randbytes(8) if rng.random() < 0.9 else bytes(8)
            if rng.random() < 0.06:
                data[start : start + PAGE] = rng.choice((bytes(PAGE), rng.randbytes(PAGE)))
        return bytes(data)

    try:
        recorder.answer("capabilities", None, engine.capabilities())
        with Client() as client, LocalDevice(device.entry) as disk:

            def write(first: int, last: int) -> None:
                for page in range(first, last, 16):
                    if rng.random() < 0.92:
                        disk.write(page, some(16))

            third = pages // 4
            for part, (step, to) in enumerate(((7, "cold"), (6, "dense"), (4, ""))):
                write(part * third, (part + 1) * third)
                older(client, device.entry, step)
                if to:
                    cold.watch(client, cold.recompress(client, device.entry, to, 7200, 100))
            write(3 * third, pages - 2000)
            for page in range(0, 3 * third, 7):
                if rng.random() < 0.25:
                    disk.read(page, 2)
            older(client, device.entry, 1)
            client.count_ages(device.entry)
            for second in range(TIERS_SECONDS):
                for _ in range(40):
                    first = 3 * third + rng.randrange(pages - 3 * third - 64)
                    disk.write(first, some(16))
                    disk.read(first + rng.randrange(32), 8)
                if second == 10:
                    engine.tune(device.name, "policy", "balanced")
                if second == 30:
                    cold.recompress(client, device.entry, "cold", 720, 3)
                if second == TIERS_SECONDS - 5:
                    client.stop_recompress(device.entry)
                    cold.count_ages(client, device.entry)
                snapshot = engine.snapshot()
                found = tuple(d for d in snapshot.devices if d.name == device.name)
                machine = replace(snapshot.machine, kernel="6.18.44")
                recorder.snapshot(replace(snapshot, machine=machine, devices=found))
                time.sleep(1.0 - time.monotonic() % 1.0)
        for by in ("kind", "age"):
            recorder.answer("page_map", map_key(device.name, by), page_map(engine, device.name, pages, by))
        recorder.answer("tunables", None, tuple(t for t in engine.tunables() if t.device in ("", device.name)))
        recorder.answer("journal", None, ())
    finally:
        recorder.close()
        remove_entry(device.entry, force=True)


if __name__ == "__main__":
    {"": main, "swap": swap, "eight": eight, "tiers": tiers}["".join(sys.argv[2:])](Path(sys.argv[1]))
