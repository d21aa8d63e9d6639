"""SIGTERM to the server of a swap device: swapoff is a helper's work, the server answers meanwhile, and whichever of
the two is killed in the midst of it, nothing hangs that cannot be killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest import Guest
from product import Product

pytestmark = pytest.mark.warm

SWAPPED = Path(__file__).with_name("swapped.py")
MIB = 96

# $hog: a process with pages in swap (swapped.py); a line to descriptor 9 has it check them.
HOG = """
rm -f hog.in hog.out; mkfifo hog.in
python3 {script} {mib} {how} <hog.in >hog.out 2>&1 & hog=$!
exec 9>hog.in
await [ -s hog.out ]
grep -q '^out' hog.out || {{ cat hog.out; exit 1; }}
"""
# term SERVER HELPER LOG: SIGTERM; returns when the server has asked its helper, which is stopped, to begin.
# hang SERVER HELPER LOG: the same, then the server is frozen (a stopped one goes on by itself) and the helper
# continues: its first read is in flight and not answered. thaw: the server goes on.
# used: KiB swapped out. end_hog PID: the hog, which has child processes.
TOOLS = """
used() { awk -v path="$1" '$1 == path { print $4 }' /proc/swaps; }
end_hog() {
	local all="$(pgrep -P $1) $1" process
	kill -9 $all
	for process in $all; do gone $process; done
}
helper() { pgrep -P "$1" tz-helper; }
term() {
	kill -STOP $2; kill -TERM $1
	await grep -q swapoff $3
}
frozen=/sys/fs/cgroup/frozen
freeze() { mkdir -p $frozen; echo $1 >$frozen/cgroup.procs; echo 1 >$frozen/cgroup.freeze; }
thaw() { echo 0 >$frozen/cgroup.freeze; }
is_waiting() { [ "$(cut -d' ' -f3 /proc/$1/stat)" = D ]; }
hang() {
	term "$@"
	freeze $1; kill -CONT $2
	await is_waiting $2
}
"""


def log_of(path: str) -> str:
    return f"/run/truezram/{path.removeprefix('/dev/')}.log"


def make_swap(product: Product, mib: int, how: str = "", without: str = "") -> tuple[str, int, str]:
    """A swap device (`without`: Product.create); its path, its server's pid, and the beginning of a script that has so
    much swapped out."""
    path = product.create("--size 512M --mem-limit 256M --swap --queues 1", without)
    pid = product.stat(path)["pid"]
    return path, pid, TOOLS + HOG.format(script=SWAPPED, mib=mib, how=how)


@pytest.mark.either
def test_messages_are_answered_during_swapoff(product: Product) -> None:
    """The helper has nothing of the device; settings change while it works; the hog's pages are whole afterwards."""
    path, pid, hog = make_swap(product, MIB)
    out = product.strict(
        f"""{hog}
helper=$(helper {pid})
ls -l /proc/$helper/fd | grep ^l
grep SigBlk /proc/$helper/status; echo adj $(cat /proc/$helper/oom_score_adj)
[ $(used {path}) -gt {MIB * 900} ]
term {pid} $helper {log_of(path)}
truezram set {path} mem_limit=200M algorithm=lz4
truezram stat {path} >/dev/null
[ $(used {path}) -gt {MIB * 900} ]
kill -CONT $helper
gone {pid}; gone $helper
[ -z "$(used {path})" ] && [ ! -e {path} ]
echo >&9; wait $hog; cat hog.out
""",
    ).out
    assert f"good {MIB << 8}" in out, out
    lines = [line.split(" -> ")[1] for line in out.splitlines() if line.startswith("l")]
    assert lines.count("/dev/null") == 3, out
    assert [line.startswith("socket:") for line in lines if line != "/dev/null"] == [True], out
    assert "SigBlk:\t0000000000000000" in out, out
    assert "adj 0" in out, out


def test_server_killed_during_swapoff(guest: Guest, product: Product) -> None:
    """With a read of swapoff in flight that is never answered. The kernel fails it; the helper can be killed."""
    guest.spoilt = True
    path, pid, hog = make_swap(product, MIB, without="recovery")
    name = path.removeprefix("/dev/")
    out = product.run(
        f"""{hog}
helper=$(helper {pid})
hang {pid} $helper {log_of(path)}
echo "left $(used {path})"
kill -9 {pid}
gone {pid}
kill -9 $helper 2>/dev/null
gone $helper
[ ! -e /dev/{name} ] || exit 1
end_hog $hog
echo "area: $(used {path})"; grep -c "" /proc/swaps
""",
    ).out
    left = int(out.split("left ")[1].split()[0])
    assert left > 0, "swapoff had ended before the server was stopped"
    if "ublkb" in product.run("cat /proc/swaps").out:
        # The kernel's own: the disk is gone, swapoff was killed, the area stays. The device is not said to be removed.
        assert "restart" in product.run(f"truezram remove {path}", status=4).err
    else:
        product.run(f"truezram remove {path}")
        assert product.json("list")["devices"] == []


@pytest.mark.either
def test_server_killed_during_swapoff_and_the_helper_goes_on(product: Product) -> None:
    """Left alone, the helper's swapoff comes to its end without a device: the area goes, and so does what was left."""
    path, pid, hog = make_swap(product, MIB, without="recovery")
    product.run(
        f"""{hog}
helper=$(helper {pid})
hang {pid} $helper {log_of(path)}
kill -9 {pid}
gone {pid}
gone $helper
[ -z "$(used {path})" ] || {{ cat /proc/swaps; exit 1; }}
end_hog $hog
""",
    )
    product.run(f"truezram remove {path}")
    assert product.json("list")["devices"] == []


@pytest.mark.either
def test_helper_killed_during_swapoff(product: Product) -> None:
    """The device stays and nothing of it is lost; the next SIGTERM starts another helper and does it."""
    path, pid, hog = make_swap(product, MIB)
    out = product.strict(
        f"""{hog}
helper=$(helper {pid})
hang {pid} $helper {log_of(path)}
kill -9 $helper; thaw
gone $helper
[ -n "$(used {path})" ]
await grep -q 'device stays' {log_of(path)}
grep 'device stays' {log_of(path)}
truezram stat {path} >/dev/null
kill -TERM {pid}
gone {pid}
[ -z "$(used {path})" ]
echo >&9; wait $hog; cat hog.out
""",
    ).out
    assert "its process was killed" in out
    assert f"good {MIB << 8}" in out, out


@pytest.mark.either
@pytest.mark.guest(memory=448)
def test_what_does_not_fit_is_refused(product: Product) -> None:
    """Zero-filled pages, which the device never sees, take memory as others do when they come back."""
    path, pid, hog = make_swap(product, 400, "zero")
    log = log_of(path)
    out = product.strict(
        f"""{hog}
echo "swapped $(used {path}) available $(awk '/MemAvailable/ {{ print $2 }}' /proc/meminfo)"
kill -TERM {pid}
await grep -q SIGTERM {log}
cat {log}
[ -n "$(used {path})" ] && [ -e /proc/{pid} ]
end_hog $hog
kill -TERM {pid}; gone {pid}
[ ! -e {path} ]
""",
    ).out
    assert "SIGTERM refused" in out, out
    assert product.json("list")["devices"] == []
