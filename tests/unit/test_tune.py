"""tune.py and journal.py on made-up trees: suggestions, changes that are all or nothing, undoing, damaged journals."""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truezram.cli.verbs import tune as verb
from truezram.engine.errors import Busy, Failed, NotFound, PermissionDenied, TruezramError, Unsupported, UsageError
from truezram.engine.machine import tune
from truezram.engine.machine.journal import Journal, state_dir

VALUES = {
    "swappiness": ("proc/sys/vm/swappiness", "60"),
    "page-cluster": ("proc/sys/vm/page-cluster", "3"),
    "watermark-scale-factor": ("proc/sys/vm/watermark_scale_factor", "10"),
    "zswap": ("sys/module/zswap/parameters/enabled", "Y"),
    "wbt.ublkb0": ("sys/block/ublkb0/queue/wbt_lat_usec", "2000"),
    "wbt.ublkb12": ("sys/block/ublkb12/queue/wbt_lat_usec", "0"),
}
UBLK, ZRAM, DISK = "/dev/ublkb0 partition 9 1 100", "/dev/zram0 partition 9 1 100", "/dev/vda2 partition 9 0 -2"


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def swap(root: Path, *lines: str) -> None:
    put(root, "proc/swaps", "\n".join(["Filename Type Size Used Priority", *lines]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = tmp_path / "root"
    for name, value in VALUES.values():
        put(tree, name, value)
    put(tree, "proc/sys/kernel/osrelease", "6.12.0")
    put(tree, "proc/sys/kernel/random/boot_id", "boot-1")
    (tree / "sys/block/vda/queue").mkdir(parents=True)
    swap(tree, UBLK)
    return tree


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state")


def now(root: Path, key: str) -> str:
    return (root / VALUES[key][0]).read_text().strip()


def snapshot(root: Path) -> dict[str, str]:
    return {key: now(root, key) for key in VALUES}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([UBLK], {"swappiness": "150", "page-cluster": "3", "watermark-scale-factor": "125", "zswap": "N"}),
        ([ZRAM], {"swappiness": "150", "page-cluster": "0", "watermark-scale-factor": "125", "zswap": "N"}),
        ([UBLK, DISK], {"swappiness": "100", "page-cluster": "3", "watermark-scale-factor": "125", "zswap": "N"}),
        ([DISK], {"swappiness": "", "page-cluster": "", "watermark-scale-factor": "", "zswap": ""}),
        ([], {"swappiness": "", "page-cluster": "", "watermark-scale-factor": "", "zswap": ""}),
    ],
)
def test_suggestions_follow_from_how_the_machine_swaps(root: Path, lines: list[str], expected: dict[str, str]) -> None:
    swap(root, *lines)
    found = {item.key: item for item in tune.tunables(root)}
    assert list(found) == list(VALUES)
    assert {key: found[key].suggested for key in expected} == expected
    assert found["wbt.ublkb0"].suggested == "0"
    for key, item in found.items():
        assert item.current == VALUES[key][1]
        assert item.reason
        assert item.hint
        assert item.path == "/" + VALUES[key][0]
        assert item.differs == (item.suggested not in ("", item.current))


@pytest.mark.parametrize(("kib", "suggested"), [(18, "Y"), (20, "")])
def test_zswap_is_suggested_where_setup_would_have_it(root: Path, kib: int, suggested: str) -> None:
    """In front of swap on disk that is worth it (here 9 KiB), unless there is compressed swap."""
    put(root, "proc/meminfo", f"MemTotal: {kib} kB")
    put(root, "sys/module/zswap/parameters/shrinker_enabled", "N")
    swap(root, DISK)
    found = {item.key: item.suggested for item in tune.tunables(root)}
    assert (found["zswap"], found["zswap-shrinker"]) == (suggested, suggested)
    found = {item.key: item.suggested for item in tune.tunables(root, use="truezram")}
    assert (found["zswap"], found["zswap-shrinker"], found["swappiness"]) == ("N", "", "100")


def test_what_is_not_there_is_not_listed(root: Path) -> None:
    (root / VALUES["zswap"][0]).unlink()
    (root / VALUES["wbt.ublkb0"][0]).unlink()
    assert [item.key for item in tune.tunables(root)] == [
        "swappiness",
        "page-cluster",
        "watermark-scale-factor",
        "wbt.ublkb12",
    ]


