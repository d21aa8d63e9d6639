"""Measures what the app costs: ``python tests/app/measure.py [load|start|keys|busy|soak]``. Prints a line for each.

load: CPU share with 8 devices at 4 Hz on 200x60, drawing to a real pseudo-terminal that is read away. start: time to
first paint. keys: time from a key that moves the cursor to the cursor's new row, while snapshots arrive. busy: the same
on eight real devices (local ones), the first under as much load as two threads can give, while the app's benchmark
runs. soak: an hour of snapshots as fast as they go, memory at both ends. The figures go into docs/app.md; a test would
be as unreliable as the machine is busy.

Run by root, this script raises its own priority and its session's (and no other's): it plays the terminal, and
its own delays are not the app's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import resource
import select
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path

from truezram.app.backend.jobs import coming_first
from truezram.engine.model import Snapshot

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
SECONDS = 40
CURSOR = rb"48;2;122;162;247m(?:ublkb|local)%s "
"""What the theme "dark" draws a table's cursor with, and the device that it is on."""
DEVICES = 8
BENCHMARKS = 3


def recording(folder: Path, hz: int = 4, seconds: int = SECONDS + 30) -> Path:
    """Eight simulated devices."""
    from app import simulate

    path = folder / "eight.jsonl"
    simulate.write(path, simulate.snapshots(8, seconds, hz=hz), "eight devices")
    return path


def normal() -> None:
    """What this script starts runs like everything else."""
    os.setpriority(os.PRIO_PROCESS, 0, 0)


class Terminal:
    """The app in a pseudo-terminal of its own, what it draws read away and counted."""

    def __init__(self, columns: int, lines: int, replay: Path | None = None, **variables: str) -> None:
        """`replay`: what to show instead of this machine. `variables`: of the app's environment."""
        self.master, slave = pty.openpty()
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environ = {
            k: v for k, v in os.environ.items() if k not in ("TMUX", "SSH_CONNECTION", "SSH_TTY", "STY", "NO_COLOR")
        }
        environ |= {
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "LANG": "C.UTF-8",
            "XDG_CONFIG_HOME": "/nonexistent",
        }
        environ |= variables
        arguments = ["--replay", str(replay)] if replay else []
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "truezram", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            start_new_session=True,
            preexec_fn=normal,
        )
        os.close(slave)
        self.bytes = 0
        self.shown = bytearray()
        self.first_paint = 0.0
        self.last = 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        seen = b""
        while True:
            try:
                select.select([self.master], [], [])
                data = os.read(self.master, 65536)
            except OSError:
                return
            if not data:
                return
            self.bytes += len(data)
            self.shown += data
            self.last = time.monotonic()
            if not self.first_paint:
                seen += data
                if b"Quit" in seen:  # the footer is there: the whole screen is
                    self.first_paint = self.last - self.started

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Quits."""
        os.write(self.master, b"q")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def load(folder: Path) -> None:
    """CPU share."""
    path = recording(folder)
    for columns, lines in ((200, 60), (80, 24)):
        terminal = Terminal(columns, lines, path)
        time.sleep(8)
        begun, cpu, drawn = time.monotonic(), terminal.cpu(), terminal.bytes
        time.sleep(SECONDS)
        passed = time.monotonic() - begun
        share = (terminal.cpu() - cpu) / passed
        print(
            f"load {columns}x{lines}: {share * 100:.1f} % of one core,"
            f" {(terminal.bytes - drawn) / passed / 1024:.1f} KiB/s drawn"
        )
        terminal.end()


def start(folder: Path) -> None:
    """First paint."""
    path = recording(folder, 1, 5)
    times = []
    for _ in range(7):
        terminal = Terminal(80, 24, path)
        time.sleep(2.5)
        times.append(terminal.first_paint * 1000)
        terminal.end()
    print(f"start: first paint {min(times):.0f} to {max(times):.0f} ms, median {sorted(times)[3]:.0f} ms")


def press(terminal: Terminal, count: int, times: list[float]) -> None:
    """Moves the cursor up and down the table; milliseconds until the cursor's row is drawn where it belongs."""
    for number in range(count):
        time.sleep(0.11)
        mark, sent = len(terminal.shown), time.monotonic()
        down = number % 14 < 7
        wanted = re.compile(CURSOR % str(number % 14 + 1 if down else 13 - number % 14).encode())
        os.write(terminal.master, b"j" if down else b"k")
        while not wanted.search(terminal.shown, mark) and time.monotonic() - sent < 2:
            time.sleep(0.0005)
        times.append((time.monotonic() - sent) * 1000)


