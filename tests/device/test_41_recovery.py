"""kill -9 of server and standby, in any order, at any instant: nothing acknowledged is lost, and requests go on.

pytest tests/device/test_41_recovery.py                  30 kills under fio and 12 under swap
pytest tests/device/test_41_recovery.py --kills 200      the run of its own: so many under fio, a quarter under swap
"""

from __future__ import annotations

import pytest
from guest import Guest, has_kernel_bug
from hog import check_log
from load import FIO
from product import Product, numbers

CHURN = """
printf '%s\\n' fill 'churn 36000' 'verify 1031' quit | {tools}/pagetool hog "$POOL" {mib} >answer 2>&1 &
load=$!
for _ in $(seq 3000); do grep -q fill answer && break; kill -0 $load; sleep 0.2; done
{tools}/killer {name} {kills} {seed}
await truezram upgrade {name} --force --json >upgraded # it may be refused while pages are swapped out without a pause
grep '"replaced": true' upgraded >&2
kill -0 $load
kill -TERM $load
wait $load
cat answer
"""
SECONDS = 30
"""A kill takes a second or two; when it takes so long, something hangs."""


def check_device(product: Product, path: str, killed: dict[str, str]) -> None:
    """Every death was followed by another server; no request failed; the arena is sound."""
    row = product.stat(path)
    assert row["recoveries"] == int(killed["servers"])
    assert (row["recovery"], row["state"]) == ("on", "live")
    assert row["standby"]
    assert (row["failed_reads"], row["failed_writes"], row["damaged_entries"], row["checksum_errors"]) == (0, 0, 0, 0)
    assert product.json(f"check {path}")["sound"]


@pytest.mark.guest(cpus=2)
def test_under_fio(guest: Guest, product: Product, pytestconfig: pytest.Config) -> None:
    """Verified random writes, through two queues, go on through all of it."""
    kills = pytestconfig.getoption("--kills") or 30
    path = product.create(f"--size 96M --queues {guest.cpus}")
    row = product.stat(path)
    assert (row["recovery"], row["recoveries"]) == ("on", 0)
    assert row["standby"], "create does not wait for the standby"
    # A shutdown's last SIGKILL spares these: see SURVIVOR in server.py.
    names = product.run("for p in $(pgrep 'truezramd|tz-'); do head -c 1 /proc/$p/cmdline; echo; done").out
    assert set(names.split()) == {"@"}
    script = FIO.format(path=path, name=path.removeprefix("/dev/"), tools=product.tools, kills=kills, seed=1)
    out = product.strict(script, timeout=300 + kills * SECONDS).out
    killed = numbers(next(line for line in out.splitlines() if line.startswith("kills=")))
    print(f"kernel {guest.kernel.release}: {killed}")
    assert "verify: bad" not in out
    assert "err= 0" in out, out
    check_device(product, path, killed)
    product.remove(path)


@pytest.mark.guest(memory=256)
def test_under_swap(guest: Guest, product: Product, pytestconfig: pytest.Config) -> None:
    """The device is everybody's memory: a process as large as all of it goes on, and every page is right. Through an
    upgrade, too."""
    kills = (pytestconfig.getoption("--kills") or 48) // 4
    if has_kernel_bug(guest.kernel):
        kills = min(kills, 2)
    path = product.create("--size 512M --swap")
    script = CHURN.format(name=path.removeprefix("/dev/"), tools=product.tools, mib=200, kills=kills, seed=7)
    lines = product.strict(script, timeout=900 + kills * SECONDS).out.splitlines()
    killed = numbers(next(line for line in lines if line.startswith("kills=")))
    print(f"kernel {guest.kernel.release}: {killed}")
    answers = [line for line in lines if " bad=" in line]
    assert [line.split()[0] for line in answers] == ["fill", "churn", "verify"]
    assert [line for line in answers if not line.endswith(" bad=0")] == []
    assert killed["recovered"] == "0", "nobody was there to take over"
    check_device(product, path, killed)
    check_log(guest)
    product.remove(path)


def test_long_after_all_are_dead(product: Product) -> None:
    """Reads wait for as long as nobody serves, `list` says so, and `recover --all` brings everything back."""
    path = product.create("--size 64M")
    product.strict(f'pagetool fill "$POOL" {path} 500')
    product.strict("kill_all")
    assert [row["state"] for row in product.json("list")["devices"]] == ["dead"]
    product.strict(f"dd if={path} of=/root/waited bs=1M count=2 iflag=direct status=none & sleep 2; kill -0 $!")
    done = product.json("recover --all")
    assert [row["result"] for row in done["devices"]] == ["recovered"]
    product.strict(f'pagetool check "$POOL" {path} 500; while pgrep -x dd; do sleep 0.1; done; [ -s /root/waited ]')
    assert product.run(f"truezram recover {path}").out == f"{path.removeprefix('/dev/')}: has a server\n"
    # Without any of them again, it can still be removed: at once if nobody uses it, else it is recovered first.
    product.strict(f"mkfs.ext4 -q {path}; mkdir -p /mnt/late; mount {path} /mnt/late; echo kept >/mnt/late/file; sync")
    product.strict("kill_all")
    assert "mounted on /mnt/late" in product.run(f"truezram remove {path}", status=4).err
    product.strict("grep kept /mnt/late/file; umount /mnt/late")
    product.strict("kill_all")
    product.run(f'truezram remove {path}; test ! -e {path}; test -z "$(ls /run/truezram)"')


