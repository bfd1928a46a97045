"""Slices by a feature: rows, figures and names against polars and scikit-learn on the events themselves."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ecdctr.events.decoder import EventDecoder, to_arrow_message, to_json_messages
from ecdctr.events.schema import FeatureSchema
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.figures import value_names
from ecdctr.replay.figures.evaluation import evaluate
from ecdctr.replay.figures.slices import TPM
from ecdctr.replay.figures.slices_by_feature import TOP, feature_slices
from ecdctr.replay.play import RowNotes
from ecdctr.state.errors import ConfigError
from ecdctr.state.row_logs import ScoreLog

SPECS = [
    FeatureSpec(name="user", field="user_id", buckets=5_000),
    FeatureSpec(name="site", buckets=200_000),
    FeatureSpec(name="weekday", field="@weekday", buckets=7),
    FeatureSpec(name="tags", kind="bag", max_length=8, buckets=1_000),
    FeatureSpec(name="price", kind="numeric", transform="log1p"),
    FeatureSpec(name="x", kind="numeric"),
]
NAMES = ["site", "weekday", "tags", "price", "x"]


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(0)
    n = 6_000
    site = np.minimum(rng.geometric(0.06, n), 59)
    return pl.DataFrame(
        {
            "event_id": np.arange(n),
            "ts": 1_700_000_000_000 + np.sort(rng.integers(0, 9 * 86_400_000, n)),
            "domain": rng.integers(0, 2, n),
            "user_id": [f"u{u}" for u in rng.integers(0, 10, n)],
            "item_id": rng.integers(0, 50, n),
            "label": (rng.random(n) < 0.3).astype(np.int64),
            "site": [None if s % 13 == 0 else f"site-{s}" for s in site],
            "tags": [[f"t{t}" for t in range(k)] for k in rng.integers(0, 9, n)],
            "price": np.where(rng.random(n) < 0.4, 0, rng.integers(1, 90_000, n)),
            "x": np.round(rng.normal(0, 3, n), 3),
            "p": rng.random(n).astype(np.float32),
        }
    )


def noted(events, slices, decoded):
    """Columns as a replay's score log has them."""
    batch = decoded.batch
    columns = {name: getattr(batch, name) for name in ("ts", "user", "item", "domain")}
    columns |= {"label": batch.label.astype(np.uint8), "p_a": events["p"].to_numpy()}
    return columns | RowNotes(slices).add_to(batch).notes


@pytest.fixture(scope="module")
def decoder():
    return EventDecoder(FeatureSchema(SPECS, 4))


@pytest.fixture(scope="module")
def found(events, decoder):
    notes = RowNotes(feature_slices(decoder.schema, NAMES))
    notes.prepare(decoder)
    columns = noted(events, notes.slices, decoder.from_frame(events))
    return evaluate(columns, ["a"], slices=notes.slices, day_samples=10, samples=10)["slices"]


def figures(rows):
    """Count, clicks, AUC, log loss, PCOC and GAUC of some events, by scikit-learn user by user."""
    y, p = rows["label"].to_numpy(), rows["p"].to_numpy().astype(np.float64)
    both = [u for _, u in rows.group_by("user_id") if u["label"].n_unique() == 2]
    auc = [roc_auc_score(u["label"], u["p"]) for u in both]
    return {
        "n": len(y),
        "clicks": int(y.sum()),
        "auc": roc_auc_score(y, p),
        "log_loss": log_loss(y, p),
        "pcoc": p.sum() / y.sum(),
        "gauc": np.average(auc, weights=[len(u) for u in both]),
    }


def in_range(value, column):
    """The rows that the name of a range speaks of."""
    words = value.replace(",", "").replace(" to ", " ").split()
    low, high = {"up": (-np.inf, words[-1]), "above": (words[1], words[2] if len(words) > 2 else np.inf)}[
        words[0]
    ]
    return (pl.col(column) > float(low)) & (pl.col(column) <= float(high))


