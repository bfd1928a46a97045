"""``LinkedArm``: ad-specific parts on a backbone that goes on learning."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ecdctr.events.batch import Batch
from ecdctr.models.arms.network_arm import Arm, ArmSpec, Prepared
from ecdctr.models.nets import BatchNorm, CtrNet, Encoded, InputEncoder
from ecdctr.models.settings import ModelSettings
from ecdctr.models.tpm import HistoryReader

__all__ = ["LinkedArm"]


class LinkedArm(Arm):
    """The backbone's parameters, through which no gradient flows, plus differences that ad rows alone teach.

    With ``theta`` the backbone's parameters of the moment, a row is predicted by ``f(theta + delta)``, where every
    ``delta`` (embedding rows, interaction, MLP, head) begins at 0. What the backbone learns is there at the next
    prediction, nothing is copied and nothing that ads taught is thrown away. Batch norm's running statistics are this
    arm's own; they begin as the backbone's. An ad row must be learned here *before* the backbone learns it: else
    the difference would be fitted to a backbone that has seen the answer.

    Parameters
    ----------
    spec
        What it is; history and domain flag are taken from the backbone.
    backbone
        A live arm.
    encoder, n_dense, model, history_dim, device
        As for :class:`Arm`.
    """

    def __init__(
        self,
        spec: ArmSpec,
        backbone: Arm,
        encoder: InputEncoder,
        n_dense: int,
        model: ModelSettings,
        history_dim: int,
        device: torch.device,
    ) -> None:
        spec = replace(spec, history=backbone.spec.history, domain_flag=backbone.spec.domain_flag)
        super().__init__(
            spec, encoder, n_dense, model.model_copy(update={"embedding_init": 0.0}), history_dim, device
        )
        self.backbone = backbone
        self.flat.values.data.zero_()
        self._sum = torch.zeros_like(self.flat.values.data)
        own = None if spec.history == "none" else history_dim
        self.net = CtrNet(encoder.layouts, n_dense, model, own, spec.domain_flag)
        self.flat.bind(self.net, self._sum)
        for module in self.net.modules():
            if isinstance(module, BatchNorm):
                module.momentum = model.linked_momentum

    @property
    def history_reader(self) -> HistoryReader | None:
        return self.backbone.history_reader

    def prepare(self, encoded: Encoded, batch: Batch) -> Prepared:
        return self.backbone.prepare(encoded, batch)

    def begin(self, chunks: int) -> None:
        super().begin(chunks)
        if not any(int(count) for count in self.counts()):
            self._begin_as_backbone()

    def _begin_as_backbone(self) -> None:
        """Before the first row is learned, the running statistics are those that the backbone has of ads."""
        theirs = dict(self.backbone.net.named_modules())
        for name, ours in self.net.named_modules():
            if isinstance(ours, BatchNorm):
                norm = theirs[name]
                assert isinstance(norm, BatchNorm)
                prefix = "ad" if norm.apart else "running"
                for name_of in (f"{prefix}_mean", f"{prefix}_var"):
                    ours.get_buffer(name_of).copy_(norm.get_buffer(name_of))

    def _effective(self, encoded: Encoded, own: list[Tensor]) -> list[Tensor]:
        torch.add(self.backbone.flat.values.data, self.flat.values.data, out=self._sum)
        theirs = self.backbone._own(encoded)
        return [a + b for a, b in zip(theirs, own, strict=True)]
