"""The state that a replay saves in its report folder, so that an interrupted replay can be resumed."""

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
from ecdctr.replay.report import REPORT_FILES, is_report
from ecdctr.settings import Settings, dump_toml
from ecdctr.state.errors import FormatError, StateError
from ecdctr.state.files import json_with_checksum, read_json_of_any_version, write_atomic
from ecdctr.state.lock import FolderLock
from ecdctr.state.output_folder import OutputFolder

__all__ = ["ReplayState", "replay_request"]

_PARTS = ("checkpoints", "ad-window", "scores", "snapshots", "arms", "replay.json")
_FORMAT = 1
"""Version of the format of ``replay.json``."""
_FILES = (*REPORT_FILES, "days.parquet", "days.csv", "slices.parquet", "slices.csv", "state")
_OF_A_WORKER = ("journal", "tpm", "monitor")
"""Parts of a state folder that no replay writes."""
_LEARNING_SECTIONS = ("[model]", "[tpm]", "[schedule]", "[events]", "[streaming_features]")


class ReplayState:
    """The folder ``state/`` of a replay: its checkpoints and scores, and the request.

    Parameters
    ----------
    out_dir
        The report folder.
    """

    def __init__(self, out_dir: Path) -> None:
        self.folder = Path(out_dir) / "state"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Own the report folder and its ``state`` against other processes and what others wrote.

        Raises
        ------
        StateError
            Another process uses the folder, it cannot be written, or it contains something that no replay wrote.
        """
        with OutputFolder(self.folder.parent, "ecdctr replay").hold(_FILES, self._written_before):
            other = [name for name in _OF_A_WORKER if (self.folder / name).exists()]
            if other:
                raise StateError(
                    f"--out {self.folder.parent}: {self.folder} is the state folder of a worker (it contains {', '.join(other)}): "
                    "choose another folder"
                )
            with FolderLock(self.folder, "--out", way_out="or choose another folder"):
                yield

    def _written_before(self, path: Path) -> bool:
        """Whether an earlier version's replay wrote it: such folders have no record of who wrote what."""
        if path.name != "state":
            return is_report(path.parent)
        if any((path / name).exists() for name in _OF_A_WORKER):
            return False
        names = {found.name for found in path.iterdir()} if path.is_dir() else {"no folder"}
        return not names - {"LOCK"} or (path / "replay.json").is_file() or is_report(path.parent)

    def begin(self, request: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
        """Start a new replay; the state of an earlier one is removed.

        Parameters
        ----------
        request
            Source, options and settings, see :func:`replay_request`; to resume, they must be the same.
        resolved
            Values to which the request was resolved when the replay began: offset ranges, the time that ``--last`` refers to.
        """
        self._remove(_PARTS)
        self._write({"asked": _plain(request), "found": _plain(resolved), "seconds": 0.0})

    def resume(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """``resolved`` of the interrupted replay (:meth:`begin`); None if there is none to resume.

        Raises
        ------
        StateError
            Its request was different; the message names the difference.
        """
        saved = self._read()
        if saved is None:
            return None
        for key, value in _plain(request).items():
            before = saved["asked"].get(key)
            if before != value:
                raise StateError(
                    f"--resume: the replay in {self.folder} was started with {key} {_short(before, value)}, but "
                    f"{key} is now {_short(value, before)}: use the earlier value, or start a new replay without --resume"
                )
        resolved: dict[str, Any] = saved["found"]
        return resolved

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
        """Create all engines, and restore each from its newest checkpoint if there is one.

        Frozen arms have no state: their score logs are truncated to the main engine's, and they continue at its positions.
        ``notes`` are written once, to the score log of the main engine.
        """

        def engine(folder: Path, settings: Settings, notes: RowNotes | None = None) -> Engine:
            made = factory.replay_engine(settings, folder, checkpoint_every_s=checkpoint_every_s, notes=notes)
            made.recover()
            return made

        main = engine(self.folder, settings, notes)
        beside: dict[str, Engine | FrozenArm] = {
            name: engine(self._folder_of(name), changed) for name, changed in others.items()
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
        """Record the wall seconds up to the interruption."""
        self._write({**(self._read() or {}), "seconds": seconds})

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint of the main engine."""
        return max(factory.Folders(self.folder).checkpoints.glob("*-step-*"), default=None)

    def finished(self, *, keep: bool = False) -> None:
        """Remove what only a resumed replay needs: the scored rows stay, and with ``keep`` the final models."""
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
            content: dict[str, Any] = read_json_of_any_version(path)
            if content.get("format", _FORMAT) != _FORMAT:
                raise FormatError(str(path), content["format"], _FORMAT)
            if not (isinstance(content["asked"], dict) and isinstance(content["found"], dict)):
                raise ValueError("it does not hold a request")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(f"{path} is damaged ({error}): start a new replay without --resume") from error
        return content

    def _write(self, content: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "replay.json", json_with_checksum({"format": _FORMAT, **content}))


def replay_request(source: str, settings: Settings, **options: Any) -> dict[str, Any]:
    """Source, options, and every setting that affects the models: a resumed replay must have the same."""
    sections: dict[str, Any] = {}
    for block in dump_toml(settings).split("\n\n"):
        head, _, body = block.partition("\n")
        if head == "[streaming_features]" and settings.streaming_features.mode == "off":
            continue  # absent from requests of earlier versions
        if head in _LEARNING_SECTIONS or head == "[[features]]":
            sections[head] = sections.get(head, "") + body.strip() + "\n"
    return {"SOURCE": source, **options, **sections}


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(value, default=str))
    return copy


def _short(value: Any, other: Any) -> str:
    """A value; for a block of settings, the lines that differ."""
    if not (isinstance(value, str) and isinstance(other, str) and "\n" in value):
        return repr(value)
    return (
        "; ".join(sorted(set(value.splitlines()) - set(other.splitlines())))
        or "(lines missing that the other has)"
    )
