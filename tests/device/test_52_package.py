"""The Debian package: built, installed, upgraded and removed while a device is in use, which no one of these ends; and
the same on a machine that systemd has started, with devices that are enabled.

pytest tests/device/test_52_package.py --package        a run of its own: dpkg under emulation takes ten minutes, twice

Upgraded to the same package under another version: its server is another file, so what serves can be told.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, cannot
from guest import Guest
from hog import Hog, check_log
from product import Product

SECONDS = 900
"""dpkg compiles some hundred Python files, under emulation."""
NEEDS = ("dpkg-buildpackage", "dh", "lintian")
BUILD_SECONDS = 1800
INSTALLED = Path("/usr/bin/truezram")
SERVER = "usr/lib/truezram/lib/python3.[^/]*/site-packages/truezram/bin/truezramd"

# Without the triggers of other packages: man-db's looks at every manual of the machine, more files than virtiofsd may
# have open. So do the caches' inodes.
INSTALL = """
dpkg --no-triggers -i {package} >/root/dpkg.log 2>&1 || {{ cat /root/dpkg.log; exit 1; }}
echo 2 >/proc/sys/vm/drop_caches
hash -r
"""
FILES = """
[ "$(command -v truezram)" = /usr/bin/truezram ]
[ "$(readlink -f /usr/bin/truezram)" = /usr/lib/truezram/bin/truezram ]
[ -s /usr/share/man/man1/truezram.1.gz ]
bash -n /usr/share/bash-completion/completions/truezram
grep -q '^#compdef truezram' /usr/share/zsh/vendor-completions/_truezram
grep -q truezram /usr/share/fish/vendor_completions.d/truezram.fish
# As `enable` would write them: it leaves it at these.
cat >units.py <<'END'
from truezram.engine.device import systemd
print([systemd._is_packaged(swap) for swap in (True, False)])
END
/usr/lib/truezram/bin/python -P units.py
truezram --version
"""
# A reader that never stops; what it reads is the same at all times. It opens nothing once it has begun: while dpkg is
# at work, virtiofsd may have no file to spare.
READ = """
dd if=$POOL of=/dev/ublkb0 bs=1M count=16 oflag=direct status=none
cat >reader.py <<'END'
import mmap, os
fd, size = os.open("/dev/ublkb0", os.O_RDONLY | os.O_DIRECT), 16 << 20
buffer, reads = mmap.mmap(-1, size), open("/root/reads", "a")
first = None
while True:
    assert sum(os.preadv(fd, [memoryview(buffer)[at : at + (1 << 20)]], at) for at in range(0, size, 1 << 20)) == size
    now = buffer[:]
    first = first or now
    bad = [at >> 12 for at in range(0, size, 4096) if now[at : at + 4096] != first[at : at + 4096]]
    assert not bad, f"other data in pages {bad}"
    print(file=reads, flush=True)
END
echo >reads
setsid python3 reader.py >/dev/null 2>reader.err &
echo $! >reader.pid
"""
# Twice more from here on, so at least one whole round was after it.
READS = """
before=$(wc -l <reads)
while [ $(wc -l <reads) -lt $((before + 2)) ]; do kill -0 $(<reader.pid) || { cat reader.err; exit 1; }; sleep 0.1; done
"""
KILL = """
read -r pid _ </run/truezram/ublkb0.lock
kill -9 $pid
while read -r now _ </run/truezram/ublkb0.lock; [ "$now" = $pid ]; do sleep 0.1; done
"""
REMOVE = """
dpkg -{how} truezram >/root/dpkg.log 2>&1 || {{ cat /root/dpkg.log; exit 1; }}
hash -r
cat /root/dpkg.log
[ ! -e /usr/bin/truezram ]
[ ! -e /usr/lib/truezram ]
"""
END_BY_HAND = """
kill $(<reader.pid)
for lock in /run/truezram/ublkb*.lock; do read -r pid _ <$lock; kill $pid; done
while compgen -G '/sys/block/ublkb*' >/dev/null || pgrep 'truezramd|tz-' >/dev/null; do sleep 0.1; done
! compgen -G '/run/truezram/arena/ublkb*'
"""
# Emulation on a busy machine is slow.
SLOW = r"""
for name in truezram truezram-disk; do
	mkdir -p /run/systemd/system/$name@.service.d
	printf '[Service]\nTimeoutStartSec=600\n' >/run/systemd/system/$name@.service.d/slow.conf
done
"""
ENABLE = """
truezram create --size 64M --id 0
truezram create --size 96M --id 1 --swap --priority 50
truezram enable --all
"""
DISK, SWAP = "truezram-disk@ublkb0.service", "truezram@ublkb1.service"
UNITS = f"""
systemctl is-active {DISK} {SWAP} || true
"""
TEMPLATES = f"""
for unit in {DISK} {SWAP}; do readlink -f $(systemctl show -P FragmentPath $unit); done
! compgen -G '/etc/systemd/system/truezram*.service'
"""
# The files of those that serve, "(deleted)" if the package has other ones now.
SERVED = """
for lock in /run/truezram/ublkb*.lock; do read -r pid _ <$lock; readlink /proc/$pid/exe; done
"""
LEFT = r"""
ls -d /etc/truezram /etc/modules-load.d/truezram.conf {/etc,/usr/lib}/systemd/system/{,*.wants/}truezram* \
	2>/dev/null || true
