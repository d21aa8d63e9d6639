"""Stock Debian kernels with ublk for the device tests: fetched once by apt, unpacked in a cache, never installed.

The kernels come from the mirror that this machine's own apt is set up for (6.12 from bookworm-backports, 7.2 from sid),
with lists and cache of their own, so that the system's package sources stay as they are.

    python tests/device/kernels.py [6.12] [7.2]      fetches them ahead of the tests
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = "bookworm-backports sid"
KERNELS = {
    "6.12": r"linux-image-6\.12\.[0-9.]+\+deb12-cloud-amd64",
    # From 7.x on the image, the modules and the base files are packages of their own.
    "7.2": r"linux-binary-7\.[0-9.]+\+deb1[4-9]-cloud-amd64",
}


class KernelError(Exception):
    """A kernel cannot be had here; the text says why and what to do."""


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel: ``vmlinuz``, and ``modules`` such that ``modprobe -d modules`` finds ``release``."""

    id: str
    vmlinuz: Path
    modules: Path
    release: str


def cache_folder() -> Path:
    """Where the kernels are kept, made when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "truezram-kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(*command: str, cwd: Path | None = None, timeout: float = 600) -> str:
    """Standard output of a command; KernelError with its last words when it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise KernelError(f"{command[0]} is not on this machine; the kernels are fetched on Debian 12") from None
    except subprocess.TimeoutExpired:
        raise KernelError(f"{command[0]} did not end within {timeout:.0f} s") from None
    if done.returncode:
        raise KernelError(f"{' '.join(command)}: status {done.returncode}: {done.stderr.strip()[-600:]}")
    return done.stdout


def mirror() -> str:
    """Address of the Debian mirror that apt is set up for."""
    form = "$(REPO_URI) $(ORIGIN) $(CODENAME)"
    lines = run("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines()
    for line in lines:
        words = line.split()
        if len(words) == 3 and words[1] == "Debian" and words[2] in ("bookworm", "trixie", "sid"):
            return words[0]
    raise KernelError("apt knows no Debian mirror yet: run apt-get update (on Debian 12), then try again")


def apt_options(cache: Path) -> list[str]:
    """Options that give apt its own lists, cache and one source; the lists are brought up to date."""
    folder = cache / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    signed = f"Signed-By: {KEYRING}\n" if KEYRING.exists() else ""
    source = f"Types: deb\nURIs: {mirror()}\nSuites: {SUITES}\nComponents: main\n{signed}"
    (folder / "debian.sources").write_text(source)
    options = {
        "Dir::Etc::sourcelist": str(folder / "debian.sources"),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": str(folder / "lists"),
        "Dir::Cache": str(folder / "cache"),
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    return [f"-o{key}={value}" for key, value in options.items()]


def fetch(kernel: str, folder: Path, cache: Path) -> None:
    """Downloads and unpacks one kernel into ``folder``; leaves nothing half-made behind."""
    apt = apt_options(cache)
    run("apt-get", *apt, "-qq", "update")
    found = run("apt-cache", *apt, "search", "--names-only", f"^{KERNELS[kernel]}$")
    names = [line.split()[0] for line in found.splitlines() if line.strip()]
    if not names:
        raise KernelError(f"the mirror has no package {KERNELS[kernel]} (looked in {SUITES})")
    newest = max(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    packages = [newest]
    if "-binary-" in newest:
        packages += [newest.replace("-binary-", "-modules-"), newest.replace("-binary-", "-base-")]
    making = cache / f"{kernel}.making"
    shutil.rmtree(making, ignore_errors=True)
    (making / "deb").mkdir(parents=True)
    run("apt-get", *apt, "-qq", "download", *packages, cwd=making / "deb")
    for package in sorted((making / "deb").glob("*.deb")):
        run("dpkg-deb", "-x", str(package), str(making))
    shutil.rmtree(making / "deb")
    shutil.rmtree(folder, ignore_errors=True)
    making.rename(folder)


def describe(kernel: str, folder: Path) -> Kernel:
    """The unpacked kernel in ``folder``; makes its module index when it has none."""
    images = sorted([*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")])
    trees = [root for root in (folder, folder / "usr") if (root / "lib/modules").is_dir()]
    if not images or not trees:
        raise KernelError(f"{folder} holds no kernel: remove the folder and try again")
    release = sorted(path.name for path in (trees[0] / "lib/modules").iterdir())[0]
    if not (trees[0] / "lib/modules" / release / "modules.dep.bin").exists():
        run("/sbin/depmod", "-b", str(trees[0]), release)
    return Kernel(kernel, images[0], trees[0], release)


def get_kernel(kernel: str) -> Kernel:
    """The kernel, fetched when the cache lacks it. Raises KernelError. Several processes may call it at once."""
    cache = cache_folder()
    folder = cache / kernel
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            fetch(kernel, folder, cache)
        return describe(kernel, folder)


def main() -> int:
    """Fetches the kernels named on the command line, or all."""
    for kernel in sys.argv[1:] or list(KERNELS):
        if kernel not in KERNELS:
            print(f"kernels.py: no kernel {kernel}; there are {', '.join(KERNELS)}", file=sys.stderr)
            return 2
        try:
            print(f"{kernel}: {get_kernel(kernel).release}")
        except KernelError as error:
            print(f"kernels.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
