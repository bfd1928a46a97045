"""``FeatureSchema``: the configured features as columns of ``Batch.features`` and ``Batch.dense``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.events.settings import FeatureSpec
from ecdctr.state.errors import ConfigError
from ecdctr.state.hashing import mix64

__all__ = ["DERIVED_FIELDS", "OUTCOME_FIELDS", "ColumnGroup", "FeatureSchema", "NumericColumn"]

DERIVED_FIELDS = {"@hour": 24, "@weekday": 7}
"""Fields derived from ``ts`` (UTC), with the number of their values; Monday is weekday 0."""

OUTCOME_FIELDS = frozenset({"label", "oracle"})
"""Fields with the outcome to predict. A feature that reads one of them would leak it."""

_HASHING = 1
"""Version of the mapping from ids to buckets; incremented when it changes, because trained tables no longer fit."""


class NumericColumn(NamedTuple):
    """One column of ``Batch.dense``."""

    name: str
    spec: FeatureSpec
    col: int


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    """The columns of ``Batch.features`` that belong to one feature: one, or ``max_length`` for a bag.

    Attributes
    ----------
    first_col, width
        The feature's columns are ``features[:, first_col : first_col + width]``.
    buckets
        Values run from 1 to ``buckets``; 0 is missing (in a bag: padding).
    dim
        Embedding size, with the model's default filled in.
    salt
        Salt of the hash, so that collisions of two features that read the same field are independent.
    """

    name: str
    spec: FeatureSpec
    first_col: int
    width: int
    buckets: int
    dim: int
    is_bag: bool
    tpm: bool
    salt: int

    @property
    def columns(self) -> slice:
        """The feature's columns as a slice."""
        return slice(self.first_col, self.first_col + self.width)

    def encode(self, ids: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Bucket of each 64-bit id, 1 .. ``buckets``, same shape.

        The ids of a derived field are its values (hour 0..23); they do not collide if there are enough buckets.
        """
        hashed = ids if self.spec.field in DERIVED_FIELDS else mix64(ids ^ np.uint64(self.salt))
        return (hashed % np.uint64(self.buckets)).astype(np.int32) + np.int32(1)


class FeatureSchema:
    """Feature specifications compiled to column numbers.

    Categorical features and bags are assigned columns of ``Batch.features`` in the given order, numeric features
    columns of ``Batch.dense``.

    Parameters
    ----------
    specs
        The features.
    dim
        Embedding size of features that do not set one.

    Raises
    ------
    ConfigError
        The list is empty, a name is used twice, a derived field is unknown, or a feature reads the label.

    Examples
    --------
    >>> from ecdctr.events.settings import FeatureSpec
    >>> schema = FeatureSchema(
    ...     [
    ...         FeatureSpec(name="user", field="user_id", buckets=1000, tpm=True),
    ...         FeatureSpec(name="price", kind="numeric", transform="log1p"),
    ...         FeatureSpec(name="tags", kind="bag", max_length=3, dim=4),
    ...     ],
    ...     dim=16,
    ... )
    >>> [(g.name, g.columns, g.dim) for g in schema.categorical]
    [('user', slice(0, 1, None), 16), ('tags', slice(1, 4, None), 4)]
    >>> schema.n_features, schema.n_dense
    (4, 1)
    """

    def __init__(self, specs: Sequence[FeatureSpec], dim: int) -> None:
        _check(specs)
        self.specs = tuple(specs)
        categorical: list[ColumnGroup] = []
        numeric: list[NumericColumn] = []
        col = 0
        for spec in self.specs:
            if spec.kind == "numeric":
                numeric.append(NumericColumn(spec.name, spec, len(numeric)))
                continue
            is_bag = spec.kind == "bag"
            width = spec.max_length if is_bag else 1
            categorical.append(
                ColumnGroup(
                    name=spec.name,
                    spec=spec,
                    first_col=col,
                    width=width,
                    buckets=spec.buckets,
                    dim=dim if spec.dim is None else spec.dim,
                    is_bag=is_bag,
                    tpm=spec.tpm,
                    salt=_salt(spec.name),
                )
            )
            col += width
        self.categorical = tuple(categorical)
        self.numeric = tuple(numeric)
        self.n_features = col
        self.n_dense = len(numeric)

    def __repr__(self) -> str:
        return f"FeatureSchema({[s.name for s in self.specs]}, F={self.n_features}, D={self.n_dense})"

    def group(self, name: str) -> ColumnGroup:
        """The columns of one categorical feature or bag, by feature name; ConfigError if there is none."""
        for group in self.categorical:
            if group.name == name:
                return group
        raise ConfigError(
            f'no categorical feature or bag is named "{name}"; the names are {[g.name for g in self.categorical]}'
        )

    def fingerprint(self) -> str:
        """Sixteen hex digits that identify the columns: stored tables and rows fit only features of the same fingerprint.

        Stored in checkpoints, ad windows and snapshots. Descriptions and defaults are not part of it: two
        configurations that resolve to the same columns have the same fingerprint.
        """
        resolved = {
            "hashing": _HASHING,
            "categorical": [
                [g.name, g.spec.field, g.first_col, g.width, g.buckets, g.dim, g.is_bag, g.tpm]
                for g in self.categorical
            ],
            "numeric": [[n.name, n.spec.field, n.spec.transform] for n in self.numeric],
        }
        text = json.dumps(resolved, separators=(",", ":"), ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _salt(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def _check(specs: Sequence[FeatureSpec]) -> None:
    if not specs:
        raise ConfigError("the feature list is empty: configure at least one feature")
    names: set[str] = set()
    for spec in specs:
        if spec.name in names:
            raise ConfigError(f'two features are named "{spec.name}": give each its own name')
        names.add(spec.name)
        if spec.field in OUTCOME_FIELDS:
            raise ConfigError(
                f'feature "{spec.name}" reads "{spec.field}", which is the outcome to predict: remove it'
            )
        if spec.field.startswith("@"):
            if spec.field not in DERIVED_FIELDS:
                raise ConfigError(
                    f'feature "{spec.name}" reads the unknown derived field "{spec.field}"; '
                    f"known: {sorted(DERIVED_FIELDS)}"
                )
            if spec.kind != "categorical":
                raise ConfigError(
                    f'feature "{spec.name}": the derived field "{spec.field}" is categorical, not {spec.kind}'
                )