def rows_of(slice_, value, events):
    if slice_ == "weekday":
        names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
        return events.filter(pl.from_epoch("ts", time_unit="ms").dt.weekday() == names.index(value) + 1)
    if slice_ == "tags":
        low, _, high = value.partition(" to ")
        return events.filter(pl.col("tags").list.len().is_between(int(low), int(high or low)))
    if slice_ in ("price", "x"):
        return events.filter(in_range(value, slice_))
    if value == "missing":
        return events.filter(pl.col("site").is_null())
    if value == "other":
        top = events["site"].drop_nulls().value_counts().sort("count", descending=True)
        assert len(top) > TOP
        cut = top["count"][TOP - 1]
        return events.filter(pl.col("site").is_in(top.filter(pl.col("count") < cut)["site"].implode()))
    return events.filter(pl.col("site") == value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("domain", ["natural", "ad"])
def test_figures_are_those_of_the_events_that_the_name_speaks_of(events, found, name, domain):
    of_domain = events.filter(domain=("natural", "ad").index(domain))
    rows = [row for row in found if (row["slice"], row["domain"]) == (name, domain)]
    assert sum(row["n"] for row in rows) == len(of_domain)
    assert len(rows) > 3
    for row in rows:
        chosen = rows_of(name, row["value"], of_domain)
        if row["value"] == "other" and len(chosen) != row["n"]:
            continue  # several values are as frequent as the last one named
        wanted = figures(chosen)
        assert {k: row[k] for k in wanted} == pytest.approx(wanted, rel=1e-6), row["value"]


def test_values_stand_in_an_order_that_reads_well(events, found):
    sites = [row["value"] for row in found if (row["slice"], row["domain"]) == ("site", "ad")]
    often = events.filter(pl.col("domain") == 1)["site"].drop_nulls().value_counts(sort=True)
    assert sites[0] == often["site"][0]
    assert sites[-2:] == ["other", "missing"]
    assert len(sites) == TOP + 2
    days = [row["value"] for row in found if (row["slice"], row["domain"]) == ("weekday", "ad")]
    assert days == ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    prices = [row["value"] for row in found if (row["slice"], row["domain"]) == ("price", "ad")]
    assert prices[0] == "up to 0"  # two fifths of them
    assert all("above" in value for value in prices[1:])


def test_ranges_hold_about_as_many_rows_each(found):
    rows = [row["n"] for row in found if (row["slice"], row["domain"]) == ("x", "natural")]
    assert len(rows) == 5
    assert max(rows) < 1.1 * min(rows)


def test_bounds_are_as_round_as_the_values_allow():
    spec = FeatureSpec(name="x", kind="numeric")
    (asked,) = feature_slices(FeatureSchema([spec], 4), ["x"])
    for values, wanted in (
        (
            [1980, 1991, 2003, 2019, 2024],
            (
                "up to 1,980",
                "above 1,980 to 2,000",
                "above 2,000 to 2,003",
                "above 2,003 to 2,020",
                "above 2,020",
            ),
        ),
        (
            [0.1234567, 0.5, 0.52, 0.529],
            ("up to 0.1235", "above 0.1235 to 0.5", "above 0.5 to 0.52", "above 0.52"),
        ),
        ([0, 0, 0, 0, 7], ("up to 0", "above 0")),
        ([3, 3], ("all",)),
        ([], ("all",)),
    ):
        tally = asked.tally(5)
        tally.add(np.array(values, np.float32))
        assert tally.coding().values == wanted


def test_names_are_found_whichever_way_events_come(events, decoder):
    few = events.drop("p").head(500)
    slices = feature_slices(decoder.schema, ["site"])
    names = []
    for decode in (
        lambda: decoder.from_frame(few),
        lambda: decoder.from_json([value for _, value in to_json_messages(few)], 0),
        lambda: decoder.from_packed([to_arrow_message(few[:100]), to_arrow_message(few[100:])], 0),
    ):
        (asked,) = feature_slices(decoder.schema, ["site"])
        notes = RowNotes([asked])
        notes.prepare(decoder)
        batch = notes.add_to(decode().batch)
        assert list(batch.notes) == [asked.column]  # the text itself goes no further
        buckets = np.unique(batch.notes[asked.column])
        names.append([asked.names.name(b) for b in buckets.tolist() if b])
    assert names[0] == names[1] == names[2]
    assert set(names[0]) == set(few["site"].drop_nulls())
    assert slices[0].names.name(17) == "bucket 17"  # its text was never observed


def test_values_of_one_bucket_are_named_together_and_look_alikes_by_their_bucket():
    decoder = EventDecoder(FeatureSchema([FeatureSpec(name="a", buckets=2), FeatureSpec(name="b")], 4))
    slices = feature_slices(decoder.schema, ["a", "b"])
    RowNotes(slices).prepare(decoder)
    n = 400
    values = [f"v{i % 10}" for i in range(n)]
    frame = pl.DataFrame(
        {
            "event_id": 1,
            "ts": 1_700_000_000_000,
            "domain": 1,
            "user_id": 1,
            "item_id": 1,
            "label": pl.Series([0, 1] * (n // 2)),
            "a": values,
        }
    )
    frame = frame.with_columns(b=pl.Series(["other", "", "é" * 70, "é" * 80] * (n // 4)))
    columns = noted(frame.with_columns(p=pl.lit(0.5)), slices, decoder.from_frame(frame))
    columns["p_a"] = np.full(n, 0.5)
    found = evaluate(columns, ["a"], slices=slices, day_samples=1, samples=1)["slices"]
    by_a = {row["value"]: row["n"] for row in found if row["slice"] == "a"}
    assert len(by_a) == 2
    assert sum(by_a.values()) == n
    assert all(" / " in value for value in by_a)
    assert any(value.endswith(" more") for value in by_a)
    by_b = [row["value"] for row in found if row["slice"] == "b"]
    assert len(set(by_b)) == 4
    assert "''" in by_b
    assert any(value.startswith("other (bucket ") for value in by_b)
    assert sum(value.startswith("é" * 59 + "… (bucket ") for value in by_b) == 2


def test_names_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(value_names, "MAX_NAMES", 10)
    decoder = EventDecoder(FeatureSchema([FeatureSpec(name="a", buckets=10**8)], 4))
    slices = feature_slices(decoder.schema, ["a"])
    notes = RowNotes(slices)
    notes.prepare(decoder)
    row = {"event_id": 1, "ts": 1_700_000_000_000, "domain": 1, "user_id": 1, "item_id": 1, "label": 0}
    frame = pl.DataFrame({"a": [f"v{i}" for i in range(30)]}).with_columns(
        **{k: pl.lit(v) for k, v in row.items()}
    )
    buckets = notes.add_to(decoder.from_frame(frame).batch).notes["f_a"].tolist()
    named = [slices[0].names.name(b) for b in buckets]
    assert named[:10] == frame["a"][:10].to_list()
    assert named[10:] == [f"bucket {b}" for b in buckets[10:]]


def test_an_unknown_feature_is_answered_with_those_there_are(decoder):
    with pytest.raises(
        ConfigError, match=r"--slice 'sight'.*there are user, site, weekday, tags, price, x\."
    ):
        feature_slices(decoder.schema, ["site", "sight"])


def test_a_feature_called_as_a_slice_that_is_there_anyway_keeps_apart():
    schema = FeatureSchema([FeatureSpec(name="tpm")], 4)
    (asked,) = feature_slices(schema, ["tpm"])
    assert (asked.name, asked.column) == ("feature tpm", "f_tpm")


def test_tpm_vectors_part_the_rows_where_any_snapshot_was_read(events):
    n = len(events)
    columns = {
        "ts": events["ts"].to_numpy(), "domain": np.ones(n, np.uint8), "user": np.arange(n) % 40, "item": np.arange(n) % 7,
        "label": events["label"].to_numpy(), "p_a": events["p"].to_numpy(),
    }  # fmt: skip
    code = np.random.default_rng(1).integers(0, 5, n).astype(np.uint8)
    found = evaluate(columns | {"s_tpm": code}, ["a"], day_samples=1, samples=1)["slices"]
    counted = {row["value"]: row["n"] for row in found if row["slice"] == "tpm"}
    assert counted == {TPM.values[k]: int((code == k).sum()) for k in range(5)}
    never = evaluate(columns | {"s_tpm": np.full(n, 4, np.uint8)}, ["a"], day_samples=1, samples=1)["slices"]
    assert "tpm" not in {row["slice"] for row in never}


def test_a_score_log_keeps_notes_and_gives_them_to_a_reader_that_knows_none(tmp_path):
    notes = {"f_site": "<i4", "s_tpm": "|u1"}
    log = ScoreLog(tmp_path / "scores", ("a",), notes=notes)
    z = np.zeros(3, np.uint64)
    row = {"ts": np.arange(3), "user": z, "item": z, "domain": z, "label": z, "p_a": np.full(3, 0.5)}
    log.append(row | {"f_site": np.array([5, 6, 7]), "s_tpm": np.array([0, 1, 3])})
    with pytest.raises(ValueError, match="'f_site' is missing"):
        log.append(row)
    log.close()
    reader = ScoreLog(tmp_path / "scores", read_only=True)
    assert reader.arms == ("a",)
    assert reader.read()["f_site"].tolist() == [5, 6, 7]
    assert reader.read()["s_tpm"].tolist() == [0, 1, 3]
