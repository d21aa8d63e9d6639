"""`create` whose server is stopped or killed at any step leaves nothing, or what `list` shows and `remove` removes."""

from __future__ import annotations

import pytest
from product import Product

pytestmark = pytest.mark.warm

# `env` starts the program itself, whose end this is about; only what is looked at afterwards may be warm (warm.py).
# The server is stopped after some hundredths of a second more each time, `create` is interrupted (or both are killed),
# and what then is there is looked at.
ROUND = """
mkfifo never 2>/dev/null; exec 8<>never
pause() {{ read -r -t 0.005 -u 8; }} # starts no program
{before}
# Before 7.0 the kernel looks for partitions as it starts a disk. If the server dies then, the kernel waits for another
# one, and that for the kernel: docs/recovery.md.
case $(uname -r) in [0-6].*) without=TRUEZRAM_DISABLE_UBLK=recovery ;; *) without= ;; esac
env --default-signal=INT $without ${{late-}} truezram create --size 64G {options} >create.out 2>&1 & create=$!
find_server() {{
	read -r -a children <"/proc/$create/task/$create/children"
	for server in "${{children[@]}}"; do read -r name <"/proc/$server/comm" && [ "$name" = truezramd ] && return; done
	return 1
}}
until find_server 2>/dev/null; do [ -e "/proc/$create" ] || {{ cat create.out; exit 1; }}; pause; done
sleep {delay}
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
# A server that has not begun when it is stopped, however fast the machine: a script of its name waits first.
NOT_BEGUN = """
mkdir -p /root/late
real=$(python3 -c 'from truezram.engine import paths; print(paths.server_path())')
printf '#!/bin/sh\nsleep 1\nexec %s "$@"\n' "$real" >/root/late/truezramd
chmod 755 /root/late/truezramd
late=TRUEZRAM_SERVER=/root/late/truezramd
"""
INTERRUPT = "kill -INT $create"
KILL_BOTH = "kill -9 $create $server"


@pytest.mark.either
def test_interrupted_at_every_step(product: Product) -> None:
    """Ctrl-C while the server is stopped: `create` itself clears everything, unless the device was ready before."""
    for step in range(8):
        options = "" if step % 2 else "--id 3"
        before = "" if step else NOT_BEGUN
        script = ROUND.format(before=before, delay=step * 0.02, end=INTERRUPT, options=options)
        out = product.run(script, timeout=120).out
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
    shown = 0
    for step in range(10):
        options = "" if step % 2 else "--id 3"
        out = product.run(ROUND.format(before="", delay=step * 0.02, end=KILL_BOTH, options=options), timeout=120).out
        shown += "shown" in out
    assert shown, "the server was killed before it had anything each time"
