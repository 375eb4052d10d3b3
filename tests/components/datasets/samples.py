"""A tiny folder for every data set, ten interactions each: what its files look like, and the contract test's food."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAIRS = [(user, item) for user in (1, 2) for item in (1, 2, 3, 4, 5)]  # ten interactions: two users, five items
START_S = 978_300_000


@dataclass(frozen=True)
class Sample:
    """How to make a data set's folder, what to set in its Config to read it, and the rows of each table."""

    write: Callable[[Path], None]
    settings: dict[str, Any] = field(default_factory=dict)
    interactions: int | None = 10  # None: as many as the data set likes
    users: int | None = 2
    items: int | None = 5


def write_ml_100k(folder: Path) -> None:
    flags = "0|0|0|1|1|1" + "|0" * 13
    lines(folder / "u.data", [f"{user}\t{item}\t{item}\t{START_S + item}" for user, item in PAIRS])
    lines(folder / "u.user", ["1|24|M|technician|85711", "2|53|F|other|94043"])
    lines(folder / "u.item", [f"{item}|Café {item} (1995)|01-Jan-1995||http://x|{flags}" for item in range(1, 6)])


def write_ml_1m(folder: Path) -> None:
    lines(folder / "ratings.dat", [f"{user}::{item}::{item}::{START_S + item}" for user, item in PAIRS])
    lines(folder / "users.dat", ["1::F::1::10::48067", "2::M::56::16::70072"])
    lines(folder / "movies.dat", [f"{item}::Café {item} (1995)::Animation|Comedy" for item in range(1, 6)])


def write_collm(folder: Path) -> None:
    rows = [
        {"uid": user, "iid": item, "label": item % 2, "timestamp": START_S + item, "title": f"Film {item}", "flag": -1.0, "not_cold": 1}
        | {"his": list(range(item)), "his_title": ["", *(f"Film {earlier}" for earlier in range(1, item))]}
        for user, item in PAIRS
    ]
    for split, part in (("train", rows[:6]), ("valid", rows[6:8]), ("test", rows[8:])):
        packed_json(folder / f"{split}.jsonl.gz", part)


def write_amazon(folder: Path) -> None:
    packed_json(folder / "reviews_Tiny_5.json.gz", [review(f"U{user}", f"B{item}", item, START_S + item) for user, item in PAIRS])
    items = [{"asin": f"B{item}", "title": f"Guitar {item}", "categories": [["Music", "Guitars"]], "price": 9.5} for item in range(1, 5)]
    lines(folder / "meta_Tiny.json", [repr(item) for item in items], "utf-8")  # the 2014 files are Python literals


def write_tabular(folder: Path) -> None:
    rows = [f"u{user},i{item},{item},2001-01-0{item} 10:00:00,phone,{item}.5" for user, item in PAIRS]
    lines(folder / "clicks.csv", ["visitor,thing,stars,at,device,wait", *rows], "utf-8")
    lines(folder / "people.jsonl", [json.dumps({"visitor": f"u{user}", "city": "Köln", "age": 30 + user}) for user in (1, 2)], "utf-8")
    things = [f'i{item}\t"Red, round {item}"\tred|round' for item in range(1, 6)]
    lines(folder / "things.tsv", ["thing\tname\twords", *things], "utf-8")


def review(user: str, item: str, rating: object, time_s: object) -> dict[str, object]:
    return {"reviewerID": user, "asin": item, "reviewText": "Good.", "overall": rating, "unixReviewTime": time_s}


def lines(path: Path, rows: list[str], encoding: str = "latin-1") -> None:
    path.write_text("\n".join(rows) + "\n", encoding=encoding)


def packed_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))


TABULAR: dict[str, Any] = {
    "interactions": "clicks.csv",
    "users": "people.jsonl",
    "items": "things.tsv",
    "user": "visitor",
    "item": "thing",
    "rating": "stars",
    "time": "at",
    "time_format": "%Y-%m-%d %H:%M:%S",
    "title": "name",
    "user_categorical": ("city",),
    "user_numeric": ("age",),
    "item_tags": ("words",),
    "context_categorical": ("device",),
    "context_numeric": ("wait",),
}

SAMPLES = {
    "MovieLens100k": Sample(write_ml_100k),
    "MovieLens1m": Sample(write_ml_1m),
    "CollmMl1m": Sample(write_collm, users=0),
    "Amazon": Sample(write_amazon, {"k_core": 2}, users=0),
    "Tabular": Sample(write_tabular, TABULAR),
    "Demo": Sample(lambda _: None, interactions=None, users=None, items=None),
}
