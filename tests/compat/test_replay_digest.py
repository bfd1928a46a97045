"""A fixed log, replayed by every kind of model, gives the recorded steps, names and figures, and the recorded bits."""

from __future__ import annotations

import json

import pytest

from tests.compat import replay_digest
from tests.compat.machine import difference

RECORDED = json.loads(replay_digest.RECORDED.read_text(encoding="utf-8"))
WHY_NO_BITS = difference(RECORDED["machine"])
GAUC_ELSEWHERE = 0.02
"""Maximum difference from the recorded GAUC on a machine that rounds differently."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A state folder with the snapshots of the log's history, and the hash of their vectors."""
    folder = tmp_path_factory.mktemp("digest") / "state"
    return folder, replay_digest.train(folder)


@pytest.fixture(scope="module")
def replayed(trained, tmp_path_factory):
    """``replayed(name)``: the digest of a variant; each is replayed once."""
    known = {}

    def of(name):
        if name not in known:
            known[name] = replay_digest.replay(name, trained[0], tmp_path_factory.mktemp("aside"))
        return known[name]

    return of


def test_every_variant_was_recorded():
    assert list(RECORDED["variants"]) == list(replay_digest.VARIANTS)


@pytest.mark.parametrize("name", replay_digest.VARIANTS)
def test_steps_names_and_figures_are_the_recorded_ones(replayed, name):
    found, wanted = replayed(name), RECORDED["variants"][name]
    assert found["structure"] == wanted["structure"]
    assert found["bits"]["gauc"].keys() == wanted["bits"]["gauc"].keys()
    for arm, value in wanted["bits"]["gauc"].items():
        assert float(found["bits"]["gauc"][arm]) == pytest.approx(float(value), abs=GAUC_ELSEWHERE)


@pytest.mark.skipif(WHY_NO_BITS is not None, reason=str(WHY_NO_BITS))
@pytest.mark.parametrize("name", replay_digest.VARIANTS)
def test_bits_are_the_recorded_ones(replayed, name):
    assert replayed(name)["bits"] == RECORDED["variants"][name]["bits"]


@pytest.mark.skipif(WHY_NO_BITS is not None, reason=str(WHY_NO_BITS))
def test_bits_of_the_snapshots_are_the_recorded_ones(trained):
    assert trained[1] == RECORDED["snapshots"]
