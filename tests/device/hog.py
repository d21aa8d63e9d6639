"""A process with a lot of memory in a guest, ``pagetool hog``: does what it is asked to, and verifies its pages. And
what the kernel may say in its log when memory is short."""

from __future__ import annotations

import re

from guest import Guest
from product import Product, numbers

# One shell holds the hog from start to end; the file `ask` carries a command, `answer` its answer.
START = """
mkfifo ask answer
pagetool hog "$POOL" {mib} <ask >answer 2>hog.err &
setsid sh -c 'exec 7>ask 8<answer; echo $$ >keeper; exec sleep infinity' >/dev/null 2>&1 </dev/null &
"""
# What the kernel says now and then, whatever the swap is: with the 2 MiB that it keeps free by default, its swap code
# (swap_cluster_alloc_table) and the guest's virtiofs find no memory in the midst of reclaim. They get over it.
HARMLESS = re.compile(r"page allocation failure")


def check_log(guest: Guest) -> None:
    """Nothing in the kernel log but what is harmless, which the look after the test then passes over."""
    log = guest.log(guest.mark)
    assert "Write-error on swap-device" not in log
    # (Not "DL replenish lagged too much": that says that the guest's CPU stood still for a second, as on a busy host.)
    assert "RT throttling" not in log, "a real-time thread kept others from running"
    assert [line for line in guest.bad_log() if not HARMLESS.search(line)] == []
    guest.mark = guest.log_size()


class Hog:
    """One hog of ``mib`` MiB; the commands are pagetool.c's."""

    def __init__(self, product: Product, mib: int) -> None:
        self.product = product
        product.strict(START.format(mib=mib))

    def ask(self, command: str, timeout: int = 900) -> dict[str, str]:
        """Has the hog carry out one command; its answer. The time limit is for what hangs, not for a busy machine."""
        answer = self.product.strict(f"echo '{command}' >ask; head -n 1 answer; cat hog.err", timeout=timeout).out
        assert answer.startswith(command.split()[0]), answer
        return numbers(answer)

    def quit(self) -> None:
        """Ends it."""
        self.product.strict("echo quit >ask; kill $(cat keeper); rm ask answer")
