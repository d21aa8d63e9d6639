"""Metrics: against the devices that they are of, as Prometheus' own parser reads them; the file, the server, and the
dashboard; and a real Prometheus, where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG, FakeServer, make, wait_until
from prometheus_client.parser import text_string_to_metric_families

from truezram.cli import main
from truezram.engine.device import metrics
from truezram.engine.device.client import Client
from truezram.engine.device.exporter import parse_address
from truezram.engine.errors import Busy, UsageError
from truezram.engine.model import DeviceSnapshot, MachineSnapshot, QueueSnapshot, Snapshot, SwapArea, Zswap
from truezram.engine.rates import latency_floor
from truezram.engine.units import PAGE

ROOT = Path(__file__).parents[2]


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels. Every family has help and a type, and no sample is there twice."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter", "histogram")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def of(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[f"truezram_{name}", tuple(sorted(labels.items()))]


def test_what_is_exported_is_the_device(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    entry = make(id=3, mem_limit=1 << 29)
    assert main.main(["export"]) == 0
    found = parsed(capsys.readouterr().out)
    with Client() as client:
        device = client.device(entry)
    own = {"device": "local3", "kind": "truezram"}
    assert of(found, "device_up", **own) == 1
    assert of(found, "device_size_bytes", **own) == 1 << 30
    assert of(found, "device_orig_data_bytes", **own) == device.orig_data_size == 2000 * PAGE
    assert of(found, "device_mem_used_bytes", **own) == device.mem_used_total
    assert of(found, "device_mem_limit_bytes", **own) == 1 << 29
    assert of(found, "device_writes_total", **own) == 30
    assert of(found, "device_written_bytes_total", **own) == 300 * PAGE
    assert of(found, "device_write_latency_seconds_bucket", le="+Inf", **own) == 30
    assert of(found, "device_write_latency_seconds_bucket", le="4.096e-06", **own) == 0
    assert of(found, "device_write_latency_seconds_bucket", le="8.192e-06", **own) == 30
    parts = [value for (name, _), value in found.items() if name == "truezram_device_memory_bytes"]
    assert len(parts) == 6
    labels = {"transport": "local", "state": "live", "algorithm": "lz4"}
    assert of(found, "device_info", **own, **labels) == 1
    assert ("truezram_device_swap_used_bytes", tuple(sorted(own.items()))) not in found


def test_json_has_the_same(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    make(id=3)
    assert main.main(["export", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "truezram.export/1"
    main.main(["export"])
    names = {re.sub("_bucket$", "", name) for name, _ in parsed(capsys.readouterr().out)}
    assert {metric["name"] for metric in document["metrics"]} == names
    (size,) = (m for m in document["metrics"] if m["name"] == "truezram_device_size_bytes")
    assert size["type"] == "gauge"
    assert size["samples"] == [{"labels": {"device": "local3", "kind": "truezram"}, "value": 1 << 30}]


OURS = DeviceSnapshot(
    name="ublkb0", path="/dev/ublkb0", disksize=1 << 30, mem_limit=1 << 29, swap_priority=5, swap_used=4096,
    total=QueueSnapshot(read_lat=(0, 3, 0, 2), write_lat=(1,)),
)  # fmt: skip
ZRAM = replace(OURS, name="zram0", path="/dev/zram0", kind="zram")
ZSWAP = replace(OURS, name="zswap", path="/sys/module/zswap", kind="zswap", swap_priority=None)
AREA = SwapArea(path="/dev/ublkb0", type="partition", size=1 << 30, used=4096, priority=5)


def everything(zswap: Zswap | None = None) -> Snapshot:
    machine = MachineSnapshot(swaps=(AREA,), zswap=zswap or Zswap(enabled=True, stored_pages=7, pool_bytes=9))
    return Snapshot(machine, (OURS, ZRAM, ZSWAP))


def names_of(kind: str, snapshot: Snapshot) -> set[str]:
    return {
        family.name
        for family in metrics.families(snapshot)
        for labels, _ in [*family.samples, *((labels, 0) for labels, _ in family.buckets)]
        if labels.get("kind") == kind
    }


def test_nothing_is_0_that_was_not_measured() -> None:
    ours, zram, zswap = (names_of(kind, everything()) for kind in ("truezram", "zram", "zswap"))
    assert ours == {metric.name for metric in metrics.METRICS} | set(metrics.LATENCIES)
    assert zram < ours
    assert "truezram_device_server_cpu_seconds_total" not in zram
    assert "truezram_device_compr_data_bytes" in zram - zswap
    assert "truezram_device_orig_data_bytes" in zswap
    unseen = names_of("zswap", everything(Zswap(enabled=True)))
    assert zswap - unseen == {"truezram_device_orig_data_bytes", "truezram_device_mem_used_bytes"}
    dead = Snapshot(MachineSnapshot(), (replace(OURS, state="dead"),))
    assert names_of("truezram", dead) == {"truezram_device_up", "truezram_device_info"}


def test_names_follow_the_conventions() -> None:
    for family in metrics.families(everything()):
        assert re.fullmatch(r"truezram_[a-z0-9_]*[a-z0-9]", family.name)
        assert family.name.endswith("_total") == (family.type == "counter"), family.name
        assert not re.search(r"_(kib|mib|ms|ns|percent)(_|$)", family.name)
        assert family.about.endswith(".")


def test_buckets() -> None:
    """Ascending, cumulative, and each bin where it belongs."""
    histogram = [0] * 400
    for bin_ in range(5, 400, 7):
        histogram[bin_] = bin_
    found = metrics.buckets(tuple(histogram))
    assert found == sorted(found)
    assert found[-1] == (float("inf"), sum(histogram))
    for bound, count in found[:-1]:
        assert count == sum(n for bin_, n in enumerate(histogram) if latency_floor(bin_ + 1) <= bound * 1e9)


# --- the file


def test_the_file_is_replaced_as_a_whole(
    fake: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(id=3)
    path = tmp_path / "truezram.prom"
    assert main.main(["export", "--textfile", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.read_text()
    assert of(parsed(before), "device_up", device="local3", kind="truezram") == 1

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    for failing in (full, lambda file: signal.raise_signal(signal.SIGINT)):
        monkeypatch.setattr(os, "fsync", failing)
        assert main.main(["export", "--textfile", str(path)]) in (1, 130)
        assert path.read_text() == before
        assert [name.name for name in tmp_path.iterdir()] == ["truezram.prom"] or list(tmp_path.glob(".*")) == []
    monkeypatch.undo()


def test_a_file_that_cannot_be_written(tmp_path: Path, ordinary_user: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["export", "--textfile", str(tmp_path / "no/such.prom")]) == 1
    assert main.main(["export", "--textfile", "/proc/such.prom"]) in (1, 3)
    assert "cannot write /proc/such.prom" in capsys.readouterr().err


# --- over HTTP


@contextmanager
def exporting(*argv: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and its URL."""
    command = [sys.executable, "-P", "-m", "truezram", "export", "--listen", "127.0.0.1:0", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=HANG) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_serving(fake: FakeServer, number: int, code: int) -> None:
    with exporting() as (process, url):
        for count in (0, 1, 2):
            found = parsed(fetch(url))
            assert sum(
                name == "truezram_device_up" and dict(labels)["kind"] == "truezram" for name, labels in found
            ) == (count)
            make(id=count)
        process.send_signal(number)
        _, err = process.communicate(timeout=HANG)
    assert process.returncode == code
    assert err == ("truezram: interrupted\n" if code else "")


