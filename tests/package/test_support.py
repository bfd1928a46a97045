"""The tests' own helpers: what they promise to the tests that use them."""

from types import SimpleNamespace

import pytest

from ecdctr.state.journals import Journal, JournalEntry
from ecdctr.state.positions import Part
from tests.support import groups, waiting
from tests.support.journals import JournalReader
from tests.support.waiting import allowance, wait_for, wait_until_equal


def test_a_wait_returns_the_answer_and_names_what_did_not_come():
    answers = iter([0, "", [3]])
    assert wait_for(lambda: next(answers)) == [3]
    with pytest.raises(AssertionError, match=r"the bus: not within 0 s, the last answer was 0\nits log"):
        wait_for(lambda: 0, "the bus", within_s=0, detail=lambda: "its log")
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda: 1 / 0)


def test_a_wait_ends_with_the_process_that_it_waits_for():
    answers = iter([False, True])
    assert wait_for(lambda: next(answers), alive=lambda: "it ended"), "it had come true just before the end"
    with pytest.raises(AssertionError, match="the bus: it ended"):
        wait_for(lambda: False, "the bus", alive=lambda: "it ended")


def test_a_wait_for_equality_shows_the_difference():
    values = iter([1, 2])
    wait_until_equal(lambda: next(values), 2)
    with pytest.raises(AssertionError, match="assert 1 == 2"):
        wait_until_equal(lambda: 1, 2, within_s=0)


def test_a_promise_stays_as_it_is_on_an_idle_machine_and_never_shrinks(monkeypatch):
    monkeypatch.setattr(waiting.os, "getloadavg", lambda: (0.1, 0, 0))
    monkeypatch.setattr(waiting.time, "perf_counter", waiting.time.thread_time)
    assert allowance(10) == pytest.approx(10, rel=1e-3)
    monkeypatch.setattr(waiting.os, "getloadavg", lambda: (12.0, 0, 0))
    monkeypatch.setattr(waiting.os, "sched_getaffinity", lambda _: {0, 1})
    assert allowance(10) == pytest.approx(60, rel=1e-3)


def test_files_are_groups_but_for_those_that_are_named():
    split, shared = min(groups.SPLIT), min(groups.TOGETHER)
    assert groups.group_of("tests/state/test_lock.py::test_a[x::y]") == "tests/state/test_lock.py"
    assert groups.group_of(f"{split}::test_a") == f"{split}::test_a"
    assert groups.group_of(f"{shared}::test_a") == groups.TOGETHER[shared]
    assert groups.group_of(f"{shared}::test_a[apache-0]") == groups.TOGETHER[shared] + "[apache]"
    assert groups.group_of("tests/e2e/test_apache_kafka.py::test_a[json]") == "tests/e2e/test_apache_kafka.py"


def test_named_files_exist(request):
    for path in [*groups.SPLIT, *groups.TOGETHER, *groups.LONGEST_FIRST]:
        assert (request.config.rootpath / path).exists(), path


def test_a_module_fixture_of_a_split_file_is_refused(pytester_free_items):
    with pytest.raises(pytest.UsageError, match=r"test_arms\.py::dear"):
        groups._check_split_files(pytester_free_items)


@pytest.fixture
def pytester_free_items(monkeypatch):
    """Two tests of a split file that use one module fixture."""
    monkeypatch.setattr(groups.pytest, "Function", SimpleNamespace)
    path = "tests/models/training/test_arms.py"
    fixture = SimpleNamespace(scope="module", baseid=path)
    info = SimpleNamespace(name2fixturedefs={"dear": [fixture]})
    return [SimpleNamespace(nodeid=f"{path}::{name}", _fixtureinfo=info) for name in ("test_a", "test_b")]


def test_a_journal_is_read_on_while_it_grows_and_again_when_it_was_cut(tmp_path):
    reader = JournalReader(tmp_path / "journal")
    assert reader.update().learned == 0
    journal = Journal(tmp_path / "journal")
    for step in range(6):
        if step == 3:
            journal.rotate()
        journal.append(JournalEntry(step, "ad", (Part("ads", 0, 2 * step, 2 * step + 2),), clock=step))
        assert reader.update().learned == 2 * step + 2
    journal.truncate_after(4)
    assert reader.update().learned == 10
    journal.append(JournalEntry(5, "ad", (Part("ads", 0, 10, 13),), clock=5))
    assert reader.update().learned == 13
    assert [covered for _, covered in reader.steps] == [2, 2, 2, 2, 2, 3]
    newest = max((tmp_path / "journal").glob("journal-*"))
    with newest.open("ab") as file:
        file.write(b"1234")  # a line that is being written
    assert reader.update().learned == 13
    journal.close()
