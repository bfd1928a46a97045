"""KuaiRand, a short-video app's log (2022): ordinary videos as the natural side, ad videos as ads.

Unlike most data sets with two domains, its ads are real: ``video_type`` says AD or NORMAL.

Columns that are not features, and why:

- ``is_like``, ``is_follow``, ``is_comment``, ``is_forward``, ``is_hate``, ``long_view``, ``play_time_ms``,
  ``profile_stay_time``, ``comment_stay_time``, ``is_profile_enter`` of a row are known only after its click.
- ``video_features_statistic_*`` is computed over the whole time span, including the future of each row: it is not read.
- ``log_random_*`` contains videos shown at random, for other studies: it is not read.

The table of users is a single snapshot: its counts, such as those of friends, may be younger than the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ecdctr.events.batch import AD, NATURAL
from ecdctr.events.settings import FeatureSpec
from ecdctr.replay.sources.datasets.csv_dataset import Dataset, text_bag

__all__ = ["KuaiRand"]

_LOGS = ("log_standard_4_08_to_4_21_*.csv", "log_standard_4_22_to_5_08_*.csv")
_LOG = ("user_id", "video_id", "hourmin", "time_ms", "is_click", "tab")
_VIDEO = ("video_id", "author_id", "video_type", "upload_type", "video_duration", "music_type", "tag")
_USER_FIELDS = (
    "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author", "follow_user_num_range",
    "fans_user_num_range", "friend_user_num_range", "register_days_range", *(f"onehot_feat{i}" for i in range(18)),
)  # fmt: skip
_VIDEO_FIELDS = ("author", "upload_type", "music_type", "length")


class KuaiRand(Dataset):
    """Impressions of KuaiRand-Pure, -1K or -27K in event order.

    A row whose video is not in the table, or has another type than AD and NORMAL, has no domain: the decoder
    rejects and counts it. The table of videos is held in memory (7,583 rows in Pure, 32 million in 27K).

    Parameters
    ----------
    folder
        Holds ``log_standard_4_08_to_4_21_*.csv``, ``log_standard_4_22_to_5_08_*.csv``,
        ``video_features_basic_*.csv`` and ``user_features_*.csv``, or a folder ``data`` with them.
    """

    title = "KuaiRand"
    published = (
        '"KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos" (CIKM 2022), kuairand.com: '
        "unpack KuaiRand-Pure, -1K or -27K so that DIR/data/log_standard_4_08_to_4_21_pure.csv (or _1k, _27k) exists"
    )
    subfolders = ("data",)

    def find_files(self) -> None:
        self.logs = [path for pattern in _LOGS for path in self.files(pattern, _LOG)]
        self.videos = self.files("video_features_basic_*.csv", _VIDEO)
        self.users = self.files("user_features_*.csv", ("user_id", *_USER_FIELDS))

    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        users = [FeatureSpec(name=name, buckets=1 << 10) for name in _USER_FIELDS]
        videos = [
            FeatureSpec(name=name, buckets=1 << (20 if name == "author" else 10), tpm=name == "author")
            for name in _VIDEO_FIELDS
        ]
        return (
            FeatureSpec(name="user", field="user_id", buckets=1 << 18, tpm=True),
            FeatureSpec(name="item", field="item_id", buckets=1 << 20, tpm=True),
            FeatureSpec(name="tag", kind="bag", buckets=1 << 10, max_length=4, tpm=True),
            FeatureSpec(name="tab", buckets=64),
            FeatureSpec(name="hour", buckets=64),
            FeatureSpec(name="weekday", field="@weekday", buckets=7),
            *videos,
            *users,
        )

    def chunks(self) -> Iterator[pl.DataFrame]:
        videos = (
            self.table(self.videos, _VIDEO)
            .select(
                "video_id",
                pl.col("video_type")
                .replace_strict({"AD": AD, "NORMAL": NATURAL}, default=None, return_dtype=pl.UInt8)
                .alias("domain"),
                pl.col("author_id").alias("author"),
                "upload_type",
                "music_type",
                # An increment means a factor of two.
                (pl.col("video_duration").cast(pl.Float64, strict=False) / 1000 + 1)
                .log(2)
                .floor()
                .cast(pl.Int64, strict=False)
                .alias("length"),
                text_bag("tag", ","),
            )
            .unique("video_id", keep="first")
        )
        users = self.table(self.users, ("user_id", *_USER_FIELDS)).unique("user_id", keep="first")
        for path in self.logs:
            for rows in self.read(path, _LOG):
                joined = rows.join(videos, on="video_id", how="left", maintain_order="left")
                joined = joined.join(users, on="user_id", how="left", maintain_order="left")
                yield joined.select(
                    "domain",
                    pl.format("{}:{}", pl.lit(path.name), "row").alias("event_id"),
                    pl.col("time_ms").cast(pl.Int64, strict=False).alias("ts"),
                    "user_id",
                    pl.col("video_id").alias("item_id"),
                    pl.col("is_click").cast(pl.Float64, strict=False).alias("label"),
                    "tag",
                    "tab",
                    # The hour in the app's own time zone; ts would give UTC.
                    (pl.col("hourmin").cast(pl.Int64, strict=False) // 100).alias("hour"),
                    *_VIDEO_FIELDS,
                    *_USER_FIELDS,
                )
