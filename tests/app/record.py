"""Makes the recordings of real devices that tests, screenshots and demos play: ``python tests/app/record.py FOLDER``.

Runs ``truezram demo`` twice at once (two local devices with different algorithms, under a load of real pages) and
records the real engine's snapshots and its answers. Needs truezram installed. What the estimate says is limited to
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
from truezram.app.source import Progress, Scope
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
            recorder.answer("page_map", {"name": device.name}, engine.page_map(device.name, 0, pages, 256))
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
