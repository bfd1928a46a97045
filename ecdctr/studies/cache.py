"""Runs of a study, several at a time, each kept once it has ended."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import ConfigError

__all__ = ["Kind", "run_each"]

R = TypeVar("R")
S = TypeVar("S")
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Kind(Generic[R, S]):
    """What a run is and what it gives; functions of a module, since they go to other processes.

    Attributes
    ----------
    play
        Does a run.
    pack, unpack
        What it gave as named arrays, and back.
    name
        First part of its file's name.
    """

    play: Callable[[R], S]
    pack: Callable[[S], Mapping[str, NDArray[Any]]]
    unpack: Callable[[R, Columns], S]
    name: Callable[[R], str]


def run_each(
    kind: Kind[R, S], runs: Sequence[R], *, jobs: int, told: Callable[[S], None], keep: Path | None = None
) -> list[S]:
    """Every run, ``jobs`` at a time in processes of their own; ``told`` hears of each as it ends.

    With ``keep``, what a run gave is kept in that folder under a name made of all that the run is (its ``repr``), and not
    run again.

    Raises
    ------
    ConfigError
        That folder cannot be made.
    """
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)  # before the work, not after it
        except OSError as error:
            raise ConfigError(
                f"--keep {keep} cannot be made: {error.strerror}; name another folder"
            ) from error
    one = partial(_kept, kind, keep)
    out: list[S] = []
    if jobs == 1:
        for run in runs:
            out.append(one(run))
            told(out[-1])
        return out
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(one, runs):
            out.append(done)
            told(done)
    return out


def _kept(kind: Kind[R, S], folder: Path | None, run: R) -> S:
    if folder is None:
        return kind.play(run)
    digest = blake2b(repr(run).encode(), digest_size=8).hexdigest()
    path = folder / f"{kind.name(run)}-{digest}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as data:
            return kind.unpack(run, {key: data[key] for key in data.files})
    done = kind.play(run)
    aside = path.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez_compressed(aside, **kind.pack(done))  # type: ignore[arg-type]
    aside.replace(path)
    return done
