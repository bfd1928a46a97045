"""The modules whose mutants are tested, with the tests that have to notice."""

from __future__ import annotations

from tests.mutants.trial import Target

_JOURNAL = ("tests/state/journals/test_journal.py", "tests/state/journals/test_durability.py")
_CHECKPOINTS = (
    "tests/state/checkpoints/test_checkpoint.py",
    "tests/state/checkpoints/test_checkpoint_durability.py",
    "tests/state/checkpoints/test_checkpoint_faults.py",
)
_OTHER_PROCESSES = ("kill_9", "quick")
_METRICS = "tests/replay/metrics/"

TARGETS = [
    Target("state.journals.disk", _JOURNAL, _OTHER_PROCESSES),
    Target("state.journals.lines", _JOURNAL, _OTHER_PROCESSES),
    Target("state.journals.memory", _JOURNAL, _OTHER_PROCESSES),
    Target("state.checkpoints.disk", _CHECKPOINTS, (*_OTHER_PROCESSES, "merging_keeps", "every_flipped")),
    Target("state.checkpoints.files", _CHECKPOINTS, _OTHER_PROCESSES),
    Target("state.checkpoints.memory", _CHECKPOINTS[:2], ("merging_keeps",)),
    Target("state.checkpoints.protocol", _CHECKPOINTS[:2], ("merging_keeps",)),
    Target("state.positions", ("tests/state/test_positions.py",)),
    Target("events.align", ("tests/events/test_align.py",)),
    Target("events.partition_buffer", ("tests/events/test_align.py",)),
    Target("replay.metrics.ranking", (f"{_METRICS}test_ranking.py", f"{_METRICS}test_probability.py")),
    Target("replay.metrics.probability", (f"{_METRICS}test_probability.py",)),
    Target("replay.metrics.bootstrap", (f"{_METRICS}test_bootstrap.py",)),
    Target("replay.metrics.paired_gate", (f"{_METRICS}test_paired_gate.py",), ("as_rarely",)),
    Target("models.arms.stack", ("tests/models/arms/test_stack.py",)),
]
