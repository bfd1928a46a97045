"""Delivery of alerts: once, in order, to every channel, independent of each other, without revealing secrets."""

import http.server
import json
import logging
import threading

import pytest

from ecdctr.monitor.alerts.delivery import AlertDelivery, webhook
from tests.support.waiting import PATIENCE_S, wait_for

ALERT = {"key": "drift category", "status": "raised", "what": "category has moved", "value": 0.41}


class Hook:
    """The server of a webhook: responds with the given codes, then with 200."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[dict] = []
        self.hang = threading.Event()
        self.hang.set()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.hang.wait(30)
                code = hook.answers.pop(0) if hook.answers else 200
                if code == 200:
                    hook.got.append(json.loads(body))
                self.send_response(code)
                if code in (301, 302, 307):
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/t0ken?key=s3cret"


@pytest.fixture
def hook():
    hook = Hook()
    yield hook
    hook.hang.set()
    hook.server.shutdown()
    hook.server.server_close()


def deliver(channels, alerts, **options) -> list[tuple[str, str]]:
    outcomes: list[tuple[str, str]] = []
    delivery = AlertDelivery(channels, outcome=lambda c, what: outcomes.append((c, what)), **options)
    for alert in alerts:
        delivery.send(alert)
    delivery.close(PATIENCE_S)
    return outcomes


def test_a_webhook_gets_each_alert_in_order(hook):
    alerts = [ALERT | {"key": str(i)} for i in range(5)]
    assert deliver({"webhook": webhook(hook.url, 30)}, alerts) == [("webhook", "sent")] * 5
    assert hook.got == alerts


def test_a_failing_webhook_is_retried_and_then_abandoned(hook, caplog):
    hook.answers = [500, 503]
    send = webhook(hook.url, 30)
    assert deliver({"webhook": send}, [ALERT], waits_s=(0.01, 0.01)) == [("webhook", "sent")]
    assert hook.got == [ALERT]
    hook.answers = [500] * 3
    assert deliver({"webhook": send}, [ALERT], waits_s=(0.01, 0.01)) == [("webhook", "failed")]
    assert "abandoned" in caplog.text and "HTTP 500" in caplog.text


@pytest.mark.parametrize("wrong", ["answer", "refused", "redirect", "timeout"])
def test_the_address_is_never_logged(hook, caplog, wrong):
    caplog.set_level(logging.DEBUG)
    url = hook.url
    if wrong == "refused":
        url = "http://127.0.0.1:9/services/t0ken?key=s3cret"
    elif wrong == "timeout":
        hook.hang.clear()
    else:
        hook.answers = [404 if wrong == "answer" else 302] * 9
    outcomes = deliver({"webhook": webhook(url, 0.2)}, [ALERT], waits_s=(0.01,))
    assert outcomes == [("webhook", "failed")] and hook.got == []
    assert "failed (" in caplog.text
    assert "t0ken" not in caplog.text and "s3cret" not in caplog.text


def test_a_channel_that_hangs_does_not_delay_the_others():
    let_go, got = threading.Event(), []
    outcomes: list[tuple[str, str]] = []
    both = {
        "slow": lambda key, value: let_go.wait(PATIENCE_S),
        "quick": lambda key, value: got.append(json.loads(value)),
    }
    delivery = AlertDelivery(both, outcome=lambda c, what: outcomes.append((c, what)), queue_length=3)
    quick = delivery._channels[1]
    for i in range(8):
        delivery.send(ALERT | {"key": str(i)})  # returns at once although one channel takes nothing
        wait_for(
            lambda i=i: len(got) > i, alive=lambda: None if quick.thread.is_alive() else "its thread ended"
        )
    assert [a["key"] for a in got] == [str(i) for i in range(8)]
    assert outcomes.count(("slow", "dropped")) >= 4
    let_go.set()
    delivery.close(PATIENCE_S)
    assert outcomes.count(("slow", "sent")) + outcomes.count(("slow", "dropped")) == 8


def test_the_log_has_every_alert_once(caplog):
    caplog.set_level(logging.INFO, "ecdctr.alerts")
    deliver({}, [ALERT, ALERT | {"status": "resolved"}])
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "alert raised: category has moved"),
        ("INFO", "alert resolved: category has moved"),
    ]


def test_other_schemes_are_refused():
    with pytest.raises(ValueError, match="https://"):
        webhook("file:///etc/passwd", 1)
