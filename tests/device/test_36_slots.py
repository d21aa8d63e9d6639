"""Freed swap slots: the server learns of each (a BPF program on a function of the kernel) and gives its page back, of
its own areas only, never one that is in use; and says so where it cannot."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from guest import Guest
from hog import Hog
from product import HANG, Product

pytestmark = pytest.mark.warm

MEMORY = 256
HOG = MEMORY * 5 // 4
SMALL = 48
"""MiB of a process that is paged out on request."""
TOOLS = """
state() {{ {python} {slots} state "$@" || {{ cat /run/truezram/*.log; false; }}; }}
says() {{ {python} {slots} says "$@"; }}
fits() {{ {python} {slots} fits "$1"; }}
"""


def script(product: Product, text: str) -> str:
    tools = TOOLS.format(python=product.python, slots=Path(__file__).with_name("slots.py"))
    return product.strict(tools + text).out


def make_swap(product: Product, options: str = "") -> str:
    """A swap device whose freed slots are reported."""
    path = product.run(f"truezram create --size 256M --mem-limit 128M --queues 1 --swap {options}").out.split()[-1]
    assert script(product, f"state on {path}").startswith("on: ")
    return path


def use(product: Product, mib: int = SMALL) -> Hog:
    """A process with its pages in swap."""
    hog = Hog(product, mib)
    assert hog.ask("fill")["bad"] == "0"
    hog.ask("pageout")
    return hog


def end(product: Product, hog: Hog) -> None:
    hog.quit()
    product.strict("while pgrep -x pagetool; do sleep 0.05; done")


@pytest.mark.either("6.12")
@pytest.mark.guest(memory=MEMORY)
def test_a_hog_comes_and_goes(guest: Guest, product: Product) -> None:
    """A quarter larger than memory: when it has ended, the device holds what swap says is in use, and no more."""
    path = product.run("truezram create --size 448M --queues 1 --swap").out.split()[-1]
    print(script(product, f"state on {path}"))
    product.run("truezram tune apply")
    product.strict("echo 16384 >/proc/sys/vm/min_free_kbytes")
    hog = Hog(product, HOG)
    assert hog.ask("fill")["bad"] == "0"
    assert hog.ask("rewrite 8")["bad"] == "0"
    assert hog.ask("verify 1")["bad"] == "0"
    before = product.stat(path)
    assert before["swap_used"] > (HOG - MEMORY) << 20
    end(product, hog)
    print(script(product, f"fits {path}"))
    after = product.stat(path)
    # How many: a discard of the whole cluster may come first. (test_areas_are_told_apart counts them.)
    assert after["slots_freed"] > before["slots_freed"]
    assert after["failed_reads"] == after["failed_writes"] == after["damaged_entries"] == 0
    text = product.run(f"truezram stat {path}").out
    assert "pages given back" in text
    assert "kprobes are there" in product.run("truezram doctor", status=None).out
    product.remove(path)
    guest.restart_wanted = True


def test_at_rest_nothing_wakes(product: Product) -> None:
    """With tracking on and pages in swap: the thread sleeps until a slot is freed."""
    path = make_swap(product)
    hog = use(product)
    script(product, f"fits {path}")
    pid = product.stat(path)["pid"]
    count = (
        f"for task in /proc/{pid}/task/*; do read -r name <$task/comm; [ $name = tz-slots ] && "
        "awk '/ctxt_switches/ { n += $2 } END { print n }' $task/status; done; true"
    )
    rises: list[int] = []
    while not rises or rises[-1] > 1:  # until what was freed just before has been given back
        assert len(rises) < 60, f"it never sleeps: {rises}"
        first, second = product.strict(f"{count}\nsleep 5\n{count}").out.split()
        rises.append(int(second) - int(first))
    freed = product.stat(path)["slots_freed"]
    hog.ask("keep 1")
    print(script(product, f"fits {path}"))
    assert product.stat(path)["slots_freed"] > freed
    end(product, hog)
    product.remove(path)


PASSER_BY = f"""
cat >passer.py <<'X'
import mmap, os
memory = mmap.mmap(-1, {SMALL} << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(2000) + bytes(2088)
for page in range({SMALL} << 8):
    memory[page << 12 : page + 1 << 12] = page.to_bytes(8, "little") + block
def swapped():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmSwap:"))
while swapped() < {SMALL} * 900:
    memory.madvise(21)
X
python3 passer.py
"""
"""A process whose pages are swapped out, to the area of the highest priority, and which then ends."""


def times_tested(product: Product, path: str) -> int:
    name = path.removeprefix("/dev/")
    return int(product.run(f"grep -c 'being tested' /run/truezram/{name}.log", status=None).out)


def test_areas_are_told_apart(product: Product) -> None:
    """Two devices whose slots have the same numbers: what is freed on one is not freed on the other."""
    first = make_swap(product)
    hog = use(product)
    tested = times_tested(product, first)
    assert tested
    # Without discards, which may come first: then nothing is left to be collected.
    second = product.create("--size 256M --mem-limit 128M --queues 1")
    script(product, f"mkswap -q {second}; swapon -p 200 {second}; state on {second}; state on {first}")
    assert times_tested(product, first) == tested, "a new area does not make another test necessary"
    before = product.stat(first)
    assert before["swap_used"] > SMALL << 19
    start = product.stat(second)["slots_freed"]
    print(script(product, f"{PASSER_BY}\nfits {second}; fits {first}"))
    assert product.stat(second)["slots_freed"] - start > SMALL << 7
    after = product.stat(first)
    assert after["slots_freed"] - before["slots_freed"] < 64
    assert hog.ask("verify 1")["bad"] == "0"
    end(product, hog)
    print(script(product, f"fits {first}"))
    product.remove(second)
    product.remove(first)


@pytest.mark.either
def test_the_same_type_for_another_area(product: Product) -> None:
    """A device that was swap holds a file system, and another has its swap type: its files stay."""
    path = make_swap(product)
    use_it = use(product)
    end(product, use_it)
    script(
        product,
        f"""
swapoff {path}
mkfs.ext4 -q -F {path}; mkdir -p files; mount {path} files
head -c $(({SMALL} << 20)) "$POOL" >files/pool; sync
sha1sum files/pool >sum
""",
    )
    second = make_swap(product)
    print(script(product, f"{PASSER_BY}\nfits {second}"))
    script(product, f"echo 3 >/proc/sys/vm/drop_caches; sha1sum -c sum; state off {path}")
    product.strict("umount files")
    row = product.stat(path)
    assert row["failed_reads"] == row["damaged_entries"] == 0
    product.remove(second)
    product.remove(path)


def test_swapon_by_hand(product: Product) -> None:
    """Without discards and without telling anybody; after swapoff it is off."""
    path = product.create("--size 256M --mem-limit 128M --queues 1")
    assert product.stat(path)["slot_tracking"] == "off"
    script(product, f"mkswap {path}; swapon {path}; state on {path}")
    print(script(product, f"{PASSER_BY}\nfits {path}"))
    assert product.stat(path)["num_discards"] == 0
    script(product, f"swapoff {path}; state off {path}")
    assert product.strict("pgrep -x tz-slot-test || echo none").out == "none\n"
    script(product, f"swapon {path}; state on {path}; swapoff {path}; state off {path}")
    product.remove(path)


@pytest.mark.either
def test_a_partition(product: Product) -> None:
    """Slots of an area that does not begin with the device."""
    path = product.create("--size 256M --mem-limit 128M --queues 1")
    script(product, f"addpart {path} 1 20480 409600; mkswap {path}p1; swapon {path}p1; state on {path}")
    hog = use(product)
    freed = product.stat(path)["slots_freed"]
    hog.ask("keep 20")
    deadline = time.monotonic() + HANG
    while product.stat(path)["slots_freed"] - freed <= (SMALL - 20) << 7:
        assert time.monotonic() < deadline, f"{product.stat(path)['slots_freed'] - freed} pages were given back"
    assert hog.ask("verify 1")["bad"] == "0"
    end(product, hog)
    script(product, f"swapoff {path}p1; state off {path}; delpart {path} 1")
    product.remove(path)


@pytest.mark.either
def test_swap_of_a_lower_priority(product: Product) -> None:
    """Nothing comes to it that could be tested: it says so, and is tested when the other goes."""
    first = make_swap(product)
    out = product.run("truezram create --size 256M --mem-limit 128M --queues 1 --swap --priority 50").out
    second = out.split()[-1]
    script(product, f"says priority {second}; state testing {second}")
    product.remove(first)
    assert script(product, f"state on {second}").startswith("on: ")
    product.remove(second)


@pytest.mark.either
def test_its_test_process_is_killed(product: Product) -> None:
    """Then nothing says that the area is still ours: nothing is collected until it has been tested anew."""
    path = make_swap(product)
    hog = use(product)
    product.strict("kill -9 $(pgrep -x tz-slot-test)")
    hog.ask("keep 30")
    script(product, f"state testing {path}")
    assert hog.ask("verify 1")["bad"] == "0"
    # The first swap write after ten seconds has it tested again.
    again = f'truezram stat {path} --json | grep \'"slot_tracking": "on"\''
    script(product, f"again() {{\n{PASSER_BY}\nsleep 1; {again}; }}\nawait again")
    print(script(product, f"state on {path}"))
    assert hog.ask("verify 1")["bad"] == "0"
    end(product, hog)
    print(script(product, f"{PASSER_BY}\nstate on {path}"))
    product.remove(path)


@pytest.mark.either
def test_without_kprobes(product: Product) -> None:
    """Switched off: `stat` and doctor say so, and the device works."""
    product.strict("mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug")
    product.strict("echo 0 >/sys/kernel/debug/kprobes/enabled")
    path = product.run("truezram create --size 256M --mem-limit 128M --queues 1 --swap").out.split()[-1]
    text = script(product, f"state unavailable {path}")
    assert "kprobes" in text
    assert "kprobes" in product.run(f"truezram stat {path} | grep slot_tracking").out
    assert "kprobes are switched off" in product.run("truezram doctor", status=None).out
    hog = use(product)
    assert hog.ask("verify 1")["bad"] == "0"
    end(product, hog)
    script(
        product,
        f"echo 1 >/sys/kernel/debug/kprobes/enabled; swapoff {path}; state off {path}; swapon {path}; state on {path}",
    )
    product.remove(path)


@pytest.mark.either
def test_locked_down(guest: Guest, product: Product) -> None:
    """A kernel that refuses kprobes: why, in its words."""
    guest.restart_wanted = True
    product.strict("mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security")
    product.strict("echo confidentiality >/sys/kernel/security/lockdown")
    path = product.run("truezram create --size 256M --mem-limit 128M --queues 1 --swap").out.split()[-1]
    assert "not permitted" in script(product, f"state unavailable {path}")
    assert "lockdown" in product.run("truezram doctor", status=None).out
    hog = use(product)
    assert hog.ask("verify 1")["bad"] == "0"
    end(product, hog)
    product.remove(path)
