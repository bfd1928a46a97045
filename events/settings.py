"""Settings of the input: features, limits of events, and the connection to Kafka."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from ecdctr.events.tls import first_line, tls_context
from ecdctr.events.tokens import (
    TokenSource,
    client_credentials,
    for_aiokafka,
    for_kafka_python,
    function_named,
)
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
    max_ahead: str = Field(
        default="1d",
        description="How far an event's time may be ahead of the time of its Kafka record, and in an event file of the rows beside it, as "
        "1h or 7d. A row that is farther ahead, because a clock was wrong, is rejected: it would move the time of the whole log.",
    )


class KafkaSettings(Section):
    """Connection to Kafka: brokers and security.

    >>> KafkaSettings(brokers="kafka-1:9092, kafka-2:9092").brokers
    ('kafka-1:9092', 'kafka-2:9092')
    """

    _advertised: tuple[str, ...] = PrivateAttr(default=())

    brokers: tuple[str, ...] | str = Field(
        default=("127.0.0.1:9092",),
        validate_default=True,
        description="host:port of one or more brokers; a list, or one string separated by commas.",
    )
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        default="plaintext",
        description="How to connect; sasl_* also needs mechanism, and username and password or a source of tokens.",
    )
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="SCRAM-SHA-512",
        description="SASL mechanism. OAUTHBEARER needs token_provider, or oauth_token_url with oauth_client_id and a secret.",
    )
    username: str | None = Field(default=None, description="SASL user.")
    password: SecretStr | None = Field(
        default=None,
        description="SASL password; preferably set by the environment or password_file. Never printed.",
    )
    password_file: Path | None = Field(
        default=None, description="File whose first line is the SASL password."
    )
    token_provider: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$",
        description="module:function that returns a token for OAUTHBEARER, as text or with its expiry in seconds since the epoch.",
    )
    oauth_token_url: str | None = Field(
        default=None,
        description="Token endpoint for OAUTHBEARER with client credentials, instead of token_provider.",
    )
    oauth_client_id: str | None = Field(
        default=None, min_length=1, description="Client id at oauth_token_url."
    )
    oauth_client_secret: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Client secret; preferably set by the environment or oauth_client_secret_file. Never printed.",
    )
    oauth_client_secret_file: Path | None = Field(
        default=None,
        description="File whose first line is the client secret; it is read again for each token.",
    )
    oauth_scope: str | None = Field(default=None, min_length=1, description="Scope of the requested tokens.")
    oauth_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authority of oauth_token_url; default: the system's authorities.",
    )
    oauth_extensions: tuple[str, ...] = Field(
        default=(),
        description="Extensions that are sent with the token, each as name=value; Confluent Cloud needs logicalCluster and "
        "identityPoolId.",
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of the certificate authority; default: the system's authorities."
    )
    cert_file: Path | None = Field(
        default=None, description="PEM file of the client certificate (mutual TLS)."
    )
    key_file: Path | None = Field(default=None, description="PEM file of the client certificate's key.")
    key_password_file: Path | None = Field(
        default=None, description="File whose first line is the password of an encrypted key."
    )

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

    @field_validator("oauth_token_url")
    @classmethod
    def _token_url_is_one(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the address must begin with https:// or http:// and contain a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "the address contains a user: set oauth_client_id and oauth_client_secret_file instead"
            )
        return value

    @field_validator("oauth_extensions")
    @classmethod
    def _extensions_have_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            name, sep, content = text.partition("=")
            if (
                not sep
                or not (name.isascii() and name.isalpha())
                or not content.isprintable()
                or name == "auth"
            ):
                raise ValueError(f'{text!r} is not name=value, as in "logicalCluster=lkc-1"')
        return value

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> KafkaSettings:
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        if self.oauth_client_secret is not None and self.oauth_client_secret_file is not None:
            raise ValueError("give oauth_client_secret or oauth_client_secret_file, not both")
        if self.token_provider is not None and self.oauth_token_url is not None:
            raise ValueError("give token_provider or oauth_token_url, not both")
        if self.uses_tokens:
            self._check_tokens()
        elif self.uses_sasl and (
            self.username is None or (self.password is None and self.password_file is None)
        ):
            raise ValueError(f"security {self.security!r} needs username, and password or password_file")
        elif self.token_provider is not None or self.oauth_token_url is not None:
            key = "token_provider" if self.token_provider is not None else "oauth_token_url"
            raise ValueError(
                f'{key} is given, but tokens are used only with mechanism "OAUTHBEARER" and security "sasl_ssl" or '
                f'"sasl_plaintext": mechanism is {self.mechanism!r}, security is {self.security!r}'
            )
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file is given without cert_file")
        if self.key_password_file is not None and self.cert_file is None:
            raise ValueError("key_password_file is given without cert_file")
        return self

    def _check_tokens(self) -> None:
        if self.token_provider is None and self.oauth_token_url is None:
            raise ValueError(
                'mechanism "OAUTHBEARER" needs token_provider, or oauth_token_url with oauth_client_id and '
                "oauth_client_secret_file"
            )
        secret = self.oauth_client_secret is not None or self.oauth_client_secret_file is not None
        if self.oauth_token_url is not None and not (self.oauth_client_id and secret):
            raise ValueError(
                "oauth_token_url needs oauth_client_id, and oauth_client_secret_file or oauth_client_secret"
            )

    @property
    def uses_sasl(self) -> bool:
        """Whether the client authenticates by SASL."""
        return self.security.startswith("sasl")

    @property
    def uses_tokens(self) -> bool:
        """Whether the client authenticates by OAUTHBEARER."""
        return self.uses_sasl and self.mechanism == "OAUTHBEARER"

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security.endswith("ssl")

    @property
    def addresses(self) -> list[str]:
        """Where brokers can be asked, as ``host:port``: those that are configured, then those that the cluster has named."""
        return list(dict.fromkeys([*self.brokers, *self._advertised]))

    def advertise(self, addresses: Iterable[str]) -> None:
        """Set the addresses that the cluster names at present, for all clients that are made with these settings from now on.

        The brokers of a cluster may all move, one after another, while a process runs. It knows where they are now; what was
        configured is then needed for a start only.

        >>> settings = KafkaSettings(brokers="kafka-1:9092")
        >>> settings.advertise(["kafka-3:9092", "kafka-1:9092"]); settings.addresses
        ['kafka-1:9092', 'kafka-3:9092']
        >>> settings.only("kafka-4:9092").addresses
        ['kafka-4:9092']
        """
        self._advertised = tuple(addresses)

    def only(self, address: str) -> KafkaSettings:
        """The same connection to one broker."""
        copy = self.model_copy(update={"brokers": (address,)})
        copy._advertised = ()
        return copy

    @property
    def principal(self) -> str:
        """Who the brokers see, for messages: the user, the token's owner, or the certificate's.

        >>> KafkaSettings(security="sasl_ssl", username="trainer", password="x").principal
        'the user "trainer"'
        """
        if self.uses_tokens:
            return f"the owner of the token from {self.token_origin}"
        if self.uses_sasl:
            return f'the user "{self.username}"'
        if self.uses_tls and self.cert_file is not None:
            return f"the client certificate {self.cert_file}"
        return "this client"

    @property
    def token_origin(self) -> str:
        """The setting that determines where tokens come from, with its value."""
        if self.token_provider is not None:
            return f"kafka.token_provider = {self.token_provider!r}"
        return f"kafka.oauth_token_url = {self.oauth_token_url} (client {self.oauth_client_id!r})"

    def secret(self) -> str | None:
        """The SASL password, read from ``password_file`` if that is set; ConfigError if the file cannot be read."""
        if self.password_file is not None:
            return first_line("kafka.password_file", self.password_file)
        return None if self.password is None else self.password.get_secret_value()

    def token_source(self) -> TokenSource:
        """Where tokens come from; connections of the same settings share it, and so its tokens.

        Raises
        ------
        ConfigError
            The function of ``token_provider`` does not exist, or the file with the client's secret cannot be read.
        """
        name, extensions = self.token_origin, self.oauth_extensions
        if self.token_provider is not None:
            return _provided_tokens(name, self.token_provider, extensions)
        if self.oauth_token_url is None or self.oauth_client_id is None:
            raise ValueError("these settings use no tokens")
        if self.oauth_client_secret_file is not None:
            first_line("kafka.oauth_client_secret_file", self.oauth_client_secret_file)
        secret = None if self.oauth_client_secret is None else self.oauth_client_secret.get_secret_value()
        return _endpoint_tokens(
            name, self.oauth_token_url, self.oauth_client_id, secret, self.oauth_client_secret_file,
            self.oauth_scope, self.oauth_ca_file, extensions,
        )  # fmt: skip

    def tls_context(self) -> ssl.SSLContext | None:
        """TLS context with the configured certificates, or None without TLS; ConfigError if a file cannot be used."""
        if not self.uses_tls:
            return None
        return tls_context(self.ca_file, self.cert_file, self.key_file, self.key_password_file)

    def kafka_python(self) -> dict[str, Any]:
        """Keyword arguments of every kafka-python client."""
        return {"bootstrap_servers": self.addresses, **self._security(for_kafka_python)}

    def aiokafka(self) -> dict[str, Any]:
        """Keyword arguments of every aiokafka client."""
        return {"bootstrap_servers": self.addresses, **self._security(for_aiokafka)}

    def _security(self, tokens_for: Callable[[TokenSource], Any]) -> dict[str, Any]:
        out: dict[str, Any] = {"security_protocol": self.security.upper()}
        if self.uses_tls:
            out["ssl_context"] = self.tls_context()
        if self.uses_sasl:
            out["sasl_mechanism"] = self.mechanism
        if self.uses_tokens:
            out["sasl_oauth_token_provider"] = tokens_for(self.token_source())
        elif self.uses_sasl:
            out["sasl_plain_username"] = self.username
            out["sasl_plain_password"] = self.secret()
        return out


def _pairs(extensions: tuple[str, ...]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in extensions)


@lru_cache(maxsize=16)
def _provided_tokens(name: str, path: str, extensions: tuple[str, ...]) -> TokenSource:
    return TokenSource(function_named(path, "kafka.token_provider"), name, _pairs(extensions))


@lru_cache(maxsize=16)
def _endpoint_tokens(
    name: str,
    url: str,
    client_id: str,
    secret: str | None,
    secret_file: Path | None,
    scope: str | None,
    ca_file: Path | None,
    extensions: tuple[str, ...],
) -> TokenSource:
    def read_secret() -> str:
        return secret or first_line("kafka.oauth_client_secret_file", secret_file or Path())

    fetch = client_credentials(url, client_id, read_secret, scope, ca_file)
    return TokenSource(fetch, name, _pairs(extensions))