# pgrep does not see who is forked while it looks, so once is not enough: the fork lives on when its parent has ended.
ENDED = """
ended() {
	local looks=0
	while [ $looks -lt 5 ] && ! pgrep 'truezramd|tz-' >/dev/null; do looks=$((looks + 1)); done
	[ $looks = 5 ]
}
await ended
"""
HEADS = """
import sys
with open(sys.argv[1], "r+b") as arena, open("/root/heads", sys.argv[2] + "b") as kept:
    if sys.argv[2] == "w":
        kept.write(arena.read(8192))
        arena.seek(0)
        arena.write(bytes(8192))
    else:
        arena.write(kept.read())
"""


def test_upgrade(product: Product) -> None:
    """Servers follow each other under verified writes."""
    path = product.create("--size 96M")
    assert product.run(f"truezram upgrade {path}").out.endswith(" already\n")
    thrice = "; ".join(f"truezram upgrade {path} --force --json; sleep 1" for _ in range(3))
    load = FIO.replace("{tools}/killer {name} {kills} {seed}", "{thrice}")
    out = product.strict(load.format(path=path, thrice=thrice)).out
    assert out.count('"replaced": true') == 3
    assert "verify: bad" not in out
    assert "err= 0" in out, out
    row = product.stat(path)
    assert (row["recoveries"], row["failed_reads"], row["failed_writes"]) == (0, 0, 0)
    product.remove(path)


def test_what_cannot_take_over(product: Product) -> None:
    """It leaves the device as it is, and served."""
    path = product.create("--size 64M")
    name = path.removeprefix("/dev/")
    pid = product.stat(path)["pid"]
    product.strict(f'pagetool fill "$POOL" {path} 500')
    arena = f"/run/truezram/arena/{name}"
    product.strict(f"cat >heads.py <<'END'{HEADS}END\npython3 heads.py {arena} w")
    assert "not an arena" in product.run(f"truezram upgrade {path} --force", status=1).err
    product.strict(f'pagetool check "$POOL" {path} 500; python3 heads.py {arena} r')
    assert "exit code 1" in product.run(f"TRUEZRAM_SERVER=/bin/false truezram upgrade {path} --force", status=1).err
    assert product.stat(path)["pid"] == pid
    # One that hands over to a process which never takes it: the standby does.
    product.strict(
        f"""sleep 600 & other=$!
python3 - $other <<'END'
import sys
from pathlib import Path
from truezram.engine.device.control import Op, request
request(Path("/run/truezram/{name}.sock"), Op.HAND_OVER, (int(sys.argv[1]),), what="hand over")
END
kill $other
pagetool check "$POOL" {path} 500
"""
    )
    row = product.stat(path)
    assert (row["state"], row["recoveries"]) == ("live", 0)
    product.remove(path)


def test_who_cannot_take_over_does_not_try_for_ever(product: Product) -> None:
    """With the head of the arena gone nobody can. They end; once it is back, `recover` does it."""
    path = product.create("--size 64M")
    arena = f"/run/truezram/arena/{path.removeprefix('/dev/')}"
    product.strict(f"""pagetool fill "$POOL" {path} 500
cat >heads.py <<'END'{HEADS}END
python3 heads.py {arena} w
kill -9 {product.stat(path)["pid"]}
{ENDED}""")
    assert "not an arena" in product.run(f"truezram recover {path}", status=1).err
    product.strict(f'python3 heads.py {arena} r; truezram recover {path}; pagetool check "$POOL" {path} 500')
    assert product.stat(path)["recoveries"] == 1
    product.remove(path)


def test_somebody_else_ends_the_queues(guest: Guest, product: Product) -> None:
    """A server that cannot go on leaves the device to its standby; if it has hardly begun, to `recover`: else such
    servers would follow each other for ever."""
    if tuple(int(part) for part in guest.kernel.release.split(".")[:2]) < (6, 16):
        pytest.skip(f"Linux {guest.kernel.release} has no QUIESCE_DEV")
    path = product.create("--size 64M")
    quiesce = f"{product.tools}/quiesce {path.removeprefix('/dev/ublkb')}"
    read = f"dd if={path} of=/dev/null bs=4k count=1 iflag=direct status=none"
    product.strict(f'pagetool fill "$POOL" {path} 500; sleep 11')
    # The second time at once: ten seconds later that server would have begun. (It has on a machine that is very slow;
    # then another one is there soon, and once more.)
    times = 2
    product.strict(f"{quiesce}; {read}; {quiesce}")
    while (state := product.json("list")["devices"][0]["state"]) != "dead":
        assert times < 20, "such servers follow each other for ever"
        if state == "live" and product.stat(path)["recoveries"] == times:
            product.strict(quiesce)
            times += 1
    product.strict(ENDED)
    product.strict(f'truezram recover {path}; pagetool check "$POOL" {path} 500')
    assert product.stat(path)["recoveries"] == times
    product.remove(path)
