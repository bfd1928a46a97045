"""OAUTHBEARER tokens: a function or a token endpoint gives them, and both Kafka clients get one that is valid."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from ecdctr.state.errors import ConfigError, TokenError

__all__ = ["TokenSource", "client_credentials", "for_aiokafka", "for_kafka_python", "function_named"]

log = logging.getLogger("ecdctr.tokens")

Fetched = str | tuple[str, float]
"""A token, or a token and the time at which it expires in seconds since the epoch."""

RENEW_AT = 0.8
"""A token is renewed when this part of its lifetime has passed."""
ENDPOINT_S = 10.0
"""Longest wait for the token endpoint."""
_MOST_BYTES = 1 << 20
_MILLISECONDS = 1e11
"""No token expires after the year 5138: a larger number counts milliseconds, as signers for AWS return."""
_TOKEN = re.compile(r"[-_.+/=~A-Za-z0-9]+")
"""What Kafka's brokers accept as a token."""
_DETAIL = 200


class TokenSource:
    """Gives a valid token, and renews it in time; thread-safe.

    A token whose expiry is known is kept until :data:`RENEW_AT` of its lifetime has passed. If it cannot be renewed, it is
    used until it expires. A token whose expiry is unknown is never kept: the function is called for every connection.

    Parameters
    ----------
    fetch
        Returns a new token; see :data:`Fetched`. Without an expiry, that of a JSON Web Token is read from the token.
    name
        The setting that determines where tokens come from, for messages.
    extensions
        Sent with each token.
    now
        Clock in seconds since the epoch.

    Examples
    --------
    >>> source = TokenSource(lambda: ("abc", 2_000_000_000.0), "kafka.token_provider = 'a:b'", now=lambda: 1e9)
    >>> source.token()
    'abc'
    """

    def __init__(
        self,
        fetch: Callable[[], Fetched],
        name: str,
        extensions: Mapping[str, str] | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.extensions = dict(extensions or {})
        self._fetch, self._now = fetch, now
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = self._expires = 0.0

    def token(self) -> str:
        """A token that has not expired.

        Raises
        ------
        TokenError
            No token could be obtained, or it is not one.
        """
        with self._lock:
            if self._now() < self._renew_at:
                return self._token
            try:
                token, expires = self._obtain()
            except TokenError as error:
                if self._now() < self._expires:
                    log.warning(
                        "%s; the present token is valid for %.0f s more", error, self._expires - self._now()
                    )
                    return self._token
                raise
            now = self._now()
            if expires is None:
                self._token, self._renew_at, self._expires = "", 0.0, 0.0
            else:
                self._token, self._expires = token, expires
                self._renew_at = now + RENEW_AT * (expires - now)
            return token

    def _obtain(self) -> tuple[str, float | None]:
        try:
            found = self._fetch()
        except TokenError:
            raise
        except Exception as error:
            raise TokenError(
                f"{self.name} gives no token ({type(error).__name__}: {_brief(error)})"
            ) from error
        token, expires = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(token, str) or not (expires is None or isinstance(expires, int | float)):
            raise TokenError(
                f"{self.name} returned {type(found).__name__}: it has to return a token as text, or a pair of the token and "
                "its expiry in seconds since the epoch"
            )
        if not _TOKEN.fullmatch(token):
            what = "an empty text" if not token else "a text with letters that no token has"
            raise TokenError(f"{self.name} returned {what}: brokers accept letters, digits and -_.+/=~")
        expires = _expiry_in(token) if expires is None else float(expires)
        if expires is not None and expires > _MILLISECONDS:
            expires /= 1000
        if expires is not None and expires <= self._now():
            raise TokenError(
                f"{self.name} returned a token that expired {self._now() - expires:.0f} s ago: compare the clock of this "
                "machine with that of the issuer"
            )
        return token, expires


def _expiry_in(token: str) -> float | None:
    """The expiry that a JSON Web Token states, in seconds since the epoch; None: it is another kind of token.

    >>> _expiry_in("e30.eyJleHAiOjE3MDAwMDAwMDB9.")
    1700000000.0
    >>> _expiry_in("opaque") is None
    True
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError):
        return None


def function_named(path: str, key: str) -> Callable[[], Fetched]:
    """The function that ``module:function`` names.

    Raises
    ------
    ConfigError
        There is no such module or function; the message names ``key``.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f"{key} = {path!r}: the module {module} cannot be imported ({type(error).__name__}: {_brief(error)}): install it "
            "in this environment, or add its folder to PYTHONPATH"
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"{key} = {path!r}: the module {module} has no function {name}")
    function: Callable[[], Fetched] = found
    return function


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would send the secret to an address that is not configured."""

    def redirect_request(self, *_args: Any) -> None:
        return None


def client_credentials(
    url: str, client_id: str, secret: Callable[[], str], scope: str | None, ca_file: Path | None
) -> Callable[[], Fetched]:
    """A function that requests tokens by the client-credentials grant (RFC 6749, section 4.4).

    Parameters
    ----------
    url
        Token endpoint.
    client_id, scope
        As registered there.
    secret
        Returns the client's secret; called for each request, so that a file may be replaced.
    ca_file
        PEM file of the authority of the endpoint; None: the system's authorities.
    """

    def fetch() -> Fetched:
        fields = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        login = base64.b64encode(f"{quote(client_id, safe='')}:{quote(secret(), safe='')}".encode()).decode()
        request = Request(
            url,
            data=urlencode(fields).encode(),
            headers={"Authorization": f"Basic {login}", "Accept": "application/json"},
        )
        handlers: list[Any] = [_NoRedirect()]
        if url.startswith("https:"):
            handlers.append(HTTPSHandler(context=_context(ca_file)))
        try:
            with build_opener(*handlers).open(request, timeout=ENDPOINT_S) as response:
                body = response.read(_MOST_BYTES)
        except HTTPError as error:
            raise TokenError(
                f"kafka.oauth_token_url = {url} answers {error.code} for kafka.oauth_client_id = {client_id!r} "
                f"({_reason_in(error)})",
                refused=400 <= error.code < 500 and error.code not in (408, 429),
            ) from None
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise TokenError(f"kafka.oauth_token_url = {url} cannot be reached ({_brief(reason)})") from None
        return _token_in(body, url)

    return fetch


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"kafka.oauth_ca_file = {ca_file} cannot be used: {error}") from error


def _token_in(body: bytes, url: str) -> Fetched:
    try:
        answer = json.loads(body)
        token = str(answer["access_token"])
        lifetime = answer.get("expires_in")
        return token if lifetime is None else (token, time.time() + float(lifetime))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenError(
            f"kafka.oauth_token_url = {url} does not answer with a token ({type(error).__name__}): name the token endpoint of "
            "the authorisation server"
        ) from None


def _reason_in(error: HTTPError) -> str:
    """The error that RFC 6749, section 5.2 describes; it never holds the secret."""
    try:
        answer = json.loads(error.read(_MOST_BYTES))
        found = ": ".join(str(answer[key]) for key in ("error", "error_description") if answer.get(key))
        return found[:_DETAIL] or str(error.reason)
    except (ValueError, TypeError, AttributeError, OSError):
        return str(error.reason)


def for_kafka_python(source: TokenSource) -> Any:
    """The token provider of kafka-python's clients, which call it in their own thread."""
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Provider(AbstractTokenProvider):  # type: ignore[misc]
        def token(self) -> str:
            return source.token()

        def extensions(self) -> dict[str, str]:
            return source.extensions

    return Provider()


