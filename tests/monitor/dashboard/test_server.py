"""The HTTP server: every address, its responses to failures, and its limits."""

import http.client
import json
import socket
import threading

import pytest

from ecdctr.monitor.allowed_hosts import AllowedHosts
from ecdctr.monitor.dashboard import Dashboard, Reason
from ecdctr.state.errors import ConfigError
from tests.support.waiting import PATIENCE_S, wait_for


def test_the_page_and_its_parts_are_served_and_may_load_nothing_else(make_site):
    site = make_site()
    status, headers, page = site.get("/")
    assert status == 200 and headers.get_content_type() == "text/html"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    for part in ("/dashboard.js", "/dashboard.css", "/charts.js", "/uplot.js", "/uplot.css", "/icon.svg"):
        status, headers, body = site.get(part)
        assert status == 200 and body, part
        assert b"https://" not in page
    assert b"MIT" in site.get("/uplot.LICENSE")[2]


def test_paths_outside_the_page_are_not_served(make_site):
    site = make_site()
    for path in ("/nothing", "/../server.py", "/%2e%2e/server.py", "/index.html", "/api/"):
        status, _, body = site.get(path)
        assert status == 404 and "error" in json.loads(body)
    assert site.get("/", method="POST")[0] == 501


def test_health_follows_progress(make_site):
    now = [0.0]
    site = make_site(watchdog_s=60, now=lambda: now[0])
    health = site.dashboard.health
    assert site.get("/healthz")[0] == 200
    status, _, body = site.get("/readyz")
    assert status == 503 and json.loads(body)["phase"] == "starting"

    health.enter("live")
    assert site.get("/readyz")[0] == 503, "the ends of the topics are not known yet"
    health.lag(0)
    assert site.get("/readyz")[0] == 200
    now[0] = 1000.0  # nothing to do, nothing done: well
    assert site.get("/healthz")[0] == 200
    health.lag(5)
    now[0] += 59
    assert site.get("/healthz")[0] == 200
    now[0] += 2
    status, _, body = site.get("/healthz")
    assert status == 503
    answer = json.loads(body)
    assert [(found["name"], found["sentence"]) for found in answer.pop("reasons")] == [
        ("stalled", answer["reason"])
    ]
    assert answer == {
        "status": "stalled",
        "reason": "5 records are waiting and no step was completed for 61 s (monitor.watchdog_s = 60)",
        "phase": "live",
        "lag_records": 5,
        "seconds_without_step": 61.0,
    }
    assert site.get("/readyz")[0] == 503
    health.condition(Reason.WAITING_FOR_DISK, "the disk is full")
    status, _, body = site.get("/healthz")
    answer = json.loads(body)
    assert (status, answer["status"]) == (200, "waiting_for_disk"), "a restart does not help"
    assert answer["reason"].startswith("the disk is full; 5 records are waiting")
    health.condition(Reason.WAITING_FOR_DISK, None)
    health.step()
    assert site.get("/healthz")[0] == 200
    assert json.loads(site.get("/readyz")[2])["status"] == "ok"

    health.enter("failed", "training has ended: out of memory")
    status, _, body = site.get("/healthz")
    assert status == 503 and "out of memory" in json.loads(body)["reason"]


def test_the_snapshot_and_its_sections(make_site, fake_monitor):
    site = make_site(fake_monitor)
    whole = json.loads(site.get("/api/snapshot")[2])
    assert whole["worker"]["version"] == "1.2.3"
    assert whole["series"]["1h"]["ad"]["arms"]["actr"]["gauc"][3] is None
    for name, section in whole.items():
        assert json.loads(site.get(f"/api/snapshot/{name}")[2]) == section
    status, _, body = site.get("/api/snapshot/nonsense")
    assert status == 404 and "drift" in json.loads(body)["error"]


def test_a_head_request_has_no_body(make_site):
    site = make_site()
    for path in ("/", "/metrics", "/healthz", "/api/snapshot", "/api/events"):
        status, headers, body = site.get(path, method="HEAD")
        assert status == 200 and body == b"" and headers["Content-Type"], path


class Events:
    """An open event stream."""

    def __init__(self, site) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE_S)
        self._connection.request("GET", "/api/events")
        self.answer = self._connection.getresponse()

    def next(self):
        name = None
        while line := self.answer.readline().decode().rstrip("\n"):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                return name, json.loads(line[6:])
        return self.next() if name is None and not self.answer.isclosed() else None

    def until(self, section: str):
        while (found := self.next())[0] != section:
            pass
        return found[1]

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


@pytest.fixture
def quick(make_site, fake_monitor):
    """A site that checks for changes often, so that tests need not wait."""
    return make_site(fake_monitor, refresh_s=0.05)


def test_events_send_all_sections_once_and_then_the_changed_ones(quick, fake_monitor):
    site = quick
    events = Events(site)
    assert events.answer.headers["Content-Type"] == "text/event-stream"
    first = {}
    while len(first) < 9:
        name, section = events.next()
        assert name not in first
        first[name] = section
    assert first.keys() == json.loads(site.get("/api/snapshot")[2]).keys()
    fake_monitor.alert()
    name, section = events.next()
    assert name == "alerts" and section["raised"][0]["rule"] == "miscalibrated-high"
    events.close()


@pytest.fixture
def limits(monkeypatch):
    """``limits(MAX_STREAMS=2)`` changes limits of the server that is made next."""

    def change(**values):
        for name, value in values.items():
            monkeypatch.setattr(f"ecdctr.monitor.dashboard.server.{name}", value)

    return change


