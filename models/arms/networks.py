"""The network arms of the paper and their variants: which rows they learn, and how they read TPM.

=========  ==================  ==========================  ===============================
arm        learns from         TPM history                 initialised with
=========  ==================  ==========================  ===============================
cpm        natural rows        learned attention           initial values
reload     ad rows             merged, fixed at a release  CPM, at every release
ads_only   ad rows             none                        initial values
ads_tpm    ad rows             learned attention           initial values
mixed      both, with a flag   none                        initial values
mixed_tpm  both, with a flag   learned attention           initial values
=========  ==================  ==========================  ===============================
"""

from __future__ import annotations

from ecdctr.events.batch import AD, NATURAL
from ecdctr.models.arms.network_arm import ArmSpec, History, NetworkArm
from ecdctr.models.arms.registry import ArmContext

__all__ = ["ads_only", "ads_tpm", "cpm", "mixed", "mixed_tpm", "reload"]


def cpm(context: ArmContext) -> NetworkArm:
    """CPM, the complete pre-training model."""
    model = context.model
    spec = ArmSpec(
        "cpm", (NATURAL,), _tpm(context, "learned"), model.lr, model.natural_embedding_lr, model.natural_batch
    )
    return _network(context, spec, None)


def reload(context: ArmContext) -> NetworkArm:
    """A-CTR, which every CPM release replaces; ``actr`` in checkpoints."""
    model = context.model
    history = _tpm(context, "merged")
    spec = ArmSpec("actr", (AD,), history, model.transfer_lr, model.transfer_embedding_lr, model.ad_batch)
    return _like_cpm(context, spec)


def ads_only(context: ArmContext) -> NetworkArm:
    """The control: ads alone, without TPM."""
    return _of_ads(context, "ads_only", "none")


def ads_tpm(context: ArmContext) -> NetworkArm:
    """Ads with TPM vectors, without CPM."""
    return _of_ads(context, "ads_tpm", _tpm(context, "learned"))


def mixed(context: ArmContext) -> NetworkArm:
    """One network for both domains, without TPM."""
    return _of_both(context, "mixed", "none")


def mixed_tpm(context: ArmContext) -> NetworkArm:
    """One network for both domains, with TPM vectors."""
    return _of_both(context, "mixed_tpm", _tpm(context, "learned"))


def _tpm(context: ArmContext, history: History) -> History:
    return "none" if context.model.history == "none" else history


def _of_ads(context: ArmContext, name: str, history: History) -> NetworkArm:
    model = context.model
    spec = ArmSpec(name, (AD,), history, model.lr, model.ad_embedding_lr, model.ad_batch)
    return _like_cpm(context, spec)


def _of_both(context: ArmContext, name: str, history: History) -> NetworkArm:
    model = context.model
    spec = ArmSpec(
        name,
        (NATURAL, AD),
        history,
        model.lr,
        model.natural_embedding_lr,
        model.natural_batch,
        domain_flag=True,
        ad_batch=model.ad_batch,
    )
    return _like_cpm(context, spec)


def _like_cpm(context: ArmContext, spec: ArmSpec) -> NetworkArm:
    """An arm whose tables have CPM's initial values; copied while CPM is in its initial state."""
    like = context.arm("cpm")
    assert isinstance(like, NetworkArm)
    return _network(context, spec, like)


def _network(context: ArmContext, spec: ArmSpec, like: NetworkArm | None) -> NetworkArm:
    return NetworkArm(
        spec, context.encoder, context.schema.n_dense, context.model, context.tpm_dim, context.device, like
    )