def test_apply_all_and_undo_all(root: Path, journal: Journal) -> None:
    before = snapshot(root)
    changes = tune.apply([], root, journal)
    assert [(change.key, change.before, change.after) for change in changes] == [
        ("swappiness", "60", "150"),
        ("watermark-scale-factor", "10", "125"),
        ("zswap", "Y", "N"),
        ("wbt.ublkb0", "2000", "0"),
    ]
    assert snapshot(root) == before | {change.key: change.after for change in changes}
    assert tune.apply([], root, journal) == []
    undone = tune.undo([], root=root, journal=journal)
    assert [item.change.id for item in undone] == [4, 3, 2, 1]
    assert snapshot(root) == before
    assert tune.undo([], root=root, journal=journal) == []
    assert all(change.undone for change in tune.history(root, journal)[0])


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("swappiness=0", "swappiness", "0"),
        ("vm.swappiness = 200 ", "swappiness", "200"),
        ("page_cluster=00", "page-cluster", "0"),
        ("zswap=off", "zswap", "N"),
        ("zswap.enabled=0", "zswap", "N"),
        ("wbt.ublkb0=75", "wbt.ublkb0", "75"),
        ("swappiness", "swappiness", "150"),
    ],
)
def test_apply_one(root: Path, journal: Journal, text: str, key: str, value: str) -> None:
    (change,) = tune.apply([text], root, journal)
    assert (change.key, change.after, now(root, key)) == (key, value, value)


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        (["swappiness=201"], UsageError),
        (["swappiness=-1"], UsageError),
        (["swappiness="], UsageError),
        (["swappiness=1e2"], UsageError),
        (["swappiness=٣"], UsageError),
        (["page-cluster=11"], UsageError),
        (["watermark-scale-factor=0"], UsageError),
        (["zswap=maybe"], UsageError),
        (["swappiness=1", "vm.swappiness=2"], UsageError),
        (["nonsense=1"], NotFound),
        (["../../etc/passwd=1"], NotFound),
        (["wbt.vda=1"], NotFound),
        (["wbt.ublkb7=1"], Unsupported),
        (["swappiness=10", "page-cluster=99"], UsageError),
    ],
)
def test_bad_requests_touch_nothing(root: Path, journal: Journal, texts: list[str], error: type[TruezramError]) -> None:
    before = snapshot(root)
    with pytest.raises(error):
        tune.apply(texts, root, journal)
    assert snapshot(root) == before
    assert not journal.path.exists()


def test_no_suggestion_needs_a_value(root: Path, journal: Journal) -> None:
    swap(root)
    with pytest.raises(UsageError, match="no value"):
        tune.apply(["swappiness"], root, journal)


def test_older_kernels_allow_less(root: Path, journal: Journal) -> None:
    put(root, "proc/sys/kernel/osrelease", "5.4.0")
    with pytest.raises(UsageError, match="0 to 100"):
        tune.apply(["swappiness=101"], root, journal)


