"""Small click logs as other systems write them: other names, languages, formats and shapes; each is written by one function."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl

__all__ = ["LOGS", "Rows", "impressions"]

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)

Rows = list[dict[str, Any]]


def impressions(n: int = 300, seed: int = 1) -> Rows:
    """Impressions of 25 users and 20 items within three days; every third is an ad, and about a quarter are clicked."""
    rng = random.Random(seed)
    out: Rows = []
    for i in range(n):
        user, item = rng.randrange(25), rng.randrange(20)
        clicked = int(rng.random() < 0.1 + 0.03 * ((user * 7 + item * 3) % 10))
        out.append(
            {
                "n": i,
                "at": START + timedelta(minutes=14 * i),
                "user": user,
                "item": item,
                "clicked": clicked,
                "ad": i % 3 == 2,
                "category": f"cat{item % 5}",
                "price": round(3 * 1.4**item, 2),
                "age": 18 + user * 9 % 23,
                "dwell": rng.randrange(5, 200) if clicked else 0,
            }
        )
    return out


def _csv(path: Path, rows: Rows, separator: str = ",") -> list[Path]:
    lines = [separator.join(rows[0])]
    lines += [separator.join("" if v is None else str(v) for v in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [path]


def _json(path: Path, rows: Rows) -> list[Path]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [path]


def spanish(folder: Path) -> list[Path]:
    """CSV with Spanish names, dates in text, and a column of true and false for ads."""
    made = [
        {
            "fecha": f"{r['at']:%d/%m/%Y %H:%M:%S}", "id_usuario": f"U{r['user']:04d}", "id_producto": f"P{r['item']:03d}",
            "clic": str(bool(r["clicked"])).lower(), "patrocinado": str(r["ad"]).lower(), "categoria": r["category"],
            "precio": r["price"], "tiempo_permanencia": r["dwell"] or None,
        }
        for r in impressions()
    ]  # fmt: skip
    return _csv(folder / "registro.csv", made)


def german(folder: Path) -> list[Path]:
    """CSV with semicolons, German names and dates, rows in no order, and a column for the stream."""
    made = [
        {
            "Zeitpunkt": f"{r['at']:%d.%m.%Y %H:%M}", "Nutzerkennung": 70_000 + r["user"], "Artikelnummer": f"A-{r['item']}",
            "Geklickt": r["clicked"], "Bereich": "Werbung" if r["ad"] else "Redaktionell", "Kategorie": r["category"], "Alter": r["age"],
            "Gekauft": int(r["clicked"] and r["n"] % 3 == 0),
        }
        for r in impressions()
    ]  # fmt: skip
    random.Random(3).shuffle(made)
    return _csv(folder / "klicks.csv", made, ";")


def pinyin(folder: Path) -> list[Path]:
    """JSON lines with names in pinyin, seconds, and a key that most rows lack."""
    made = []
    for r in impressions():
        row = {
            "yonghu_id": r["user"] + 1_000_000, "shangpin_id": r["item"] + 9_000, "shijian": int(r["at"].timestamp()), "dianji": r["clicked"],
            "leixing": "guanggao" if r["ad"] else "ziran", "jiage": r["price"], "biaoqian": [f"b{r['item'] % 3}", f"b{r['item'] % 4}"],
        }  # fmt: skip
        if r["n"] % 10 == 7:
            row["youhuiquan"] = f"c{r['item'] % 2}"
        made.append(row)
    return _json(folder / "rizhi.jsonl", made)


def nested(folder: Path) -> list[Path]:
    """JSON lines with nested objects, ISO times, and an action instead of a label."""
    made = [
        {
            "meta": {"time": r["at"].isoformat(), "requestId": f"r{r['n']}"},
            "user": {"id": f"u{r['user']}", "profile": {"age": r["age"]}},
            "content": {"id": f"i{r['item']}", "category": r["category"], "sponsored": r["ad"]},
            "event": {"action": "click" if r["clicked"] else "view", "dwellTime": r["dwell"]},
        }
        for r in impressions()
    ]
    return _json(folder / "events.jsonl", made)


def two_files(folder: Path) -> list[Path]:
    """Ads and natural content in two files with different names of columns."""
    rows = impressions()
    ads = [
        {
            "ts": int(r["at"].timestamp() * 1000),
            "uid": f"u{r['user']}",
            "ad_id": r["item"],
            "click": r["clicked"],
            "bid": r["price"],
        }
        for r in rows
        if r["ad"]
    ]
    views = [
        {
            "time": f"{r['at']:%Y-%m-%d %H:%M:%S}",
            "user_id": f"u{r['user']}",
            "article_id": r["item"],
            "clicked": r["clicked"],
            "category": r["category"],
        }
        for r in rows
        if not r["ad"]
    ]
    return _csv(folder / "content.csv", views) + _json(folder / "ads.jsonl", ads)


def lists(folder: Path) -> list[Path]:
    """Parquet with a list of shown items and a list of clicked ones in each row, and a price for each item."""
    rng = random.Random(5)
    made = []
    for i in range(100):
        shown = rng.sample(range(20), rng.randrange(2, 6))
        made.append(
            {
                "request_id": f"q{i}", "logged_at": START + timedelta(minutes=40 * i), "member": rng.randrange(25), "items_shown": shown,
                "items_clicked": [s for s in shown if rng.random() < 0.25], "prices": [3.5 * s for s in shown],
                "slot": "sponsored" if i % 3 == 0 else "organic",
            }
        )  # fmt: skip
    pl.DataFrame(made).with_columns(pl.col("logged_at").dt.replace_time_zone(None)).write_parquet(
        folder / "lists.parquet"
    )
    return [folder / "lists.parquet"]


def counts(folder: Path) -> list[Path]:
    """CSV with one row for each user, item and hour, and its numbers of views and clicks."""
    rng = random.Random(6)
    made = []
    for r in impressions(150):
        views = rng.randrange(0, 5)
        made.append(
            {"hour": f"{r['at']:%Y-%m-%dT%H:00:00Z}", "visitor_id": f"v{r['user']}", "banner_id": r["item"] + 100, "impressions": views,
             "clicks": sum(rng.random() < 0.2 for _ in range(views)), "channel": "display_ads" if r["ad"] else "feed"}
        )  # fmt: skip
    return _csv(folder / "hourly.csv", made)


def unlabelled(folder: Path) -> list[Path]:
    """A log that does not say what was clicked."""
    made = [
        {
            "ts": int(r["at"].timestamp() * 1000),
            "user_id": r["user"],
            "item_id": r["item"],
            "price": r["price"],
        }
        for r in impressions()
    ]
    return _csv(folder / "views.csv", made)


def uuids(folder: Path) -> list[Path]:
    """Parquet with UUIDs as 16 bytes, decimals, microseconds as integers, and a column that is filled only after a click."""
    rows = impressions()
    frame = pl.DataFrame(
        {
            "event_time": [int(r["at"].timestamp() * 1_000_000) for r in rows],
            "customer_uuid": [UUID(int=(0xFF << 120) + r["user"] * 7919).bytes for r in rows],
            "product_id": pl.Series([Decimal(10**20 + r["item"]) for r in rows], dtype=pl.Decimal(38, 0)),
            "was_clicked": [bool(r["clicked"]) for r in rows],
            "is_ad": [r["ad"] for r in rows],
            "price": pl.Series([Decimal(str(r["price"])) for r in rows], dtype=pl.Decimal(12, 2)),
            "click_ts": [
                int(r["at"].timestamp() * 1_000_000) + 5_000_000 if r["clicked"] else None for r in rows
            ],
        }
    )
    frame.write_parquet(folder / "shop.parquet")
    return [folder / "shop.parquet"]


def like_avazu(folder: Path) -> list[Path]:
    """The columns of Avazu's log: hours as 26030208, no user, items without a name, hashed categories."""
    made = [
        {
            "id": 10**18 + r["n"] * 977, "click": r["clicked"], "hour": f"{r['at']:%y%m%d%H}", "C1": 1005, "banner_pos": r["n"] % 2,
            "site_id": f"{(r['n'] % 6) * 0x1F2E3D4C % 2**32:08x}", "site_category": f"{(r['n'] % 3) * 0x5B6A798 % 2**32:08x}",
            "device_id": "a99f214a" if r["user"] % 5 else f"{r['user'] * 0x3C4D5E6F % 2**32:08x}", "device_ip": f"{(r['user'] + 1) * 0x2F3E4D5C % 2**32:08x}",
            "device_type": r["user"] % 3, "C14": 15_000 + 37 * r["item"], "C15": (320, 300)[r["item"] % 2], "C17": 1_700 + r["item"] // 2,
            "C21": 20 + r["item"] % 7,
        }
        for r in impressions()
    ]  # fmt: skip
    return _csv(folder / "train.csv", made)


