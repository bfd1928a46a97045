"""Taobao display ads (2017): shopping behaviour as the natural side, display ads as ads.

Definition of the label
    Ads: ``clk`` of ``raw_sample.csv``, a true click on a shown ad.
    Natural: ``behavior_log.csv`` contains what people did, never what they were shown and ignored, so there is no click
    label. A row is labelled 1 where the behaviour goes beyond viewing (``cart``, ``fav``, ``buy``) and 0 where it is a
    page view (``pv``). That is the only contrast the log has; it is *interest after a click*, a proxy for clicks.
    Figures of the natural side are figures of that proxy.

The behaviour log contains no items, only category and brand; the pair serves as its item. Category and brand are
features of the ads too, and these and the user are what can be transferred.

Left out: ``nonclk`` (the inverted label). Some rows of the behaviour log have impossible times; the decoder rejects and
counts those before 2000.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from ecdctr.events.batch import AD, NATURAL
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources.datasets.csv_dataset import Dataset

__all__ = ["Taobao"]

_SAMPLE = ("user", "time_stamp", "adgroup_id", "pid", "clk")
_BEHAVIOUR = ("user", "time_stamp", "btag", "cate", "brand")
_AD = ("adgroup_id", "cate_id", "campaign_id", "customer", "brand", "price")
_USER_FIELDS = (
    "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level", "occupation",
    "new_user_class_level",
)  # fmt: skip
_LABELS = {"pv": 0.0, "cart": 1.0, "fav": 1.0, "buy": 1.0}
_COLUMNS = ("cate", "brand", "pid", "campaign", "customer", "price")


class Taobao(Dataset):
    """Behaviours and ad impressions in event order.

    A behaviour other than pv, cart, fav and buy has no label: the decoder of events rejects and counts its row.

    Parameters
    ----------
    folder
        Holds ``raw_sample.csv``, ``ad_feature.csv``, ``user_profile.csv`` and ``behavior_log.csv``.
    """

    title = "Taobao display ads (natural side: cart, fav, buy against page views, a proxy for clicks)"
    published = (
        '"Ad Display/Click Data on Taobao.com" in the Tianchi data lab (tianchi.aliyun.com, data set 56): unpack all four '
        "archives so that DIR/raw_sample.csv, ad_feature.csv, user_profile.csv and behavior_log.csv exist"
    )

    def find_files(self) -> None:
        self.sample = self.files("raw_sample.csv", _SAMPLE)
        self.behaviour = self.files("behavior_log.csv", _BEHAVIOUR)
        self.ads = self.files("ad_feature.csv", _AD)
        self.users = self.files("user_profile.csv", ("userid", *_USER_FIELDS))

    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        return (
            FeatureSpec(name="user", field="user_id", buckets=1 << 20, tpm=True),
            FeatureSpec(name="item", field="item_id", buckets=1 << 20, tpm=True),
            FeatureSpec(name="cate", buckets=1 << 14, tpm=True),
            FeatureSpec(name="brand", buckets=1 << 18, tpm=True),
            FeatureSpec(name="pid", buckets=64),
            FeatureSpec(name="campaign", buckets=1 << 19),
            FeatureSpec(name="customer", buckets=1 << 18),
            FeatureSpec(name="price", kind="numeric", transform="log1p"),
            FeatureSpec(name="hour", field="@hour", buckets=24),
            FeatureSpec(name="weekday", field="@weekday", buckets=7),
            *(FeatureSpec(name=name, buckets=1 << 10) for name in _USER_FIELDS),
        )

    def chunks(self) -> Iterator[pl.DataFrame]:
        users = self.table(self.users, ("userid", *_USER_FIELDS)).unique("userid", keep="first")
        for path in self.behaviour:
            yield from self._finish(path, self._behaviours(path), users)
        for path in self.sample:
            yield from self._finish(path, self._impressions(path), users)

    def _behaviours(self, path: Path) -> Iterator[pl.DataFrame]:
        nothing = [pl.lit(None, pl.String).alias(name) for name in ("pid", "campaign", "customer")]
        for rows in self.read(path, _BEHAVIOUR):
            yield rows.with_columns(
                pl.lit(NATURAL, pl.UInt8).alias("domain"),
                pl.format("{}-{}", "cate", "brand").alias("item_id"),
                pl.col("btag").replace_strict(_LABELS, default=None, return_dtype=pl.Float64).alias("label"),
                pl.lit(None, pl.Float64).alias("price"),
                *nothing,
            )

    def _impressions(self, path: Path) -> Iterator[pl.DataFrame]:
        ads = self.table(self.ads, _AD).unique("adgroup_id", keep="first")
        ads = ads.rename({"cate_id": "cate", "campaign_id": "campaign"}).with_columns(
            pl.col("price").cast(pl.Float64, strict=False)
        )
        for rows in self.read(path, _SAMPLE):
            yield rows.join(ads, on="adgroup_id", how="left", maintain_order="left").with_columns(
                pl.lit(AD, pl.UInt8).alias("domain"),
                pl.col("adgroup_id").alias("item_id"),
                pl.col("clk").cast(pl.Float64, strict=False).alias("label"),
            )

    @staticmethod
    def _finish(path: Path, chunks: Iterator[pl.DataFrame], users: pl.DataFrame) -> Iterator[pl.DataFrame]:
        for rows in chunks:
            yield rows.join(
                users, left_on="user", right_on="userid", how="left", maintain_order="left"
            ).select(
                "domain",
                pl.format("{}:{}", pl.lit(path.name), "row").alias("event_id"),
                (pl.col("time_stamp").cast(pl.Int64, strict=False) * 1000).alias("ts"),
                pl.col("user").alias("user_id"),
                "item_id",
                "label",
                *_COLUMNS,
                *_USER_FIELDS,
            )
