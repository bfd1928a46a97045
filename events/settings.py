"""Settings of the input: features, limits of events, and the connection to Kafka."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from ecdctr.state.errors import ConfigError
from ecdctr.state.settings import Section

__all__ = ["EventSettings", "FeatureSpec", "KafkaSettings", "default_features"]


class FeatureSpec(Section):
    """One input feature of the models."""

    name: str = Field(min_length=1, description="Name of the feature in reports and drift tables.")
    field: str = Field(
        default="",
        description="Field of the event (default: the name). '@hour' and '@weekday' are derived from ts (UTC).",
    )
    kind: Literal["categorical", "numeric", "bag"] = Field(
        default="categorical", description="categorical, numeric, or bag (a list of categorical values)."
    )
    buckets: int = Field(
        default=100_000, ge=1, le=500_000_000, description="Hash buckets (categorical, bag)."
    )
    dim: int | None = Field(default=None, ge=1, le=1024, description="Embedding size; default model.dim.")
    max_length: int = Field(
        default=8, ge=1, le=256, description="Maximum number of ids of a bag; further ids are ignored."
    )
    transform: Literal["none", "log1p"] = Field(default="none", description="log1p: sign(x) * log(1 + |x|).")
    tpm: bool = Field(default=False, description="Whether TPM also reads the feature.")

    @model_validator(mode="after")
    def _field_defaults_to_name(self) -> FeatureSpec:
        if not self.field:
            object.__setattr__(self, "field", self.name)
        if self.kind == "numeric" and self.tpm:
            raise ValueError(
                f"feature {self.name!r} is numeric: TPM reads categorical features and bags only"
            )
        return self


def default_features() -> tuple[FeatureSpec, ...]:
    """User, item and hour: features that every event has."""
    return (
        FeatureSpec(name="user", field="user_id", buckets=1_000_000, tpm=True),
        FeatureSpec(name="item", field="item_id", buckets=1_000_000, tpm=True),
        FeatureSpec(name="hour", field="@hour", buckets=24),
    )


class EventSettings(Section):
    """Optional fields of events, and limits beyond which an event is a dead letter."""

    list_field: str | None = Field(
        default=None,
        description="Field with the id of the row's impression list (slate); used for AUC per list, never as a feature.",
    )
    oracle_field: str | None = Field(
        default=None, description="Field with the true click probability, written by a simulator."
    )
    max_string: int = Field(
        default=512,
        ge=1,
        description="Longest string in bytes of UTF-8; events with longer ones are dead letters.",
    )
    ts_min: str = Field(default="2000-01-01", description="Earlier events are dead letters (UTC date).")
    ts_max: str = Field(default="2100-01-01", description="Later events are dead letters (UTC date).")


class KafkaSettings(Section):
    """Connection to Kafka: brokers and security.

    >>> KafkaSettings(brokers="kafka-1:9092, kafka-2:9092").brokers
    ('kafka-1:9092', 'kafka-2:9092')
    """

    brokers: tuple[str, ...] | str = Field(
        default=("127.0.0.1:9092",),
        validate_default=True,
        description="host:port of one or more brokers; a list, or one string separated by commas.",
    )
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        default="plaintext", description="How to connect; sasl_* also needs mechanism, username and password."
    )
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="SASL mechanism."
    )
    username: str | None = Field(default=None, description="SASL user.")
    password: SecretStr | None = Field(
        default=None,
        description="SASL password; preferably set by the environment or password_file. Never printed.",
    )
    password_file: Path | None = Field(
        default=None, description="File whose first line is the SASL password."
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of the certificate authority; default: the system's authorities."
    )
    cert_file: Path | None = Field(
        default=None, description="PEM file of the client certificate (mutual TLS)."
    )
    key_file: Path | None = Field(default=None, description="PEM file of the client certificate's key.")

    @field_validator("brokers")
    @classmethod
    def _brokers_are_host_and_port(cls, value: tuple[str, ...] | str) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        brokers = tuple(part.strip() for part in parts if part.strip())
        if not brokers:
            raise ValueError("name at least one broker as host:port")
        for broker in brokers:
            host, _, port = broker.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{broker!r} is not host:port, as in kafka-1:9092")
        return brokers

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> KafkaSettings:
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        if self.uses_sasl and (
            self.username is None or (self.password is None and self.password_file is None)
        ):
            raise ValueError(f"security {self.security!r} needs username, and password or password_file")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file is given without cert_file")
        return self

    @property
    def uses_sasl(self) -> bool:
        """Whether the client authenticates by SASL."""
        return self.security.startswith("sasl")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security.endswith("ssl")

    @property
    def addresses(self) -> list[str]:
        """The brokers as a list of ``host:port``."""
        return list(self.brokers)

    def secret(self) -> str | None:
        """The SASL password, read from ``password_file`` if that is set; ConfigError if the file cannot be read."""
        if self.password_file is not None:
            try:
                text = self.password_file.read_text(encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"kafka.password_file {self.password_file}: {error.strerror}") from error
            return text.splitlines()[0] if text else ""
        return None if self.password is None else self.password.get_secret_value()

    def tls_context(self) -> ssl.SSLContext | None:
        """TLS context with the configured certificates, or None without TLS; ConfigError if a file cannot be used."""
        if not self.uses_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            files = [str(f) for f in (self.ca_file, self.cert_file, self.key_file) if f is not None]
            raise ConfigError(
                f"kafka: the certificates {', '.join(files)} cannot be used: {error}"
            ) from error
        return context

    def kafka_python(self) -> dict[str, Any]:
        """Keyword arguments of every kafka-python client."""
        return {"bootstrap_servers": self.addresses, **self._security()}

    def aiokafka(self) -> dict[str, Any]:
        """Keyword arguments of every aiokafka client."""
        return {"bootstrap_servers": self.addresses, **self._security()}

    def _security(self) -> dict[str, Any]:
        out: dict[str, Any] = {"security_protocol": self.security.upper()}
        if self.uses_tls:
            out["ssl_context"] = self.tls_context()
        if self.uses_sasl:
            out["sasl_mechanism"] = self.mechanism
            out["sasl_plain_username"] = self.username
            out["sasl_plain_password"] = self.secret()
        return out
