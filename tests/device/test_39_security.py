"""What a running server may do, who may ask it for something, and that everything still works under its filter of
system calls. (Each device test fails when the filter has refused a call: product.py.)"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from product import Product
from test_08_local_unprivileged import AS_NOBODY, SET_UP
from test_20_swap_by_any_name import STOP

SYS_ADMIN, DAC_READ_SEARCH, IPC_LOCK = 1 << 21, 1 << 2, 1 << 14
KEPT: Final = SYS_ADMIN | DAC_READ_SEARCH
"""As docs/security.md has it."""
SLOTS = Path(__file__).with_name("slots.py")
SYSTEMD = Path("/lib/systemd/systemd")
MIB = 48

# A filter as the server's, that refuses getppid: is a refused call in the log of this kernel?
REFUSED = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 110, "aarch64": 173}[os.uname().machine]
code = struct.pack("=HBBI HBBI HBBI HBBI", 0x20, 0, 0, 0, 0x15, 0, 1, number, 6, 0, 0, 0x50026, 6, 0, 0, 0x7FFF0000)
room = ctypes.create_string_buffer(code)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
program = Program(4, ctypes.addressof(room))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall({"x86_64": 317, "aarch64": 277}[os.uname().machine], 1, 2, ctypes.byref(program)) == 0
assert libc.syscall(number) == -1 and ctypes.get_errno() == 38
"""

# Each connects, and sends what it should not; a client of the same user that connects and does nothing holds up nobody.
HOSTILE = """
import os, socket, sys
path = sys.argv[1]
def client():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path)
    s.settimeout(600)
    return s
silent = [client() for _ in range(10)]
for size in (1, 7, 128, 256, 65536, 200000):
    with client() as s:
        s.send(os.urandom(size))
        try:
            s.recv(1 << 16)
        except (ConnectionResetError, BrokenPipeError):
            pass
flood = client()
sent = 0
try:
    while sent < 100 << 20:
        sent += flood.send(bytes(100000))
except (ConnectionResetError, BrokenPipeError):
    pass
many = []
for _ in range(200):
    many.append(client())
print("sent", sent, "clients", len(many))
"""


