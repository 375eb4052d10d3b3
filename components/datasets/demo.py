"""Generated ratings of invented movies: a data set with a long tail and new items whose worth only their text tells.

The true probability of every click is known, and with it the best AUC that any model can be expected to reach. How a click
comes about: logit p = generosity of the user + worth of the movie + taste of the user for the movie's theme.
- A movie's worth is told in part by two words of its plot; the rest shows in its ratings alone.
- A user's taste is told in part by the themes the profile names; the rest shows in the user's ratings alone.
- Title and plot name a movie's theme; its first genre says which two themes it may be, the second one says nothing.
New movies keep appearing, so later rows hold many that nobody rated in training: ids tell nothing of them, words do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.bounds import require_at_least
from components.errors import ConfigError, DataError
from components.types import Field, FieldKind, Schema, Source, Tables

THEMES = {
    "sea": "Harbor Tide Lighthouse Anchor Voyage Lagoon Reef Island",
    "space": "Orbit Comet Planet Galaxy Rocket Eclipse Nebula Moon",
    "crime": "Alibi Heist Detective Witness Verdict Suspect Ransom Vault",
    "ghosts": "Haunting Crypt Midnight Shadow Asylum Phantom Curse Tomb",
    "music": "Melody Orchestra Ballad Piano Chorus Waltz Serenade Violin",
    "family": "Wedding Kitchen Reunion Garden Cousin Letter Inheritance Nursery",
}
GENRES = ("Adventure", "Thriller", "Drama")  # each covers two themes, in their order
MEANINGLESS_GENRES = ("", "Comedy", "Romance", "Documentary", "Animation")
TITLE_WORDS = (
    *("Silver", "Crimson", "Last", "Hidden", "Broken", "Distant", "Silent", "Golden", "Lost", "Winter", "Second", "Burning", "Empty"),
    *("Blue", "Northern", "Secret", "Paper", "Restless", "Endless", "Quiet", "Velvet", "Frozen", "Amber", "Wandering", "Sunken"),
    *("Iron", "Glass", "Pale", "Scarlet", "Forgotten"),
)
QUALITY_WORDS = {
    "unforgettable": 2, "luminous": 2, "gripping": 2, "masterful": 2, "tender": 1, "witty": 1, "lively": 1, "elegant": 1,
    "uneven": -1, "slow": -1, "familiar": -1, "noisy": -1, "clumsy": -2, "hollow": -2, "tedious": -2, "lifeless": -2,
}  # fmt: skip
FORMS = ("tale", "story", "portrait", "drama")
OCCUPATIONS = ("teacher", "nurse", "farmer", "lawyer", "engineer", "student", "artist", "retired")

START_S = 1_546_300_800  # 2019-01-01
SPAN_S = 3 * 365 * 86_400
CUTS = (-3.0, -1.6, 0.0, 1.6)  # log-odds between neighbouring ratings; the third one divides clicks from the rest
LAUNCH_PULL, LAUNCH_LENGTH = 80.0, 0.01  # a new movie draws 81 times its later audience, fading over 1 % of the span
MIN_RATINGS = 10  # of a user
KEY = ["user_id", "item_id", "timestamp_s"]


class Demo:
    """Synthetic movie ratings, made in memory: nothing is read or downloaded."""

    @dataclass(frozen=True)
    class Config:
        """How many ratings are generated, and what decides them (standard deviations of log-odds of a click)."""

        seed: int = 1
        """Another seed draws other users, movies and ratings by the same rules."""
        users: int = 640
        """Users."""
        items: int = 800
        """Movies."""
        interactions: int = 32_000
        """Ratings."""
        new_items: float = 0.55
        """Share of the movies that appear while ratings are given, evenly over the time; the others are there from the start."""
        told_worth: float = 1.6
        """How much movies differ in worth by the words of their plots."""
        untold_worth: float = 0.7
        """How much they differ in worth beyond their words."""
        taste: float = 1.0
        """How much the taste for themes counts."""

        def __post_init__(self) -> None:
            room = len(THEMES) * len(TITLE_WORDS) * 8
            require_at_least(1, {"dataset.users": self.users})
            require_at_least(0, {f"dataset.{name}": getattr(self, name) for name in ("seed", "told_worth", "untold_worth", "taste")})
            if not 3 * MIN_RATINGS <= self.items <= room:
                raise ConfigError(f"dataset.items: expected {3 * MIN_RATINGS} to {room} (the titles that there are), got {self.items}")
            low, high = MIN_RATINGS * self.users, self.users * (self.items // 3)
            if not low <= self.interactions <= high:
                raise ConfigError(
                    f"dataset.interactions: expected {low:,} to {high:,} for so many users and items, got {self.interactions:,}"
                )
            if not 0 <= self.new_items <= 0.9:
                raise ConfigError(f"dataset.new_items: expected a share of 0 to 0.9, got {self.new_items}")

    SCHEMA = Schema(
        rating_min=1.0,
        rating_max=5.0,
        positive_above=3.0,
        user_fields=(Field("age", FieldKind.NUMERIC), Field("occupation", FieldKind.CATEGORICAL), Field("likes", FieldKind.TEXT)),
        item_fields=(Field("genres", FieldKind.TAGS), Field("plot", FieldKind.TEXT)),
        item_noun="movie",
        synthetic=True,
    )

    def __init__(self, config: Config = Config()) -> None:
        self.config = config

    def read(self, folder: str = "") -> Tables:  # noqa: ARG002 - there are no files
        """Return sources that generate the data when they are read; `folder` is not looked at."""
        interactions, users, items = (
            Source(f"demo/{table}", partial(_read, self.config, table)) for table in ("interactions", "users", "items")
        )
        return Tables(self.SCHEMA, interactions=(interactions,), users=(users,), items=(items,), best_auc=self.best_auc)

    def click_probability(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        """Return the true probability of a click for rows of this data set, found by user_id, item_id and timestamp_s."""
        return self._found(rows)["click_probability"].to_numpy(np.float64)

    def best_auc(self, rows: pd.DataFrame) -> float:
        """Return the AUC of the true click probabilities on these rows (see `click_probability`): no model can be expected to beat it."""
        found = self._found(rows)
        from sklearn.metrics import roc_auc_score  # seconds that a command line should not wait

        return float(roc_auc_score(found["rating"] > self.SCHEMA.positive_above, found["click_probability"]))

    def _found(self, rows: pd.DataFrame) -> pd.DataFrame:
        found = rows[KEY].merge(_generate(self.config).interactions, on=KEY, how="left")
        if missing := int(found["rating"].isna().to_numpy().sum()):
            raise DataError(f"expected rows of the demo data with {self.config}, got {missing} of {len(rows)} that are not among them")
        return found


@dataclass(frozen=True)
class World:
    """All that was generated, as canonical tables; interactions have `click_probability` besides."""

    users: pd.DataFrame
    items: pd.DataFrame
    interactions: pd.DataFrame


def _read(config: Demo.Config, table: str) -> Iterator[pd.DataFrame]:
    frame: pd.DataFrame = getattr(_generate(config), table)
    yield frame.drop(columns="click_probability", errors="ignore").assign(file=table, row=np.arange(1, len(frame) + 1))


@lru_cache(maxsize=4)
def _generate(config: Demo.Config) -> World:
    """Draw users, movies and ratings; the same configuration gives the same bytes."""
    random = np.random.default_rng(config.seed)
    theme_M = random.permutation(np.arange(config.items) % len(THEMES))
    items, told_M = _items(config, theme_M, random)
    worth_M = told_M + config.untold_worth * random.normal(size=config.items)
    users, generosity_U, taste_UK = _users(config, random)
    fit_UM = config.taste * (taste_UK[:, theme_M] - taste_UK.mean()) / taste_UK.std()
    interactions = _interactions(config, generosity_U[:, None] + worth_M + fit_UM, fit_UM, random)
    interactions["user_id"] = users["user_id"].to_numpy()[interactions.pop("user")]
    interactions["item_id"] = items["item_id"].to_numpy()[interactions.pop("item")]
    return World(users, items, interactions)


def _items(config: Demo.Config, theme_M: NDArray[np.int64], random: np.random.Generator) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Invent movies: their table, and the worth that each one's words tell."""
    names, words = list(THEMES), list(QUALITY_WORDS)
    pairs = np.array(list(combinations(range(len(words)), 2)))
    pair_M2 = random.permuted(random.permutation(np.resize(pairs, (config.items, 2))), axis=1)
    strength = np.array(list(QUALITY_WORDS.values()))
    told_M = config.told_worth * strength[pair_M2].sum(1) / np.sqrt(2 * np.square(strength).mean())
    form_M = random.choice(FORMS, config.items)
    extra_M = random.choice(MEANINGLESS_GENRES, config.items)
    plots = [f"{words[a]}, {words[b]} {form} of {names[k]}" for (a, b), form, k in zip(pair_M2, form_M, theme_M, strict=True)]
    genres = [sorted(filter(None, {GENRES[k // 2], str(extra)})) for k, extra in zip(theme_M, extra_M, strict=True)]
    columns = {"item_id": _ids(random.permutation(config.items)), "title": _titles(theme_M, random), "genres": genres, "plot": plots}
    return pd.DataFrame(columns), told_M


def _titles(theme_M: NDArray[np.int64], random: np.random.Generator) -> list[str]:
    unused = [iter(random.permutation([f"{word} {noun}" for word in TITLE_WORDS for noun in nouns.split()])) for nouns in THEMES.values()]
    return [str(next(unused[theme])) for theme in theme_M]


def _users(config: Demo.Config, random: np.random.Generator) -> tuple[pd.DataFrame, NDArray[np.float64], NDArray[np.float64]]:
    """Invent users: their table, how generous each one is, and each one's taste for each theme."""
    names, count = list(THEMES), config.users
    age_U = random.integers(16, 76, count).astype(np.float64)
    occupation_U = random.integers(len(OCCUPATIONS), size=count)
    by_occupation = 0.5 * random.normal(size=(len(OCCUPATIONS), len(GENRES)))
    appeal_K = random.permutation(np.linspace(-0.6, 0.6, len(names)))  # of a theme to everybody
    openness_U1 = 0.3 * random.normal(size=(count, 1))  # of a user to every theme
    taste_UK = random.normal(size=(count, len(names))) + openness_U1 + appeal_K + np.repeat(by_occupation[occupation_U], 2, axis=1)
    generosity_U = 0.35 * random.normal(size=count) + 0.2 * (age_U - 45.5) / 17.3
    likes = [", ".join(names[k] for k in np.argsort(-taste_K) if taste_K[k] > 0.1) for taste_K in taste_UK]
    columns = {
        "user_id": _ids(np.arange(count)),
        "age": age_U,
        "occupation": [OCCUPATIONS[place] for place in occupation_U],
        "likes": likes,
    }
    return pd.DataFrame(columns), generosity_U, taste_UK


def _ids(numbers: NDArray[np.int64]) -> list[str]:
    return [str(number + 1) for number in numbers]


def _interactions(
    config: Demo.Config, logit_UM: NDArray[np.float64], fit_UM: NDArray[np.float64], random: np.random.Generator
) -> pd.DataFrame:
    """Let each user meet movies that are out and draw their ratings; users and movies are named by their places."""
    popularity_M = _popularity(config, random)
    released_M = _released(config, random)
    parts: list[pd.DataFrame] = []
    for user, ratings in enumerate(_activity(config, random)):
        middle, half = random.uniform(), 0.03 + random.exponential(0.15)
        time_R = np.sort(random.uniform(max(0.0, middle - half), min(1.0, middle + half), ratings))
        age_RM = time_R[:, None] - released_M
        launch_RM = np.log1p(LAUNCH_PULL * np.exp(-np.maximum(age_RM, 0.0) / LAUNCH_LENGTH))
        pull_RM = popularity_M + 0.5 * fit_UM[user] + launch_RM + random.gumbel(size=age_RM.shape)
        item_R = _met(np.where(age_RM < 0, -np.inf, pull_RM))
        parts.append(pd.DataFrame({"user": user, "item": item_R, "time": time_R, "logit": logit_UM[user, item_R]}))
    rows = pd.concat(parts).sort_values(["time", "user"], ignore_index=True)
    logit = rows["logit"].to_numpy() + 0.3
    rating = 1 + np.searchsorted(CUTS, logit + random.logistic(size=len(rows)))
    seconds = START_S + (rows["time"].to_numpy() * SPAN_S).astype(np.int64)
    known = {"rating": rating.astype(np.float64), "timestamp_s": seconds, "click_probability": 1 / (1 + np.exp(-logit))}
    return rows[["user", "item"]].assign(**known)


def _popularity(config: Demo.Config, random: np.random.Generator) -> NDArray[np.float64]:
    """Return log-popularities, standard normal. Golden-ratio steps spread them evenly over time: every stretch has its hits."""
    even_M = (random.random() + np.arange(config.items) * 0.5 * (np.sqrt(5) - 1)) % 1.0
    return np.array([NormalDist().inv_cdf(min(max(share, 1e-4), 1 - 1e-4)) for share in even_M])


def _released(config: Demo.Config, random: np.random.Generator) -> NDArray[np.float64]:
    """Return when each movie came out, in shares of the observed time; before 0 for those that are there from the start."""
    new = int(config.new_items * config.items)
    return np.r_[-0.1 - random.random(config.items - new), (np.arange(new) + random.random(new)) / max(new, 1)]


def _activity(config: Demo.Config, random: np.random.Generator) -> NDArray[np.int64]:
    """Return how many ratings each user gives: a long tail between MIN_RATINGS and a third of the movies."""
    weight_U = np.exp(0.7 * random.normal(size=config.users))
    most = config.items // 3
    count_U = np.full(config.users, MIN_RATINGS)
    while (left := config.interactions - count_U.sum()) > 0:
        open_U = weight_U * (count_U < most)
        count_U = np.minimum(most, count_U + random.multinomial(left, open_U / open_U.sum()))
    return count_U


def _met(pull_RM: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the movie of the strongest pull for each row, none twice."""
    item_R = np.empty(len(pull_RM), np.int64)
    for row, pull_M in enumerate(pull_RM):
        pull_M[item_R[:row]] = -np.inf
        item_R[row] = pull_M.argmax()
    return item_R
