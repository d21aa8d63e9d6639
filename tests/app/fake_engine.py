"""The tests' engine: plays a recording one snapshot at a time, makes and removes devices in memory, and fails when
asked to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from truezram.app.backend.protocol import BenchResult, Capabilities, Estimate, Progress
from truezram.app.backend.recording import Recording
from truezram.app.backend.replay import Replay
from truezram.engine.answers import (
    Algorithm,
    ArenaCheck,
    Change,
    Check,
    PageMap,
    Recompressed,
    Scope,
    Tunable,
    WrittenBack,
)
from truezram.engine.device import settings
from truezram.engine.device.config import Config
from truezram.engine.device.options import CreateOptions, RecompressOptions, WritebackOptions
from truezram.engine.device.reset import Emptied
from truezram.engine.device.setup import Plan
from truezram.engine.errors import Busy, Failed
from truezram.engine.machine import advice
from truezram.engine.model import DeviceSnapshot, MachineSnapshot, Snapshot
from truezram.engine.transports import TRANSPORTS
from truezram.engine.units import format_exact, parse_size

ALGORITHMS = (
    Algorithm("lz4"),
    Algorithm("zstd", level_min=-7, level_max=19, level_default=3),
    Algorithm("turbo"),
)


class FakeEngine(Replay):
    """`script` maps a method's name to what happens when it is called: an exception to raise, or a function to call
    first."""

    def __init__(self, recording: Recording, capabilities: Capabilities | None = None) -> None:
        super().__init__(recording)
        self._capabilities = capabilities or Capabilities(algorithms=ALGORITHMS)
        self.script: dict[str, Exception | Callable[[], None]] = {}
        self.calls: list[tuple[object, ...]] = []
        self.made: list[DeviceSnapshot] = []
        self.gone: set[str] = set()
        self.emptied: set[str] = set()
        self.dead: set[str] = set()
        """Devices whose server and standby are gone."""
        self.recoveries: dict[str, int] = {}
        self.upgraded: set[str] = set()
        self.recompressing: set[str] = set()
        """Devices on which a recompression is at work."""
        self.settings: dict[tuple[str, str], str] = {}
        self.changes: list[Change] = []
        self.machine_values = {"vm.swappiness": "60", "vm.page-cluster": "3"}
        self.arena = ArenaCheck(
            source="ublkb0", live=True, version=2, state="live", uuid="0" * 32, generation=1, disksize=1 << 30,
            algorithm="lz4", pages=12000, same_filled=2000, dup_pages=0, objects=10000, payload_bytes=20 << 20,
            object_bytes=21 << 20, table_pages=24, populated_bytes=24 << 20,
        )  # fmt: skip
        self.release = threading.Event()
        """Set by a test to let a call that `hang` holds continue."""
        self.place = -1

    def _called(self, name: str, *args: object) -> None:
        self.calls.append((name, *args))
        action = self.script.get(name)
        if isinstance(action, Exception):
            raise action
        if action is not None:
            action()

    def hang(self) -> None:
        """For `script`: a call that does not come back."""
        self.release.wait(600)

    def snapshot(self) -> Snapshot:
        """The next snapshot, with what was made and removed since."""
        self._called("snapshot")
        self.place = min(self.place + 1, len(self.recording.snapshots) - 1)
        base = self.recording.snapshots[self.place]
        devices = [d for d in base.devices if d.name not in self.gone]
        devices += [replace(d, time=base.machine.time) for d in self.made if d.name not in self.gone]
        devices = [self._with_server(self._with_settings(d)) for d in devices]
        swappiness = int(self.machine_values["vm.swappiness"])
        return Snapshot(replace(base.machine, swappiness=swappiness), tuple(devices))

    def _with_server(self, device: DeviceSnapshot) -> DeviceSnapshot:
        if device.name not in self.dead | self.recoveries.keys():
            return device
        times = self.recoveries.get(device.name, 0)
        if device.name in self.dead:
            return replace(device, recoverable=True, recoveries=times, state="dead")
        return replace(device, recoverable=True, recoveries=times, pid=device.pid + times, standby=4711)

    def _with_settings(self, device: DeviceSnapshot) -> DeviceSnapshot:
        algorithm = self.settings.get((device.name, "algorithm"), device.algorithm)
        text = self.settings.get((device.name, "mem_limit"))
        limit = device.mem_limit if text is None else 0 if text == "none" else parse_size(text)
        if device.name in self.emptied:
            device = replace(device, orig_data_size=0, compr_data_size=0, mem_used_total=1 << 20)
        if device.name in self.recompressing:
            started, share = device.recompress_done + 1, 420
            device = replace(device, recompress_started=started, recompress_permille=share)
        return replace(device, algorithm=algorithm, mem_limit=limit)

    def capabilities(self) -> Capabilities:
        """What the test said."""
        self._called("capabilities")
        return self._capabilities

    def create(self, options: CreateOptions, progress: Progress) -> str:
        """An empty device."""
        self._called("create", options)
        prefix = TRANSPORTS[options.transport].prefix
        used = {d.name for d in self.recording.snapshots[0].devices} | {d.name for d in self.made}
        number = next(n for n in range(99) if f"{prefix}{n}" not in used) if options.id is None else options.id
        name = f"{prefix}{number}"
        progress(0.5, "starting the server")
        self.made.append(
            DeviceSnapshot(
                name=name, path=TRANSPORTS[options.transport].path(number), transport=options.transport,
                algorithm=options.algorithm or "", disksize=options.size, mem_limit=options.mem_limit,
                mem_used_total=1 << 20,
                swap_priority=(-2 if options.priority is None else options.priority) if options.swap else None,
                nr_queues=options.queues or 1, queue_depth=options.queue_depth or 128, created=2e9,
            )
        )  # fmt: skip
        return name

    def setup_plan(self, ratio: float | None) -> Plan:
        """As on a machine without swap, with ublk and recovery."""
        self._called("setup_plan", ratio)
        memory = self.recording.snapshots[0].machine.mem_total
        found = advice.advise(advice.Facts(memory=memory, kernel="7.2", zswap="off", zram=True, ratio=ratio))
        options = CreateOptions(found.size, mem_limit=found.mem_limit, swap=True, id=0)
        return Plan(
            advice=found, devices=(Config("ublkb0", options, origin="setup"),), settings=(("swappiness", "150"),)
        )

    def set_up(self, plan: Plan, progress: Progress) -> tuple[str, ...]:
        """Makes its devices."""
        self._called("set_up", plan)
        return tuple(self.create(device.options, progress) for device in plan.devices if device.options is not None)

    def remove(self, name: str, force: bool, progress: Progress) -> None:
        """Refuses a mounted device; swapoff takes ten steps."""
        self._called("remove", name, force)
        device = next((d for d in self.recording.snapshots[0].devices if d.name == name), None)
        if device and device.mountpoints and not force:
            raise Busy(f"cannot remove {name}", f"mounted on {device.mountpoints[0]}", "Unmount it first")
        for step in range(10):
            progress(step / 10, "swapoff")
            time.sleep(0.001)
        self.gone.add(name)

    def reset(self, name: str, progress: Progress) -> Emptied:
        """Ten steps; from the next snapshot on there is nothing on it."""
        self._called("reset", name)
        device = next(d for d in self.recording.snapshots[max(self.place, 0)].devices if d.name == name)
        for step in range(10):
            progress(step / 10, "discarding")
            time.sleep(0.001)
        self.emptied.add(name)
        return Emptied(name, device.path, (device.orig_data_size, 0), (device.mem_used_total, 1 << 20))

    def recover(self, name: str, progress: Progress) -> bool:
        """From the next snapshot on the device has a server again, if it had none."""
        self._called("recover", name)
        progress(None, "starting a server that takes over")
        dead = name in self.dead
        self.dead.discard(name)
        self.recoveries[name] = self.recoveries.get(name, 0) + dead
        return dead

    def upgrade(self, name: str, progress: Progress) -> str:
        """From 0.5.0 to 0.6.0, once."""
        self._called("upgrade", name)
        progress(None, "starting the installed server")
        before = name not in self.upgraded
        self.upgraded.add(name)
        return "0.5.0 → 0.6.0" if before else ""

    def tunables(self) -> tuple[Tunable, ...]:
        """Two of the machine's and two of every device, and those that gain something."""
        self._called("tunables")
        swap, cluster = self.machine_values["vm.swappiness"], self.machine_values["vm.page-cluster"]
        out = [
            Tunable(
                "vm.swappiness",
                current=swap,
                suggested="150",
                reason="swap in memory is cheap: prefer it to dropping caches",
                hint="0 to 200",
            ),
            Tunable(
                "vm.page-cluster",
                current=cluster,
                suggested="0",
                reason="no seek to save: read only what is asked for",
                hint="0 to 10",
            ),
        ]
        for device in self.recording.snapshots[max(self.place, 0)].devices:
            if device.name not in self.gone:
                current = self._with_settings(device)
                out.append(
                    Tunable(
                        "algorithm", device=device.name, current=current.algorithm, choices=("lz4", "zstd:3", "turbo")
                    )
                )
                out.append(
                    Tunable(
                        "mem_limit",
                        device=device.name,
                        current=format_exact(current.mem_limit) if current.mem_limit else "none",
                        hint="a size, or none for no limit",
                    )
                )
                out += [item for item in settings.tunables(current, MachineSnapshot()) if item.gain and current.ages]
        return tuple(out)

    def tune(self, device: str, key: str, value: str) -> None:
        """Kept; the machine's values are journalled."""
        self._called("tune", device, key, value)
        if device:
            self.settings[device, key] = value
            return
        if key not in self.machine_values:
            raise Failed(f"cannot set {key}", "there is no such setting")
        change = Change(len(self.changes) + 1, 1_790_000_000.0, key, self.machine_values[key], value)
        self.changes.append(change)
        self.machine_values[key] = value

    def journal(self) -> tuple[Change, ...]:
        """Newest first."""
        return tuple(reversed(self.changes))

    def undo(self, change_id: int) -> None:
        """Puts back."""
        self._called("undo", change_id)
        change = self.changes[change_id - 1]
        self.machine_values[change.key] = change.before
        self.changes[change_id - 1] = replace(change, undone=True)

    def page_map(self, name: str, first: int, pages: int, regions: int, by: str = "kind") -> PageMap:
        """The recorded one, cut to the regions asked for."""
        self._called("page_map", name)
        found = super().page_map(name, first, pages, regions, by)
        return replace(found, regions=found.regions[:regions])

    def recompress(self, name: str, options: RecompressOptions, progress: Progress) -> Recompressed:
        """Ten steps; the snapshots say that it is at work until it is stopped."""
        self._called("recompress", name, options)
        self.recompressing.add(name)
        for step in range(10):
            progress(step / 10, "idle pages take 1M less")
            time.sleep(0.001)
        return Recompressed(
            pages=10, saved=1 << 20, cpu_ns=10**6, stopped=False, before=2 << 20, after=1 << 20, seconds=1
        )

    def write_back(self, name: str, options: WritebackOptions, progress: Progress) -> WrittenBack:
        """At once."""
        self._called("write_back", name, options)
        return WrittenBack(
            pages=5, freed=9000, written=8192, returned=0, on_file=5, used=8192, cpu_ns=10**6, stopped=False,
            state="ready", why="", before=1 << 20, after=1 << 19, seconds=1.0,
        )  # fmt: skip

    def stop_recompress(self, name: str) -> bool:
        """There was one if it was begun here."""
        self._called("stop_recompress", name)
        there = name in self.recompressing
        self.recompressing.discard(name)
        return there

    def compact(self, name: str, progress: Progress) -> int:
        """Ten steps, and 3 MiB gained."""
        self._called("compact", name)
        for step in range(10):
            progress(step / 10, "packing segments")
            time.sleep(0.001)
        return 3 << 20

    def check_arena(self, name: str) -> ArenaCheck:
        """What the test says, or else a sound one."""
        self._called("check_arena", name)
        return self.arena

    def doctor(self) -> tuple[Check, ...]:
        """The recorded one."""
        self._called("doctor")
        return super().doctor()

    def estimate(self, scope: Scope, by: str, progress: Progress) -> Estimate:
        """The recorded one, the same as a partial result before."""
        self._called("estimate", scope, by)
        found = super().estimate(scope, by, progress)
        progress(0.5, "measuring", replace(found, complete=False))
        return replace(found, scope=scope, by=by)

    def benchmark(self, seconds: float, progress: Progress) -> BenchResult:
        """The recorded one, row by row."""
        self._called("benchmark", seconds)
        found = super().benchmark(seconds, progress)
        for number, row in enumerate(found.rows):
            progress(number / len(found.rows), row.codec, row)
        return found

    def store_benchmark(self, size: int, rounds: int, progress: Progress) -> BenchResult:
        """The recorded one, all rows at once before."""
        self._called("store_benchmark", size, rounds)
        found = super().store_benchmark(size, rounds, progress)
        progress(0.5, "overwriting", found.store)
        return found

    def device_benchmark(self, runtime: float, rounds: int, modes: Sequence[str], progress: Progress) -> BenchResult:
        """The recorded one, all rows at once before."""
        self._called("device_benchmark", runtime, rounds, tuple(modes))
        found = super().device_benchmark(runtime, rounds, modes, progress)
        progress(0.5, "round 3", found.devices)
        return found

    def tiers_benchmark(self, rounds: int, progress: Progress) -> BenchResult:
        """The recorded one, all rows at once before."""
        self._called("tiers_benchmark", rounds)
        found = super().tiers_benchmark(rounds, progress)
        progress(0.5, "mix", found.tiers)
        return found
