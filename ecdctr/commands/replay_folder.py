"""What a replay keeps in its report folder, so that an interrupted one can be gone on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecdctr import factory
from ecdctr.models.training import Engine
from ecdctr.replay.play import FrozenArm, RowNotes, SideBySide
from ecdctr.settings import Settings, dump_toml
from ecdctr.state.errors import StateError
from ecdctr.state.files import write_atomic
from ecdctr.state.lock import FolderLock

__all__ = ["ReplayState", "asked_for"]

_PARTS = ("checkpoints", "ad-window", "scores", "snapshots", "arms", "replay.json")
_LEARNING = ("[model]", "[tpm]", "[schedule]", "[events]")


class ReplayState:
    """The folder ``state/`` of a replay: its checkpoints and scores, and what it was asked to play.

    Parameters
    ----------
    out_dir
        The report folder.
    """

    def __init__(self, out_dir: Path) -> None:
        self.folder = Path(out_dir) / "state"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other replays away from the folder."""
        lock = FolderLock(self.folder)
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def begin(self, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Start anew: what an earlier replay left is removed.

        Parameters
        ----------
        asked
            What was asked for; a replay that goes on must ask for the same.
        found
            What that came to when it began (offset ranges, the moment that ``--last`` meant).
        """
        self._remove(_PARTS)
        self._write({"asked": _plain(asked), "found": _plain(found), "seconds": 0.0})

    def go_on(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the interrupted replay found when it began; None if there is none to go on with.

        Raises
        ------
        StateError
            It was asked for something else; names it.
        """
        kept = self._read()
        if kept is None:
            return None
        for key, value in _plain(asked).items():
            before = kept["asked"].get(key)
            if before != value:
                raise StateError(
                    f"--resume: the replay in {self.folder} was begun with {key} {_short(before, value)}, now it is "
                    f"{_short(value, before)}: ask for the same, or start anew without --resume"
                )
        found: dict[str, Any] = kept["found"]
        return found

    @property
    def seconds(self) -> float:
        """Wall seconds of the earlier runs."""
        return float((self._read() or {}).get("seconds", 0.0))

    def arms(
        self,
        settings: Settings,
        others: Mapping[str, Settings],
        frozen: Mapping[str, Path],
        *,
        checkpoint_every_s: float,
        notes: RowNotes | None = None,
    ) -> SideBySide:
        """All engines, as their newest checkpoints have them; new ones where there are none.

        ``notes`` are kept once, in the score log of the configuration's engine.
        """

        def engine(folder: Path, of: Settings, notes: RowNotes | None = None) -> Engine:
            made = factory.replay_engine(of, folder, checkpoint_every_s=checkpoint_every_s, notes=notes)
            made.recover()
            return made

        main = engine(self.folder, settings, notes)
        beside: dict[str, Engine | FrozenArm] = {
            name: engine(self._folder_of(name), of) for name, of in others.items()
        }
        for name, checkpoint in frozen.items():
            arm = factory.frozen_arm(settings, checkpoint, self._folder_of(name))
            arm.scores.truncate(main.scores.sizes())
            arm.positions.update(main.positions)
            beside[name] = arm
        return SideBySide(main, beside)

    def _folder_of(self, arm: str) -> Path:
        return self.folder / "arms" / arm

    def interrupted(self, seconds: float) -> None:
        """Note how long it took until here."""
        self._write({**(self._read() or {}), "seconds": seconds})

    def newest_checkpoint(self) -> Path | None:
        """Of the engine of the configuration."""
        return max(factory.Folders(self.folder).checkpoints.glob("*-step-*"), default=None)

    def finished(self, *, keep: bool = False) -> None:
        """Nothing to go on with: only the scored rows stay, and the models if they are to be kept."""
        stays = {"scores", "arms", *(("checkpoints", "snapshots") if keep else ())}
        self._remove([p for p in _PARTS if p not in stays])
        for path in (self.folder / "arms").glob("*/*"):
            if path.name != "scores":
                shutil.rmtree(path)

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / "replay.json"
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StateError(f"{path} is damaged ({error}): start anew without --resume") from error
        return found

    def _write(self, content: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "replay.json", json.dumps(content, indent=1).encode())


def asked_for(source: str, settings: Settings, **options: Any) -> dict[str, Any]:
    """What makes two replays the same: source, options, and every setting that the models learn by."""
    sections: dict[str, Any] = {}
    for block in dump_toml(settings).split("\n\n"):
        head, _, body = block.partition("\n")
        if head in _LEARNING or head == "[[features]]":
            sections[head] = sections.get(head, "") + body.strip() + "\n"
    return {"SOURCE": source, **options, **sections}


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(value, default=str))
    return found


def _short(value: Any, other: Any) -> str:
    """A value, or of a block of settings the lines that differ."""
    if not (isinstance(value, str) and isinstance(other, str) and "\n" in value):
        return repr(value)
    return (
        "; ".join(sorted(set(value.splitlines()) - set(other.splitlines()))) or "without some of these lines"
    )
