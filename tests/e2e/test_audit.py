"""``replay --journal`` reports an identical state, or the first difference."""

from __future__ import annotations

import pytest

from ecdctr.state.errors import StateError
from ecdctr.state.journals import Journal

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.brokers(
        "embedded", reason="what a journal and its log give does not depend on the broker, and takes long"
    ),
]


@pytest.fixture
def site(killed, tmp_path):
    return killed.copy(tmp_path / "site", "model.history=attention")


def test_newest_checkpoint_is_rebuilt_bit_for_bit_releases_and_months_included(site):
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert rebuilt.base is None
    assert rebuilt.engine.progress.releases >= 2
    assert len(rebuilt.engine.trainer.cpm_months) == 2


def test_another_learning_rate_is_found_at_its_first_step_and_tensor(site):
    settings = site.settings
    other = settings.model_copy(update={"model": settings.model.model_copy(update={"lr": 0.0010001})})
    rebuilt = site.rebuild(other)
    assert not rebuilt.identical
    assert "first step with different predictions:" in rebuilt.verdict
    assert "first tensor that differs:" in rebuilt.verdict


def test_without_old_journal_files_the_steps_after_a_retained_checkpoint_are_rebuilt(site):
    oldest, *_, newest = site.checkpoints()
    journal = Journal(site.folders.journal)
    journal.drop_before(_step(oldest))
    journal.close()
    assert site.entries()[0].step > 0
    rebuilt = site.rebuild()
    assert rebuilt.identical, rebuilt.verdict
    assert rebuilt.base == oldest
    assert rebuilt.steps == _step(newest) - _step(oldest)


def test_without_a_checkpoint_to_start_from_the_reason_is_reported(site):
    newest = site.checkpoints()[-1]
    journal = Journal(site.folders.journal)
    journal.drop_before(_step(newest) + 1)
    journal.close()
    with pytest.raises(StateError, match="older journal files were deleted"):
        site.rebuild()


def _step(checkpoint: str) -> int:
    return int(checkpoint.split("-step-")[1])