def test_a_failing_change_takes_the_others_back(root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(root)
    write = tune._write

    def refuse(setting: tune._Setting, value: str, where: Path) -> None:
        if setting.key == "zswap":
            raise Failed("cannot set zswap", "no such device")
        write(setting, value, where)

    monkeypatch.setattr(tune, "_write", refuse)
    with pytest.raises(Failed, match="no such device"):
        tune.apply(["swappiness=1", "page-cluster=1", "zswap=N"], root, journal)
    assert snapshot(root) == before
    changes, damaged = journal.read()
    assert [(change.key, change.undone) for change in changes] == [
        ("swappiness", True),
        ("page-cluster", True),
        ("zswap", True),
    ]
    assert damaged == []


def test_a_value_the_kernel_does_not_take_is_noticed(root: Path, journal: Journal) -> None:
    (root / VALUES["swappiness"][0]).unlink()
    (root / VALUES["swappiness"][0]).symlink_to("/dev/null")
    with pytest.raises(Failed, match="the kernel shows"):
        tune._write(tune._setting("swappiness", root), "10", root)


def test_not_permitted(root: Path, journal: Journal, ordinary_user: None) -> None:
    (root / VALUES["swappiness"][0]).chmod(0o444)
    with pytest.raises(PermissionDenied):
        tune.apply(["swappiness=1"], root, journal)


def test_read_only_is_refused_before_anything_is_touched(
    root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: "swappiness" not in str(path))
    assert [item.key for item in tune.tunables(root) if item.readonly] == ["swappiness"]
    with pytest.raises(PermissionDenied, match="swappiness"):
        tune.apply(["page-cluster=1", "swappiness=1"], root, journal)
    assert snapshot(root) == {key: value for key, (_, value) in VALUES.items()}
    # What has no better value, or cannot be set, is left out when everything is applied.
    assert "swappiness" not in [change.key for change in tune.apply([], root, journal)]


# ---- undo ----


def test_undo_one_of_several(root: Path, journal: Journal) -> None:
    tune.apply(["swappiness=100", "page-cluster=1"], root, journal)
    tune.apply(["swappiness=120"], root, journal)
    with pytest.raises(Busy, match="is 120 now, not 100") as caught:
        tune.undo(["#1"], root=root, journal=journal)
    assert caught.value.exit_code == 4
    assert now(root, "swappiness") == "120"
    assert [item.change.id for item in tune.undo(["page_cluster"], root=root, journal=journal)] == [2]
    assert [item.change.id for item in tune.undo(["3"], root=root, journal=journal)] == [3]
    assert now(root, "swappiness") == "100"
    assert [item.change.id for item in tune.undo(["swappiness"], root=root, journal=journal)] == [1]
    assert snapshot(root) == {key: value for key, (_, value) in VALUES.items()}
    with pytest.raises(NotFound):
        tune.undo(["swappiness"], root=root, journal=journal)


def test_undo_does_not_override_others_unless_forced(root: Path, journal: Journal) -> None:
    tune.apply(["swappiness=100", "page-cluster=0"], root, journal)
    put(root, VALUES["swappiness"][0], "77")
    with pytest.raises(Busy, match="77 now"):
        tune.undo([], root=root, journal=journal)
    assert (now(root, "swappiness"), now(root, "page-cluster")) == ("77", "0"), "nothing was touched"
    tune.undo([], force=True, root=root, journal=journal)
    assert (now(root, "swappiness"), now(root, "page-cluster")) == ("60", "3")


def test_undo_when_it_is_gone_or_already_so(root: Path, journal: Journal) -> None:
    tune.apply(["swappiness=100", "wbt.ublkb0=0"], root, journal)
    put(root, VALUES["swappiness"][0], "60")
    (root / VALUES["wbt.ublkb0"][0]).unlink()
    notes = [item.note for item in tune.undo([], root=root, journal=journal)]
    assert notes == ["it is no longer there", "it had that value already"]


def test_a_restart_has_undone_everything(root: Path, journal: Journal) -> None:
    tune.apply(["swappiness=100"], root, journal)
    put(root, "proc/sys/kernel/random/boot_id", "boot-2")
    put(root, VALUES["swappiness"][0], "60")
    assert tune.undo([], root=root, journal=journal) == []
    assert [change.undone for change in tune.history(root, journal)[0]] == [True]


def test_a_forged_journal_writes_no_nonsense(root: Path, journal: Journal) -> None:
    with journal.locked():
        journal.add("swappiness", "60\n/etc/x", "60", "boot-1")
    with pytest.raises(Failed, match="in the journal"):
        tune.undo([], root=root, journal=journal)
    with journal.locked():
        journal.add("../x", "1", "2", "boot-1")
    with pytest.raises(NotFound):
        tune.undo(["#2"], root=root, journal=journal)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["swappiness", "page-cluster"]), st.integers(0, 10)), max_size=8))
