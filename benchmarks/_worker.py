"""A worker built from settings, as by the command line, with a callback after each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ecdctr import factory
from ecdctr.events.batch import Batch
from ecdctr.events.step import Step
from ecdctr.models.training import Engine, StepResult
from ecdctr.settings import Settings
from ecdctr.streams.worker import Worker

__all__ = ["make_worker"]

Watch = Callable[[Engine, str, Batch], None]


def make_worker(settings: Settings, watch: Watch) -> Worker:
    """The worker of these settings; ``watch(engine, kind, batch)`` is called after each step, in its thread."""

    def engine(**hooks: Any) -> Engine:
        made = factory.live_engine(settings, **hooks)
        run = made.run

        def watched(step: Step) -> StepResult:
            result = run(step)
            watch(made, step.kind, step.batch)
            return result

        made.run = watched  # type: ignore[method-assign]
        return made

    return factory.worker(settings, engine)
