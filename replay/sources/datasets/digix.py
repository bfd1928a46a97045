"""HUAWEI DIGIX 2022, cross-domain CTR: a browser's news feed as the natural side, display ads as ads.

Real ads beside real natural content. The two logs identify the same people: ``u_userId`` of the feed is ``user_id`` of the ads. Labels
differ: the feed says 1 and -1, the ads 1 and 0. Times are to the minute and without a zone; they are read as UTC.

Columns that are not features, and why:

- ``pro`` and ``cillabel`` describe what the reader did with the article: known only after the click.
- ``i_upTimes`` and ``i_dislikeTimes`` are counts of an article without a time: they may include the row's own future.
- ``e_po`` is the position in the feed, which is decided after the prediction.

``ad_click_list_*`` and ``ad_close_list_*`` are published as the user's history before the row, and are used as such.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ecdctr.events.batch import AD, NATURAL
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources.datasets.csv_dataset import Dataset, text_bag

__all__ = ["Digix"]

_BOTH = ("u_refreshTimes", "u_feedLifeCycle")
_BOTH_BAGS = ("u_newsCatInterestsST",)
_FEED = (
    "u_phonePrice", "u_browserLifeCycle", "u_browserMode", "i_s_sourceId", "i_regionEntity", "i_cat", "i_dtype",
    "e_ch", "e_m", "e_pl", "e_rn", "e_section",
)  # fmt: skip
_FEED_BAGS = ("u_newsCatInterests", "u_newsCatDislike", "u_click_ca2_news", "i_entities")
_ADS = (
    "age", "gender", "residence", "city", "city_rank", "series_dev", "series_group", "emui_dev", "device_name",
    "device_size", "net_type", "task_id", "creat_type_cd", "adv_prim_id", "inter_type_cd", "slot_id", "site_id",
    "spread_app_id", "hispace_app_tags", "app_second_class", "app_score",
)  # fmt: skip
_ADS_BAGS = tuple(f"ad_{what}_list_v00{i}" for what in ("click", "close") for i in (1, 2, 3))
_BAGS = (*_BOTH_BAGS, *_FEED_BAGS, *_ADS_BAGS)
_FIELDS = (*_BOTH, *_FEED, *_ADS)

_FEED_KEYS = ("u_userId", "i_docId", "e_et", "label")
_ADS_KEYS = ("log_id", "user_id", "adv_id", "pt_d", "label")
_MANY = {"i_s_sourceId": 1 << 16, "task_id": 1 << 16, "i_entities": 1 << 18}


class Digix(Dataset):
    """Impressions of both logs in event order.

    Parameters
    ----------
    folder
        Holds ``train_data_feeds.csv`` and ``train_data_ads.csv``, or a folder ``train`` with them.
    """

    title = "HUAWEI DIGIX 2022"
    published = (
        "the cross-domain CTR prediction task of the HUAWEI DIGIX Global AI Challenge 2022 (developer.huawei.com, "
        "competition pages): unpack it so that DIR/train_data_ads.csv and DIR/train_data_feeds.csv exist"
    )
    subfolders = ("train",)

    def find_files(self) -> None:
        feed = (*_FEED_KEYS, *_BOTH, *_BOTH_BAGS, *_FEED, *_FEED_BAGS)
        ads = (*_ADS_KEYS, *_BOTH, *_BOTH_BAGS, *_ADS, *_ADS_BAGS)
        self.sides = [
            (path, columns, domain)
            for name, columns, domain in (
                ("train_data_feeds.csv", feed, NATURAL),
                ("train_data_ads.csv", ads, AD),
            )
            for path in self.files(name, columns)
        ]

    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        tpm = {"i_cat", "i_s_sourceId", "u_newsCatInterestsST"}
        plain = [FeatureSpec(name=n, buckets=_MANY.get(n, 1 << 12), tpm=n in tpm) for n in _FIELDS]
        bags = [
            FeatureSpec(name=n, kind="bag", buckets=_MANY.get(n, 1 << 16), max_length=5, tpm=n in tpm)
            for n in _BAGS
        ]
        return (
            FeatureSpec(name="user", field="user_id", buckets=1 << 20, tpm=True),
            FeatureSpec(name="item", field="item_id", buckets=1 << 20, tpm=True),
            FeatureSpec(name="hour", field="@hour", buckets=24),
            FeatureSpec(name="weekday", field="@weekday", buckets=7),
            *plain,
            *bags,
        )

    def chunks(self) -> Iterator[pl.DataFrame]:
        for path, columns, domain in self.sides:
            user, item, ts = (
                ("u_userId", "i_docId", "e_et") if domain == NATURAL else ("user_id", "adv_id", "pt_d")
            )
            for rows in self.read(path, columns):
                missing = [name for name in (*_FIELDS, *_BAGS) if name not in columns]
                full = rows.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
                yield full.select(
                    pl.lit(domain, pl.UInt8).alias("domain"),
                    pl.format("{}:{}", pl.lit(path.name), "row").alias("event_id"),
                    pl.col(ts).str.to_datetime("%Y%m%d%H%M", strict=False).dt.epoch("ms").alias("ts"),
                    pl.col(user).alias("user_id"),
                    pl.col(item).alias("item_id"),
                    (pl.col("label").cast(pl.Float64, strict=False) > 0).cast(pl.Float64).alias("label"),
                    *_FIELDS,
                    *(text_bag(name, "^") for name in _BAGS),
                )