def test_undoing_everything_restores_everything(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    where = tmp_path_factory.mktemp("undo")
    tree, journal = where / "root", Journal(where / "state")
    for name, value in VALUES.values():
        put(tree, name, value)
    put(tree, "proc/sys/kernel/random/boot_id", "b")
    put(tree, "proc/sys/kernel/osrelease", "6.12")
    before = snapshot(tree)
    for key, number in steps:
        tune.apply([f"{key}={number}"], tree, journal)
        assert now(tree, key) == str(number)
    tune.undo([], root=tree, journal=journal)
    assert snapshot(tree) == before


# ---- journal ----


def test_journal_survives_damage(journal: Journal) -> None:
    with journal.locked():
        first = journal.add("a", "1", "2", "b")
    with journal.path.open("a") as file:
        file.write('nonsense\n[1]\n{"id": true}\n{"undone": 77}\n{"id": 9, "time": 1}\n\n{"id": 5, "ti')
    with journal.locked():
        second = journal.add("a", "2", "3", "b")
        journal.mark_undone(first)
    changes, damaged = journal.read()
    assert [(change.id, change.undone) for change in changes] == [(first.id, True), (second.id, False)]
    assert second.id == first.id + 1
    assert damaged == [2, 3, 4, 5, 6, 8]


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_journal_of_garbage(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    journal = Journal(tmp_path_factory.getbasetemp() / "garbage")
    journal.path.parent.mkdir(exist_ok=True)
    journal.path.write_bytes(data)
    journal.read()
    with journal.locked():
        change = journal.add("k", "a", "b", "c")
    assert change in journal.read()[0]


def test_journal_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="journal"), Journal(tmp_path / "file").locked():
        pass
    (tmp_path / "state").mkdir()
    (tmp_path / "state/journal.jsonl").symlink_to(tmp_path / "file")
    with pytest.raises(Failed, match="journal"), Journal(tmp_path / "state").locked():
        pass


def test_state_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRUEZRAM_STATE_DIR", raising=False)
    assert state_dir() == Path("/var/lib/truezram")
    monkeypatch.setenv("TRUEZRAM_STATE_DIR", "/x/y")
    assert Journal().path == Path("/x/y/journal.jsonl")


# ---- the verb ----


@pytest.fixture
def here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The verb works on the made-up tree."""
    monkeypatch.setenv("TRUEZRAM_STATE_DIR", str(tmp_path / "state"))
    names = ("tunables", "preview", "apply", "undo", "history")
    functions = {name: functools.partial(getattr(tune, name), root=root) for name in names}
    monkeypatch.setattr(verb, "tune", SimpleNamespace(**functions))
    return root


def run(capsys: pytest.CaptureFixture[str], *words: str, as_json: bool = False) -> str:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    args = parser.parse_args(list(words))
    args.json = as_json
    assert verb.run(args) == 0
    return capsys.readouterr().out


def test_verb(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = run(capsys)
    assert any(line.split()[:4] == ["machine", "swappiness", "60", "150"] for line in listed.splitlines())
    assert "sudo truezram tune apply" in listed
    assert "swappiness: 60 would become 150" in run(capsys, "apply", "--dry-run")
    assert now(here, "swappiness") == "60"
    assert "swappiness: 60 -> 90" in run(capsys, "apply", "swappiness=90")
    assert "in force" in run(capsys, "journal")
    assert "swappiness: 90 -> 60" in run(capsys, "undo")
    assert "put back" in run(capsys, "journal")
    assert "No change is in force" in run(capsys, "undo")


def test_verb_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(run(capsys, as_json=True))
    assert listed["schema"] == "truezram.tune/1"
    (swappiness,) = (item for item in listed["settings"] if item["key"] == "swappiness")
    assert (swappiness["current"], swappiness["suggested"], swappiness["differs"]) == ("60", "150", True)
    planned = json.loads(run(capsys, "apply", "zswap", "--dry-run", as_json=True))
    assert planned["changes"] == [{"key": "zswap", "before": "Y", "after": "N"}]
    applied = json.loads(run(capsys, "apply", "zswap", as_json=True))
    assert (applied["changes"][0]["id"], applied["changes"][0]["undone"]) == (1, False)
    assert json.loads(run(capsys, "undo", as_json=True))["undone"][0]["key"] == "zswap"
    assert json.loads(run(capsys, "journal", as_json=True))["changes"][0]["undone"] is True


@pytest.mark.parametrize(
    "words",
    [["list", "swappiness"], ["journal", "x"], ["undo", "--dry-run"], ["apply", "--force"], ["list", "--dry-run"]],
)
def test_verb_refuses_options_that_would_do_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(UsageError):
        run(capsys, *words)
