"""A process with a lot of memory in a guest, ``pagetool hog``: does what it is asked to, and verifies its pages."""

from __future__ import annotations

from product import Product, numbers

# One shell holds the hog from start to end; the file `ask` carries a command, `answer` its answer.
START = """
mkfifo ask answer
pagetool hog "$POOL" {mib} <ask >answer 2>hog.err &
setsid sh -c 'exec 7>ask 8<answer; echo $$ >keeper; exec sleep infinity' >/dev/null 2>&1 </dev/null &
"""


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