def for_aiokafka(source: TokenSource) -> Any:
    """The token provider of aiokafka's clients; a failure is an error of the connection, which they try again."""
    from aiokafka.abc import AbstractTokenProvider
    from aiokafka.errors import KafkaConnectionError

    class Provider(AbstractTokenProvider):  # type: ignore[misc]
        async def token(self) -> str:
            try:
                return await asyncio.to_thread(source.token)
            except TokenError as error:
                raise KafkaConnectionError(str(error)) from error

        def extensions(self) -> dict[str, str]:
            return source.extensions

    _read_refusals()
    return Provider()


def _read_refusals() -> None:
    """Make aiokafka read the broker's answer to a token.

    aiokafka 0.14 takes any answer as success. A broker that has refused the token then answers one more request, without
    brokers and with an error for each topic, which looks like a cluster whose topics are gone.
    """
    from aiokafka import conn
    from aiokafka.errors import SaslAuthenticationFailed

    original: Any = conn.OAuthAuthenticator
    if getattr(original, "reads_refusals", False):
        return

    class Authenticator(original):  # type: ignore[misc]
        reads_refusals = True

        async def step(self, payload: bytes | None) -> Any:
            if payload:  # RFC 7628, section 3.2.2: an error as JSON; success has no content
                raise SaslAuthenticationFailed(payload.decode(errors="replace")[:_DETAIL])
            return await super().step(payload)

    conn.OAuthAuthenticator = Authenticator


def _brief(error: object) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else "no message")[:_DETAIL]
