"""Runs of a study, several in parallel, and the cache of their results."""

from __future__ import annotations

import multiprocessing
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecdctr.state.errors import ConfigError, StateError

__all__ = ["Kind", "check_page", "run_each"]

R = TypeVar("R")
S = TypeVar("S")
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Kind(Generic[R, S]):
    """The functions for one kind of run; functions of a module, since they are sent to other processes.

    Attributes
    ----------
    play
        Executes a run and returns its result.
    pack, unpack
        Convert the result to named arrays, and back.
    name
        First part of the file name of a run.
    """

    play: Callable[[R], S]
    pack: Callable[[S], Mapping[str, NDArray[Any]]]
    unpack: Callable[[R, Columns], S]
    name: Callable[[R], str]


def check_page(page: Path) -> None:
    """Refuse to replace a page, or its picture beside it, that no study wrote; called before the runs.

    Raises
    ------
    ConfigError
        A file of this name is something else.
    """
    picture = page.with_suffix(".png")
    for path in (page, picture):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ConfigError(f"--out {page}: {path} is no file: choose another name")
    if page.exists():
        try:
            begin = "".join(page.read_text(encoding="utf-8").splitlines(keepends=True)[:4])
        except (OSError, ValueError) as error:
            raise ConfigError(f"--out {page}: it cannot be read ({error}): choose another name") from error
        if "Written by `ecdctr evidence" not in begin:
            raise ConfigError(
                f"--out {page}: this file was not written by `ecdctr evidence`: choose another name"
            )
    elif picture.exists():
        raise ConfigError(
            f"--out {page}: {picture} exists, and there is no page of a study beside it: choose another name"
        )


def run_each(
    kind: Kind[R, S], runs: Sequence[R], *, jobs: int, on_done: Callable[[S], None], keep: Path | None = None
) -> list[S]:
    """Execute all runs, ``jobs`` in parallel in separate processes; call ``on_done`` with each result.

    With ``keep``, results are saved in that folder. The file name is a hash of the run's ``repr``, that is of all of its
    fields; a run whose file exists is not executed again.

    Raises
    ------
    ConfigError
        The folder cannot be created.
    """
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)  # fail before the work, not after it
        except OSError as error:
            raise ConfigError(
                f"--keep {keep} cannot be created: {error.strerror}; use another folder"
            ) from error
    one = partial(_cached, kind, keep)
    out: list[S] = []
    if jobs == 1:
        for run in runs:
            out.append(one(run))
            on_done(out[-1])
        return out
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(one, runs):
            out.append(done)
            on_done(done)
    return out


def _cached(kind: Kind[R, S], folder: Path | None, run: R) -> S:
    if folder is None:
        return kind.play(run)
    digest = blake2b(repr(run).encode(), digest_size=8).hexdigest()
    path = folder / f"{kind.name(run)}-{digest}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as data:
                return kind.unpack(run, {key: data[key] for key in data.files})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StateError(
                f"--keep: {path} is damaged ({error}): remove it, and the run is made again"
            ) from error
    done = kind.play(run)
    aside = path.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez_compressed(aside, **kind.pack(done))  # type: ignore[arg-type]
    aside.replace(path)
    return done
