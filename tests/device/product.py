"""The product in a guest: what device tests do with it, in the product's own commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guest import Guest, Result

# Few programs: it runs after each test, and each that is started costs time under emulation.
LEFTOVERS = """
shopt -s nullglob globstar extglob
found=(/sys/block/ublkb* /dev/ublk[bc]* /sys/block/nbd*/pid /run/truezram/**/*.@(sock|stats))
for process in /proc/[0-9]*; do # which may end meanwhile
	! read -r name <$process/comm || [[ $name != *truezramd* ]] || found+=("$process $name")
done 2>/dev/null
{ read -r; while read -r line; do found+=("swap: $line"); done; } </proc/swaps
while read -r line; do [[ $line != *ublkb* ]] || found+=("mount: $line"); done </proc/self/mountinfo
log=$(dmesg)
# A system call that the server's filter refused: filter.c.
[[ ! $log =~ [^$'\\n']*type=1326[^$'\\n']* ]] || found+=("${BASH_REMATCH[0]}")
[ ! -e /dev/shm/warm.failed ] || found+=("$(</dev/shm/warm.failed)") # warm.py
[ ${#found[@]} = 0 ] || { printf '%s\\n' "${found[@]}"; exit 1; }
"""
PAGE = 4096
HANG = 600
"""Seconds that a script may take: for what hangs, not for a busy machine."""
HERE = Path(__file__).resolve().parent


START_WARM = """
python3 {here}/warm.py {program} </dev/null || exit
"""
END_WARM = """
pkill -x warm; while pgrep -x warm; do sleep 0.05; done
"""
# For scripts. What never happens is ended, and reported, by the script's time limit.
#
# await COMMAND...: until it succeeds.
# is_named PID NAME: whether that is what a process runs now (one that was just forked has its parent's name).
# holder COMMAND...: starts it, here and with what is open here; its pid is in the file `holder`.
# gone PID: until it has ended, and has nothing open any more.
# end PID: ends a process, and waits for that.
# kill_all: kills every server, standby and nursery; also those that are forked while it looks, which a first look may
# 	not have seen.
FUNCTIONS = """
await() { until "$@"; do sleep 0.1; done; }
holder() {
	"$@" >/dev/null 2>&1 </dev/null & echo $! >/root/holder
	await is_named $! "${1##*/}"
}
is_named() { local name; read -r name <"/proc/$1/comm" && [ "$name" = "$2" ]; }
gone() { await [ ! -e "/proc/$1" ]; }
end() { kill "$1"; gone "$1"; }
kill_all() {
	local looks=0
	while [ $looks -lt 5 ]; do
		if pkill -9 -f truezramd; then looks=0; else looks=$((looks + 1)); fi
	done
}
"""


class Product:
    """``truezram`` as installed on the host, run as root in a guest; ``tools`` has pagetool and pages.

    With ``warm``, what a script calls by the name of truezram itself is a fork of a warm process (warm.py);
    ``command truezram`` is the program, as it is everywhere else.
    """

    def __init__(self, guest: Guest, program: Path, tools: Path, *, warm: bool = False) -> None:
        self.guest = guest
        self.program = program
        self.tools = tools
        self.prelude = (
            f"export PATH={program.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            f"export HOME=/root LANG=C.UTF-8 POOL={tools / 'pages'}\n"
            f'pagetool() {{ {tools / "pagetool"} "$@"; }}\n'
            f"cd /root\n{FUNCTIONS}"
        )
        if guest.warm and not warm:
            self.run(END_WARM)
        if warm and not guest.warm:
            self.run(START_WARM.format(here=HERE, program=program))
        guest.warm = warm
        self.python = "python3"
        """Runs a Python file of these tests that imports the product."""
        if warm:
            self.python = f"{tools / 'warmcall'}"
            self.prelude += f'truezram() {{ {self.python} {program} "$@"; }}\n'

    def run(self, script: str, *, timeout: int = HANG, status: int | None = 0) -> Result:
        """Runs a bash script with ``truezram``, ``pagetool`` and ``$POOL`` at hand; see Guest.run."""
        __tracebackhide__ = True
        return self.guest.run(self.prelude + script, timeout=timeout, status=status)

    def strict(self, script: str, *, timeout: int = HANG) -> Result:
        """The same, and every command in it must succeed."""
        __tracebackhide__ = True
        return self.run("set -e -u -o pipefail\n" + script, timeout=timeout)

    def create(self, options: str, without: str = "") -> str:
        """Path of a new device; `without` what newer kernels offer ("recovery": it goes with its server)."""
        out = self.run(f"TRUEZRAM_DISABLE_UBLK={without} truezram create {options}").out
        assert out.count("\n") == 1, f"create prints the device's path and nothing else, not {out!r}"
        path = out.strip()
        assert path.startswith("/dev/ublkb"), path
        return path

    def json(self, command: str) -> dict[str, Any]:
        """What a verb says with --json; checks the schema's name."""
        verb = command.split()[0]
        document: dict[str, Any] = json.loads(self.run(f"truezram {command} --json").out)
        assert document["schema"].rpartition("/")[0] == f"truezram.{verb}", document["schema"]
        return document

    def stat(self, path: str) -> dict[str, Any]:
        """One device's row of ``truezram stat --json``, with mm_stat and io_stat among the other values."""
        devices = self.json(f"stat {path}")["devices"]
        assert [device["path"] for device in devices] == [path]
        row: dict[str, Any] = devices[0]
        merged: dict[str, Any] = {**row, **row["mm_stat"], **row["io_stat"]}
        return merged

    def remove(self, path: str, options: str = "") -> None:
        """Removes a device and looks that it is gone."""
        self.run(f"truezram remove {options} {path} && test ! -e {path}")


def numbers(line: str) -> dict[str, str]:
    """``a=1 b=x`` as a dictionary (what pagetool prints)."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
