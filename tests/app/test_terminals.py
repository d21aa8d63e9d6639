"""The app as a terminal gets it: in a pseudo-terminal, with the environment of poor terminals."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

RECORDING = Path(__file__).parent / "recordings" / "local.jsonl.gz"
COLOUR = re.compile(rb"\x1b\[([0-9;]*)m")


# The installed package is what runs, whatever folder the tests are started in.
BASE = {"PATH": os.environ["PATH"], "PYTHONSAFEPATH": "1", "LANG": "C.UTF-8"}


def drawn(size: tuple[int, int], until: bytes, tmp_path: Path, **environ: str) -> tuple[bytes, int]:
    """(what the app wrote until it had written `until`, its exit code after q)."""
    code = "import sys; from truezram.cli.main import main; sys.exit(main(sys.argv[1:]))"
    base = {
        **BASE,
        "TERM": "xterm-256color",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    pid, terminal = pty.fork()
    if pid == 0:
        while termios.tcgetwinsize(0) != (size[1], size[0]):
            time.sleep(0.01)
        os.execve(sys.executable, [sys.executable, "-c", code, "--replay", str(RECORDING)], base | environ)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    out, end, asked = b"", time.monotonic() + 120, False
    try:
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    out += os.read(terminal, 1 << 16)
                except OSError:
                    break
            if until in out and not asked:
                os.write(terminal, b"q")
                asked = True
        assert asked, f"{until!r} was not drawn: {out[-300:]!r}"
        return out, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(terminal)
        if not asked:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def colours(out: bytes) -> set[int]:
    """The numbers in the sequences that set how text looks."""
    return {int(number or 0) for found in COLOUR.findall(out) for number in found.split(b";")}


@pytest.mark.parametrize("environ", [{}, {"COLORTERM": "truecolor"}], ids=["256", "true"])
def test_no_color_is_without_any(tmp_path: Path, environ: dict[str, str]) -> None:
    """Bold, reverse and the terminal's own two colours; what is drawn in black on black cannot be read."""
    out, code = drawn((80, 24), b"local2", tmp_path, NO_COLOR="1", **environ)
    assert code == 0
    found = colours(out)
    assert found <= {0, 1, 2, 3, 4, 7, 39, 49}
    assert 7 in found, "the cursor can be seen"


def test_the_linux_console_gets_ascii_and_16_colours(tmp_path: Path) -> None:
    out, code = drawn((80, 24), b"local2", tmp_path, TERM="linux")
    assert code == 0
    assert re.sub(rb"[\x00-\x7f]", b"", out) == b""
    found = colours(out)
    assert found <= {*range(8), *range(30, 38), 39, *range(40, 48), 49, *range(90, 98), *range(100, 108)}
    assert len(found & {*range(31, 38), *range(91, 98)}) >= 5


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (200, 60)])
def test_it_draws_within_the_terminal(tmp_path: Path, size: tuple[int, int]) -> None:
    out, code = drawn(size, b"local2", tmp_path)
    assert code == 0
    places = [(int(x), int(y)) for y, x in re.findall(rb"\x1b\[(\d+);(\d+)H", out)]
    assert places
    assert max(x for x, _ in places) <= size[0]
    assert max(y for _, y in places) == size[1]


def test_it_ends_with_its_terminal_though_no_signal_tells_it(tmp_path: Path) -> None:
    """As in a container whose client died: the terminal is not the controlling one."""
    code = "import sys; from truezram.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environ = {
        **BASE,
        "TERM": "xterm",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    command = [sys.executable, "-c", code, "--replay", str(RECORDING)]
    terminal, theirs = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True)
    os.close(theirs)
    try:
        out, end = b"", time.monotonic() + 120
        while b"local2" not in out and time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                out += os.read(terminal, 1 << 16)
        assert b"local2" in out
        os.close(terminal)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()


def test_in_a_browser(tmp_path: Path) -> None:
    """As textual-serve runs it: through pipes, with Textual's driver for the web; packets of kind, length, data."""
    code = "import sys; from truezram.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environ = {
        **BASE,
        "XDG_CONFIG_HOME": str(tmp_path),
        "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver",
        "TEXTUAL_COLOR_SYSTEM": "truecolor",
        "COLUMNS": "80",
        "ROWS": "24",
    }
    command = [sys.executable, "-c", code, "--replay", str(RECORDING)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        out, end = b"", time.monotonic() + 120
        try:
            while b"local2" not in out and time.monotonic() < end:
                assert select.select([process.stdout], [], [], 30)[0]
                got = os.read(process.stdout.fileno(), 1 << 16)
                assert got, out[-300:]
                out += got
            assert out.startswith(b"__GANGLION__\n")
            assert b"local2" in out
            process.stdin.write(b"D" + struct.pack(">I", 1) + b"q")
            process.stdin.flush()
            while os.read(process.stdout.fileno(), 1 << 16):
                assert time.monotonic() < end
            assert process.wait(120) == 0
        finally:
            process.kill()
