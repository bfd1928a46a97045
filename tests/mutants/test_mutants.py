"""What is mutated, which mutants are chosen, and the command from end to end on one small module."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.mutants.mutations import mutants_of, sample
from tests.mutants.trial import ROOT

SOURCE = '''
@dataclass(frozen=True)
class A:
    size: int | None = 7

    def add(self, *, n: int | None) -> int | None:
        """Not 1 + 1."""
        if n < 0:
            raise ValueError(f"n={n - 1}")
        _log.info("%d", n + 1)
        self.size += n
        return n


class P(Protocol):
    def f(self, n: int = 3) -> None: ...
'''


def test_code_is_mutated_but_no_annotation_message_log_decorator_or_protocol() -> None:
    found = {(m.operator, m.difference(SOURCE).splitlines()[-1].strip()) for m in mutants_of(SOURCE)}
    assert found == {
        ("NumberReplacer", "+ size: int | None = 8"),
        ("NumberReplacer", "+ size: int | None = 6"),
        ("NumberReplacer", "+ if n < 1:"),
        ("NumberReplacer", "+ if n < -1:"),
        ("AddNot", "+ if not n < 0:"),
        ("ReplaceComparisonOperator_Lt_LtE", "+ if n <= 0:"),
        ("ReplaceComparisonOperator_Lt_GtE", "+ if n >= 0:"),
        ("RemoveStatement", "+ pass"),
    }
    removed = [m.text for m in mutants_of(SOURCE) if m.operator == "RemoveStatement"]
    assert removed == ['raise ValueError(f"n={n - 1}")', "self.size += n"]


def test_a_change_of_other_lines_keeps_the_sample() -> None:
    before = sample(list(mutants_of(SOURCE)), 5)
    after = sample(list(mutants_of("# a comment\n" + SOURCE)), 5)
    assert len(before) == 5
    assert [(m.operator, m.text, m.line + 1) for m in before] == [(m.operator, m.text, m.line) for m in after]


@pytest.mark.slow
def test_the_command_kills_mutants_prints_a_table_and_fails_below_the_least_share() -> None:
    command = [sys.executable, "-m", "tests.mutants", "state.positions", "--sample", "5", "--least", "1.01"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    row = re.search(r"^state\.positions +\d+ +5 +(\d) +(\d) +\d+%$", done.stdout, re.M)
    assert row, done.stdout + done.stderr
    killed, survived = int(row[1]), int(row[2])
    assert killed > 0
    assert (killed + survived, done.stdout.count("survived: ")) == (5, survived)
    assert done.returncode == 1
