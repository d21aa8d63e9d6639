"""setup.py: planned, done, taken back, and all as before when it fails; the verb. (The decision: test_advice.py.)"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_boot import GIB, SWAP, left
from test_boot import machine as machine
from test_boot import made as made
from test_boot import values as values

from truezram.cli.main import main
from truezram.engine.device import boot, config, kernel_zram, setup
from truezram.engine.device.config import Config
from truezram.engine.device.options import CreateOptions
from truezram.engine.errors import Failed, NotFound
from truezram.engine.machine import advice

FACTS = advice.Facts(memory=8 * GIB, kernel="7.2", zswap="off", zram=True, ratio=3.0)


def test_set_up_and_take_back(machine: Path, made: dict[str, CreateOptions], values: Callable[[str], str]) -> None:
    plan = setup.plan(FACTS)
    assert plan.commands()[0] == "truezram create --size 8G --mem-limit 4G --id 0 --swap --enable"
    assert plan.commands()[1:] == ["truezram tune apply swappiness=150", "truezram enable machine"]
    done = setup.apply(plan)
    assert made == {"ublkb0": CreateOptions(8 * GIB, mem_limit=4 * GIB, id=0, swap=True)}
    assert values("swappiness") == "150"
    assert any("swappiness: 60 -> 150" in line for line in done)
    assert [item.name for item in setup.made()] == ["ublkb0", "machine"]
    setup.undo()
    assert (made, left(machine), values("swappiness")) == ({}, [], "60")
    with pytest.raises(NotFound):
        setup.undo()


def test_undo_leaves_what_the_user_made(
    machine: Path, made: dict[str, CreateOptions], values: Callable[[str], str]
) -> None:
    boot.create_enabled(SWAP)
    boot.enable(Config("machine", settings=(("page-cluster", "3"),)))
    done = setup.apply(setup.plan(FACTS))
    assert any("left alone" in line for line in done)
    setup.undo()
    assert config.names() == ["ublkb3", "machine"]
    assert list(made) == ["ublkb3"]


@pytest.mark.parametrize("kind", [Failed, KeyboardInterrupt])
def test_all_is_as_before_when_setting_up_fails(
    machine: Path,
    made: dict[str, CreateOptions],
    values: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BaseException],
) -> None:
    before = boot.enable

    def enable(wanted: Config) -> Any:
        if wanted.name == "machine":
            raise kind("it broke")
        return before(wanted)

    monkeypatch.setattr(boot, "enable", enable)
    with pytest.raises(kind):
        setup.apply(setup.plan(FACTS))
    assert (made, left(machine), values("swappiness")) == ({}, [], "60")


def test_zswap_is_settings_alone(machine: Path) -> None:
    plan = setup.plan(replace(FACTS, disk_swap=8 * GIB, disk_priority=-2))
    assert (plan.advice.use, plan.devices) == ("zswap", ())


def test_kernel_zram(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = setup.plan(FACTS, "zram")
    (device,) = plan.devices
    commands = "\n".join(plan.commands())
    assert f"echo {8 * GIB} > /sys/block/{device.name}/disksize" in commands
    assert f"swapon --discard --priority 100 /dev/{device.name}" in commands
    started: list[str] = []
    monkeypatch.setattr(kernel_zram, "is_on", lambda name: name in started)
    monkeypatch.setattr(kernel_zram, "start", lambda name, options: started.append(name))
    monkeypatch.setattr(kernel_zram, "stop", lambda name: started.remove(name))
    boot.enable(device)
    assert "zram" in boot.MODULES.read_text()
    assert boot.start(device.name) == "made"
    boot.disable(device.name, now=True)
    assert (started, [name for name in left(machine) if not name.endswith(".active")]) == ([], [])


def test_verb_setup(
    machine: Path,
    made: dict[str, CreateOptions],
    values: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(setup, "measured_facts", lambda ratio=None: FACTS)
    assert main(["setup", "--no-measure", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "3.00 to 1 (measured)" in said
    assert "truezram create --size 8G" in said
    assert main(["setup", "--no-measure"]) == 2  # nobody can be asked
    assert main(["setup", "--no-measure", "--json"]) == 2
    assert (made, left(machine)) == ({}, [])
    capsys.readouterr()
    assert main(["setup", "--no-measure", "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "truezram.setup/1"
    assert document["use"] == "truezram"
    assert document["devices"] == [{"name": "ublkb0", "values": {"size": 8 * GIB, "mem-limit": 4 * GIB, "swap": True}}]
    assert list(made) == ["ublkb0"]
    assert main(["setup", "undo", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == ["ublkb0", "machine"]
    assert main(["setup", "undo", "--yes"]) == 0
    assert main(["setup", "undo", "--yes"]) == 1
    assert (made, left(machine)) == ({}, [])


@pytest.mark.parametrize(("answer", "done"), [("y\n", True), ("yes\n", True), ("\n", False), ("", False)])
def test_it_asks(
    machine: Path,
    made: dict[str, CreateOptions],
    values: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    done: bool,
) -> None:
    monkeypatch.setattr(setup, "measured_facts", lambda ratio=None: FACTS)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: answer))
    assert main(["setup", "--no-measure"]) == 0
    assert bool(made) == done