def test_an_address_in_use(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main.main(["export", "--listen", str(port)]) == Busy.exit_code
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_addresses() -> None:
    assert parse_address("9101") == ("127.0.0.1", 9101)
    assert parse_address(":9101") == ("0.0.0.0", 9101)
    assert parse_address("localhost:0") == ("localhost", 0)
    assert parse_address("[::1]:9101") == ("::1", 9101)
    for text in ("", "host", "1:2:3", "::1:9101", "127.0.0.1:99999", "127.0.0.1:-1"):
        with pytest.raises(UsageError, match="invalid address"):
            parse_address(text)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    assert main.main(["export"]) == 3
    assert "pip install prometheus-client" in capsys.readouterr().err


# --- the dashboard and the page


def test_the_dashboard_asks_for_what_there_is() -> None:
    board = json.loads((ROOT / "docs/grafana.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [
        variable["query"]["query"] for variable in board["templating"]["list"] if variable["name"] == "device"
    ]
    asked = {name for text in expressions for name in re.findall(r"\btruezram_\w+", text)}
    there = set()
    for family in metrics.families(everything()):
        there |= {f"{family.name}_bucket"} if family.type == "histogram" else {family.name}
    assert len(asked) > 15
    assert asked - there == set()
    labels = {label for text in expressions for label in re.findall(r"by \(([^)]*)\)", text)}
    known = {"device", "kind", "part", "tier", "step", "le", "path"}
    assert {word.strip() for label in labels for word in label.split(",")} <= known
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_page_has_them_all() -> None:
    command = [sys.executable, ROOT / "docs/make_metrics.py", "--check"]
    assert subprocess.run(command, timeout=HANG, check=False).returncode == 0, "run: python docs/make_metrics.py"


@pytest.mark.skipif(not shutil.which("prometheus") and not os.environ.get("CI"), reason="prometheus is not installed")
def test_a_real_prometheus(fake: FakeServer, tmp_path: Path) -> None:
    """It scrapes the exporter, keeps what it read, and takes every expression of the dashboard."""
    make(id=3)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api/v1/query?query="

    def ask(expression: str) -> list[Any]:
        try:
            document = json.loads(fetch(api + urllib.parse.quote(expression)))
        except (ConnectionError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code != 503:  # it is starting
                pytest.fail(f"{expression}: {error.read().decode()}")
            return []
        assert document["status"] == "success"
        found: list[Any] = document["data"]["result"]
        return found

    with exporting() as (_, url):
        target = url.removeprefix("http://").removesuffix("/metrics")
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
            f"scrape_configs: [{{job_name: truezram, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        command = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        process = subprocess.Popen(
            ["prometheus", *command, f"--web.listen-address=127.0.0.1:{port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until(lambda: bool(ask("truezram_device_writes_total")))
            assert ask('truezram_device_writes_total{device="local3"}')[0]["value"][1] == "30"
            quantile = "histogram_quantile(0.5, truezram_device_write_latency_seconds_bucket)"
            assert 4e-6 < float(ask(quantile)[0]["value"][1]) < 8.2e-6
            board = json.loads((ROOT / "docs/grafana.json").read_text())
            for panel in board["panels"]:
                for part in panel["targets"]:
                    ask(part["expr"].replace("$device", ".*").replace("$__rate_interval", "1m"))
        finally:
            process.kill()
            process.wait()
