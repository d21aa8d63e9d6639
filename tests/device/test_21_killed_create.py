"""`create` whose server is stopped or killed at any step leaves nothing, or what `list` shows and `remove` removes."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

# `env` starts the program itself, whose end this is about; only what is looked at afterwards may be warm (warm.py).
# The server is found while it waits at a gate: a script of its name, which becomes the server. Then it is let through,
# stopped after some hundredths of a second more each time (or once there is something of a device), `create` is
# interrupted (or both are killed), and what then is there is looked at.
GATE = """
mkfifo never gate 2>/dev/null || exit 0 # they are there
real=$(python3 -c 'from truezram.engine import paths; print(paths.server_path())')
mkdir late
printf '#!/bin/bash\n[ "$1" = --cleanup ] || read -r _ <>/root/gate\nexec %s "$@"\n' "$real" >late/truezramd
chmod 755 late/truezramd
"""
THROUGH = "echo >&9; sleep {delay}"
THERE = """
is_there() { compgen -G '/dev/ublkc*' >/dev/null; }
echo >&9; await is_there
"""
ROUND = """
exec 8<>never 9<>gate
pause() {{ read -r -t 0.005 -u 8; }} # starts no program
# Before 7.0 the kernel looks for partitions as it starts a disk. If the server dies then, the kernel waits for another
# one, and that for the kernel: docs/recovery.md.
case $(uname -r) in [0-6].*) without=TRUEZRAM_DISABLE_UBLK=recovery ;; *) without= ;; esac
env --default-signal=INT TRUEZRAM_SERVER=/root/late/truezramd $without \\
	truezram create --size 64G {options} >create.out 2>&1 & create=$!
find_server() {{
	read -r -a children <"/proc/$create/task/$create/children"
	for server in "${{children[@]}}"; do read -r name <"/proc/$server/comm" && [ "$name" = truezramd ] && return; done
	return 1
}}
until find_server 2>/dev/null; do [ -e "/proc/$create" ] || {{ cat create.out; exit 1; }}; pause; done
{begin}
kill -STOP $server 2>/dev/null
{end}
wait $create; echo "create ended with $?"
kill -CONT $server 2>/dev/null # it was ready before
cat create.out
truezram list >list
awk 'NR > 1 {{ print "shown", $1, $3 }}' list
for name in $(awk 'NR > 1 {{ print $1 }}' list); do truezram remove $name || exit 1; done
left=$(ls -d /dev/ublkc* /dev/ublkb* /run/truezram/arena 2>/dev/null; ls /run/truezram)
[ -z "$left" ] || {{ echo "left: $left"; exit 1; }}
"""
INTERRUPT = "kill -INT $create"
KILL_BOTH = "kill -9 $create $server"


@pytest.mark.either
def test_interrupted_at_every_step(product: Product) -> None:
    """Ctrl-C while the server is stopped: `create` itself clears everything, unless the device was ready before."""
    product.strict(GATE)
    for step in range(8):
        options = "" if step % 2 else "--id 3"
        begin = THROUGH.format(delay=step * 0.02) if step else ""  # the first one never begins
        out = product.run(ROUND.format(begin=begin, end=INTERRUPT, options=options)).out
        if step == 0:
            assert "create ended with 130" in out
            assert "shown" not in out
        elif "shown" in out:  # an interrupt comes too late for `create`, or just before it ends
            assert " live" in out
        else:
            assert "create ended with 0" not in out


@pytest.mark.either
def test_killed_at_every_step(product: Product) -> None:
    """Both are killed: what is left is shown, and `remove` removes it, /dev/ublkcN included."""
    product.strict(GATE)
    for step in range(10):
        options = "" if step % 2 else "--id 3"
        begin = THROUGH.format(delay=step * 0.02) if step < 9 else THERE
        out = product.run(ROUND.format(begin=begin, end=KILL_BOTH, options=options)).out
    assert "shown" in out