"""


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The package, with lintian's word on it: built once."""
    if not pytestconfig.getoption("--package"):
        pytest.skip("only with --package")
    if missing := [name for name in NEEDS if shutil.which(name) is None]:
        cannot(f"{', '.join(missing)} not installed (docs/packaging.md)")
    folder = tmp_path_factory.mktemp("package")
    done = subprocess.run(
        [ROOT / ".ci/deb", folder], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deb: all is well" in done.stdout
    (found,) = folder.glob("*.deb")
    return found


def version(package: Path) -> str:
    return package.name.split("_")[1]


def next_version(package: Path, folder: Path) -> Path:
    """The same package with another version."""
    before = version(package)
    after = f"{before[:-1]}{(int(before[-1]) + 1) % 10}"
    subprocess.run(["dpkg-deb", "-R", package, folder], check=True)
    control = folder / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {after}", control.read_text()))
    result = folder.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", folder, result], check=True, stdout=subprocess.DEVNULL)
    for path in (folder.parent, *folder.parent.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    assert os.access(result, os.R_OK)
    return result


@pytest.mark.either
@pytest.mark.guest(memory=768)
def test_installed_upgraded_and_removed(guest: Guest, tools: Path, package: Path, tmp_path: Path) -> None:
    old, later = version(package), next_version(package, tmp_path / "later")
    product = Product(guest, INSTALLED, tools)

    product.strict(INSTALL.format(package=package), timeout=SECONDS)
    assert product.strict(FILES).out.splitlines() == ["[True, True]", f"truezram {old}"]
    path = product.create("--size 64M --id 0")
    product.strict(READ + READS)

    said = product.strict(INSTALL.format(package=later) + "cat dpkg.log", timeout=SECONDS).out
    assert "ublkb0 go on with the server of the version before" in said
    assert "sudo truezram upgrade --all" in said
    product.strict(READS + KILL + READS)  # who takes over is of the old version, whose file is gone
    row = product.stat(path)
    assert (row["recoveries"], row["recovery"]) == (1, "on")
    assert product.json("upgrade --all")["devices"] == [
        {"name": "ublkb0", "before": old, "after": old, "replaced": True}
    ]
    served = "read -r pid _ </run/truezram/ublkb0.lock; readlink /proc/$pid/exe"
    assert re.fullmatch(f"/{SERVER}", product.strict(served + READS).out.strip())  # not "(deleted)"

    said = product.strict(REMOVE.format(how="r"), timeout=SECONDS).out
    pid = product.strict("read -r pid _ </run/truezram/ublkb0.lock; echo $pid").out.strip()
    assert f"ublkb0, server {pid}" in said
    assert "sudo kill SERVER" in said
    product.strict(READS + KILL + READS + KILL + READS)
    assert product.strict(END_BY_HAND).out == ""
    product.strict(REMOVE.format(how="P"), timeout=SECONDS)


@pytest.mark.either
@pytest.mark.guest(memory=768, systemd=True)
def test_enabled_devices_under_systemd(guest: Guest, tools: Path, package: Path, tmp_path: Path) -> None:
    """A disk that is read all the time, and swap in use: no read fails and no page is lost, whatever dpkg does."""
    guest.restart_wanted = True  # one with systemd does not end as others do
    old, later = version(package), next_version(package, tmp_path / "later")
    product = Product(guest, INSTALLED, tools)
    active = ["active", "active"]

    product.strict(SLOW + INSTALL.format(package=package), timeout=SECONDS)
    product.strict(ENABLE, timeout=SECONDS)
    assert product.strict(UNITS).out.splitlines() == active
    wanted = [f"/usr/lib/systemd/system/{name}@.service" for name in ("truezram-disk", "truezram")]
    assert product.strict(TEMPLATES).out.splitlines() == wanted
    product.strict(READ + READS)
    hog = Hog(product, 40)
    hog.ask("fill")
    hog.ask("pageout")
    assert hog.ask("verify 1")["bad"] == "0"
    hog.ask("pageout")

    said = product.strict(INSTALL.format(package=later) + "cat dpkg.log", timeout=SECONDS).out
    assert "ublkb0 ublkb1 go on with the server of the version before" in said
    assert all(line.endswith("(deleted)") for line in product.strict(SERVED).out.splitlines())
    assert product.strict(UNITS).out.splitlines() == active
    replaced = [{"name": name, "before": old, "after": old, "replaced": True} for name in ("ublkb0", "ublkb1")]
    assert product.json("upgrade --all")["devices"] == replaced
    served = product.strict(SERVED + READS).out.splitlines()
    assert [bool(re.fullmatch(f"/{SERVER}", line)) for line in served] == [True, True]
    assert hog.ask("verify 1")["bad"] == "0"
    assert product.strict(UNITS).out.splitlines() == active

    # The units stop and start what another server serves now.
    product.strict(f"systemctl restart {SWAP}", timeout=SECONDS)
    assert product.strict(UNITS).out.splitlines() == active
    hog.ask("pageout")

    said = product.strict(REMOVE.format(how="r"), timeout=SECONDS).out
    for line in product.strict("grep -H '' /run/truezram/ublkb*.lock").out.splitlines():
        name, pid = re.findall(r"ublkb\d+|\d+", line)[:2]
        assert f"{name}, server {pid}" in said
    assert "sudo kill SERVER" in said
    product.strict(READS + KILL + READS)
    assert hog.ask("verify 1")["bad"] == "0"
    hog.ask("pageout")
    hog.ask("verify 1")
    product.strict(END_BY_HAND, timeout=SECONDS)
    assert hog.ask("verify 1")["bad"] == "0"
    hog.quit()
    product.strict(REMOVE.format(how="P"), timeout=SECONDS)
    assert product.strict(LEFT).out == ""
    check_log(guest)