def status_of(product: Product, pid: int, task: str = "") -> dict[str, str]:
    text = product.run(f"cat /proc/{pid}/{task or '.'}/status").out
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def is_confined(status: dict[str, str]) -> None:
    kept = {name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")}
    assert kept == dict.fromkeys(kept, KEPT), status
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Seccomp_filters"] == "2"


@pytest.mark.either
def test_a_refused_call_is_logged(product: Product) -> None:
    """What the other tests look for."""
    product.strict(f"cat >refused.py <<'END'\n{REFUSED}\nEND\npython3 refused.py")
    product.strict("logged() { dmesg | grep type=1326; }; await logged; dmesg -C")  # the kernel does it later


@pytest.mark.either
def test_what_a_server_keeps(product: Product) -> None:
    """Every thread of it, its helper and its test process: two capabilities, a filter, no new privileges."""
    path = product.create("--size 128M --swap")
    product.strict(f"python3 {SLOTS} state on {path}")
    pid = product.stat(path)["pid"]
    tasks = product.run(f"cd /proc/{pid}/task; for t in *; do echo $t $(cat $t/comm); done").out.split("\n")
    names = {name: task for task, _, name in (line.partition(" ") for line in tasks if line)}
    # Workers of io_uring are the kernel's; one that ended just now has no name.
    own = {name: task for name, task in names.items() if name and not name.startswith("iou-")}
    assert {"truezramd", "tz-queue-0", "tz-reserve", "tz-slots"} <= own.keys(), names
    for task in own.values():
        is_confined(status_of(product, pid, f"task/{task}"))
    others = product.run("pgrep -x tz-slot-test; pgrep -x tz-helper").out.split()
    assert len(others) == 2
    for other in others:
        is_confined(status_of(product, int(other)))
    product.remove(path)


@pytest.mark.either
def test_who_may_ask(product: Product) -> None:
    """Modes and owners of all that a device has, and what an ordinary user gets to hear."""
    product.strict(SET_UP)
    path = product.create("--size 64M --algorithm lz4")
    name = path.removeprefix("/dev/")
    out = product.strict(f"cd /run/truezram; stat -c '%n %U %a' . arena arena/{name} {name}.* {path}").out
    found = {line.split()[0]: line.split()[1:3] for line in out.splitlines()}
    assert found["."] == ["root", "755"]
    assert found["arena"] == ["root", "700"]
    assert found[f"arena/{name}"] == ["root", "600"]
    assert found[f"{name}.sock"] == ["root", "600"]
    assert found[f"{name}.lock"] == ["root", "600"]
    assert found[f"{name}.stats"] == ["root", "644"], "figures, nothing of what is stored"
    assert found[path] in (["root", "600"], ["root", "660"]), out
    for asked in (f"set {path} mem_limit=1M", f"remove {path}", f"compact {path}", f"check {path}"):
        refused = product.run(f"{AS_NOBODY} truezram {asked}", status=3)
        assert refused.err.startswith("truezram: "), refused
        assert "sudo" in refused.err, refused.err
    # Past the mode of the socket: the server asks the kernel who it is that connects.
    product.strict(
        f"""chmod 666 /run/truezram/{name}.sock
cat >peer.py <<'END'
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(600)
s.connect(sys.argv[1])
try:
    s.send(bytes(256))
    assert s.recv(10) == b""
except (BrokenPipeError, ConnectionResetError):
    pass
END
chmod 644 peer.py; cp peer.py /home/user/; cd /home/user
{AS_NOBODY} python3 /home/user/peer.py /run/truezram/{name}.sock
chmod 600 /run/truezram/{name}.sock"""
    )
    for entry in (f"arena/{name}", f"{name}.sock", f"{name}.lock"):
        product.run(f"cd /home/user; {AS_NOBODY} dd if=/run/truezram/{entry} of=/dev/null status=none", status=1)
    pid = product.stat(path)["pid"]
    product.run(f"cd /home/user; {AS_NOBODY} ls /proc/{pid}/fd", status=2)
    product.remove(path)


@pytest.mark.either
def test_a_new_device_reads_zeros(product: Product) -> None:
    """Of the same number, size and algorithm as one that was full and has been removed."""
    path = product.create("--size 64M --id 3 --algorithm lz4")
    product.strict(f'pagetool fill "$POOL" {path} 16384')
    product.remove(path)
    assert product.create("--size 64M --id 3 --algorithm lz4") == path
    product.strict(f"cmp -n {64 << 20} {path} /dev/zero")
    assert product.stat(path)["orig_data_size"] == 0
    product.remove(path)


@pytest.mark.either
def test_hostile_clients(product: Product) -> None:
    """Garbage, parts of messages, 100 MB, nothing at all, 200 at once: the device serves, and so does the server."""
    path = product.create("--size 128M")
    name = path.removeprefix("/dev/")
    product.strict(f'pagetool fill "$POOL" {path} 2000')
    product.strict(f"cat >hostile.py <<'END'\n{HOSTILE}\nEND")
    product.strict(f"for _ in 1 2; do python3 hostile.py /run/truezram/{name}.sock; done")
    product.strict(f'pagetool check "$POOL" {path} 2000; truezram set {path} mem_limit=100M')
    assert product.stat(path)["mem_limit"] == 100 << 20
    product.remove(path)


@pytest.mark.guest(memory=512, cpus=2)
def test_everything_works_under_the_filter(product: Product) -> None:
    """All that a server does after its start, on a device that is used as swap."""
    path = product.run("truezram create --size 64G --mem-limit 200M --queues 2 --swap").out.split()[-1]
    product.strict(f"python3 {SLOTS} state on {path}")
    pid = product.stat(path)["pid"]
    hog = Path(__file__).with_name("swapped.py")
    product.strict(
        f"""mkfifo go; python3 {hog} {MIB} <go >hog.out 2>&1 & exec 9>go
await [ -s hog.out ]; grep -q out hog.out"""
    )
    changes = (
        "algorithm=zstd:3",
        "algorithm=zstd:19",
        "algorithm=dense",
        "algorithm=auto",
        "dedup=on",
        "dedup=off",
        "mem_limit=300M",
    )
    product.strict("\n".join(f"truezram set {path} {change}" for change in changes))
    row = product.stat(path)
    assert row["algorithm"] == "auto"
    assert row["mem_limit"] == 300 << 20
    product.strict(f"truezram compact {path}; truezram check {path}; truezram stat {path}; truezram list")
    product.run("truezram doctor", status=None)
    # A new helper and a new test process are started from behind the filter.
    product.strict("for pid in $(pgrep -x tz-helper) $(pgrep -x tz-slot-test); do kill -9 $pid; gone $pid; done")
    product.strict(
        f"""kill -TERM {pid}
gone {pid}
[ -z "$(tail -n +2 /proc/swaps)" ]""",
    )
    assert product.run("ls /run/truezram").out.split() == []


@pytest.mark.either
def test_a_filesystem_under_the_filter(product: Product) -> None:
    """Growth, discards and the end of a device that holds a filesystem."""
    path = product.run("mkdir -p /mnt/m; truezram create --size 512M --fs ext4 --mount /mnt/m").out.split()[0]
    product.strict(
        """dd if=/dev/urandom of=/mnt/m/f bs=1M count=60 status=none; sync; sum=$(sha256sum </mnt/m/f)
echo 3 >/proc/sys/vm/drop_caches; [ "$sum" = "$(sha256sum </mnt/m/f)" ]
rm /mnt/m/f; sync; fstrim /mnt/m"""
    )
    assert product.stat(path)["num_discards"] > 0
    product.remove(path, "--umount")


@pytest.mark.either
def test_swap_in_a_folder_of_another_user(product: Product) -> None:
    """What CAP_DAC_READ_SEARCH is kept for: not seen, the swap file would go with its device."""
    path = product.run("mkdir -p /mnt/m; truezram create --size 128M --fs ext4 --mount /mnt/m").out.split()[0]
    product.strict(
        """mkdir /mnt/m/joe; dd if=/dev/zero of=/mnt/m/joe/swap bs=1M count=32 status=none
chmod 600 /mnt/m/joe/swap; mkswap -q /mnt/m/joe/swap; swapon /mnt/m/joe/swap
chown 65534 /mnt/m/joe; chmod 700 /mnt/m/joe"""
    )
    out = product.strict(f"set -- {path}\n{STOP}".replace("{{", "{").replace("}}", "}")).out
    assert "in use as swap (/mnt/m/joe/swap)" in out, out
    product.strict("swapoff /mnt/m/joe/swap")
    product.remove(path, "--umount")


@pytest.mark.either
def test_a_local_device_of_an_ordinary_user(product: Product) -> None:
    """No capability, the same filter."""
    product.strict(SET_UP)
    created = product.run(f"{AS_NOBODY} truezram create --size 64M --transport local").out.strip()
    pid = int(product.run("pgrep -x truezramd").out)
    status = status_of(product, pid)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    # Not dumpable: its memory is not its user's to read, and it leaves no core.
    assert product.run(f"stat -c %U /proc/{pid}/maps /proc/{pid}").out.split() == ["root", "nobody"]
    product.run(f"{AS_NOBODY} dd if=/proc/{pid}/mem of=/dev/null count=1 status=none", status=1)
    product.run(f"{AS_NOBODY} truezram set {created} algorithm=zstd:3 mem_limit=30M")
    product.run(f"{AS_NOBODY} truezram check {created}")
    product.run(f"{AS_NOBODY} truezram remove {created}")


@pytest.mark.either
@pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not installed")
def test_a_unit_in_its_sandbox(product: Product) -> None:
    """`enable` writes units with a sandbox: systemd, here as the manager of root's session, applies it, and the
    device is made, used as swap and removed in it. What it makes is the machine's: no mount namespace."""
    product.strict(
        f"""export XDG_RUNTIME_DIR=/run/user/0 SYSTEMD_PAGER=
mkdir -p /run/systemd/system $XDG_RUNTIME_DIR/systemd/user
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/manager; echo $$ >/sys/fs/cgroup/manager/cgroup.procs
mkdir /etc/truezram; printf 'size = "64M"\nswap = true\n' >/etc/truezram/ublkb5.toml
truezram enable ublkb5 --print | sed -n '/^\\[Unit/,$p' >$XDG_RUNTIME_DIR/systemd/user/truezram@.service
mkdir $XDG_RUNTIME_DIR/systemd/user/truezram@.service.d	# emulation on a busy machine is slow
printf '[Service]\nTimeoutStartSec=600\n' >$XDG_RUNTIME_DIR/systemd/user/truezram@.service.d/slow.conf
{SYSTEMD} --user --log-target=console >manager.log 2>&1 & manager=$!
await [ -S $XDG_RUNTIME_DIR/systemd/private ]
systemctl --user start truezram@ublkb5.service || {{ cat manager.log; exit 1; }}
grep -q ublkb5 /proc/swaps; [ -e /run/truezram/arena/ublkb5 ]
read -r pid _ </run/truezram/ublkb5.lock
[ "$(readlink /proc/$pid/ns/mnt)" = "$(readlink /proc/1/ns/mnt)" ]
[ "$(awk '/^Seccomp_filters/ {{ print $2 }}' /proc/$pid/status)" -gt 2 ]  # systemd's and its own
python3 {SLOTS} state on /dev/ublkb5
truezram set ublkb5 algorithm=zstd:3
systemctl --user stop truezram@ublkb5.service
[ -z "$(tail -n +2 /proc/swaps)" ]; [ ! -e /dev/ublkb5 ]
kill $manager; wait $manager || true
rm -r /etc/truezram /run/systemd/system $XDG_RUNTIME_DIR""",
    )
