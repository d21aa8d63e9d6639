"""Makes a recording of SIMULATED devices, for measure.py: as many snapshots a second, of as many devices, as it wants.
Tests, pictures and demos play recordings of real ones (record.py).

Marked as simulated in its header, and shown as such by the app. Deterministic: the same arguments, the same file.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from truezram.app.backend.recording import Header, Recorder
from truezram.engine.model import (
    DeviceSnapshot,
    MachineSnapshot,
    Pressure,
    QueueSnapshot,
    Snapshot,
    SwapArea,
    Zswap,
)

PAGE = 4096
GIB = 1 << 30
START = 1000.0
EPOCH = 1_790_000_000.0
ALGORITHMS = ("lz4", "zstd:3", "fast", "lz4", "turbo", "dense", "zstd:1", "lz4")
KIND_OF = {"lz4": "lz4", "zstd": "zstd", "fast": "fast", "turbo": "turbo", "dense": "dense"}


def lat_bin(ns: float) -> int:
    """stats.h, tz_lat_bin."""
    u = int(ns // 64)
    if u < 8:
        return u
    e = u.bit_length() - 1
    return min((e - 2) * 8 + ((u >> (e - 3)) & 7), 199)


class Simulated:
    """One device."""

    def __init__(self, number: int, rng: random.Random, swap: bool) -> None:
        self.number, self.rng, self.swap = number, rng, swap
        self.algorithm = ALGORITHMS[number % len(ALGORITHMS)]
        self.disksize = (8, 4, 2, 16, 1, 6, 12, 3)[number % 8] * GIB
        self.mem_limit = (0, 2, 0, 4, 0, 0, 3, 1)[number % 8] * GIB
        self.ratio = (2.9, 3.8, 2.4, 3.1, 2.2, 3.4, 3.6, 2.7)[number % 8]
        self.pages = int(self.disksize / PAGE * rng.uniform(0.15, 0.45))
        self.queues = [self._queue() for _ in range(1 + number % 4)]
        self.cpu_ns = 0
        self.peak = 0

    @staticmethod
    def _queue() -> dict[str, object]:
        return {"r": 0, "w": 0, "rp": 0, "wp": 0, "busy": 0, "rl": [0] * 200, "wl": [0] * 200, "drains": 0}

    def step(self, t: float) -> None:
        """One second."""
        rng = self.rng
        wave = 0.5 + 0.5 * math.sin(t / (11 + 3 * self.number) + self.number)
        burst = 4.0 if (int(t) + 7 * self.number) % 31 < 4 else 1.0
        for queue in self.queues:
            reads = int(9000 * wave * burst * rng.uniform(0.6, 1.2) / len(self.queues))
            writes = int(5200 * (1.1 - wave) * burst * rng.uniform(0.5, 1.3) / len(self.queues) / 8)
            queue["r"] += reads  # type: ignore[operator]
            queue["w"] += writes  # type: ignore[operator]
            queue["rp"] += reads  # type: ignore[operator]
            queue["wp"] += writes * 8  # type: ignore[operator]
            queue["drains"] += (reads + writes) // 3  # type: ignore[operator]
            for bins, count, middle in (("rl", reads, 1900.0), ("wl", writes, 21000.0)):
                for _ in range(60):
                    place = lat_bin(rng.lognormvariate(math.log(middle * burst**0.3), 0.55))
                    queue[bins][place] += max(count // 60, 0)  # type: ignore[index]
            busy = int(reads * 1900 + writes * 21000)
            queue["busy"] += min(busy, 990_000_000)  # type: ignore[operator]
            self.cpu_ns += min(busy, 990_000_000)
            self.pages += int(writes * 8 * rng.uniform(-0.35, 0.42))
        self.pages = max(1000, min(self.pages, self.disksize // PAGE))
        self.ratio += rng.uniform(-0.02, 0.02)

    def snapshot(self, t: float) -> DeviceSnapshot:
        """Now."""
        same, huge = int(self.pages * 0.11), int(self.pages * 0.03)
        orig = self.pages * PAGE
        compr = int((orig - same * PAGE) / self.ratio)
        table = self.pages * 8
        objects = compr + (self.pages - same) * 15
        segments = int(objects * 1.01)
        overhead = segments // 512
        used = segments + table + overhead + (1 << 20)
        if self.mem_limit:
            used = min(used, self.mem_limit - (1 << 20))
        self.peak = max(self.peak, used)
        compressed = self.pages - same - huge
        sizes = [0] * 65
        for _ in range(400):
            i = int(max(0, min(63, self.rng.gauss(4096 / self.ratio / 64, 9))))
            sizes[i] += compressed // 400
        sizes[64] = huge
        queues = tuple(
            QueueSnapshot(
                num_reads=q["r"], num_writes=q["w"], pages_read=q["rp"], pages_written=q["wp"], drains=q["drains"],  # type: ignore[arg-type]
                busy_ns=q["busy"], read_lat=tuple(q["rl"]), write_lat=tuple(q["wl"]), cpu=i, tid=4000 + i,  # type: ignore[arg-type]
                swap_writes=q["w"] if self.swap else 0,  # type: ignore[arg-type]
            )
            for i, q in enumerate(self.queues)
        )  # fmt: skip

        def total(name: str) -> int:
            return sum(getattr(q, name) for q in queues)

        def bins(name: str) -> tuple[int, ...]:
            return tuple(sum(column) for column in zip(*(getattr(q, name) for q in queues), strict=True))

        names = ("num_reads", "num_writes", "pages_read", "pages_written", "drains", "busy_ns", "swap_writes")
        summed = QueueSnapshot(
            **{n: total(n) for n in names}, read_lat=bins("read_lat"), write_lat=bins("write_lat"),
            compress_ns=total("pages_written") * 2100, decompress_ns=total("pages_read") * 700,
        )  # fmt: skip
        name = self.algorithm.partition(":")[0]
        return DeviceSnapshot(
            name=f"ublkb{self.number}", path=f"/dev/ublkb{self.number}", pid=3000 + self.number, created=EPOCH - 4000,
            time=t, algorithm=self.algorithm, isa="avx512", disksize=self.disksize, mem_limit=self.mem_limit,
            orig_data_size=orig, compr_data_size=compr, mem_used_total=used, mem_used_max=self.peak, table_bytes=table,
            segment_bytes=segments, object_bytes=objects, overhead_bytes=overhead, reserve_bytes=1 << 20,
            reserve_target=1 << 20, same_pages=same, huge_pages=huge, pages_compacted=self.pages // 50, total=summed,
            queues=queues, queue_depth=128, nr_queues=len(queues),
            kind_pages=(("empty", self.disksize // PAGE - self.pages), ("same", same), ("huge", huge),
                        (KIND_OF[name], compressed)),
            size_pages=tuple(sizes), memory_locked=True, noswap_tmpfs=True, io_flusher=True,
            swap_priority=100 if self.swap else None, swap_used=orig if self.swap else 0,
            mountpoints=() if self.swap else (("/srv/cache",) if self.number == 1 else ()), server_cpu_ns=self.cpu_ns,
        )  # fmt: skip


def machine(t: float, devices: list[DeviceSnapshot]) -> MachineSnapshot:
    """A machine with 24 GiB."""
    used = sum(d.mem_used_total for d in devices)
    swap = [d for d in devices if d.swap_priority is not None]
    return MachineSnapshot(
        time=t, mem_total=24 * GIB, mem_available=max(11 * GIB - used // 2, GIB),
        swap_total=sum(d.disksize for d in swap),
        swap_free=sum(d.disksize - d.swap_used for d in swap),
        swaps=tuple(
            SwapArea(path=d.path, type="partition", size=d.disksize, used=d.swap_used, priority=100) for d in swap
        ),
        pressure=Pressure(3.0 + 2 * math.sin(t / 9), 0.4, 1.2, 8.5),
        zswap=Zswap(enabled=False, compressor="lzo", max_pool_percent=20), swappiness=60,
        page_cluster=3, cpus=8, kernel="6.12.95",
    )  # fmt: skip


def snapshots(
    count: int, seconds: int, seed: int = 7, hz: int = 1, gap: tuple[int, int] | None = None
) -> list[Snapshot]:
    """`count` devices for `seconds`; nothing is taken between the seconds of `gap`."""
    rng = random.Random(seed)
    devices = [Simulated(i, rng, swap=i == 0) for i in range(count)]
    out = []
    for tick in range(seconds * hz):
        t = START + tick / hz
        if tick % hz == 0:
            for device in devices:
                device.step(t)
        if gap and gap[0] <= tick / hz < gap[1]:
            continue
        taken = [device.snapshot(t) for device in devices]
        out.append(Snapshot(machine(t, taken), tuple(taken)))
    return out


def write(path: Path, taken: list[Snapshot], note: str) -> None:
    """Writes them as a recording marked as simulated."""
    recorder = Recorder(path, Header("simulated", note, EPOCH))
    for snapshot in taken:
        recorder.snapshot(snapshot)
    recorder.close()


if __name__ == "__main__":
    target, devices, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    write(target, snapshots(devices, seconds), f"{devices} devices made up by tests/app/simulate.py")