def like_criteo(folder: Path) -> list[Path]:
    """The columns of Criteo's attribution log: tabs, seconds since an unknown moment, conversions beside clicks."""
    made = [
        {
            "timestamp": int((r["at"] - START).total_seconds()), "uid": r["user"] + 5_000_000, "campaign": r["item"] + 22_000_000,
            "conversion": int(r["clicked"] and r["n"] % 4 == 0), "conversion_timestamp": int((r["at"] - START).total_seconds()) + 90 if r["clicked"] and r["n"] % 4 == 0 else -1,
            "click": r["clicked"], "click_pos": 0 if r["clicked"] else -1, "cost": round(r["price"] / 1e4, 8), "cat1": r["item"] * 31 % 11, "cat2": r["user"] * 17 % 9,
        }
        for r in impressions()
    ]  # fmt: skip
    return _csv(folder / "attribution.tsv", made, "\t")


def actions(folder: Path) -> list[Path]:
    """JSON lines in which a click is a row of its own, with the id of its impression."""
    made = []
    for r in impressions():
        key = {"impression_id": f"x{r['n']}", "user": r["user"], "item": r["item"]}
        more = {"slot": "sponsored" if r["ad"] else "organic", "price": r["price"]}
        made.append({"time": r["at"].isoformat(), "action": "view", **key, **more})
        if r["clicked"]:
            made.append({"time": (r["at"] + timedelta(seconds=20)).isoformat(), "action": "click", **key})
    return _json(folder / "actions.jsonl", made)


