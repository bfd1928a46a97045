"""Reading the click topics into the trainer: the consumer, its partitions, alignment, and the published offsets."""

from ecdctr.streams.intake.aligned_intake import AlignedIntake
from ecdctr.streams.intake.consumer import LogConsumer, PositionKeeper, RecordList
from ecdctr.streams.intake.epoch_guard import EpochGuard
from ecdctr.streams.intake.offset_publisher import OffsetPublisher
from ecdctr.streams.intake.stalls import StallWatch
from ecdctr.streams.intake.throttle import Throttle

__all__ = [
    "AlignedIntake",
    "EpochGuard",
    "LogConsumer",
    "OffsetPublisher",
    "PositionKeeper",
    "RecordList",
    "StallWatch",
    "Throttle",
]
