"""Whether ``/healthz`` tells the truth: it is asked every second and compared with what the topics hold."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.committed import CommittedReader
from tests.support.journals import JournalReader

__all__ = ["HealthSampler", "Lie"]

NO_STEP_S = 20.0
"""A worker that has made no step for longer, though records wait, may not call itself training or idle."""
LAG_S = 10.0
"""Records that have waited for longer are part of the lag."""
_EVERY_S = 1.0
_ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class Lie:
    """One answer that is not true.

    Attributes
    ----------
    at_s
        Seconds since the start of the run.
    waiting, age_s
        Committed records that the worker had not learned, and for how many seconds the oldest of them was known.
    without_step_s
        Seconds since the worker's last step, or since this process first called itself training.
    """

    at_s: float
    answer: Mapping[str, Any]
    waiting: int
    age_s: float
    without_step_s: float


class HealthSampler:
    """Asks ``/healthz`` every second, in a thread of its own.

    *Waiting records* are committed records (as an independent client reads them) whose offsets the journal has not
    reached. They can be learned: they are in the log, and the client that found them has read them. A *step* is progress
    of the positions in the journal. An answer is a lie if, both before it was asked for and after it came,

    a. its ``status`` is "ok" (training, or idle), while the oldest waiting record is known, and no step was made, for more
       than :data:`NO_STEP_S` seconds; for a process that has just become live, the time counts from its first such
       answer; or
    b. its ``lag_records`` is 0, while the oldest waiting record is known for more than :data:`LAG_S` seconds. ``null``
       means that the lag is not known, and is no lie.

    No answer (the worker was killed and starts again) is no lie either.

    Parameters
    ----------
    journal
        Folder of the worker's journal.
    """

    def __init__(self, port: int, journal: Path, committed: CommittedReader) -> None:
        self._url = f"http://127.0.0.1:{port}/healthz"
        self._journal = JournalReader(journal)
        self._committed = committed
        self.lies: list[Lie] = []
        self.samples = 0
        self.answers = 0
        self.longest_without_step_s = 0.0
        """Longest time for which records waited and no step was made, dead and starting workers included."""
        self.longest_at_s = 0.0
        """When it ended, in seconds since the start."""
        self._began = self._stepped_at = time.monotonic()
        self._learned = 0
        self._good_since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-sampler", daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> HealthSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(_EVERY_S):
                self._sample()
        except BaseException as error:
            self.error = error

    def _sample(self) -> None:
        self.samples += 1
        before = self._look()
        answer = self._ask()
        after = self._look()
        if answer is None:
            self._good_since = None
            return
        self.answers += 1
        good = answer.get("status") == "ok"
        now = time.monotonic()
        self._good_since = (self._good_since or now) if good else None
        waiting, age = min(before, after, key=lambda look: look[1])
        still = now - max(self._stepped_at, self._good_since or now)
        if (good and min(still, age) > NO_STEP_S) or (answer.get("lag_records") == 0 and age > LAG_S):
            self.lies.append(
                Lie(round(now - self._began, 1), answer, waiting, round(age, 1), round(still, 1))
            )

    def _look(self) -> tuple[int, float]:
        """Number of waiting records, and the age of the oldest; also measures the time without a step."""
        journal = self._journal.update()
        now = time.monotonic()
        if journal.learned != self._learned:
            self._learned, self._stepped_at = journal.learned, now
        waiting, age = self._committed.waiting(journal.positions)
        if waiting and (without := min(now - self._stepped_at, age)) > self.longest_without_step_s:
            self.longest_without_step_s, self.longest_at_s = without, now - self._began
        return waiting, age

    def _ask(self) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(self._url, timeout=_ANSWER_S) as answer:
                return {"http": answer.status, **json.load(answer)}
        except urllib.error.HTTPError as answer:
            with answer:
                return {"http": answer.code, **json.load(answer)}
        except (OSError, ValueError):
            return None