def clicks_apart(folder: Path) -> list[Path]:
    """Impressions and clicks in two CSV files that share the request and the ad."""
    rows = [
        (r, {"request_id": f"q{r['n'] // 2}", "ad_id": f"a{r['item'] + r['n'] % 2 * 20}"})
        for r in impressions()
    ]
    shown = [
        {"ts": int(r["at"].timestamp() * 1000), **key, "uid": f"u{r['n'] // 2 % 25}", "price": r["price"]}
        for r, key in rows
    ]
    clicks = [
        {"click_time": f"{r['at'] + timedelta(seconds=30):%Y-%m-%d %H:%M:%S}", **key}
        for r, key in rows
        if r["clicked"]
    ]
    return _csv(folder / "impressions.csv", shown) + _csv(folder / "clicks.csv", clicks)


def sales(folder: Path) -> list[Path]:
    """CSV with semicolons, decimal commas, and the date and the time of day in two columns."""
    made = [
        {
            "Datum": f"{r['at']:%d.%m.%Y}", "Uhrzeit": f"{r['at']:%H:%M:%S}", "Kunde": r["user"], "Artikel": f"A{r['item']}", "Klick": r["clicked"],
            "Preis": f"{r['price'] + r['n'] % 7:.2f}".replace(".", ","), "Anzeige": int(r["ad"]),
        }
        for r in impressions()
    ]  # fmt: skip
    return _csv(folder / "verkauf.csv", made, ";")


LOGS: dict[str, Callable[[Path], list[Path]]] = {
    f.__name__: f
    for f in (
        spanish,
        german,
        pinyin,
        nested,
        two_files,
        lists,
        counts,
        unlabelled,
        uuids,
        like_avazu,
        like_criteo,
        actions,
        clicks_apart,
        sales,
    )
}
"""Every log by name."""
