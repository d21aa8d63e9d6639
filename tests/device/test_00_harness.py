"""The harness itself: a failure in a guest must not pass for a success."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guest import BOOTS, Guest, GuestError, KernelBug, ScriptError
from product import HANG, LEFTOVERS, Product


def wait_for(condition: Callable[[], object]) -> None:
    """The kernel may print its log, and end processes, some time later."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.either
def test_status_and_output_come_back(guest: Guest) -> None:
    """Both streams and the exit status of a script are the host's."""
    result = guest.run("echo out; echo err >&2; exit 7", status=None)
    assert (result.status, result.out, result.err) == (7, "out\n", "err\n")
    with pytest.raises(ScriptError, match="status 7, expected 0"):
        guest.run("exit 7")
    assert guest.run("uname -r").out.strip() == guest.kernel.release


@pytest.mark.either
def test_time_limit_ends_a_script_and_its_children(guest: Guest) -> None:
    """A script past its limit is ended with its children, and reported."""
    assert guest.run("sleep 77 & sleep 78; echo late", timeout=2, status=124).out == ""
    wait_for(lambda: guest.run("pgrep -f '^sleep 7[78]'", status=None).status == 1)
    wait_for(lambda: "Show Blocked State" in guest.log(guest.mark))
    guest.mark = guest.log_size()


def test_a_kernel_that_dies_in_boot_is_booted_again(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not for ever, and never in silence."""
    boots: list[int] = []

    def boot(self: Guest, virtiofsd: str) -> None:
        boots.append(len(boots))
        if len(boots) < fatal:
            raise GuestError("the guest died")

    monkeypatch.setattr(Guest, "_boot", boot)
    fatal = BOOTS
    with pytest.warns(UserWarning, match="the guest died") as caught:
        Guest(guest.kernel, folder=tmp_path)
    assert (len(boots), len(caught)) == (BOOTS, BOOTS - 1)
    boots, fatal = [], BOOTS + 1
    with pytest.warns(UserWarning, match="failed"), pytest.raises(GuestError, match="died"):
        Guest(guest.kernel, folder=tmp_path)


DIED: list[Guest] = []


@pytest.mark.either
def test_after_a_bug_of_the_kernel_a_test_is_run_again(guest: Guest) -> None:
    """In another guest. (The first run says so without a death.)"""
    if not DIED:
        DIED.append(guest)
        raise KernelBug("the guest died, says a test of the harness")
    assert guest is not DIED[0]
    assert guest.run("uname -r").out.strip() == guest.kernel.release


@pytest.mark.either
def test_nothing_reaches_the_host(guest: Guest, product: Product) -> None:
    """What a guest writes stays in the guest."""
    product.strict('echo changed >"$POOL"; echo new >"$POOL.new"')
    pool = product.tools / "pages"
    assert pool.stat().st_size > 1 << 20
    assert not (product.tools / "pages.new").exists()
    product.strict('rm "$POOL.new"')
    guest.restart_wanted = True  # the overlay now holds a spoilt copy of the pages


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 1 at kernel/fork.c:1 f+0x1/0x2",
        "BUG: unable to handle page fault for address: 0000000000000010",
        "INFO: task fio:77 blocked for more than 60 seconds.",
        "WARNING: possible circular locking dependency detected",
        "Out of memory: Killed process 12 (python3)",
    ],
)
def test_kernel_log_is_looked_at(guest: Guest, line: str) -> None:
    """A line of that kind in the kernel log is found (and forgiven here)."""
    guest.run(f"echo '<3>{line}' >/dev/kmsg")
    wait_for(lambda: [found for found in guest.bad_log() if line in found])
    guest.mark = guest.log_size()


@pytest.mark.either
def test_pagetool_finds_damage(product: Product) -> None:
    """The tool that verifies memory and devices does find one changed bit, in memory and on a device."""
    result = product.strict("""
coproc HOG { pagetool hog "$POOL" 16; }
hog=$HOG_PID
printf '%s\\n' fill 'verify 1' damage 'verify 1' 'verify 11' 'rewrite 1' 'verify 7' quit >&${HOG[1]}
cat <&${HOG[0]}
wait $hog
truncate -s 1M disk
pagetool fill "$POOL" disk 256
pagetool check "$POOL" disk 256
printf X | dd of=disk bs=1 seek=123456 conv=notrunc status=none
pagetool check "$POOL" disk 256 && exit 1
rm disk
""")
    answers = [line.split()[-1] for line in result.out.splitlines() if line.startswith("verify")]
    assert answers == ["bad=0", "bad=1", "bad=1", "bad=0"], result.out
    assert "checked=256 bad=0" in result.out
    assert "checked=256 bad=1" in result.out


LEFT_BEHIND = {
    "a device": ("touch /dev/ublkc7", "/dev/ublkc7", "rm /dev/ublkc7"),
    "an entry": ("mkdir -p /run/truezram/a; >/run/truezram/a/x.sock", "/run/truezram/a/x.sock", "rm -r /run/truezram"),
    "a server": (
        "bash -c 'echo truezramd >/proc/$$/comm; read <>/dev/ptmx' & await is_named $! truezramd",
        "truezramd",
        "kill $!; wait",
    ),
    "swap": (
        "modprobe loop; truncate -s 1M x; mkswap -q x; swapon $(losetup -f --show x)",
        "swap: /dev/loop",
        "swapoff -a; losetup -D",
    ),
    "a mount": ("mkdir -p ublkb; mount -t tmpfs none ublkb", "mount: ", "umount ublkb"),
    "a refused call": ("echo 'audit: type=1326 audit(1.2:3)' >/dev/kmsg", "type=1326 audit(1.2:3)", "dmesg -C"),
    "a refused command": ("echo refused >/dev/shm/warm.failed", "refused", "rm /dev/shm/warm.failed"),
}


@pytest.mark.either
@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_what_is_left_behind_is_found(product: Product, what: str) -> None:
    """Each thing that no test may leave."""
    make, found, undo = LEFT_BEHIND[what]
    look = f"bash -c {shlex.quote(LEFTOVERS)}; status=$?"
    left = product.run(f"{make}\n{look}\n{undo}\nexit $status", status=1)
    assert found in left.out, left
