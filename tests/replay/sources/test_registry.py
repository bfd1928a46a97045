"""``open_source``: every known form opens, every other is an error that says how to write it."""

from __future__ import annotations

import pytest

from ecdctr.replay.sources.datasets.ebnerd import EbNerd
from ecdctr.replay.sources.event_files import EventFiles
from ecdctr.replay.sources.registry import Source, open_source
from ecdctr.replay.sources.simulator import Simulator
from ecdctr.state.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "events.jsonl").write_text("")
    (tmp_path / "part-1.parquet").write_text("")
    return tmp_path


def test_the_simulator_with_and_without_parameters():
    assert isinstance(open_source("sim"), Simulator)
    source = open_source("sim:days=40, users=2_000,seed=5,start=2027-03-01")
    assert isinstance(source, Simulator)
    assert (source.days, source.users, source.seed, source.start) == (40, 2_000, 5, "2027-03-01")


def test_ebnerd_with_its_mapping(folder):
    source = open_source(f"ebnerd:{folder}?mapping=B&seed=3")
    assert isinstance(source, EbNerd)
    assert (source.folder, source.mapping, source.seed) == (folder, "B", 3)
    assert open_source(f"ebnerd:{folder}").mapping == "A"


def test_files_folders_and_globs(folder):
    for text, files in (
        ("events.jsonl", 1),
        ("", 2),
        ("*.parquet", 1),
        ("part-?.parquet", 1),
        ("part-?.parquet?domain=ad", 1),
    ):
        source = open_source(f"{folder}/{text}")
        assert isinstance(source, EventFiles)
        assert len(source.files) == files
    source = open_source(f"{folder}/events.jsonl?domain=ad&window=2h")
    assert (source.domain, source.window_ms) == ("ad", 7_200_000)


@pytest.mark.parametrize("text", ["sim", "ebnerd:{}", "{}/events.jsonl"])
def test_what_comes_back_is_a_source(folder, text):
    source = open_source(text.format(folder))
    assert isinstance(source, Source)
    assert source.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing is named"),
        ("nowhere.jsonl", "'nowhere.jsonl': no such file or folder"),
        ("sim:users", "'users' is not of the form name=value"),
        ("sim:speed=3", "no option 'speed'; there are seed, days"),
        ("sim:users=many", "users='many' is not an integer"),
        ("ebnerd:", "a folder is needed"),
        ("ebnerd:.?map=A", "no option 'map'; there are mapping, seed"),
        ("{}/events.jsonl?domian=ad", "no option 'domian'; there are window, domain"),
    ],
)
def test_errors_name_the_source_and_list_the_forms(folder, text, message):
    with pytest.raises(DataError, match=message) as error:
        open_source(text.format(folder))
    assert "sim:days=40,users=2000" in str(error.value)


def test_values_are_checked_by_the_sources(folder):
    with pytest.raises(ConfigError, match="users=0 is below 1"):
        open_source("sim:users=0")
    with pytest.raises(DataError, match="mappings A and B, not 'C'"):
        open_source(f"ebnerd:{folder}?mapping=C")
    with pytest.raises(DataError, match="'1w' is not a length of time"):
        open_source(f"{folder}/events.jsonl?window=1w")
