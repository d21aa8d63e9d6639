"""A request that kills every server that serves it fails after the third death; all else is served.

strace kills: with SIGKILL, as the server moves the request's data to or from the kernel.
"""

from __future__ import annotations

import pytest
from product import Product

PAGE = 5
# The server, standby, nursery, and all that they start, die when they move a request's data. Another one follows
# each of them.
KILL = """
trap 'cat trace {log}; ps ax; kill -9 ${{strace-}}' TERM # when the script's time is over
traced() {{
	for pid in $all; do
		! grep -L 'TracerPid:[^0-9]*[1-9]' /proc/$pid/task/*/status | grep -q . || return 1
	done
}}
all="{server} {standby} $(pgrep -x tz-nursery)"
over() {{ ! kill -0 $request 2>/dev/null; }}
strace -f -o trace -e trace={call} -P /dev/{char} -e inject={call}:signal=SIGKILL -p "$all" & strace=$!
await traced
{request} 2>failed & request=$!
await over
wait $request && exit 1
kill -9 $strace	# it lets go of all of them
wait $strace || true
standby() {{ truezram stat {path} --json | grep '"standby": [1-9]' >&2; }}
await standby
cat failed
"""


def kill(product: Product, path: str, call: str, request: str) -> str:
    """Three servers die in this system call while they serve `request`; what it says when it has failed."""
    row = product.stat(path)
    name = path.removeprefix("/dev/")
    script = KILL.format(
        path=path,
        call=call,
        request=request,
        char=name.replace("ublkb", "ublkc"),
        server=row["pid"],
        standby=row["standby"],
        log=f"/run/truezram/{name}.log",
    )
    return product.strict(script).out


def after(product: Product, path: str, said: str) -> None:
    """The device is served, and says what has happened."""
    name = path.removeprefix("/dev/")
    row = product.stat(path)
    assert (row["state"], row["recovery"], row["recoveries"]) == ("live", "on", 3)
    assert row["last_error"] == said
    assert said in product.run(f"truezram stat {path}; cat /run/truezram/{name}.log").out
    assert product.json(f"check {path}")["sound"]


def filled(product: Product) -> str:
    path = product.create("--size 64M")
    product.strict(f'pagetool fill "$POOL" {path} 500\ndd if={path} of=before bs=4k count=64 iflag=direct status=none')
    return path


def test_a_read(product: Product) -> None:
    """It fails until its page is written; every other page can be read, and nothing that was stored is lost."""
    path = filled(product)
    read = f"dd if={path} bs=4k skip={PAGE} count=1 iflag=direct status=none"
    assert "Input/output error" in kill(product, path, "pwrite64", f"{read} of=/dev/null")
    after(product, path, f"reading page {PAGE} has killed the server 3 times: it fails with EIO now")
    assert product.stat(path)["failed_reads"] == 1
    product.strict(
        f"{read} of=/dev/null 2>/dev/null && exit 1\n"
        f"dd if={path} of=low bs=4k count={PAGE} iflag=direct status=none; cmp -n {PAGE * 4096} low before\n"
        f"dd if={path} of=high bs=4k skip={PAGE + 1} count=40 iflag=direct status=none\n"
        f"cmp -n {40 * 4096} high before 0 {(PAGE + 1) * 4096}\n"
        f"dd if=before of={path} bs=4k skip=30 seek={PAGE} count=1 oflag=direct conv=notrunc status=none\n"
        f"{read} of=page; cmp -n 4096 page before 0 {30 * 4096}"
    )
    assert product.stat(path)["failed_reads"] == 2
    product.remove(path)


@pytest.mark.either
def test_a_write(product: Product) -> None:
    """It fails once, and the page has what it had; the next one is served."""
    path = filled(product)
    write = f"dd if=before of={path} bs=4k skip=30 seek={PAGE} count=1 oflag=direct conv=notrunc status=none"
    assert "Input/output error" in kill(product, path, "pread64", write)
    after(product, path, f"writing page {PAGE} has killed the server 3 times: it fails with EIO now")
    assert product.stat(path)["failed_writes"] == 1
    product.strict(
        f"dd if={path} of=now bs=4k count=64 iflag=direct status=none; cmp now before; {write}\n"
        f"dd if={path} of=now bs=4k skip={PAGE} count=1 iflag=direct status=none; cmp -n 4096 now before 0 {30 * 4096}"
    )
    assert product.stat(path)["failed_writes"] == 1
    product.remove(path)
