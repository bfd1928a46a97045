"""The report: complete, self-contained, safe with any name, and the same figures as the JSON beside it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ecdctr.events.time import DAY_MS
from ecdctr.replay.figures import evaluate
from ecdctr.replay.report.html import write_report
from ecdctr.state.errors import DataError

VOID = {"meta", "link", "br", "path", "line", "use", "rect"}
ARMS = ("actr", "ads_only", "cpm")


def scored(days=3, n=3_000, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1, n)
    domain = np.arange(n) % 2

    def arm(noise, where):
        return np.where(where, 1 / (1 + np.exp(-z - rng.normal(0, noise, n))), np.nan)

    return {
        "ts": np.sort(rng.integers(20_000 * DAY_MS, (20_000 + days) * DAY_MS, n)),
        "domain": domain,
        "user": rng.integers(0, 60, n),
        "label": rng.random(n) < 1 / (1 + np.exp(-z)),
        "list_id": np.zeros(n, np.uint64),
        "oracle": 1 / (1 + np.exp(-z)),
        "p_actr": arm(0.3, domain == 1),
        "p_ads_only": arm(2.5, domain == 1),
        "p_cpm": arm(1, domain == 0),
    }


def result_of(columns):
    return evaluate(columns, ARMS, samples=50, day_samples=10)


class Page(HTMLParser):
    """Checks that tags close in order; collects words, links and what stands in which table."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.links, self.count = [], [], [], {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def result():
    return result_of(scored())


@pytest.mark.slow
def test_the_page_tells_the_figures_that_the_json_holds(result, tmp_path):
    meta = {
        "source": "a <source> & more",
        "rows": 12_345,
        "seconds": 61.5,
        "rows_per_s": 200,
        "releases": [20_001 * DAY_MS, 20_002 * DAY_MS],
        "rejects": {"label": 3},
        "settings": "[model]\ndim = 16",
    }
    path = write_report(tmp_path / "new" / "folder", "Replay of a & b", result, meta)
    page = Page(path.read_text())
    data = json.loads((path.parent / "report.json").read_text())
    assert data == {"title": "Replay of a & b", "meta": meta, "result": result}
    assert path.name == "report.html"
    for words in ("Replay of a & b", "a <source> & more", "12,345", "61.5 s", "3 label", "dim = 16"):
        assert words in page.text
    for domain, arms in data["result"]["totals"].items():
        for f in arms.values():
            for name in ("gauc", "gauc_low", "auc", "log_loss", "normalized_entropy"):
                assert f"{f[name]:.4f}" in page.text, (domain, name)
            assert f"{f['pcoc']:.3f}" in page.text
    for day in data["result"]["days"]["ad"]:
        assert day["day"] in page.text
    gain = result["differences"]["ad"]["actr"]
    assert f"{gain['value']:.4f} above ads-only" in page.text
    assert "of the gap is closed" in page.text
    assert page.count["figure"] == 6 + 4


def test_nothing_is_loaded_from_elsewhere_and_no_script_runs(result, tmp_path):
    text = write_report(tmp_path, "Replay", result, {"releases": [20_001 * DAY_MS]}).read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "script" not in page.count
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "default-src 'none'" in text


@pytest.mark.slow
def test_plots_follow_the_colours_of_the_page(result, tmp_path):
    text = write_report(tmp_path, "Replay", result, {"releases": [20_001 * DAY_MS]}).read_text()
    drawn = set(re.findall(r"var\((--[a-z0-9-]+)\)", text))
    defined = set(re.findall(r"(--[a-z0-9-]+):", text))
    assert {"--arm-0", "--arm-1", "--arm-2", "--arm-8", "--release"} <= drawn <= defined
    assert "#0102" not in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x>', "</title>"])
def test_names_in_the_data_cannot_become_markup(tmp_path, name):
    columns = scored() | {f"p_{name}": scored(seed=1)["p_actr"]}
    result = evaluate(columns, ("ads_only", name), samples=20, day_samples=5)
    meta = {"source": name, "settings": name, "rejects": {name: 1}}
    page = Page(write_report(tmp_path, name, result, meta).read_text())
    assert not {"script", "img"} & set(page.count)
    assert page.text.count(name) >= 4


def test_what_cannot_be_computed_is_a_dash_and_null(tmp_path):
    columns = scored(n=40)
    columns["label"] = np.zeros(40)
    page = Page(write_report(tmp_path, "Replay", result_of(columns)).read_text())
    assert "nan" not in page.text.lower().replace("finance", "")
    text = (tmp_path / "report.json").read_text()
    assert (
        json.loads(text, parse_constant=lambda c: pytest.fail(c))["result"]["totals"]["ad"]["actr"]["gauc"]
        is None
    )


def test_no_scored_rows_is_said(tmp_path):
    result = result_of({k: v[:0] for k, v in scored().items()})
    assert "No row was scored" in Page(write_report(tmp_path, "Replay", result).read_text()).text


@pytest.mark.slow
@pytest.mark.parametrize("days", [1, 60])
def test_short_and_long_replays(tmp_path, days):
    path = write_report(tmp_path, "Replay", result_of(scored(days=days)), {"interrupted": True})
    page = Page(path.read_text())
    assert page.count["figure"] == 10
    assert "covers the rows up to then" in page.text


@pytest.mark.slow
def test_the_same_result_is_the_same_page(result, tmp_path):
    first = write_report(tmp_path / "a", "Replay", result).read_bytes()
    assert write_report(tmp_path / "b", "Replay", result).read_bytes() == first


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_named(result, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="file"):
        write_report(tmp_path / "file" / "report", "Replay", result)


@pytest.mark.slow
def test_checks_and_arms_are_told_and_a_failed_check_stands_open(result, tmp_path):
    fine = {"name": "rows are in the order of time", "ok": True, "text": "no row came later"}
    bad = {"name": "no feature reveals the label", "ok": False, "text": "alone: dwell <AUC 0.999>"}
    frozen = {"tuesday": {"checkpoint": "state/7", "clock": 0, "not_asked": 1_234}}
    meta = {"checks": [fine, bad], "arms": {"no-tpm": "model.history=none"}, "frozen": frozen}
    text = write_report(tmp_path, "Replay", result, meta).read_text()
    page = Page(text)
    assert "<details open><summary>1 of 2 checks failed" in text
    for words in (
        "dwell <AUC 0.999>",
        "the configuration with model.history=none",
        "does not predict the 1,234 rows",
    ):
        assert words in page.text
    quiet = write_report(tmp_path, "Replay", result, {"checks": [fine]}).read_text()
    assert "<details><summary>Checks: 1 passed" in quiet
    assert "Further arms" not in quiet
