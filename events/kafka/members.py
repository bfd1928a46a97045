"""``group_members``: who is a member of a consumer group now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiokafka import errors
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from ecdctr.events.kafka.broker_connection import Address, BrokerConnection

__all__ = ["GroupMember", "group_members"]

LIMIT_S = 2.0
_GROUP = 0  # the other type of coordinator is that of transactions


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One member of a consumer group.

    >>> str(GroupMember("console-1", "console", "/10.0.0.7"))
    'console-1 (client id "console") on 10.0.0.7'
    """

    member: str
    client: str
    host: str

    def __str__(self) -> str:
        return f'{self.member} (client id "{self.client}") on {self.host.lstrip("/")}'


async def group_members(
    connection: Callable[[Address], BrokerConnection], any_broker: Address, group: str
) -> tuple[GroupMember, ...]:
    """The members of a group of the classic protocol, by name.

    Parameters
    ----------
    connection
        Returns the connection to a broker.
    any_broker
        A broker that answers; it names the coordinator of the group.
    group
        Name of the group; without members, or if it does not exist, the result is empty.

    Raises
    ------
    KafkaError
        The coordinator is not available, or the right to describe the group is missing.
    TimeoutError, OSError
        A broker did not answer.
    """
    found = await connection(any_broker).send(FindCoordinatorRequest(group, _GROUP), LIMIT_S)
    if found.error_code:
        raise errors.for_code(found.error_code)(group)
    described = await connection((found.host, found.port)).send(DescribeGroupsRequest([group]), LIMIT_S)
    out = []
    for code, _, _, _, _, members, *_ in described.groups:
        if code == errors.GroupIdNotFound.errno:
            continue
        if code:
            raise errors.for_code(code)(group)
        out += [GroupMember(member, client, host) for member, client, host, *_ in members]
    return tuple(sorted(out, key=str))
