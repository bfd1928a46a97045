"""Lets a kafka-python client ask the broker that answers, where another one accepts connections and does not answer."""

from __future__ import annotations

import time
from typing import Any

from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from kafka.future import Future
from kafka.net.manager import KafkaConnectionManager

__all__ = ["CONNECT_S", "choose_brokers_that_answer"]

CONNECT_S = 5.0
"""A broker with which no connection, with TLS and authentication, is made within this time is given up for the moment."""
_LONGEST_CONNECT_S = 10.0
"""The library doubles :data:`CONNECT_S` after each failure, up to this."""
_GRACE_S = 0.1


def choose_brokers_that_answer() -> None:
    """Change kafka-python in this process; a second call does nothing.

    As it is, each client connects to one configured address that it chooses at random, and waits for it as long as its bootstrap
    may take. A broker that hangs (suspended, a full disk, a network that drops packets) costs each of a worker's clients that time
    with a probability of one to the number of addresses. Three things are changed:

    1. A client connects to all configured addresses at once, and continues with the first that answers.
    2. A request that any broker can answer goes to that broker, unless there is an idle connection already.
    3. A connection is given up after :data:`CONNECT_S` instead of ten seconds, also during the TLS handshake, for which the library
       has no limit.
    """
    if KafkaConnectionManager._do_bootstrap is _bootstrap:
        return
    _Own.bootstrap = KafkaConnectionManager._do_bootstrap
    _Own.bootstrap_brokers = ClusterMetadata.bootstrap_brokers
    _Own.least_loaded_node = KafkaConnectionManager.least_loaded_node
    _Own.connect = KafkaConnectionManager._connect
    KafkaConnectionManager._do_bootstrap = _bootstrap
    ClusterMetadata.bootstrap_brokers = _bootstrap_brokers
    KafkaConnectionManager.least_loaded_node = _least_loaded_node
    KafkaConnectionManager._connect = _connect
    KafkaConnectionManager.DEFAULT_CONFIG |= {
        "socket_connection_setup_timeout_ms": int(1000 * CONNECT_S),
        "socket_connection_setup_timeout_max_ms": int(1000 * _LONGEST_CONNECT_S),
    }


class _Own:
    """Holds the library's own methods."""

    bootstrap: Any = None
    bootstrap_brokers: Any = None
    least_loaded_node: Any = None
    connect: Any = None


# -- 1


async def _bootstrap(manager: Any, deadline: float | None) -> Any:
    """Connect to all addresses; the library's method then finds the connection, or tries the addresses one after another."""
    brokers = _Own.bootstrap_brokers(manager.cluster)
    if len(brokers) > 1:
        await _connect_to_first(manager, brokers, deadline)
    else:
        manager.ecdctr_answered = (brokers[0].host, brokers[0].port)
    return await _Own.bootstrap(manager, deadline)


async def _connect_to_first(manager: Any, brokers: list[Any], deadline: float | None) -> None:
    """Leave one connection, to the first broker that answers; none if none does."""
    connections: dict[Any, Any] = {}
    for broker in brokers:
        try:
            connections[broker.node_id] = manager.get_connection(
                broker.node_id,
                pop_on_close=False,
                refresh_metadata_on_err=False,
                reset_backoff_on_connect=False,
            )
        except KafkaError:  # it failed a moment ago: the library's method states it, or tries again
            continue
    if not connections:
        return
    first, open_ = Future(), set(connections)

    def answered(node: Any) -> None:
        if not first.is_done:
            first.success(node)

    def failed(node: Any) -> None:
        open_.discard(node)
        if not open_ and not first.is_done:
            first.success(None)

    for node, connection in connections.items():
        connection.init_future.add_callback(lambda _, node=node: answered(node))
        connection.init_future.add_errback(lambda _, node=node: failed(node))
    limit_ms = None if deadline is None else max(1.0, 1000 * (deadline - time.monotonic()))
    try:
        chosen = await manager.wait_for(first, limit_ms)
    except KafkaTimeoutError:
        chosen = None
    for node, connection in connections.items():
        if node != chosen:
            manager._conns.pop(node, connection).close()
    found = [(broker.host, broker.port) for broker in brokers if broker.node_id == chosen]
    manager.ecdctr_answered = found[0] if found else None


def _bootstrap_brokers(cluster: Any) -> list[Any]:
    """The configured address to which there is a connection; all if there is none."""
    brokers: list[Any] = _Own.bootstrap_brokers(cluster)
    manager = cluster._manager
    if manager is None:
        return brokers
    connections = ((broker, manager._conns.get(broker.node_id)) for broker in brokers)
    return [broker for broker, found in connections if found is not None and found.connected] or brokers


# -- 2


def _least_loaded_node(manager: Any) -> Any:
    """The library's choice where it is an idle connection; otherwise the broker that answered first, if it can be asked."""
    found = _Own.least_loaded_node(manager)
    connection = None if found is None else manager._conns.get(found)
    if found is None or (
        connection is not None and connection.connected and not connection.in_flight_requests
    ):
        return found
    answered = getattr(manager, "ecdctr_answered", None)
    for broker in manager.cluster.brokers():
        if (broker.host, broker.port) != answered or manager.connection_delay(broker.node_id) > 0:
            continue
        connection = manager._conns.get(broker.node_id)
        if connection is None or connection.initializing:
            return broker.node_id
    return found


# -- 3


async def _connect(
    manager: Any,
    node: Any,
    connection: Any,
    reset_backoff_on_connect: bool = True,
    timeout_at: float | None = None,
) -> None:
    """Connect as the library does, and give up what takes longer than ``timeout_at`` (monotonic seconds)."""
    timer = None
    if timeout_at is not None:
        timer = manager._net.call_at(timeout_at + _GRACE_S, lambda: _give_up(connection))
    try:
        await _Own.connect(
            manager,
            node,
            connection,
            reset_backoff_on_connect=reset_backoff_on_connect,
            timeout_at=timeout_at,
        )
    finally:
        if timer is not None:
            manager._net.cancel(timer)


def _give_up(connection: Any) -> None:
    if connection.initializing:
        connection.close(KafkaConnectionError("the broker does not answer: no connection was made in time"))
