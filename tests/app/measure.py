"""Measures what the app costs: ``python tests/app/measure.py [load|start|keys|soak]``. Prints a line for each figure.

load: CPU share with 8 devices at 4 Hz on 200x60, drawing to a real pseudo-terminal that is read away. start: time to
first paint. keys: time from key to paint while snapshots arrive. soak: an hour of snapshots as fast as they go,
memory at both ends. The figures go into docs/app.md; a test would be as unreliable as the machine is busy.
"""

from __future__ import annotations

import asyncio
import os
import pty
import resource
import select
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from fcntl import ioctl
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
SECONDS = 40


def recording(folder: Path, hz: int = 4, seconds: int = SECONDS + 30) -> Path:
    """Eight simulated devices."""
    from app import simulate

    path = folder / "eight.jsonl"
    simulate.write(path, simulate.snapshots(8, seconds, hz=hz), "eight devices")
    return path


class Terminal:
    """The app in a pseudo-terminal of its own, what it draws read away and counted."""

    def __init__(self, columns: int, lines: int, *arguments: str) -> None:
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
        code = "import sys; from pathlib import Path; from truezram.app.app import main;"
        code += "sys.exit(main(replay=Path(sys.argv[1])))"
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            start_new_session=True,
        )
        os.close(slave)
        self.bytes = 0
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
        terminal = Terminal(columns, lines, str(path))
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
        terminal = Terminal(80, 24, str(path))
        time.sleep(2.5)
        times.append(terminal.first_paint * 1000)
        terminal.end()
    print(f"start: first paint {min(times):.0f} to {max(times):.0f} ms, median {sorted(times)[3]:.0f} ms")


def keys(folder: Path) -> None:
    """Key to paint."""
    terminal = Terminal(200, 60, str(recording(folder)))
    time.sleep(6)
    times = []
    for number in range(200):
        time.sleep(0.11)
        before = terminal.bytes
        sent = time.monotonic()
        os.write(terminal.master, b"j" if number % 14 < 7 else b"k")
        while terminal.bytes == before and time.monotonic() - sent < 1:
            time.sleep(0.0005)
        times.append((time.monotonic() - sent) * 1000)
    times.sort()
    print(f"keys: key to paint p50 {times[100]:.1f} ms, p99 {times[197]:.1f} ms, most {times[-1]:.1f} ms")
    terminal.end()


def soak(folder: Path) -> None:
    """An hour at accelerated clock."""
    from app import simulate
    from app.fake_engine import FakeEngine
    from truezram.app.app import TruezramApp
    from truezram.app.config import Config
    from truezram.app.replay import shift
    from truezram.engine.recording import Header, Recording

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
    with tempfile.TemporaryDirectory() as temporary:
        for name in sys.argv[1:] or ("load", "start", "keys", "soak"):
            {"load": load, "start": start, "keys": keys, "soak": soak}[name](Path(temporary))
