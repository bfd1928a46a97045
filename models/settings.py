"""Settings of the models: networks, learning rates, and the event-time schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ecdctr.models.registry import extra_arms, serving_arms, stack_members
from ecdctr.state.settings import Section

__all__ = [
    "BayesFmSettings",
    "ExtraArm",
    "FactorPriorSettings",
    "ModelSettings",
    "ScheduleSettings",
    "ServingArm",
    "StackMember",
    "TpmSettings",
]


if TYPE_CHECKING:
    ExtraArm = str
    StackMember = str
    ServingArm = str
else:
    # The accepted values come from the table of arms: a new arm needs no change here.
    ExtraArm = Literal[extra_arms()]
    StackMember = Literal[stack_members()]
    ServingArm = Literal[serving_arms()]


class FactorPriorSettings(Section):
    """What is believed of ids of one kind before any row has said anything: variances, and how long rows count."""

    bias: float = Field(default=0.2, gt=0, description="Prior variance of a bias.")
    factor: float = Field(default=0.3, gt=0, description="Prior variance of a factor.")
    ad_bias: float = Field(default=0.02, gt=0, description="Of what a bias differs by in ads.")
    ad_factor: float = Field(default=0.01, gt=0, description="Of what a factor differs by in ads.")
    bias_memory: float = Field(
        default=1.0, gt=0, le=1, description="Share of what rows said of a bias that counts after a day."
    )
    factor_memory: float = Field(default=1.0, gt=0, le=1, description="The same of factors.")


class BayesFmSettings(Section):
    """The Bayesian factorization machine."""

    dim: int = Field(
        default=4, ge=1, le=32, description="Factors of an id; memory and time grow with its square."
    )
    batch: int = Field(default=512, ge=1, description="Rows of a step, at most.")
    init: float = Field(default=0.1, gt=0, description="Standard deviation of first factors.")
    user: FactorPriorSettings = FactorPriorSettings(ad_bias=0.005, ad_factor=0.1)
    item: FactorPriorSettings = FactorPriorSettings(ad_bias=0.4, bias_memory=0.6, factor_memory=0.97)
    other: FactorPriorSettings = FactorPriorSettings(bias=0.05, ad_bias=0.005)


class ModelSettings(Section):
    """CPM, A-CTR and the ads-only control: one network, several sets of parameters."""

    dim: int = Field(default=16, ge=1, le=1024, description="Embedding size of a feature.")
    interaction: Literal["dcn", "dot", "none"] = Field(
        default="dcn", description="Feature interaction layer."
    )
    cross_layers: int = Field(default=2, ge=0, le=8, description="DCN-V2 cross layers.")
    hidden: tuple[int, ...] = Field(default=(128, 64), description="Widths of the MLP, each with batch norm.")
    history: Literal["attention", "mean", "latest", "none"] = Field(
        default="attention", description="How the K TPM snapshots become one vector; none: TPM is not read."
    )
    embedding_init: float = Field(default=0.01, gt=0, description="Standard deviation of new embedding rows.")
    adagrad_accumulator: float = Field(
        default=1e-6, gt=0, description="Initial row-wise Adagrad accumulator; 1e-2 is slow SGD (measured)."
    )
    lr: float = Field(default=1e-3, gt=0, description="Adam, dense parameters.")
    natural_embedding_lr: float = Field(default=0.1, gt=0, description="Adagrad of CPM's rows.")
    ad_embedding_lr: float = Field(default=0.1, gt=0, description="Adagrad of the ads-only control's rows.")
    transfer_lr: float = Field(default=5e-4, gt=0, description="Adam of A-CTR after its first CPM release.")
    transfer_embedding_lr: float = Field(default=0.03, gt=0, description="Adagrad of A-CTR's rows after it.")
    natural_batch: int = Field(default=512, ge=1, description="Natural rows of a step.")
    ad_batch: int = Field(default=128, ge=1, description="Ad rows of a step, at most.")
    natural_score_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of natural users whose rows are scored before learning."
    )
    batch_norm_momentum: float = Field(
        default=0.1, gt=0, le=1, description="Weight of a chunk in batch norm's running statistics."
    )
    batch_norm: Literal["batch", "running"] = Field(
        default="batch",
        description="What rows are normalised by while learning: their chunk's statistics (the paper), or the running "
        "ones, for streams whose neighbouring rows are alike (impression lists, news); then a small momentum, as 0.005.",
    )
    transfer: ServingArm = Field(
        default="stack",
        description="How natural clicks reach the ads model: stack, an online combination of arms (docs/evidence.md); "
        "reload of CPM at releases (the paper); linked, differences on a live backbone; bayes_fm, natural clicks as the "
        "prior of ads.",
    )
    arms: tuple[ExtraArm, ...] = Field(
        default=(), description="Further arms to run and score beside the others, for comparison."
    )
    backbone: Literal["cpm", "mixed_tpm"] = Field(
        default="mixed_tpm", description="What linked stands on: CPM, or natural + ads with TPM vectors."
    )
    linked_lr: float = Field(default=5e-4, gt=0, description="Adam of linked's differences.")
    linked_embedding_lr: float = Field(default=0.03, gt=0, description="Adagrad of its row differences.")
    linked_batch: int = Field(default=64, ge=1, description="Ad rows of one of its steps, at most.")
    linked_momentum: float = Field(default=0.05, gt=0, le=1, description="Of its own batch norm.")
    stack_of: tuple[StackMember, ...] = Field(
        default=("ads_only", "reload", "bayes_fm"),
        min_length=1,
        description="Arms that stack combines. These three cost a fraction of all of them and give nearly as much.",
    )
    stack_ridge: float = Field(default=20.0, gt=0, description="Its pull towards equal weights.")
    stack_every: str = Field(
        default="1d", pattern=r"^\d+(m|h|d)$", description="Event time between two of its fits; news: 6h."
    )
    stack_fade: float = Field(
        default=0.97,
        gt=0,
        le=1,
        description="Share of its statistics that is left after a day of event time.",
    )
    bayes_fm: BayesFmSettings = BayesFmSettings()
    seed: int = Field(default=0, ge=0)
    threads: int = Field(
        default=0,
        ge=0,
        description="torch threads; 0: all cores but one (the event loop's). Recorded in checkpoints.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    products: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="What the networks' matrix products round their factors to; bfloat16 is quicker on GPUs and on CPUs "
        "that have it (avx512_bf16, amx_bf16 in /proc/cpuinfo), slower on others.",
    )


class TpmSettings(Section):
    """The tiny model over long-term natural clicks."""

    dim: int = Field(default=16, ge=1, le=1024, description="Size of a frozen user or item vector.")
    hidden: tuple[int, ...] = (32,)
    lr: float = Field(default=1e-3, gt=0)
    embedding_lr: float = Field(default=0.1, gt=0)
    batch: int = Field(default=1024, ge=1)
    k: int = Field(default=3, ge=1, le=36, description="Latest monthly snapshots that a release reads.")
    month: str = Field(
        default="calendar",
        pattern=r"^(calendar|\d+d)$",
        description="'calendar' (UTC) or a length, as '30d'.",
    )
    live: bool = Field(
        default=False,
        description="Also learn from the running stream: a month that closes there gets its snapshot beside training. "
        "Off: months come from `ecdctr tpm train` alone, and a step costs less.",
    )
    month_origin: str = Field(
        default="1970-01-01", description="A month of fixed length starts here plus whole lengths (UTC date)."
    )


class ScheduleSettings(Section):
    """What happens when, in event time."""

    release_every: str = Field(
        default="7d", pattern=r"^\d+(m|h|d)$", description="CPM release -> A-CTR: minutes, hours or days."
    )
    first_release_after: str = Field(
        default="1d",
        pattern=r"^\d+(m|h|d)$",
        description="Event time of natural clicks before the first release.",
    )
    ad_window_days: int = Field(
        default=30, ge=1, description="Event days of ad rows a release is fine-tuned on."
    )
    fine_tune: bool = Field(default=True, description="One pass over the ad window at each release.")
    releases: Literal["every", "once", "never"] = "every"
    reset_batch_norm: bool = Field(
        default=True, description="The paper's policy; False keeps CPM's batch norm."
    )
    gate: bool = Field(
        default=True,
        description="A release serves only if it is not proven worse than the serving model or the ads-only control "
        "(GAUC and NE, on rows that all of them predicted).",
    )
    gate_days: int = Field(default=3, ge=1, description="Last event days of the ad window that it looks at.")
