"""Lost offsets: what is missing is named, and the costs of each choice are true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.events.kafka import LogState
from ecdctr.state.errors import ConfigError, OffsetsLostError, RowsLostError
from ecdctr.state.journals import JournalEntry
from ecdctr.state.positions import LogIdentity, Part, Positions
from ecdctr.streams import retention
from ecdctr.streams.retention import (
    check_log,
    identity_after,
    redo_journal,
    settle_positions,
    warn_of_compaction,
)

KEY = ("ads", 0)


class Engine:
    """The positions of an engine after a checkpoint."""

    def __init__(self, positions, identity=None, step=-1):
        self.positions, self.identity, self.step = Positions(positions), identity or LogIdentity(), step
        self.reset = None

    def reset_positions(self, positions, choice):
        self.reset = (dict(positions), choice)


def step(number: int, first: int, end: int, rows: int | None = None, **extra) -> JournalEntry:
    return JournalEntry(number, "ad", (Part(*KEY, first, end),), 0, extra, rows)


def log_state(beginning: int, end: int, topic_id: str = "A", epoch_end: int | None = None) -> LogState:
    return LogState(
        {KEY: beginning}, {KEY: end}, {"ads": topic_id}, {} if epoch_end is None else {KEY: epoch_end}
    )


SAME = LogIdentity({"ads": "A"}, {KEY: 3})


def test_a_log_that_holds_everything_ignores_the_choice():
    tail = [step(0, 40, 50, 10), step(1, 50, 70, 20)]
    engine = Engine({KEY: 40}, SAME)
    assert list(settle_positions(engine, tail, log_state(0, 90, epoch_end=90), "latest")) == tail
    assert engine.reset is None


@given(
    learned=st.integers(0, 12),
    tail=st.integers(0, 12),
    same=st.one_of(st.none(), st.integers(0, 24)),
    beginning=st.integers(0, 30),
    length=st.integers(0, 30),
    choice=st.sampled_from(retention.CHOICES),
)
def test_costs_equal_a_count_of_records(learned, tail, same, beginning, length, choice):
    """Each record of the old and of the new log is an object; the costs are counted from sets of them."""
    end, reached = beginning + length, learned + tail
    if same is not None:
        same = min(same, reached, end)
    elif end < reached:
        same = end  # the log ends early, and nothing else is known
    state = log_state(beginning, end)
    limit = math.inf if same is None else same
    at, until = Positions({KEY: learned}), Positions({KEY: reached})
    same_until = {} if same is None else {KEY: same}
    target = retention._targets(at, state, same_until)[choice]

    def record(offset: int) -> tuple[str, int]:
        return ("old" if offset < limit else "new", offset)

    model = {("old", o) for o in range(learned)}
    read_again = {record(o) for o in range(target[KEY], end)}
    seen = {("old", o) for o in range(reached)}  # by this worker
    in_log = {record(o) for o in range(end)}  # what the log was given, deleted or not
    lost = {r for r in seen | in_log if r not in model | read_again}
    cost = retention._cost(target, at, until, same_until, state)
    doubled = model & read_again
    assert cost == f"{len(lost):,} offsets are lost, {len(doubled):,} are learned a second time"


@pytest.mark.parametrize(
    ("state", "names", "costs"),
    [
        (
            log_state(0, 700, "B"),
            "deleted and created again",
            ("0 offsets are lost, 0", "700 offsets are lost, 0", "0 offsets are lost, 0"),
        ),
        (
            log_state(0, 900, epoch_end=300),
            "unclean leader election cut it at offset 300",
            ("0 offsets are lost, 300", "600 offsets are lost, 0", "0 offsets are lost, 0"),
        ),
        (
            log_state(0, 300),
            "it ends before offset 500",
            ("0 offsets are lost, 300", "0 offsets are lost, 0", "0 offsets are lost, 0"),
        ),
        (
            log_state(600, 900, epoch_end=900),
            "offsets 500 to 600 were deleted before they were learned",
            ("100 offsets are lost, 0", "400 offsets are lost, 0", "100 offsets are lost, 0"),
        ),
    ],
    ids=["made anew", "cut", "short", "deleted"],
)
def test_each_kind_of_loss_has_its_own_sentence_and_true_costs(state, names, costs):
    with pytest.raises(OffsetsLostError) as error:
        settle_positions(Engine({KEY: 500}, SAME), [], state, None)
    text = str(error.value)
    assert names in text and 'topic "ads" partition 0: needed from offset 500' in text
    for choice, cost in zip(retention.CHOICES, costs, strict=True):
        assert f"--reset-offsets {choice}: {cost} are learned a second time" in text


@pytest.mark.parametrize(("choice", "offset"), [("earliest", 0), ("latest", 900), ("checkpoint", 300)])
def test_after_a_cut_reading_continues_at_its_offset(choice, offset):
    engine = Engine({KEY: 500}, SAME)
    assert list(settle_positions(engine, [], log_state(0, 900, epoch_end=300), choice)) == []
    assert engine.reset == ({KEY: offset}, choice)


def test_what_discarded_steps_learned_is_lost_with_every_choice_if_the_log_has_it_no_more():
    with pytest.raises(OffsetsLostError) as error:
        settle_positions(
            Engine({KEY: 200}, SAME), [step(0, 200, 500)], log_state(0, 900, epoch_end=300), None
        )
    for choice, cost in {
        "earliest": "200 offsets are lost, 200",
        "checkpoint": "200 offsets are lost, 0",
    }.items():
        assert f"--reset-offsets {choice}: {cost} are" in str(error.value)


def test_topics_that_the_configuration_does_not_name_are_named():
    engine = Engine({("old-ads", 0): 500})
    with pytest.raises(OffsetsLostError, match=r'topic "old-ads" partition 0 .*name other topics'):
        settle_positions(engine, [], log_state(0, 10), None)
    settle_positions(engine, [], log_state(0, 10), "checkpoint")
    assert engine.reset == ({KEY: 0}, "checkpoint")


@pytest.mark.parametrize("choice", ["earliest", "latest", "checkpoint"])
def test_case_s13_each_choice_works_for_renamed_topics_also_after_kill_9_before_a_checkpoint(choice):
    """The state of the checkpoint still names the old topic then, and the journal holds the reset and the steps after it."""
    old, now = ("old-ads", 0), log_state(0, 70)
    engine = Engine({old: 500}, LogIdentity({"old-ads": "Z"}), step=10)
    tail = [JournalEntry(11, "ad", (Part(*old, 500, 510),), 0, {}, 10)]
    with pytest.raises(
        OffsetsLostError, match=r'"old-ads" .*learned up to offset 510.*name other topics'
    ) as error:
        settle_positions(engine, tail, now, None)
    for name, lost in (("earliest", 10), ("latest", 80), ("checkpoint", 10)):
        assert f"--reset-offsets {name}: {lost} offsets are lost, 0 are" in str(error.value)
    assert list(settle_positions(engine, tail, now, choice)) == []
    assert engine.reset == ({KEY: 70 if choice == "latest" else 0}, choice)

    began = engine.reset[0][KEY]
    extra = {
        "choice": choice,
        "positions": Positions(engine.reset[0]).to_json(),
        "log": {"topics": {"ads": "A"}},
    }
    tail = [JournalEntry(11, "reset", (), 0, extra), step(12, began, began + 5, 5)]
    again = Engine({old: 500}, LogIdentity({"old-ads": "Z"}), step=10)
    assert list(settle_positions(again, tail, log_state(0, 80), None)) == tail
    assert again.reset is None
    with pytest.raises(OffsetsLostError, match="it ends before offset"):
        settle_positions(again, tail, log_state(0, began + 2), None)


def test_case_s13_a_reset_is_not_asked_for_again_after_kill_9_before_a_checkpoint():
    """Retention deleted offsets that the checkpoint needs; a partition was added since the reset."""
    extra = {"choice": "earliest", "positions": {"ads": {"0": 600}}}
    tail = [JournalEntry(5, "reset", (), 0, extra), step(6, 600, 650, 50)]
    state = LogState({KEY: 600, ("ads", 1): 0}, {KEY: 900, ("ads", 1): 7}, {"ads": "A"})
    assert list(settle_positions(Engine({KEY: 500}, SAME, step=4), tail, state, None)) == tail


def test_an_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match="choose one of earliest, latest, checkpoint"):
        settle_positions(Engine({}), [], log_state(0, 0), "newest")


def test_the_identity_follows_the_journal_and_begins_anew_at_a_reset():
    change = {"topics": {"ads": "B"}, "epochs": {"ads": {"0": 7}}}
    assert identity_after(SAME, [step(0, 0, 1, log=change)]).to_json() == change
    reset = JournalEntry(
        1, "reset", (), 0, {"positions": {}, "choice": "latest", "log": {"topics": {"ads": "C"}}}
    )
    after = identity_after(SAME, [step(0, 0, 1, log=change), reset])
    assert after.to_json() == {"topics": {"ads": "C"}, "epochs": {}}
    assert SAME.to_json() == {"topics": {"ads": "A"}, "epochs": {"ads": {"0": 3}}}, "it is not changed"


class Log:
    """Rows by offset; ``epochs``: where they end."""

    timeout_s = 60.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __init__(self, rows=(), epochs=None):
        self.rows, self.epochs, self.gaps = set(rows), epochs or {}, 0

    def fetch(self, parts, decisions=None):
        found = [o for p in parts for o in range(p.first, p.end) if o in self.rows]
        self.gaps = sum(p.end - p.first for p in parts) - len(found)
        return found

    def epoch_ends(self, epochs):
        return {key: self.epochs[epoch] for key, epoch in epochs.items() if epoch in self.epochs}


def redoing(engine: Engine, log: Log):
    """``replay.play.redo`` up to the first step whose rows are not all there."""

    def redo(_engine, _log, entries, _progress):
        for entry in entries:
            if len(log.fetch(entry.parts)) != entry.rows:
                raise RowsLostError(f"journal step {entry.step} learned {entry.rows} rows")
            engine.step = entry.step
            engine.positions.advance(entry.parts)

    return redo


def test_rows_that_compaction_removed_are_lost_offsets(monkeypatch):
    entries = [step(0, 0, 10, 10), step(1, 10, 20, 10), step(2, 20, 40, 20)]
    log, engine = Log([*range(13), 20, 39]), Engine({}, SAME)
    monkeypatch.setattr(retention, "redo", redoing(engine, log))
    with pytest.raises(OffsetsLostError) as error:
        redo_journal(engine, log, entries, log_state(0, 50), None)
    text = str(error.value)
    assert "journal step 1 learned 10 rows" in text
    assert "of the 30 rows that the journal's steps from 1 on learned, 25 are gone for good" in text
    assert "--reset-offsets checkpoint: 0 offsets are lost, 0 are learned a second time" in text
    assert engine.step == 0, "the step before is repeated, this one is not"

    engine = Engine({}, SAME)
    monkeypatch.setattr(retention, "redo", redoing(engine, log))
    redo_journal(engine, log, entries, log_state(0, 50), "checkpoint")
    assert engine.reset == ({KEY: 10}, "checkpoint")


def test_a_running_worker_is_compared_with_the_log():
    check_log({KEY: 50}, SAME, log_state(0, 60, epoch_end=60))
    check_log(
        {KEY: 50}, SAME, log_state(55, 60, epoch_end=60)
    )  # the reader finds it, or has read these already
    with pytest.raises(OffsetsLostError, match=r"ads\[0\] ends at 40, learned up to 50\. Start again"):
        check_log({KEY: 50}, SAME, log_state(0, 40))
    with pytest.raises(OffsetsLostError, match=r"ads\[0\], learned up to 50: the topic was deleted"):
        check_log({KEY: 50}, SAME, log_state(0, 60, "B"))


def test_compaction_is_named(caplog):
    warn_of_compaction(LogState({}, {}, compacted=frozenset({"ads"})))
    assert 'topic "ads" has cleanup.policy=compact' in caplog.text
    caplog.clear()
    warn_of_compaction(LogState({}, {}))
    assert not caplog.text
