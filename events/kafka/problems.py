"""Reasons why a broker cannot be used, each a sentence with the setting, its value and the solution."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ecdctr.events.settings import KafkaSettings

__all__ = ["BrokerProblem", "Cause"]


class Cause(StrEnum):
    """Kind of problem; the values are stable and can be used as metric labels."""

    NAME = "name"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    ADVERTISED = "advertised"
    TLS_EXPECTED = "tls_expected"
    TLS_UNEXPECTED = "tls_unexpected"
    TLS_OTHER = "tls_other"
    UNKNOWN_CA = "unknown_ca"
    EXPIRED = "expired"
    HOST_NAME = "host_name"
    CLIENT_CERTIFICATE_MISSING = "client_certificate_missing"
    CLIENT_CERTIFICATE_REFUSED = "client_certificate_refused"
    SASL_EXPECTED = "sasl_expected"
    SASL_UNEXPECTED = "sasl_unexpected"
    MECHANISM = "mechanism"
    CREDENTIALS = "credentials"
    TOKEN = "token"
    TOKEN_REFUSED = "token_refused"
    RIGHT = "right"


_MAY_PASS = frozenset(
    {Cause.NAME, Cause.REFUSED, Cause.UNREACHABLE, Cause.TIMEOUT, Cause.CLOSED, Cause.TOKEN, Cause.ADVERTISED}
)

_SENTENCES = {
    Cause.NAME: "the name of {address} does not resolve ({detail})|: "
    "correct {origin}, or make the name known on this machine",
    Cause.REFUSED: "nothing listens at {address} ({detail})|: start {a_broker}, or correct {origin}",
    Cause.UNREACHABLE: "{address} cannot be reached ({detail})|: "
    "correct {origin}, or allow the connection in the network",
    Cause.TIMEOUT: "{address} does not answer: {detail}|. A firewall, an overloaded broker or a suspended one behave like this",
    Cause.CLOSED: "{address} closes the connection without an answer ({detail})|: "
    "the broker may be starting; if this lasts, its log has the reason",
    Cause.ADVERTISED: "{address} answers, but it sends its clients on to {detail}, where no connection can be made from here|: "
    "correct advertised.listeners of the brokers, or make these addresses reachable",
    Cause.TLS_EXPECTED: '{address} expects TLS, but kafka.security is "{security}"|: '
    'set kafka.security to "{with_tls}", or name the port of a plaintext listener',
    Cause.TLS_UNEXPECTED: '{address} does not use TLS, but kafka.security is "{security}"|: '
    'set kafka.security to "{without_tls}", or name the port of a TLS listener',
    Cause.TLS_OTHER: "{address}: the TLS handshake fails ({detail})|: compare the TLS versions and ciphers of the broker with "
    "those of this machine, and see whether the broker requires a client certificate",
    Cause.UNKNOWN_CA: "the certificate of {address} is not from an authority that is trusted here ({detail}; {trusted})|: "
    "set kafka.ca_file to the PEM file of the authority that issued it",
    Cause.EXPIRED: "the certificate of {address} is not valid at this time ({detail})|: "
    "renew the broker's certificate, or correct the clock of this machine",
    Cause.HOST_NAME: "the certificate of {address} is for other names ({detail})|: "
    "name the broker in {origin} as its certificate does, or issue one with this name",
    Cause.CLIENT_CERTIFICATE_MISSING: "{address} requires a client certificate, and none is configured ({detail})|: "
    "set kafka.cert_file and kafka.key_file",
    Cause.CLIENT_CERTIFICATE_REFUSED: "{address} refuses the client certificate kafka.cert_file = {cert_file} ({detail})|: "
    "use one that is valid and from an authority that the broker trusts",
    Cause.SASL_EXPECTED: '{address} requires a user ({detail}), but kafka.security is "{security}"|: set kafka.security to '
    '"{with_sasl}", with kafka.mechanism, and kafka.username and kafka.password_file or a source of tokens',
    Cause.SASL_UNEXPECTED: '{address} does not support SASL, but kafka.security is "{security}"|: '
    'set kafka.security to "{without_sasl}", or name the port of a SASL listener',
    Cause.MECHANISM: '{address} does not accept kafka.mechanism = "{mechanism}" ({detail})|: '
    "set kafka.mechanism to one that it accepts",
    Cause.CREDENTIALS: '{address} refuses the user kafka.username = "{username}" with {mechanism} ({detail})|: '
    "correct the user name, or the password in {password}",
    Cause.TOKEN: "no token for {address}: {detail}|; correct it, or wait until its issuer answers",
    Cause.TOKEN_REFUSED: "the issuer of tokens refuses this client: {detail}|; "
    "correct kafka.oauth_client_id, its secret or kafka.oauth_scope",
    Cause.RIGHT: "{address} does not show {detail} to {user}|: grant the right to read it (Read includes Describe), "
    "or configure a user that has it",
}
"""What was found and the way out, separated by |. For the fields, see ``BrokerProblem._texts``."""
_TOKEN_OF_BROKER = (
    "{address} refuses the token from {token_origin} ({detail})|: compare issuer, audience, scope and expiry of the token "
    "with what the broker expects"
)


@dataclass(frozen=True, slots=True)
class BrokerProblem:
    """One reason why a broker cannot be used; ``str()`` gives the sentence.

    Attributes
    ----------
    cause
        Kind of problem.
    address
        ``host:port`` of the broker.
    detail
        Error text of the system, the TLS library or the broker.
    settings
        The connection settings; the sentence quotes them, except the password.
    is_advertised
        The address is not one that is configured: the brokers have named it to their clients.
    """

    cause: Cause
    address: str
    detail: str
    settings: KafkaSettings
    is_advertised: bool = False

    @property
    def may_pass(self) -> bool:
        """Whether waiting can help: a broker that starts, a network that comes back."""
        return self.cause in _MAY_PASS

    def __str__(self) -> str:
        return "".join(self._texts())

    @property
    def found(self) -> str:
        """The sentence without the way out."""
        return self._texts()[0]

    @property
    def way_out(self) -> str:
        """What to do about it."""
        return self._texts()[1].lstrip(":;. ")

    def _texts(self) -> tuple[str, str]:
        s = self.settings
        by_token = s.uses_tokens and self.cause is Cause.CREDENTIALS
        found, _, way_out = (_TOKEN_OF_BROKER if by_token else _SENTENCES[self.cause]).partition("|")
        values = {
            "address": self.address,
            "origin": "advertised.listeners of that broker, which names this address to its clients"
            if self.is_advertised
            else '"kafka.brokers"',
            "a_broker": "the broker"
            if self.is_advertised
            else "a broker (`ecdctr broker` starts one for development)",
            "detail": self.detail,
            "security": s.security,
            "with_tls": "sasl_ssl" if s.uses_sasl else "ssl",
            "without_tls": "sasl_plaintext" if s.uses_sasl else "plaintext",
            "with_sasl": "sasl_ssl" if s.uses_tls else "sasl_plaintext",
            "without_sasl": "ssl" if s.uses_tls else "plaintext",
            "trusted": "kafka.ca_file is not set" if s.ca_file is None else f"kafka.ca_file = {s.ca_file}",
            "cert_file": s.cert_file,
            "mechanism": s.mechanism,
            "username": s.username,
            "token_origin": s.token_origin,
            "user": s.principal,
            "password": "kafka.password"
            if s.password_file is None
            else f"kafka.password_file = {s.password_file}",
        }
        return found.format(**values), way_out.format(**values)
