"""The configuration: every key is typed, documented, and printed with the source of its value."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ecdctr.events.join import JoinSettings
from ecdctr.events.settings import EventSettings, FeatureSpec, KafkaSettings, default_features
from ecdctr.models.settings import ModelSettings, ScheduleSettings, StreamingFeatureSettings, TpmSettings
from ecdctr.overrides import read_overrides
from ecdctr.renamed_keys import RenamedKeys
from ecdctr.state.errors import ConfigError
from ecdctr.state.settings import StateSettings
from ecdctr.streams.settings import MonitorSettings, TopicSettings, WorkerSettings, check_topics_differ

__all__ = [
    "ENV_PREFIX",
    "REMOVED",
    "RENAMED",
    "Loaded",
    "Settings",
    "change",
    "dump_toml",
    "load_settings",
    "settings_table",
]

ENV_PREFIX = "ECDCTR_"
# Variables that are not configuration keys: the configuration file, and the folder of real logs for tests.
OTHER_VARIABLES = frozenset({"ECDCTR_CONFIG", "ECDCTR_DATA", "ECDCTR_KAFKA_LIBS"})

RENAMED: dict[str, str] = {
    "monitor.watch.drift.cells": "monitor.watch.drift.bins",
}
"""Old key -> new key. Old keys work for one version, in files, variables and ``--set``; rows older than that are removed."""

REMOVED: dict[str, str] = {
    "worker.session_timeout_s": "the worker reads all partitions itself and is no member of a consumer group",
}
"""Key without an effect -> why. It is accepted for one version, in files, variables and ``--set``."""


class Settings(BaseSettings):
    """All configuration keys."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings, description="Brokers and security.")
    topics: TopicSettings = Field(default_factory=TopicSettings, description="The two click streams.")
    worker: WorkerSettings = Field(default_factory=WorkerSettings, description="The stream worker.")
    events: EventSettings = Field(default_factory=EventSettings, description="Format of events.")
    join: JoinSettings = Field(
        default_factory=JoinSettings,
        description="Joining impressions and clicks of a mapping file that are logged apart.",
    )
    features: tuple[FeatureSpec, ...] = Field(
        default_factory=default_features, min_length=1, description="Inputs of the models."
    )
    streaming_features: StreamingFeatureSettings = Field(
        default_factory=StreamingFeatureSettings,
        description="Features computed from the streams: counts, click rates and recency.",
    )
    model: ModelSettings = Field(default_factory=ModelSettings, description="CPM, A-CTR, ads-only control.")
    tpm: TpmSettings = Field(
        default_factory=TpmSettings, description="TPM, the tiny pre-training model of long-term clicks."
    )
    schedule: ScheduleSettings = Field(
        default_factory=ScheduleSettings, description="When CPM is released (event time)."
    )
    state: StateSettings = Field(default_factory=StateSettings, description="The state on disk.")
    monitor: MonitorSettings = Field(
        default_factory=MonitorSettings,
        description="Dashboard, metrics, alerts, and what the monitor computes.",
    )

    @model_validator(mode="after")
    def _features_have_their_own_names(self) -> Settings:
        names = [f.name for f in self.features]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"more than one feature has the name {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _alerts_have_their_own_topic(self) -> Settings:
        alerts = self.monitor.alerts_topic
        if alerts:
            check_topics_differ(self.topics.keys | {"monitor.alerts_topic": alerts})
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # load_settings() merges the layers itself, in order to record the origin of each value.
        return (init_settings,)


@dataclass(frozen=True)
class Loaded:
    """The configuration, and the source of each value that is not a default."""

    settings: Settings
    origin: dict[str, str]


