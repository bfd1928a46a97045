"""``probe_brokers``: the true reason why no broker can be used, in less than a second.

kafka-python hides why its first connection fails: it retries a wrong password or an unknown authority for 10 to 190 s,
and then reports that no broker answered. The probe makes one connection with aiokafka, which raises the reason at once.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import errors
from aiokafka.conn import create_conn
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest
from kafka.errors import KafkaError

from ecdctr.events.kafka.client_errors import in_one_sentence
from ecdctr.events.kafka.own_loop import run_in_own_loop
from ecdctr.events.kafka.problems import BrokerProblem, Cause
from ecdctr.events.kafka.topic_state import topic_problem
from ecdctr.events.settings import KafkaSettings
from ecdctr.state.errors import BrokerRefusedError, BrokerUnavailableError, StreamError, TokenError

__all__ = ["probe_brokers", "probe_each", "stating_the_reason"]

TIMEOUT_S = 0.9
LONG_TIMEOUT_S = 5.0
"""For the reason after a client has failed: then a slow broker is distinguished from a silent one."""

_CERTIFICATE = {
    9: Cause.EXPIRED,  # not yet valid
    10: Cause.EXPIRED,
    18: Cause.UNKNOWN_CA,  # self-signed
    19: Cause.UNKNOWN_CA,  # self-signed in the chain
    20: Cause.UNKNOWN_CA,  # issuer not found
    21: Cause.UNKNOWN_CA,  # chain of one, which cannot be verified
    62: Cause.HOST_NAME,
    64: Cause.HOST_NAME,  # an address instead of a name
}
"""By OpenSSL's ``X509_V_ERR_*``."""
_CLIENT_ALERTS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "UNKNOWN_CA")


def probe_brokers(
    settings: KafkaSettings, topics: Sequence[str] = (), timeout_s: float = TIMEOUT_S
) -> BrokerProblem | None:
    """Connect to every configured broker once, as a client would; None: at least one can be used.

    1. Resolve the name, connect, and shake hands for TLS.
    2. Ask for the versions of the protocol, and authenticate.
    3. Ask for the metadata of ``topics``, which needs the right to see them.
    4. Connect to the addresses that the broker advertises.

    Where a connection is closed without a reason, a second one finds out whether the broker expects TLS or SASL. The first broker
    that can be used ends the call: one that does not answer is not waited for.

    Parameters
    ----------
    settings
        Brokers and security.
    topics
        Topics that have to be visible; one that does not exist is no problem here.
    timeout_s
        Limit of the whole call.

    Returns
    -------
    BrokerProblem or None
        Of several brokers that fail for different reasons, the one for which waiting does not help.

    Raises
    ------
    ConfigError
        A certificate or the password file cannot be read.
    """
    found = _probe(settings, topics, timeout_s, all_of_them=False)
    problems = [problem for problem in found.values() if problem is not None]
    return None if len(problems) < len(found) else min(problems, key=lambda problem: problem.may_pass)


def probe_each(
    settings: KafkaSettings, topics: Sequence[str] = (), timeout_s: float = TIMEOUT_S
) -> dict[str, BrokerProblem | None]:
    """The problem of each configured broker, by address; None: it can be used. See :func:`probe_brokers`."""
    return _probe(settings, topics, timeout_s, all_of_them=True)


def _probe(
    settings: KafkaSettings, topics: Sequence[str], timeout_s: float, *, all_of_them: bool
) -> dict[str, BrokerProblem | None]:
    """The problems by address; unless all are asked for, without those of brokers slower than the first that can be used."""
    options = settings.aiokafka()
    del options["bootstrap_servers"]
    if settings.uses_tokens:
        try:
            settings.token_source().token()  # not within the time limit: the issuer may be slower than a broker
        except TokenError as error:
            cause = Cause.TOKEN_REFUSED if error.refused else Cause.TOKEN
            return {
                address: BrokerProblem(cause, address, str(error), settings) for address in settings.addresses
            }

    async def probe() -> dict[str, BrokerProblem | None]:
        tasks = {
            address: asyncio.ensure_future(_Probe(settings, address, options, timeout_s).run(topics))
            for address in settings.addresses
        }
        for done in asyncio.as_completed(tasks.values()):
            if await done is None and not all_of_them:
                break
        return {address: task.result() for address, task in tasks.items() if task.done()}

    return run_in_own_loop(probe())


