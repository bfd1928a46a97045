"""EB-NeRD, a Danish news site's impression lists (2023), as two domains.

The ad side is a *proxy*: paid articles (mapping A) or lists inside an article (mapping B), not advertising.
Results on it measure transfer between two kinds of content, and must be labelled so.

Columns that are not features, and why:

- Only lists with a click were logged, so the length of a list predicts its clicks. No feature contains the length
  or the position in the list; ``list_id`` is used for per-list AUC only.
- ``read_time``, ``scroll_percentage`` and ``next_*`` of a row are known only after its click.
- The validation history overlaps the train week: only the train history is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import polars as pl

from ecdctr.events.batch import AD, NATURAL
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources.datasets.ebnerd_history import NEGATIVES, with_negatives
from ecdctr.state.errors import DataError

__all__ = ["EbNerd"]

LISTS_A_FRAME = 4_096

_SPLITS = ("train", "validation")
_USER_FIELDS = ("device", "gender", "age", "postcode", "subscriber", "signed_in")
_WHERE = "EB-NeRD is at https://recsys.eb.dk; unpack it so that DIR/train/behaviors.parquet exists"


class EbNerd:
    """Impressions of EB-NeRD in event order.

    Parameters
    ----------
    folder
        Holds ``{train,validation}/behaviors.parquet``, ``train/history.parquet``, and ``articles.parquet`` or both of
        ``premium_articles.parquet`` and ``article_length.parquet``.
    mapping
        "A": articles open to all are natural, paid ones ads. "B": lists on the front page are natural, lists inside an
        article ads.
    seed
        Seed of the sampled negatives of :meth:`history`.

    Notes
    -----
    Times have no zone and are read as UTC. There are no click times, so a click has the time of its impression.
    """

    def __init__(self, folder: str | Path, mapping: Literal["A", "B"] = "A", seed: int = 0) -> None:
        if mapping not in ("A", "B"):
            raise DataError(f"EB-NeRD has the mappings A and B, not {mapping!r}")
        self.folder, self.mapping, self.seed = Path(folder), mapping, seed
        if not self.folder.is_dir():
            raise DataError(f"EB-NeRD: there is no folder {self.folder}. {_WHERE}")

    @property
    def name(self) -> str:
        """Its name in reports."""
        kinds = {"A": "paid articles as ads", "B": "lists inside an article as ads"}
        return f"EB-NeRD mapping {self.mapping} ({kinds[self.mapping]}: a proxy, not advertising)"

    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features that its events carry."""
        context = [FeatureSpec(name=name, buckets=1 << 10) for name in _USER_FIELDS]
        if self.mapping == "A":
            context.append(FeatureSpec(name="page", buckets=1 << 10))
        return (
            FeatureSpec(name="user", field="user_id", buckets=1 << 18, tpm=True),
            FeatureSpec(name="item", field="item_id", buckets=1 << 18, tpm=True),
            FeatureSpec(name="length", buckets=1 << 10, tpm=True),
            FeatureSpec(name="hour", field="@hour", buckets=24),
            FeatureSpec(name="weekday", field="@weekday", buckets=7),
            *context,
        )

    @property
    def extra_fields(self) -> tuple[str, ...]:
        """Columns other than the features."""
        return ("list_id",)

    def count(self) -> int:
        """Number of rows of :meth:`frames`."""
        rows = [self._scan(f"{s}/behaviors.parquet", ["article_ids_inview"]) for s in _SPLITS]
        lengths = pl.concat(rows).select(pl.col("article_ids_inview").list.len().cast(pl.Int64).sum())
        return int(lengths.collect().item())

    def frames(self) -> Iterator[pl.DataFrame]:
        """Impressions by ``ts``; the rows of a list have the same time, are adjacent and always in one frame."""
        articles = self._articles()
        lists = self._lists()
        for part in lists.iter_slices(LISTS_A_FRAME):
            yield self._impressions(part, articles)

    def history(self) -> Iterator[pl.DataFrame]:
        """Clicks of the three weeks before, with sampled negatives, for TPM; mapping A leaves out paid articles.

        The clicks are the logged ones; the non-clicks are *sampled*: four for each click, by
        popularity in the 24 hours before it (:func:`ecdctr.replay.sources.datasets.ebnerd_history.with_negatives`).
        """
        columns = ["user_id", "impression_time_fixed", "article_id_fixed"]
        clicks = (
            self._scan("train/history.parquet", columns)
            .explode("impression_time_fixed", "article_id_fixed")
            .select(
                pl.col("impression_time_fixed").dt.epoch("ms").alias("ts"),
                pl.col("user_id").cast(pl.Int64),
                pl.col("article_id_fixed").cast(pl.Int64).alias("item_id"),
            )
            .drop_nulls()
            .collect()
        )
        articles = self._articles()
        if self.mapping == "A":
            paid = articles.filter(pl.col("premium"))["item_id"]
            clicks = clicks.filter(~pl.col("item_id").is_in(paid.implode()))
        clicks = clicks.sort("ts", "user_id", maintain_order=True)
        # Unknown for the history; nulls, so that its rows have the same features.
        unknown = [pl.lit(None, pl.Int64).alias(name) for name in ("list_id", *_USER_FIELDS)]
        unknown.append(pl.lit(None, pl.String).alias("page"))
        for frame in with_negatives(clicks, seed=self.seed, ratio=NEGATIVES):
            rows = frame.join(articles.drop("premium"), on="item_id", how="left", maintain_order="left")
            yield rows.with_columns(unknown)

    def _lists(self) -> pl.DataFrame:
        columns = {
            "impression_id": pl.col("impression_id").cast(pl.Int64).alias("list_id"),
            "impression_time": pl.col("impression_time").dt.epoch("ms").alias("ts"),
            "user_id": pl.col("user_id").cast(pl.Int64),
            "article_id": pl.col("article_id").is_null().alias("front"),
            "article_ids_inview": pl.col("article_ids_inview").alias("item_id"),
            "article_ids_clicked": pl.col("article_ids_clicked").alias("clicked"),
            "device_type": pl.col("device_type").cast(pl.Int64).alias("device"),
            "gender": pl.col("gender").cast(pl.Int64),
            "age": pl.col("age").cast(pl.Int64),
            "postcode": pl.col("postcode").cast(pl.Int64),
            "is_subscriber": pl.col("is_subscriber").cast(pl.Int64).alias("subscriber"),
            "is_sso_user": pl.col("is_sso_user").cast(pl.Int64).alias("signed_in"),
        }
        splits = [self._scan(f"{s}/behaviors.parquet", list(columns)) for s in _SPLITS]
        return pl.concat(splits).select(*columns.values()).sort("ts", "list_id").collect()

    def _impressions(self, lists: pl.DataFrame, articles: pl.DataFrame) -> pl.DataFrame:
        rows = (
            lists.with_columns(place=pl.int_ranges(pl.col("item_id").list.len()))
            .explode("item_id", "place")
            .with_columns(
                pl.col("item_id").cast(pl.Int64),
                label=pl.col("clicked").list.contains(pl.col("item_id")).cast(pl.UInt8),
            )
            .join(articles, on="item_id", how="left", maintain_order="left")
        )
        ad = pl.col("premium") if self.mapping == "A" else ~pl.col("front")
        return rows.select(
            pl.when(ad).then(AD).otherwise(NATURAL).cast(pl.UInt8).alias("domain"),
            pl.format("{}-{}", "list_id", "place").alias("event_id"),
            "ts",
            "user_id",
            "item_id",
            "label",
            "list_id",
            "length",
            pl.when("front").then(pl.lit("front")).otherwise(pl.lit("article")).alias("page"),
            *_USER_FIELDS,
        )

    def _articles(self) -> pl.DataFrame:
        """``item_id``, ``premium`` (bool) and ``length`` (an increment means a factor of two) of each article."""
        if (self.folder / "articles.parquet").is_file():
            table = self._scan("articles.parquet", ["article_id", "premium", "body"])
            table = table.with_columns(article_length=pl.col("body").str.len_chars())
        else:
            premium = self._scan("premium_articles.parquet", ["article_id", "premium"])
            length = self._scan("article_length.parquet", ["article_id", "article_length"])
            table = premium.join(length, on="article_id", how="left")
        return table.select(
            pl.col("article_id").cast(pl.Int64).alias("item_id"),
            pl.col("premium").cast(pl.Boolean),
            (pl.col("article_length") + 1).log(2).floor().cast(pl.Int64).alias("length"),
        ).collect()

    def _scan(self, file: str, columns: list[str]) -> pl.LazyFrame:
        path = self.folder / file
        if not path.is_file():
            raise DataError(f"EB-NeRD: {path} is missing. {_WHERE}")
        try:
            frame = pl.scan_parquet(path)
            known = frame.collect_schema().names()
        except pl.exceptions.PolarsError as e:
            raise DataError(f"EB-NeRD: {path} cannot be read as Parquet ({e}). {_WHERE}") from e
        missing = [c for c in columns if c not in known]
        if missing:
            raise DataError(f"EB-NeRD: {path} has no column {', '.join(missing)}. {_WHERE}")
        return frame.select(columns)