def load_settings(
    path: Path | None = None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Loaded:
    """Read the configuration: defaults, then a TOML file, then the environment, then ``key=value`` overrides.

    Parameters
    ----------
    path
        TOML file; default: ``$ECDCTR_CONFIG``, then ``./ecdctr.toml`` if it exists.
    overrides
        ``"model.lr=0.001"``; the value is read as TOML, or as a string where that fails.
    environ
        Environment; default ``os.environ``. ``ECDCTR_MODEL__LR=0.001`` sets ``model.lr``. What Kubernetes injects for a Service whose
        name begins with ``ecdctr`` is ignored.

    Raises
    ------
    ConfigError
        An unknown key or a bad value; the message names the key and its source. Also a key of :data:`RENAMED` together with its new name.
    """
    environ = os.environ if environ is None else environ
    environ = {k: v for k, v in environ.items() if not is_of_kubernetes(k, v)}
    renamed = RenamedKeys(RENAMED, REMOVED)
    layers: list[tuple[str, dict[str, Any]]] = []
    file = _config_file(path, environ)
    if file is not None:
        layers.append((str(file), _read_toml(file)))
    variables = renamed.in_variables(environ, ENV_PREFIX)
    layers.append(("environment", _read_environment(variables)))
    layers.append(("--set", _read_overrides(overrides)))
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, layer in layers:
        _merge(merged, renamed.in_layer(layer, name, variables=name == "environment"), origin, name)
    return _loaded(merged, origin)


def change(loaded: Loaded, overrides: Sequence[str], where: str) -> Loaded:
    """The configuration with further ``key=value`` overrides; ``where`` is their source in errors and origins."""
    merged, origin = loaded.settings.model_dump(), dict(loaded.origin)
    layer = RenamedKeys(RENAMED, REMOVED).in_layer(_read_overrides(overrides, where), where)
    _merge(merged, layer, origin, where)
    return _loaded(merged, origin)


def _loaded(merged: dict[str, Any], origin: dict[str, str]) -> Loaded:
    try:
        return Loaded(Settings(**merged), origin)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, origin))) from None


def _config_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is None and environ.get("ECDCTR_CONFIG"):
        path = Path(environ["ECDCTR_CONFIG"])
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"configuration file {path} does not exist")
        return path
    default = Path("ecdctr.toml")
    return default if default.is_file() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


_OF_KUBERNETES = (
    re.compile(r"(_[A-Z0-9]+)*_SERVICE_(HOST|PORT(_[A-Z0-9]+)*)"),
    re.compile(r"(_[A-Z0-9]+)*_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"),
)
_ADDRESS_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://")


