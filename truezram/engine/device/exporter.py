"""Metrics for Prometheus, through prometheus-client, which is imported here and nowhere else: as text, in a file for
node_exporter's textfile collector, or over HTTP."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truezram.engine.device.client import Client
from truezram.engine.device.metrics import Family, families
from truezram.engine.errors import Busy, Failed, PermissionDenied, Unsupported, UsageError

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

DEFAULT_HOST = "127.0.0.1"


def _library() -> Any:
    try:
        import prometheus_client.core
        import prometheus_client.exposition
    except ImportError:
        why = "the Python package prometheus-client is not installed"
        raise Unsupported("cannot export metrics", why, "Install it: pip install prometheus-client") from None
    return prometheus_client


def _of_library(family: Family) -> Metric:
    core = _library().core
    if family.type == "histogram":
        made: Metric = core.HistogramMetricFamily(family.name, family.about, labels=("device", "kind"))
        for labels, found in family.buckets:
            bounds = [("+Inf" if bound == float("inf") else repr(bound), count) for bound, count in found]
            made.add_metric(list(labels.values()), bounds, None)  # type: ignore[attr-defined]
        return made
    kind = core.CounterMetricFamily if family.type == "counter" else core.GaugeMetricFamily
    made = kind(family.name, family.about, labels=list(family.samples[0][0]))
    for labels, value in family.samples:
        made.add_metric(list(labels.values()), value)  # type: ignore[attr-defined]
    return made


class _Collector:
    """Looks at the devices each time that somebody asks."""

    def __init__(self) -> None:
        self._client = Client()
        self._lock = threading.Lock()  # a client is not for several threads at once

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            snapshot = self._client.snapshot(queues=False)
        yield from map(_of_library, families(snapshot))

    def close(self) -> None:
        self._client.close()


@contextlib.contextmanager
def _registry() -> Iterator[CollectorRegistry]:
    collector = _Collector()
    try:
        registry = _library().core.CollectorRegistry(auto_describe=False)
        registry.register(collector)
        yield registry
    finally:
        collector.close()


def text() -> str:
    """All metrics now, in Prometheus' text format. Raises `Unsupported` without prometheus-client."""
    with _registry() as registry:
        made: bytes = _library().exposition.generate_latest(registry)
    return made.decode()


def write(path: Path) -> int:
    """Writes them to a file, which is either the old one or the new one, as a whole, at every instant. The number of
    bytes. Raises `Failed`, `PermissionDenied`, `Unsupported`."""
    data = text().encode()
    # A name that node_exporter, which reads *.prom, does not read.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(file, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        kind = PermissionDenied if isinstance(error, PermissionError) else Failed
        raise kind(f"cannot write {path}", error.strerror or str(error), "Name a file in a folder of yours") from None
    return len(data)


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of ``127.0.0.1:9101``, ``[::1]:9101``, ``:9101`` (all addresses) or ``9101``. Raises
    `UsageError`."""
    host, colon, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f"invalid address {text[:60]!r}", "it does not end with a port", "Write 127.0.0.1:9101")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"invalid address {text[:60]!r}", "it is ambiguous", "Write [::1]:9101 for IPv6")
    return host or ("0.0.0.0" if colon else DEFAULT_HOST), int(port)


@contextlib.contextmanager
def serving(host: str, port: int) -> Iterator[int]:
    """Serves them at http://HOST:PORT/metrics while the context lasts; the port, which is a free one for 0. Raises
    `Busy`, `Failed`, `PermissionDenied`, `UsageError`, `Unsupported`."""
    what = f"cannot listen on {host}:{port}"
    exposition = _library().exposition
    with _registry() as registry:
        try:
            server, thread = exposition.start_http_server(port, host, registry)
        except socket.gaierror as error:
            raise UsageError(what, error.strerror or str(error), "Give an address of this machine") from None
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                raise Busy(what, why, "Choose another port") from None
            if error.errno == errno.EACCES:
                raise PermissionDenied(what, why, "Choose a port from 1024 on") from None
            raise Failed(what, why, "Give an address of this machine") from None
        try:
            yield int(server.server_port)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