def test_the_number_of_streams_is_limited_and_a_closed_page_releases_one(make_site, fake_monitor, limits):
    limits(MAX_STREAMS=2, KEEP_STREAM_S=1000.0)
    site = make_site(fake_monitor, refresh_s=0.05)
    open_ones = [Events(site), Events(site)]
    assert [e.answer.status for e in open_ones] == [200, 200]
    refused = Events(site)
    assert refused.answer.status == 503 and b"more than 2 event streams" in refused.answer.read()
    open_ones[0].close()

    def free() -> bool:
        fake_monitor.hours += 1  # something changes: writing to the closed page fails, and its place is free
        events = Events(site)
        events.close()
        return events.answer.status == 200

    wait_for(free)
    assert site.get("/healthz")[0] == 200


def test_case_s15_unread_streams_give_way_to_new_ones(make_site, fake_monitor, limits):
    limits(MAX_STREAMS=4, KEEP_STREAM_S=0.0)
    site = make_site(fake_monitor, refresh_s=0.05)
    unread = [Events(site) for _ in range(4)]
    page = Events(site)
    assert page.answer.status == 200
    assert page.until("worker")["version"] == "1.2.3"
    assert {e.answer.status for e in unread} == {200}
    while unread[0].answer.readline():
        pass  # the oldest one ends


def raw(site, data: bytes = b"") -> socket.socket:
    """An open connection that has sent some bytes."""
    client = socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_S)
    client.sendall(data)
    return client


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"GET /healthz HTTP/1.1\r\n\r\n"]
)
def test_case_s15_two_hundred_silent_clients_keep_nobody_out_and_take_few_threads(make_site, limits, sent):
    limits(MAX_CONNECTIONS=8)
    before = threading.active_count()
    site = make_site()
    silent = [raw(site, sent) for _ in range(200)]
    most = 0
    for path in ("/healthz", "/metrics", "/", "/api/snapshot"):
        assert site.get(path)[0] in (200, 503)
        most = max(most, threading.active_count())
    assert most <= before + 8 + 2, "its own thread, and one that is ending"
    for client in silent:
        client.close()


def test_case_s15_a_page_that_takes_nothing_is_disconnected(make_site, fake_monitor, limits):
    limits(STREAM_TIMEOUT_S=0.2)
    fake_monitor.alert(key="x" * 8_000_000)  # more than the buffers of a connection hold
    site = make_site(fake_monitor, refresh_s=0.05)
    unread = raw(site, b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    connections = site.dashboard._server.connections
    wait_for(lambda: len(connections) == 1)
    wait_for(lambda: len(connections) == 0)
    unread.close()


def test_case_s15_a_request_that_arrives_byte_by_byte_is_cut_off(make_site, limits):
    limits(REQUEST_TIMEOUT_S=0.3)
    site = make_site()
    slow = raw(site, b"GET / HTTP/1.1\r\n")

    def cut_off() -> bool:
        try:
            slow.sendall(b"x")
            slow.settimeout(0.05)
            return slow.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    wait_for(cut_off)
    slow.close()


@pytest.mark.parametrize(
    "name", ["evil.test", "evil.test:9108", "localhost.evil.test", "127.0.0.1.evil.test", ""]
)
@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/api/snapshot", "/api/events", "/nothing"])
def test_case_s15_a_page_of_another_site_that_points_its_name_here_reads_nothing(make_site, name, path):
    site = make_site(hosts=["ctr.example.com"])
    status, headers, body = site.get(path, headers={"Host": name})
    assert status == 403 and headers.get_content_type() == "application/json"
    error = json.loads(body)["error"]
    assert repr(name) in error and "monitor.allowed_hosts" in error


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:1",
        "10.1.2.3:9108",
        "[::1]:9108",
        "ctr.example.com.",
        "a.b.test",
    ],
)
def test_case_s15_addresses_and_allowed_names_are_answered(make_site, name):
    site = make_site(hosts=["ctr.example.com", ".b.test"])
    assert site.get("/metrics", headers={"Host": name})[0] == 200


def test_case_s15_the_name_that_the_server_listens_on_is_answered():
    hosts = AllowedHosts(bound="Trainer.internal.")
    assert hosts.allow("trainer.internal:9108") and not hosts.allow("internal")
    assert not AllowedHosts(bound="0.0.0.0").allow("")


def test_case_s15_one_of_two_host_headers_is_not_enough(make_site):
    client = raw(make_site(), b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n\r\n")
    assert b" 403 " in client.recv(100)
    client.close()


def test_closing_ends_open_streams(quick, fake_monitor):
    site = quick
    events = Events(site)
    events.until("worker")
    site.dashboard.close()
    while events.answer.readline():
        pass  # ends


def test_a_failing_monitor_does_not_affect_the_rest(quick, fake_monitor, caplog):
    site = quick
    before = json.loads(site.get("/api/snapshot")[2])
    fake_monitor.failure = RuntimeError("broken")

    def reported() -> bool:
        site.get("/api/snapshot")
        return any("no snapshot" in r.getMessage() for r in caplog.records)

    wait_for(reported)
    after = json.loads(site.get("/api/snapshot")[2])
    assert after["drift"] == before["drift"]
    assert b"ecdctr_healthy" in site.get("/metrics")[2]
    assert sum("no snapshot" in r.getMessage() for r in caplog.records) == 1


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        dashboard = Dashboard()
        with pytest.raises(ConfigError, match=rf":{port} .*set monitor\.port to another port, or to 0"):
            dashboard.serve("127.0.0.1", port)
        dashboard.close()


def test_it_listens_on_the_configured_address_only(make_site):
    site = make_site()
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex(("127.0.0.2", site.port)) != 0