def is_of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes has set the variable for a Service whose name begins with ``ecdctr``; a key has two underscores, these have not.

    Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables

    Examples
    --------
    >>> is_of_kubernetes("ECDCTR_PORT", "tcp://10.96.0.7:9108"), is_of_kubernetes("ECDCTR_KAFKA_SERVICE_PORT_PLAIN", "9092")
    (True, True)
    >>> is_of_kubernetes("ECDCTR_MONITOR_PORT", "9108"), is_of_kubernetes("ECDCTR_MONITOR__PORT", "9108")
    (False, False)
    """
    prefix = ENV_PREFIX.removesuffix("_")
    if not name.startswith(ENV_PREFIX):
        return False
    rest = name.removeprefix(prefix)
    if any(pattern.fullmatch(rest) for pattern in _OF_KUBERNETES):
        return True
    return rest.endswith("_PORT") and _ADDRESS_OF_KUBERNETES.match(value) is not None


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = set(Settings.model_fields)
    for name in environ:
        if not name.startswith(ENV_PREFIX) or name in OTHER_VARIABLES:
            continue
        section = name[len(ENV_PREFIX) :].lower().split("__")[0]
        if section not in known:
            raise ConfigError(
                f"environment variable {name} does not begin with a configuration section; known: {', '.join(sorted(known))}"
            )
    source = EnvSettingsSource(Settings)
    source.env_vars = {k.lower(): v for k, v in environ.items() if k.startswith(ENV_PREFIX)}
    try:
        return dict(source())
    except Exception as error:
        raise ConfigError(f"environment: {error}") from error


def _read_overrides(overrides: Sequence[str], where: str = "--set") -> dict[str, Any]:
    return read_overrides(overrides, where, _secrets(Settings, ""), ENV_PREFIX)


def _secrets(model: type[BaseModel], at: str) -> set[str]:
    """The keys whose values are secrets."""
    found = set()
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= _secrets(info.annotation, f"{at}{name}.")
        elif info.annotation is SecretStr or SecretStr in get_args(info.annotation):
            found.add(f"{at}{name}")
    return found


def _merge(
    into: dict[str, Any], layer: Mapping[str, Any], origin: dict[str, str], name: str, at: str = ""
) -> None:
    for key, value in layer.items():
        path = f"{at}{key}"
        if isinstance(value, Mapping) and isinstance(into.setdefault(key, {}), dict):
            _merge(into[key], value, origin, name, path + ".")
        else:
            into[key] = value
            origin[path] = name


def _explain(error: ValidationError, origin: Mapping[str, str]) -> Iterator[str]:
    for item in error.errors():
        path = ".".join(str(p) for p in item["loc"])
        where = origin.get(path) or next((o for p, o in origin.items() if path.startswith(p + ".")), None)
        source = f" (from {where})" if where else ""
        if item["type"] == "extra_forbidden":
            yield f"unknown key {path}{source}; {_neighbours(path)}"
        else:
            # A text in place of a section may be a secret whose key was misspelled.
            hidden = any(word in path for word in ("password", "secret", "webhook")) or _is_section(path)
            shown = "" if hidden or isinstance(item["input"], dict) else f" = {item['input']!r}"
            yield f"{path or 'configuration'}{shown}{source}: {item['msg'].removeprefix('Value error, ')}"


def _is_section(path: str) -> bool:
    node: Any = Settings
    for name in path.split("."):
        found = node.model_fields.get(name)
        if found is None or not (
            isinstance(found.annotation, type) and issubclass(found.annotation, BaseModel)
        ):
            return False
        node = found.annotation
    return True


def _neighbours(path: str) -> str:
    node: type[BaseModel] = Settings
    for name in path.split(".")[:-1]:
        found = node.model_fields.get(name)
        if (
            found is None
            or not isinstance(found.annotation, type)
            or not issubclass(found.annotation, BaseModel)
        ):
            return "`ecdctr config show` lists all keys"
        node = found.annotation
    return f"known here: {', '.join(sorted(node.model_fields))}"


def settings_table(loaded: Loaded) -> Iterator[tuple[str, Any, str, str]]:
    """Every key with its value, the source of the value, and its description."""

    def walk(model: BaseModel, at: str) -> Iterator[tuple[str, Any, str, str]]:
        for name, info in type(model).model_fields.items():
            value, path = getattr(model, name), f"{at}{name}"
            if isinstance(value, BaseModel):
                yield from walk(value, path + ".")
            elif _is_list_of_sections(value):
                source = loaded.origin.get(path, "default")
                for spec in value:
                    shown = spec.model_dump(exclude_defaults=True, exclude={"name"})
                    yield f"{path}[{spec.name}]", shown, source, info.description or ""
            else:
                yield path, value, loaded.origin.get(path, "default"), info.description or ""

    yield from walk(loaded.settings, "")


def dump_toml(settings: Settings) -> str:
    """The configuration as a TOML file that loads as the same configuration; secrets are left out."""
    return "\n".join(_tables(settings, ""))


def _tables(model: BaseModel, at: str) -> Iterator[str]:
    """Lines of a table: its own values first, as TOML requires, then the tables in it."""
    inner = []
    for key in type(model).model_fields:
        value, path = getattr(model, key), f"{at}.{key}" if at else key
        if isinstance(value, BaseModel):
            inner.append((f"[{path}]", path, value))
        elif _is_list_of_sections(value):
            inner += [(f"[[{path}]]", path, spec) for spec in value]
        elif value is not None and not isinstance(value, SecretStr):
            yield f"{key} = {_toml(value)}"
    if at:
        yield ""
    for header, path, section in inner:
        yield header
        yield from _tables(section, path)


def _is_list_of_sections(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], BaseModel)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