@contextmanager
def stating_the_reason(
    settings: KafkaSettings, topics: Sequence[str] = (), *, probe_first: bool = True
) -> Iterator[None]:
    """Run a block that uses kafka-python; its errors, and what a probe finds before it, state the reason.

    A broker that is silent for the probe's short time is left to the client in the block, which waits longer.

    Parameters
    ----------
    settings, topics
        As in :func:`probe_brokers`.
    probe_first
        Probe before the block, so that a refused connection ends at once. False where a client of the same
        settings is connected already.

    Raises
    ------
    BrokerRefusedError
        A broker answers and refuses this configuration; waiting does not help.
    BrokerUnavailableError
        No broker can be reached now.
    """
    if probe_first:
        problem = probe_brokers(settings, topics)
        if problem is not None and problem.cause is not Cause.TIMEOUT:
            raise _error(problem)
    try:
        yield
    except KafkaError as error:
        problem = probe_brokers(settings, topics, LONG_TIMEOUT_S)
        if problem is not None:
            raise _error(problem) from error
        failure = in_one_sentence(error, settings)
        if (
            topics
            and isinstance(failure, BrokerUnavailableError)
            and (why := topic_problem(settings, topics))
        ):
            failure = BrokerUnavailableError(why)
        raise failure from error


def _error(problem: BrokerProblem) -> StreamError:
    return (BrokerUnavailableError if problem.may_pass else BrokerRefusedError)(str(problem))


