"""Checks of the connection, broker by broker: name, port, TLS, SASL, advertised addresses."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from ecdctr.events.kafka import BrokerProblem, Cause, probe_each
from ecdctr.events.settings import KafkaSettings
from ecdctr.streams.doctor.certificates import not_after, soonest_end
from ecdctr.streams.doctor.checks import Check, Status, failed, ok, skipped, warning

__all__ = ["check_connection"]

NAME, PORT, TLS, SASL, ADVERTISED = "name", "port", "TLS", "SASL", "advertised addresses"
_STAGES = (NAME, PORT, TLS, SASL, ADVERTISED)
_STAGE_OF = {
    Cause.NAME: NAME,
    Cause.REFUSED: PORT,
    Cause.UNREACHABLE: PORT,
    Cause.TIMEOUT: PORT,
    Cause.CLOSED: PORT,
    Cause.SASL_EXPECTED: SASL,
    Cause.SASL_UNEXPECTED: SASL,
    Cause.MECHANISM: SASL,
    Cause.CREDENTIALS: SASL,
    Cause.TOKEN: SASL,
    Cause.TOKEN_REFUSED: SASL,
    Cause.RIGHT: SASL,
    Cause.ADVERTISED: ADVERTISED,
}
"""All others are of TLS."""
_SOON = timedelta(days=30)


def check_connection(settings: KafkaSettings, timeout_s: float) -> tuple[list[Check], bool]:
    """The checks of every configured broker, and whether at least one can be used.

    Parameters
    ----------
    settings
        Brokers and security; their files have been read before without an error.
    timeout_s
        Limit for each of two rounds of connections, which are made to all brokers at the same time.
    """
    problems = probe_each(settings, (), timeout_s)
    usable = any(problem is None for problem in problems.values())
    checks: list[Check] = []
    with ThreadPoolExecutor(max(1, len(problems)), thread_name_prefix="doctor") as threads:
        reached = {
            address: threads.submit(_reach, settings, address, timeout_s)
            for address, problem in problems.items()
            if problem is None or _stage(problem) in (SASL, ADVERTISED)
        }
        for address, problem in problems.items():
            found = reached[address].result() if address in reached else {}
            checks += _of_broker(settings, address, problem, found, usable)
    checks += _own_certificate(settings)
    return checks, usable


def _stage(problem: BrokerProblem) -> str:
    return _STAGE_OF.get(problem.cause, TLS)


def _of_broker(
    settings: KafkaSettings,
    address: str,
    problem: BrokerProblem | None,
    found: dict[str, Check],
    usable: bool,
) -> Iterator[Check]:
    stages = [
        stage
        for stage in _STAGES
        if not (stage == TLS and not settings.uses_tls) and not (stage == SASL and not settings.uses_sasl)
    ]
    at = None if problem is None else _stage(problem)
    if at is not None and at not in stages:
        stages.insert(
            next((i for i, s in enumerate(stages) if _STAGES.index(s) > _STAGES.index(at)), len(stages)), at
        )
    broken = False
    for stage in stages:
        name = f"{stage} of {address}"
        if stage == at and problem is not None:
            broken = True
            if usable:
                yield warning(name, f"{problem.found}; another broker can be used", problem.way_out)
            else:
                yield failed(name, problem.found, problem.way_out)
        elif broken:
            yield skipped(name, f"not reached: see {at} of {address}")
        elif stage in found:
            yield found[stage]
        elif problem is not None and problem.cause in (Cause.TOKEN, Cause.TOKEN_REFUSED):
            # Without a token the probe does not connect.
            yield skipped(name, f"no connection was made: see {at} of {address}")
        else:
            yield ok(name, _fine(settings, stage))


def _fine(settings: KafkaSettings, stage: str) -> str:
    if stage == SASL:
        return f"{settings.principal} is accepted with {settings.mechanism}"
    if stage == ADVERTISED:
        return "the addresses that it gives its clients can be reached"
    return {NAME: "it resolves", PORT: "it answers", TLS: "the handshake succeeds"}[stage]


def _reach(settings: KafkaSettings, address: str, timeout_s: float) -> dict[str, Check]:
    """Details of the stages that have succeeded."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    out: dict[str, Check] = {}
    try:
        with socket.create_connection((host, int(port)), timeout_s) as plain:
            peer = plain.getpeername()[0]
            out[PORT] = ok(f"{PORT} of {address}", _fine(settings, PORT))
            out[NAME] = ok(f"{NAME} of {address}", "an address" if peer == host else f"it is {peer}")
            context = settings.tls_context()
            if context is not None:
                with context.wrap_socket(plain, server_hostname=host) as secured:
                    out[TLS] = _expiry(
                        f"{TLS} of {address}",
                        f"{secured.version()}, the certificate",
                        _end(secured),
                        "the broker's",
                    )
    except OSError:  # the probe has succeeded a moment ago, and decides
        pass
    return out


def _end(secured: ssl.SSLSocket) -> datetime | None:
    der = secured.getpeercert(binary_form=True)
    try:
        return None if der is None else not_after(der)
    except ValueError:
        return None


def _expiry(name: str, what: str, end: datetime | None, whose: str) -> Check:
    if end is None:
        return ok(name, f"{what} is accepted; its end cannot be read")
    left = end - datetime.now(UTC)
    found = f"{what} is valid until {end:%Y-%m-%d %H:%M} UTC, {max(0, left.days)} days from now"
    if left < timedelta(0):
        return Check(
            name, Status.FAILED, f"{what} expired on {end:%Y-%m-%d %H:%M} UTC", f"renew {whose} certificate"
        )
    if left < _SOON:
        return warning(name, found, f"renew {whose} certificate")
    return ok(name, found)


def _own_certificate(settings: KafkaSettings) -> Iterator[Check]:
    if settings.uses_tls and settings.cert_file is not None:
        name = "client certificate"
        yield _expiry(
            name, f"kafka.cert_file = {settings.cert_file}", soonest_end(settings.cert_file), "the client's"
        )
