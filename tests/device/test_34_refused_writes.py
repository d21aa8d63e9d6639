"""Swap writes are refused at mem_limit only, and one that is refused loses nothing.

pytest tests/device/test_34_refused_writes.py                      a minute or two of the smallest size
pytest tests/device/test_34_refused_writes.py --hogs-minutes 10    the run of its own: ten minutes of each
"""

from __future__ import annotations

import shlex

import pytest
from guest import Guest
from hog import Hog, check_log
from product import Product

LIMIT = 24 << 20
PAGED_OUT = 128
WORK = {256: ("renew 1", "verify 1031 8"), 512: (), 1024: ()}
"""By the guest's memory in MiB: what each process does once it has filled its memory. Under emulation, that comes to a
minute or two; nothing: only in the run of its own."""
PARTS = 3
"""Processes that the memory is spread over."""

# Every hog gets its commands from a file that ends with `quit`; `stall` is a process that wants nothing but to
# run every 10 ms.
HOGS = """
for part in $(seq {parts}); do
	printf '%s\\n' {commands} | pagetool hog "$POOL" {mib} >hog.$part 2>&1 &
	hogs="${{hogs-}} $!"
done
{pagetool} stall locked >stall &
stall=$!
for hog in $hogs; do wait $hog; done
kill $stall; wait $stall
cat hog.*; cat stall
"""


@pytest.mark.either("6.12")
@pytest.mark.parametrize("mib", [pytest.param(m, id=f"{m}M", marks=pytest.mark.guest(memory=m)) for m in WORK])
def test_none_is_refused_below_the_limit(guest: Guest, product: Product, mib: int, pytestconfig: pytest.Config) -> None:
    """Processes half as large again as memory, everything at its default: no write is refused, every page is right.

    Swap is a quarter larger than memory, not more: in time the device holds something in every slot, at a third of its
    size.
    """
    memory = int(product.strict("awk '/MemTotal/ { print $2 }' /proc/meminfo").out) >> 10
    minutes = pytestconfig.getoption("--hogs-minutes")
    if not minutes and not WORK[mib]:
        pytest.skip("only with --hogs-minutes")
    work = (f"churn {minutes * 60}", "verify 1031") if minutes else WORK[mib]
    commands = shlex.join(["fill", *work, "quit"])
    path = product.create(f"--size {mib * 5 // 4}M --swap")
    # (By its path: `pagetool` is a shell function, and a signal would go to the shell around it.)
    tool = product.tools / "pagetool"
    script = HOGS.format(parts=PARTS, commands=commands, mib=memory // 2, pagetool=tool)
    out = product.strict(script, timeout=1500 + minutes * 180).out.splitlines()
    answers = [line for line in out if " bad=" in line]
    assert [line for line in answers if not line.endswith(" bad=0")] == []
    assert sum(line.startswith("fill ") for line in answers) == PARTS
    assert sum(line.startswith("verify ") for line in answers) == PARTS
    row = product.stat(path)
    writes = f"{row['swap_writes']} writes, {row['deferred_writes']} deferred"
    print(f"{mib} MiB, kernel {guest.kernel.release}: {writes}; a process locked in memory: {out[-1]}")
    assert row["swap_writes"] > 1000
    assert (row["failed_writes"], row["enospc"], row["failed_reads"]) == (0, 0, 0)
    check_log(guest)
    product.remove(path)
    guest.restart_wanted = True


@pytest.mark.either
@pytest.mark.guest(memory=512)
def test_refused_writes_lose_nothing(guest: Guest, product: Product) -> None:
    """At mem_limit the kernel keeps what it could not write: no page is wrong; with room again, all goes out."""
    path = product.create(f"--size 512M --mem-limit {LIMIT} --swap")
    hog = Hog(product, PAGED_OUT)
    hog.ask("fill")
    hog.ask("pageout")
    assert hog.ask("verify 1031")["bad"] == "0"
    hog.ask("rewrite 4")
    hog.ask("pageout")
    assert hog.ask("verify 1")["bad"] == "0"
    refused = product.stat(path)
    assert refused["failed_writes"] > 0, "no write was refused: the test shows nothing"
    assert refused["failed_writes"] == refused["enospc"]
    assert "Write-error on swap-device" in guest.log(guest.mark)

    product.run(f"truezram set {path} mem_limit=none")
    hog.ask("rewrite 2")
    hog.ask("pageout")
    assert hog.ask("verify 1031")["bad"] == "0"
    row = product.stat(path)
    assert row["failed_writes"] == refused["failed_writes"]
    assert row["swap_writes"] > refused["swap_writes"]
    assert row["failed_reads"] == 0
    hog.quit()
    product.remove(path)
