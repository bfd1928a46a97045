"""A drift reference: sketches of the streams over some time, saved as JSON and npz."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasketches import kll_floats_sketch

from ecdctr.events.schema import FeatureSchema
from ecdctr.monitor.drift.bins import BEHAVIOUR, BinLayout
from ecdctr.monitor.drift.results import ReferenceInfo
from ecdctr.monitor.drift.sketches import Sketch
from ecdctr.state.errors import ConfigError, DataError
from ecdctr.state.files import json_with_checksum, open_regular, read_json_of_any_version, write_atomic

__all__ = ["HOURS", "Reference"]

HOURS = 24
_VERSION = 1


@dataclass(slots=True, eq=False)
class Reference:
    """Sketches by domain, and the daily cycle of the click rate.

    Attributes
    ----------
    name
        Origin of the rows, for reports.
    sketches
        By domain name.
    from_ms, until_ms
        Event time that it covers, ms.
    fingerprint
        Fingerprint of the features.
    hours
        By domain: clicks and rows by hour of the day (UTC), ``(2, 24)``.
    """

    name: str
    fingerprint: str
    from_ms: int
    until_ms: int
    sketches: dict[str, Sketch] = field(default_factory=dict)
    hours: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write ``reference.npz``, then ``reference.json``, which marks the reference as complete."""
        folder = Path(folder)
        arrays: dict[str, Any] = {}
        about: dict[str, Any] = {
            "version": _VERSION,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "from_ms": self.from_ms,
            "until_ms": self.until_ms,
            "domains": {},
        }
        for domain, sketch in self.sketches.items():
            layout = sketch.layout
            about["domains"][domain] = {
                "rows": sketch.rows,
                "first_ms": sketch.first_ms,
                "last_ms": sketch.last_ms,
                "cells": layout.bins,  # the name in the file format
                "groups": sketch.groups,
                "centre": layout.centre,
                "edges": [e.tolist() for e in layout.edges],
            }
            arrays[f"{domain}.counts"] = sketch.counts
            arrays[f"{domain}.behaviour"] = sketch.behaviour
            arrays[f"{domain}.hours"] = self.hours.get(domain, np.zeros((2, HOURS)))
            for i, q in enumerate(sketch.quantiles):
                arrays[f"{domain}.kll{i}"] = np.frombuffer(q.serialize(), np.uint8)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            write_atomic(folder / "reference.npz", buffer.getvalue())
            write_atomic(folder / "reference.json", json_with_checksum(about))
        except OSError as e:
            raise DataError(f"the reference cannot be written to {folder}: {e.strerror}") from e

    @staticmethod
    def load(folder: str | Path, schema: FeatureSchema) -> Reference:
        """Read a saved reference.

        Raises
        ------
        DataError
            There is none, or it is damaged.
        ConfigError
            It was made with other features.
        """
        folder = Path(folder)
        try:
            about = read_json_of_any_version(folder / "reference.json")
            if about["version"] != _VERSION:
                raise DataError(
                    f"the drift reference in {folder} has format {about['version']!r}, this version of ecdctr reads format {_VERSION}: "
                    "it is not damaged, another version wrote it; make a new one"
                )
            if about["fingerprint"] != schema.fingerprint():
                raise ConfigError(
                    f"the drift reference in {folder} was made with other features (fingerprint {about['fingerprint']}, "
                    f"configured {schema.fingerprint()}): make a new one, or configure the features it was made with"
                )
            out = Reference(
                about["name"], about["fingerprint"], int(about["from_ms"]), int(about["until_ms"])
            )
            with (
                open_regular(folder / "reference.npz") as file,
                np.load(file, allow_pickle=False) as arrays,
            ):
                for domain, d in about["domains"].items():
                    edges = [np.asarray(e, np.float64) for e in d["edges"]]
                    layout = BinLayout(schema, int(d["cells"]), edges, float(d["centre"]))
                    counts, behaviour = arrays[f"{domain}.counts"], arrays[f"{domain}.behaviour"]
                    wanted = (2, int(d["groups"]), layout.total + 1)
                    if counts.shape != wanted or behaviour.shape != (2, BEHAVIOUR, *wanted[1:]):
                        raise DataError(
                            f"{folder}/reference.npz: {domain} has shape {counts.shape}, not {wanted}: damaged"
                        )
                    kll = [
                        kll_floats_sketch.deserialize(arrays[f"{domain}.kll{i}"].tobytes())
                        for i in range(len(edges))
                    ]
                    out.sketches[domain] = Sketch(
                        layout,
                        wanted[1],
                        counts,
                        behaviour,
                        kll,
                        int(d["rows"]),
                        int(d["first_ms"]),
                        int(d["last_ms"]),
                    )
                    out.hours[domain] = arrays[f"{domain}.hours"]
        except FileNotFoundError as e:
            raise DataError(
                f"no drift reference in {folder} ({e.filename} is missing): make one with ecdctr drift --save, or "
                "leave monitor.watch.drift.reference empty"
            ) from e
        except (KeyError, ValueError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as e:
            raise DataError(f"the drift reference in {folder} is damaged ({e}): make a new one") from e
        return out

    def about(self, *, ready: bool) -> ReferenceInfo:
        """The entry ``reference`` of the drift section in ``Monitor.snapshot``."""
        rows = {d: self.sketches[d].rows if d in self.sketches else 0 for d in ("natural", "ad")}
        return {
            "name": self.name,
            "from": self.from_ms,
            "until": self.until_ms,
            "rows": rows,
            "ready": ready,
        }