def report(title: str, times: list[float]) -> None:
    """Percentiles in a line."""
    times.sort()
    print(
        f"{title}: {len(times)} keys, p50 {times[len(times) // 2]:.1f} ms, p95 {times[len(times) * 95 // 100]:.1f} ms,"
        f" p99 {times[len(times) * 99 // 100]:.1f} ms, most {times[-1]:.1f} ms"
    )


def keys(folder: Path) -> None:
    """Key to paint."""
    terminal = Terminal(200, 60, recording(folder))
    time.sleep(6)
    times: list[float] = []
    press(terminal, 196, times)
    report("keys: key to paint", times)
    terminal.end()


def busy(folder: Path) -> None:
    """Key to paint with everything at once."""
    variables = {"TRUEZRAM_RUN_DIR": str(folder / "run"), "XDG_STATE_HOME": str(folder / "state")}
    cli = [sys.executable, "-P", "-m", "truezram", "--no-tui"]
    environ = os.environ | variables
    load = terminal = None
    times: list[float] = []
    try:
        for _ in range(DEVICES):
            create = ["create", "--transport", "local", "--size", "256M"]
            subprocess.run([*cli, *create], env=environ, check=True, stdout=subprocess.DEVNULL, preexec_fn=normal)
        terminal = Terminal(200, 60, **variables)
        time.sleep(5)
        load = subprocess.Popen(
            [*cli, "demo", "--device", "local0", "--seconds", "600"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=normal,
        )
        time.sleep(5)
        for number in range(BENCHMARKS):
            for key in b"5r1":
                os.write(terminal.master, bytes((key,)))
                time.sleep(1)
            if not number:
                os.write(terminal.master, b"g")
            before = len(times)
            press(terminal, 140, times)
            report(f"busy, round {number + 1}", times[before:])
            time.sleep(8)
        report("busy: key to paint", times)
    finally:
        if load:
            load.terminate()
            load.wait()
        if terminal:
            terminal.end()
        for number in range(DEVICES):
            with contextlib.suppress(OSError):
                subprocess.run([*cli, "remove", f"local{number}"], env=environ, stdout=subprocess.DEVNULL, check=False)


def shift(snapshot: Snapshot, seconds: float) -> Snapshot:
    """The same snapshot taken `seconds` later."""
    devices = tuple(replace(device, time=device.time + seconds) for device in snapshot.devices)
    return Snapshot(replace(snapshot.machine, time=snapshot.machine.time + seconds), devices)


def soak(folder: Path) -> None:
    """An hour at accelerated clock."""
    from app import simulate
    from app.fake_engine import FakeEngine
    from truezram.app.app import TruezramApp
    from truezram.app.backend.recording import Header, Recording
    from truezram.app.config import Config

    made = simulate.snapshots(4, 60)

    async def run() -> None:
        engine = FakeEngine(Recording(Header("simulated"), tuple(made), ()))
        app = TruezramApp(engine, config=Config(theme="dark"), environ={"LANG": "C.UTF-8", "TERM": "xterm"}, read=False)
        async with app.run_test(size=(120, 40)) as pilot:
            sizes = []
            for minute in range(60):
                for snapshot in made:
                    app.take(shift(snapshot, minute * 60.0))
                await pilot.pause()
                if minute in (19, 39, 59):
                    sizes.append(
                        int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)
                    )
            print(
                "soak: resident after 20, 40 and 60 minutes of snapshots: "
                + ", ".join(f"{size:.1f} MiB" for size in sizes)
            )

    asyncio.run(run())


if __name__ == "__main__":
    measures = {"load": load, "start": start, "keys": keys, "busy": busy, "soak": soak}
    with tempfile.TemporaryDirectory() as temporary, coming_first():
        for name in sys.argv[1:] or measures:
            measures[name](Path(temporary))
