"""Adapters of published data sets: EB-NeRD, KuaiRand, HUAWEI DIGIX 2022 and Taobao display ads."""

from ecdctr.replay.sources.datasets.digix import Digix
from ecdctr.replay.sources.datasets.ebnerd import EbNerd
from ecdctr.replay.sources.datasets.kuairand import KuaiRand
from ecdctr.replay.sources.datasets.taobao import Taobao

__all__ = ["Digix", "EbNerd", "KuaiRand", "Taobao"]
