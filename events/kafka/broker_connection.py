"""``BrokerConnection``: requests of the protocol to one broker, with a time limit each."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.conn import create_conn

from ecdctr.events.settings import KafkaSettings

__all__ = ["Address", "BrokerConnection", "join_address", "split_address"]

Address = tuple[str, int]


class BrokerConnection:
    """One broker and the connection to it, which is made when it is first needed, and again after a failure.

    Parameters
    ----------
    settings
        Security. Password and certificates are read again for each connection.
    address
        Host and port.
    """

    def __init__(self, settings: KafkaSettings, address: Address) -> None:
        self._settings, self._address = settings, address
        self._connecting = asyncio.Lock()
        self._connection: Any = None

    async def send(self, request: Any, limit_s: float) -> Any:
        """The response to a request of ``aiokafka.protocol``. A failure closes the connection, also for requests that wait beside it.

        Raises
        ------
        TimeoutError, OSError, aiokafka.errors.KafkaError
            No response within ``limit_s`` seconds, or no connection.
        ConfigError
            A certificate or the password file cannot be read.
        """
        try:
            async with asyncio.timeout(limit_s):
                async with self._connecting:
                    if self._connection is None or not self._connection.connected():
                        self._connection = await self._connect(limit_s)
                    connection = self._connection
                return await connection.send(request)
        except BaseException:
            self.close()
            raise

    async def _connect(self, limit_s: float) -> Any:
        self.close()
        host, port = self._address
        options = self._settings.aiokafka()
        del options["bootstrap_servers"]
        timeout_ms = int(1000 * limit_s)
        return await create_conn(
            host, port, client_id="ecdctr-watch", request_timeout_ms=timeout_ms, **options
        )

    def close(self) -> None:
        """Disconnect; the next request connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def split_address(address: str) -> Address:
    """Host and port of ``host:port``.

    >>> split_address("[::1]:9092")
    ('::1', 9092)
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(address: Address) -> str:
    """Inverse of :func:`split_address`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
