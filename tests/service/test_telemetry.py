"""Traces and metrics, as a collector gets them."""

from __future__ import annotations

import contextlib
import gzip
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis as syncredis
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.runtime import telemetry
from service.settings import Settings
from service.store.keys import Keys
from tests.service.auth_examples import add_key, bearer
from tests.service.service_examples import api_process, environment_of, learning_settings, recommend, talk, until
from tests.service.test_dev import free_port

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector:
    """What came over OTLP/HTTP."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []

    @property
    def spans(self) -> list[Span]:
        found = []
        for path, body in list(self.bodies):
            if path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        found += scope.spans
        return found

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def timed_routes(self) -> set[str]:
        found = set()
        for path, body in list(self.bodies):
            if path == "/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                        if metric.name == "http.server.request.duration":
                            found |= {attributes(point).get("http.route", "") for point in metric.histogram.data_points}
        return found


def attributes(of: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in of.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """One that runs; processes started from here export to it, quickly."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            packed = self.headers.get("content-encoding") == "gzip"
            collector.bodies.append((self.path, gzip.decompress(body) if packed else body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        exports_to(monkeypatch, server.server_address[1])
        yield collector
        server.shutdown()
        thread.join()


def exports_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")


def test_a_request_is_a_trace_that_names_nobody(
    settings: Settings, redis: syncredis.Redis, collector: Collector, tmp_path: Path
) -> None:
    told = settings.model_copy(update={"telemetry": "on", "auth": "on"})
    token = add_key(redis, Keys(settings.key_prefix), "serve", "feedback", "admin")
    with api_process(told, tmp_path / "log") as (_, client):
        client.headers.update(bearer(token) | {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
        recommend(client, "planted-user")
        assert client.get("/users/planted-user?planted-query=1").status_code == 200
        until(
            lambda: bool(collector.named("POST /recommend") and collector.named("GET /users/{user_id:opaque}")),
            "the spans",
        )
        until(lambda: "/recommend" in collector.timed_routes(), "the metrics")
    (user,) = collector.named("GET /users/{user_id:opaque}")
    (request,) = collector.named("POST /recommend")
    assert request.trace_id.hex() == TRACE, "the caller's trace goes on"
    given = attributes(request)
    assert (given["http.route"], given["http.response.status_code"]) == ("/recommend", 200)
    (draw,) = collector.named("draw")
    assert draw.parent_span_id == request.span_id and attributes(draw)["ialp.version"] == 1
    inside = {span.name for span in collector.spans if span.parent_span_id == request.span_id}
    assert {name: attributes(user)[name] for name in ("url.path", "url.query", "client.address")} == dict.fromkeys(
        ("url.path", "url.query", "client.address"), ""
    )
    assert inside == {"session", "draw", "log"}
    everything = b"".join(body for _, body in collector.bodies)
    for planted in (b"planted-user", b"planted-query", token.encode(), token.rsplit("_", 1)[1].encode()):
        assert planted not in everything, planted


def test_nor_does_one_that_fails(
    settings: Settings, redis: syncredis.Redis, collector: Collector, tmp_path: Path
) -> None:
    keys = Keys(settings.key_prefix)
    with api_process(settings.model_copy(update={"telemetry": "on"}), tmp_path / "log") as (_, client):
        redis.set(keys.events, "no stream")
        assert "impression_not_logged" in recommend(client, "planted-user")["warnings"]
        until(lambda: bool(collector.named("log")), "the span")
    assert "planted-user" not in str(collector.spans)
    (failed,) = collector.named("log")
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert (failed.status.message, len(failed.events)) == ("", 0)


def test_the_workers_steps_are_spans(settings: Settings, collector: Collector, tmp_path: Path) -> None:
    told = learning_settings(settings, telemetry="on")
    with api_process(told, tmp_path / "log") as (_, client):
        talk(client, 60)
        with worker_process(told, tmp_path / "worker") as process:
            until(
                lambda: all(collector.named(name) for name in ("learn", "judge", "publish", "checkpoint")), "the steps"
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    assert collector.named("judge")[0].parent_span_id == collector.named("publish")[0].span_id


def test_without_a_collector_it_serves_and_ends_all_the_same(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports_to(monkeypatch, free_port())
    with api_process(settings.model_copy(update={"telemetry": "on"}), tmp_path / "log") as (process, client):
        recommend(client, "ann")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_while_it_is_off_nothing_of_it_is_imported() -> None:
    program = "import sys, service.api.app, service.worker.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # redis-py itself imports the SDK where it is installed.
    ours = ("opentelemetry.exporter", "opentelemetry.instrumentation")
    assert "redis" in done.stdout.split() and not [m for m in done.stdout.split() if m.startswith(ours)]
    with telemetry.span("nothing", at="all"):
        pass


def test_it_says_what_is_missing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SEMCONV_STABILITY_OPT_IN", "OTEL_SERVICE_NAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(telemetry.TelemetryError, match=r"pip install 'ialp\[otel\]'"):
        telemetry.begin("api")


@contextlib.contextmanager
def worker_process(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        command = [sys.executable, "-m", "service", "worker"]
        process = subprocess.Popen(command, env=environment_of(settings), stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
