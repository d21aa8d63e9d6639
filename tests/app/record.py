"""Makes the recordings of real devices that tests, screenshots and demos play: ``python tests/app/record.py FOLDER``
for local devices, and with ``swap`` after FOLDER, as root on a machine of 1 GiB that may swap, for a ublk device in use
as swap. That one changes vm.swappiness and puts it back.

The first makes three local devices with different algorithms, puts a load of real pages on them, and records the real
engine's snapshots and its answers. Needs truezram installed. What the estimate says is limited to
the processes that this script started, so that nothing of the machine's other users is in the file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from truezram.app.engine_adapter import RealEngine
from truezram.app.source import PageMap, Progress, Scope
from truezram.engine.client import Client
from truezram.engine.device import CreateOptions, create
from truezram.engine.errors import TruezramError
from truezram.engine.recording import Header, Recorder
from truezram.engine.removal import remove_entry

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
            [sys.executable, "-P", "-m", "truezram.engine.replay", device.name, "1", str(seed)],
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
                load[0].send_signal(19)
            if second == 72:
                load[0].send_signal(18)
            snapshot = engine.snapshot()
            snapshot = replace(snapshot, devices=tuple(d for d in snapshot.devices if d.name in ours))
            recorder.snapshot(replace(snapshot, machine=replace(snapshot.machine, kernel="6.18.44")))
            time.sleep(1.0 - time.monotonic() % 1.0)
        for device in made:
            pages = next(d for d in snapshot.devices if d.name == device.name).disksize // 4096
            recorder.answer("page_map", {"name": device.name}, page_map(engine, device.name, pages))
        # Where the program happens to be installed here is nobody's business.
        checks = [replace(check, detail=check.detail.replace(sys.prefix, "/usr/local")) for check in engine.doctor()]
        recorder.answer("doctor", None, tuple(checks))
        recorder.answer("tunables", None, engine.tunables())
        recorder.answer("journal", None, engine.journal())
        pids = ",".join(str(pid) for pid in (os.getpid(), *(process.pid for process in load)))
        found = engine.estimate(Scope("pid", pids), "process", Progress())
        recorder.answer("estimate", None, replace(found, scope=Scope()))
        with contextlib.suppress(TruezramError):
            recorder.answer("benchmark", None, engine.benchmark(10.0, Progress()))
    finally:
        recorder.close()
        for process in load:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)
        with Client() as client:
            for entry in client.entries():
                if entry.name in {device.name for device in made}:
                    remove_entry(entry, force=True)


def page_map(engine: RealEngine, name: str, pages: int) -> PageMap:
    """The whole map in 1024 regions: one answer of the server holds 256."""
    parts = [engine.page_map(name, pages * n // 4, pages * (n + 1) // 4 - pages * n // 4, 256) for n in range(4)]
    return PageMap(0, pages, tuple(region for part in parts for region in part.regions))


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


if __name__ == "__main__":
    (swap if sys.argv[2:] == ["swap"] else main)(Path(sys.argv[1]))
