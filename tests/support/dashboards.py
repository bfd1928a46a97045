"""A monitor with given figures, and a dashboard that serves them."""

import urllib.error
import urllib.request
from collections.abc import Iterable

from ecdctr.monitor.alerts import Alert
from ecdctr.monitor.dashboard import Dashboard
from ecdctr.streams.embedded import free_port
from tests.support.waiting import PATIENCE_S

HOUR, DAY = 3_600_000, 86_400_000
BEGIN = 1_790_035_200_000  # 2026-09-22 00:00 UTC


class FakeMonitor:
    """Returns given figures; ``hours`` of event time have passed."""

    def __init__(self) -> None:
        self.hours = 30
        self.raised: list[Alert] = []
        self.events: list[Alert] = []
        self.failure: Exception | None = None
        self.gain = {"value": 0.05, "low": 0.02, "high": 0.08}

    def alert(self, key: str = "miscalibrated-high ad actr", severity: str = "critical") -> Alert:
        found = Alert(
            key=key,
            rule="miscalibrated-high",
            severity=severity,
            what="PCOC of A-CTR on ads is above 1.5 <b>over a day</b>",
            since_ms=BEGIN + 5 * HOUR,
            raised_ms=BEGIN + 6 * HOUR,
            value=1.62,
            limit=1.5,
            cause="the ad prior has moved since the last release",
        )
        self.raised.append(found)
        self.events.append(found)
        return found

    def resolve(self, alert: Alert) -> None:
        self.raised.remove(alert)
        record = {k: v for k, v in alert.to_json().items() if k != "status"}
        self.events.append(Alert(**{**record, "resolved_ms": BEGIN + self.hours * HOUR}))

    def take_events(self) -> list[Alert]:
        taken, self.events = self.events, []
        return taken

    def delivered(self) -> None:
        """Nothing is stored."""

    def snapshot(self) -> dict:
        if self.failure is not None:
            raise self.failure
        clock = BEGIN + self.hours * HOUR
        return {
            "clock": clock,
            "rows": {"natural": 10, "ad": 1},
            "windows": {w: {d: self._window(d) for d in ("natural", "ad")} for w in ("5m", "1h", "1d")},
            "series": {
                "5m": self._series(HOUR // 12, 12 * self.hours, ranked=False),
                "1h": self._series(HOUR, self.hours, ranked=True),
                "1d": self._series(DAY, self.hours // 24, ranked=True),
            },
            "drift": self._drift(clock),
            "forgetting": self._forgetting(),
            "transfer": {
                "rows": 9000,
                "users": 400,
                "days": 7,
                "gauc": self.gain,
                "log_loss": None,
                "verdict": "better",
            },
            "marks": [
                {"ts": BEGIN + 12 * HOUR, "kind": "release", "text": "release 1"},
                {"ts": BEGIN + 24 * HOUR, "kind": "month", "text": "2026-08"},
            ],
            "alerts": [alert.to_json() for alert in self.raised],
        }

    @staticmethod
    def _window(domain: str) -> dict:
        figures = {"rows": 900, "clicks": 45, "ctr": 0.05, "log_loss": 0.2, "ne": 0.95, "pcoc": 1.1}
        figures |= {"auc": 0.7, "auc_error": 0.0, "gauc": 0.68, "gauc_error": 0.0, "gauc_users": 30}
        arms = ("cpm",) if domain == "natural" else ("actr", "ads_only")
        side = {"rows": 1000, "rows_per_s": 1.0, "clicks": 50, "ctr": 0.05, "late": 3}
        side |= {"unseen_users": 0.012, "unseen_items": 0.02, "tpm_share": 0.83}
        return side | {"arms": {arm: dict(figures) for arm in arms}}

    @staticmethod
    def _series(step: int, length: int, *, ranked: bool) -> dict:
        def wave(middle: float, k: int) -> list[float | None]:
            return [None if i == 3 else middle + 0.01 * ((i * k) % 7) for i in range(length)]

        def arm(k: int) -> dict:
            out = {"rows": [900] * length, "log_loss": wave(0.2, k)}
            out |= {"ne": wave(0.93, k), "pcoc": wave(1.0, k)}
            return out | ({"gauc": wave(0.68, k), "auc": wave(0.7, k)} if ranked else {})

        sides = {"natural": {"cpm": arm(2)}, "ad": {"actr": arm(3), "ads_only": arm(5)}}
        out = {
            d: {"rows": [1000] * length, "ctr": wave(0.05, 1), "late": [0] * length, "arms": arms}
            for d, arms in sides.items()
        }
        return {"t": [BEGIN + i * step for i in range(length)], **out}

    @staticmethod
    def _drift(clock: int) -> dict:
        row = {"what": "feature", "p_value": 1e-9, "q_value": 1e-8, "js": 0.052}
        return {
            "reference": {
                "name": "the first week",
                "from": BEGIN - 7 * DAY,
                "until": BEGIN,
                "rows": {"natural": 9, "ad": 9},
                "ready": True,
            },
            "evaluated_at": clock,
            "table": [
                row
                | {"name": "category", "domain": "both", "effect": 4.1, "psi": 0.41, "moved": True}
                | {"since": BEGIN + 20 * HOUR, "description": "share of bin 7: 12 % -> 31 %"},
                row
                | {"name": "hour", "domain": "ad", "effect": 0.2, "psi": 0.02, "moved": False}
                | {"since": None, "description": ""},
            ],
            "detectors": [
                {
                    "domain": "ad",
                    "arm": "actr",
                    "signal": "pcoc",
                    "detector": "ADWIN",
                    "changes": 1,
                    "last": BEGIN + 20 * HOUR,
                    "level": 1.2,
                }
            ],
        }

    def _forgetting(self) -> dict:
        clocks = [BEGIN + i * 6 * HOUR for i in range(self.hours // 6)]
        falling = [-0.002 * i for i in range(len(clocks))]
        return {
            "periods": [
                {"period": "2026-09-08", "from": BEGIN - 14 * DAY, "until": BEGIN - 7 * DAY, "rows": 4096}
            ],
            "curves": [
                {"period": "2026-09-08", "arm": a, "clock": clocks, "gauc": [0.7] * len(clocks)}
                | {"log_loss": [0.2] * len(clocks), "transfer": falling}
                for a in ("cpm", "actr")
            ],
            "staleness": [
                {"arm": "actr", "history": h, "days": [low, high], "rows": 100, "gauc": 0.7 - 0.01 * low}
                for h in ("with", "without")
                for low, high in ((0, 1), (1, 7), (7, None))
            ],
        }


class Site:
    """A dashboard that serves, and requests to it."""

    def __init__(self, fake_monitor: FakeMonitor | None, *, hosts: Iterable[str] = (), **options) -> None:
        self.dashboard = Dashboard(fake_monitor, version="1.2.3", **options)
        self.port = self.dashboard.serve("127.0.0.1", free_port(), hosts)
        self.url = f"http://127.0.0.1:{self.port}"

    def get(self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None):
        """Status, headers and body."""
        request = urllib.request.Request(self.url + path, method=method, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.headers, answer.read()
