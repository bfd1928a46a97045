"""``LinkedArm``: parameters specific to ads, added to those of a backbone that continues to learn."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ecdctr.events.batch import AD, Batch
from ecdctr.models.arms.network_arm import ArmSpec, NetworkArm, Prepared
from ecdctr.models.arms.registry import ArmContext
from ecdctr.models.nets import BatchNorm, CtrNet, Encoded, InputEncoder
from ecdctr.models.settings import ModelSettings
from ecdctr.models.tpm import HistoryReader

__all__ = ["LinkedArm", "linked"]


class LinkedArm(NetworkArm):
    """Predicts with the backbone's parameters plus differences that only ad rows train; the backbone receives no gradient from it.

    With ``theta`` the backbone's current parameters, a row is predicted by ``f(theta + delta)``, where every ``delta``
    (embedding rows, interaction, MLP, head) is initially 0. What the backbone learns is effective at the next
    prediction; nothing is copied, and nothing learned from ads is discarded. The running statistics of batch norm are
    this arm's own and are initialised from the backbone's. An ad row must be learned here *before* the backbone learns
    it: otherwise the difference would be fitted to a backbone that has already seen the label.

    Parameters
    ----------
    spec
        Name, learning rates, chunk size; history and domain flag are taken from the backbone.
    backbone
        An arm that learns from the stream.
    encoder, n_dense, model, history_dim, device
        As for :class:`NetworkArm`.
    """

    def __init__(
        self,
        spec: ArmSpec,
        backbone: NetworkArm,
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
        self._remember_initial()

    @property
    def based_on(self) -> tuple[str, ...]:
        return (self.backbone.name,)

    @property
    def history_reader(self) -> HistoryReader | None:
        return self.backbone.history_reader

    def prepare(self, encoded: Encoded, batch: Batch) -> Prepared:
        return self.backbone.prepare(encoded, batch)

    def begin(self, chunks: int) -> None:
        super().begin(chunks)
        if not any(int(count) for count in self.counts()):
            self._copy_batch_norm()

    def _copy_batch_norm(self) -> None:
        """Initialise the running statistics with the backbone's statistics of ads, before the first row is learned."""
        backbone_modules = dict(self.backbone.net.named_modules())
        for name, module in self.net.named_modules():
            if isinstance(module, BatchNorm):
                source = backbone_modules[name]
                assert isinstance(source, BatchNorm)
                prefix = "ad" if source.per_domain else "running"
                for statistic in ("mean", "var"):
                    value = source.get_buffer(f"{prefix}_{statistic}")
                    module.get_buffer(f"{prefix}_{statistic}").copy_(value)

    def _effective(self, encoded: Encoded, own: list[Tensor]) -> list[Tensor]:
        torch.add(self.backbone.flat.values.data, self.flat.values.data, out=self._sum)
        backbone_rows = self.backbone._own(encoded)
        return [a + b for a, b in zip(backbone_rows, own, strict=True)]


def linked(context: ArmContext) -> LinkedArm:
    """The arm ``linked``, on the backbone that ``model.backbone`` names."""
    model, backbone = context.model, context.arm(context.model.backbone)
    assert isinstance(backbone, NetworkArm)
    spec = ArmSpec("linked", (AD,), "none", model.linked_lr, model.linked_embedding_lr, model.linked_batch)
    n_dense = context.schema.n_dense
    return LinkedArm(spec, backbone, context.encoder, n_dense, model, context.tpm_dim, context.device)
