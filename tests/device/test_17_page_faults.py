"""Queue threads take no page fault, whatever the control thread does: a fault may need memory, which may need the
device."""

from __future__ import annotations

import pytest
from product import Product
from test_16_swapoff import make_swap

pytestmark = pytest.mark.warm

# Runs with the installed package's Python: $1 the device's name, $2 its server's pid, $3 its helper's.
SCRIPT = '''
import os, signal, socket, subprocess, sys, time
from pathlib import Path
from truezram.engine.device.client import Client

name, pid, helper = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def faults():
    """(minor, major) of each queue thread."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            head, _, rest = (task / "stat").read_text().rpartition(")")
        except OSError:
            continue
        if "(tz-queue" in head:
            fields = rest.split()
            found[task.name] = (int(fields[7]), int(fields[9]))
    return found

def check(step):
    now = faults()
    assert now == start, f"{step}: {start} -> {now}"
    print(step, flush=True)

path = f"/dev/{name}"
def load():
    with open(path, "rb", buffering=0) as disk:
        for i in range(64):
            os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            disk.seek(i << 16)
            disk.read(1 << 16)

load()
start = faults()
assert start
with Client() as client:
    entry = client.resolve(name)
    for algorithm in ("zstd:3", "dense", "auto", "turbo", "zstd:19", "lz4", "fast"):
        client.set(entry, "algorithm", algorithm)
        load()
        check(f"algorithm={algorithm}")
    for limit in (200 << 20, 0, 256 << 20):
        client.set(entry, "mem_limit", str(limit))
    check("mem_limit")
    client.trim(entry)
    load()
    check("trim")
    pages = client.devices()[0].disksize >> 12
    for _ in range(20):
        client.page_map(entry, 0, pages, 256)
    load()
    check("page map")
    subprocess.run(["truezram", "doctor"], stdout=subprocess.DEVNULL)
    load()
    check("doctor")
    clients = []
    for _ in range(200):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(600)
        sock.connect(str(entry.sock))
        clients.append(sock)
        client.ping(entry)
    load()
    check("200 clients")
os.kill(helper, signal.SIGSTOP)  # until the first look
os.kill(pid, signal.SIGTERM)
samples = 0
while now := faults():
    if len(now) < len(start):
        break
    # Until the queues end, which is after swapoff.
    assert now == start, f"SIGTERM: {start} -> {now}"
    samples += 1
    os.kill(helper, signal.SIGCONT) if samples == 1 else None
print("SIGTERM", samples, flush=True)
'''


@pytest.mark.guest(cpus=2)
def test_no_page_fault(product: Product) -> None:
    """Counted over every kind of message, 200 clients, and SIGTERM with its swapoff."""
    path, pid, hog = make_swap(product, 96)
    out = product.strict(
        f"""{hog}
cat >faults.py <<'EOF'
{SCRIPT}
EOF
python3 faults.py {path.removeprefix("/dev/")} {pid} $(helper {pid})
gone {pid}
echo >&9; wait $hog; cat hog.out
""",
    ).out
    assert f"good {96 << 8}" in out, out
    assert int(out.split("SIGTERM ")[1].split()[0]) > 0, out