class _Probe:
    """One broker."""

    def __init__(
        self, settings: KafkaSettings, address: str, options: dict[str, Any], timeout_s: float
    ) -> None:
        self._settings, self._address, self._options = settings, address, options
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._stage = "connecting"

    async def run(self, topics: Sequence[str]) -> BrokerProblem | None:
        try:
            # Leaves time for the second connection.
            async with asyncio.timeout(0.8 * self._timeout_s):
                return await self._use(topics)
        except TimeoutError:
            return await self._silent()
        except Exception as error:
            return await self._failed(error)

    def _problem(self, cause: Cause, detail: object) -> BrokerProblem:
        text = str(detail) or type(detail).__name__
        return BrokerProblem(cause, self._address, text, self._settings)

    # -- as a client would

    async def _use(self, topics: Sequence[str]) -> BrokerProblem | None:
        await self._connect_only(self._host, self._port)
        self._stage = "the connection was made, TLS was not" if self._settings.uses_tls else "connected"
        connection = await self._connect(**self._options)
        try:
            self._stage = "connected and authenticated" if self._settings.uses_sasl else "connected"
            metadata = await connection.send(MetadataRequest(list(topics), False))
        finally:
            connection.close()
        for code, name, *_ in metadata.topics:
            if code == errors.TopicAuthorizationFailedError.errno:
                return self._problem(Cause.RIGHT, f'topic "{name}"')
        return await self._advertised([(host, port) for _, host, port, *_ in metadata.brokers])

    async def _advertised(self, addresses: Sequence[tuple[str, int]]) -> BrokerProblem | None:
        if not addresses or (self._host, self._port) in addresses:
            return None
        tries = (self._connect_only(host, port) for host, port in addresses)
        self._stage = "connecting to the addresses that it advertises"
        if all(isinstance(found, OSError) for found in await asyncio.gather(*tries, return_exceptions=True)):
            names = ", ".join(f"{host}:{port}" for host, port in addresses)
            return self._problem(Cause.ADVERTISED, names)
        return None

    async def _connect(self, **options: Any) -> Any:
        timeout_ms = int(1000 * self._timeout_s)
        return await create_conn(
            self._host, self._port, client_id="ecdctr-probe", request_timeout_ms=timeout_ms, **options
        )

    async def _connect_only(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        _, writer = await asyncio.open_connection(host, port, ssl=tls)
        writer.transport.abort()

    # -- what an error means

    async def _failed(self, error: Exception) -> BrokerProblem:
        for found in _chain(error):
            cause = self._cause(found)
            if cause is not None:
                detail = await self._mechanisms() if cause is Cause.MECHANISM else _text(found)
                return self._problem(cause, detail or _text(found))
        return await self._second_look() or self._problem(Cause.CLOSED, _text(error))

    def _cause(self, error: BaseException) -> Cause | None:
        """The cause that the error alone proves."""
        match error:
            case TokenError():
                return Cause.TOKEN_REFUSED if error.refused else Cause.TOKEN
            case socket.gaierror():
                return Cause.NAME
            case ssl.SSLCertVerificationError():
                return _CERTIFICATE.get(error.verify_code, Cause.UNKNOWN_CA)
            case ssl.SSLError() if any(alert in str(error) for alert in _CLIENT_ALERTS):
                if self._settings.cert_file is None:
                    return Cause.CLIENT_CERTIFICATE_MISSING
                return Cause.CLIENT_CERTIFICATE_REFUSED
            case errors.UnsupportedSaslMechanismError():
                return Cause.MECHANISM
            case errors.IllegalSaslStateError():
                return Cause.SASL_UNEXPECTED
            case errors.SaslAuthenticationFailed():
                return Cause.CREDENTIALS
            case errors.ClusterAuthorizationFailedError():
                return Cause.RIGHT
            case ConnectionRefusedError():
                return Cause.REFUSED
            case ssl.SSLError() if "ALERT" in str(error):
                return Cause.TLS_OTHER
            case ConnectionError() | ssl.SSLError():
                return None  # closed: by a listener of another kind, or by a broker that stops
            # Several addresses of one name that fail: a plain OSError, whose text lists them.
            case OSError() if self._stage == "connecting":
                return Cause.REFUSED if "Errno 111" in str(error) else Cause.UNREACHABLE
        return None

    async def _silent(self) -> BrokerProblem:
        detail = f"no answer within {self._timeout_s:.1f} s ({self._stage})"
        if self._stage == "connecting":
            return self._problem(Cause.TIMEOUT, detail)
        return await self._second_look() or self._problem(Cause.TIMEOUT, detail)

    async def _second_look(self) -> BrokerProblem | None:
        """Whether the broker expects another kind of connection; None: that is not it."""
        try:
            async with asyncio.timeout(max(0.1, self._deadline - time.monotonic())):
                if self._settings.uses_tls:
                    if await self._speaks_plaintext():
                        return self._problem(Cause.TLS_UNEXPECTED, "")
                elif await self._speaks_tls():
                    return self._problem(Cause.TLS_EXPECTED, "")
                if not self._settings.uses_sasl and (accepted := await self._mechanisms()):
                    return self._problem(Cause.SASL_EXPECTED, accepted)
        except TimeoutError:
            pass
        return None

    async def _speaks_plaintext(self) -> bool:
        try:
            connection = await self._connect(security_protocol="PLAINTEXT")
        except (OSError, errors.KafkaError):
            return False
        connection.close()
        return True

    async def _speaks_tls(self) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            await self._connect_only(self._host, self._port, context)
        except ssl.SSLError as error:  # an alert of the other side is an answer in TLS, too
            return "ALERT" in str(error).upper()
        except OSError:
            return False
        return True

    async def _mechanisms(self) -> str:
        """The SASL mechanisms that the broker names, as a text; empty: it takes none."""
        protocol = "SSL" if self._settings.uses_tls else "PLAINTEXT"
        context = self._options.get("ssl_context")
        try:
            connection = await self._connect(security_protocol=protocol, ssl_context=context)
            try:
                # One that no broker has, so that the answer is the list.
                answer = await connection.send(SaslHandShakeRequest("NONE"))
            finally:
                connection.close()
        except (OSError, errors.KafkaError):
            return ""
        return f"it accepts {', '.join(answer.enabled_mechanisms)}" if answer.enabled_mechanisms else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, the innermost first: aiokafka wraps them."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return reversed(found)


def _text(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, errors.KafkaError) and error.args:
        return str(error.args[0])
    return str(error) or type(error).__name__
