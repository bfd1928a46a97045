"""Settings of the models: networks, learning rates, and the event-time schedule."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator

from ecdctr.events.time import check_above_zero
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
    "StreamingFeatureSettings",
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

Duration = Annotated[str, Field(pattern=r"^\d+(s|m|h|d)$")]
"""A duration in event time, as 30s, 10m, 6h or 7d."""

Interval = Annotated[str, Field(pattern=r"^\d+(m|h|d)$"), AfterValidator(check_above_zero)]
"""Event time between two repetitions, as 10m, 6h or 7d; not zero."""


class FactorPriorSettings(Section):
    """Gaussian prior of the parameters of one kind of id, and the decay of the evidence from rows."""

    bias: float = Field(default=0.2, gt=0, description="Prior variance of a bias.")
    factor: float = Field(default=0.3, gt=0, description="Prior variance of a factor.")
    ad_bias: float = Field(default=0.02, gt=0, description="Prior variance of a bias's difference in ads.")
    ad_factor: float = Field(
        default=0.01, gt=0, description="Prior variance of a factor's difference in ads."
    )
    bias_memory: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Factor per event day on the precision of a bias from natural rows (1: no decay).",
    )
    factor_memory: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Factor per event day on the precision of a factor from natural rows (1: no decay).",
    )


class BayesFmSettings(Section):
    """The Bayesian factorization machine."""

    dim: int = Field(
        default=4,
        ge=1,
        le=32,
        description="Number of factors of an id; memory and time grow with its square.",
    )
    batch: int = Field(
        default=512, ge=1, description="Maximum number of rows of a chunk, in which bayes_fm learns a step."
    )
    init: float = Field(default=0.1, gt=0, description="Standard deviation of the initial factors.")
    user: FactorPriorSettings = FactorPriorSettings(ad_bias=0.005, ad_factor=0.1)
    item: FactorPriorSettings = FactorPriorSettings(ad_bias=0.4, bias_memory=0.6, factor_memory=0.97)
    other: FactorPriorSettings = FactorPriorSettings(bias=0.05, ad_bias=0.005)


class ModelSettings(Section):
    """CPM, A-CTR and the ads-only control: one network architecture, several sets of parameters."""

    dim: int = Field(default=16, ge=1, le=1024, description="Embedding size of a feature.")
    interaction: Literal["dcn", "dot", "none"] = Field(
        default="dcn",
        description="Feature interaction layer: dcn (DCN-V2), dot (products of all pairs) or none.",
    )
    cross_layers: int = Field(default=2, ge=0, le=8, description="DCN-V2 cross layers.")
    hidden: tuple[PositiveInt, ...] = Field(
        default=(128, 64), description="Widths of the MLP, each with batch norm."
    )
    history: Literal["attention", "mean", "latest", "none"] = Field(
        default="attention",
        description="How the K TPM snapshots are combined into one vector; none: TPM is not used.",
    )
    embedding_init: float = Field(default=0.01, gt=0, description="Standard deviation of new embedding rows.")
    adagrad_accumulator: float = Field(
        default=1e-6,
        gt=0,
        description="Initial value of the row-wise Adagrad accumulator. With a large value, such as 1e-2, Adagrad behaves like SGD "
        "with a small constant learning rate.",
    )
    lr: float = Field(
        default=1e-3,
        gt=0,
        description="Learning rate of Adam for the dense parameters of all networks except A-CTR (transfer_lr), linked (linked_lr) "
        "and TPM (tpm.lr).",
    )
    natural_embedding_lr: float = Field(
        default=0.1,
        gt=0,
        description="Learning rate of Adagrad for the embedding rows of CPM, mixed and mixed_tpm.",
    )
    ad_embedding_lr: float = Field(
        default=0.1,
        gt=0,
        description="Learning rate of Adagrad for the embedding rows of ads_only and ads_tpm.",
    )
    transfer_lr: float = Field(
        default=5e-4, gt=0, description="Learning rate of Adam for A-CTR, from the first CPM release on."
    )
    transfer_embedding_lr: float = Field(
        default=0.03,
        gt=0,
        description="Learning rate of Adagrad for A-CTR's embedding rows, from the first CPM release on.",
    )
    natural_batch: int = Field(default=512, ge=1, description="Number of natural rows of a full step.")
    ad_batch: int = Field(default=128, ge=1, description="Maximum number of ad rows of a step.")
    natural_score_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of natural users whose rows are scored before learning."
    )
    batch_norm_momentum: float = Field(
        default=0.1, gt=0, le=1, description="Weight of a chunk in batch norm's running statistics."
    )
    batch_norm: Literal["batch", "running"] = Field(
        default="batch",
        description="Statistics that normalise rows while learning. batch: those of the chunk, as in the paper. running: the running "
        "statistics, for streams in which consecutive rows are similar (impression lists, news), with a small "
        "batch_norm_momentum, such as 0.005.",
    )
    transfer: ServingArm = Field(
        default="stack",
        description="Arm that serves. stack: an online combination of the arms of stack_of (docs/evidence.md). reload: A-CTR, which "
        "takes over CPM's parameters at releases (the paper). linked: parameters specific to ads are added to those of a "
        "backbone that continues to learn. bayes_fm: a Bayesian factorization machine in which natural rows give the prior "
        "of the ad parameters.",
    )
    arms: tuple[ExtraArm, ...] = Field(
        default=(), description="Further arms to run and score for comparison."
    )
    backbone: Literal["cpm", "mixed_tpm"] = Field(
        default="mixed_tpm",
        description="Backbone of linked: CPM, or mixed_tpm (natural and ad rows with TPM vectors).",
    )
    linked_lr: float = Field(
        default=5e-4, gt=0, description="Learning rate of Adam for linked's differences."
    )
    linked_embedding_lr: float = Field(
        default=0.03, gt=0, description="Learning rate of Adagrad for linked's differences of embedding rows."
    )
    linked_batch: int = Field(
        default=64, ge=1, description="Maximum number of ad rows of a chunk, in which linked learns a step."
    )
    linked_momentum: float = Field(
        default=0.05, gt=0, le=1, description="Momentum of linked's own batch norm."
    )
    stack_of: tuple[StackMember, ...] = Field(
        default=("ads_only", "reload", "bayes_fm"),
        min_length=1,
        description="Arms that stack combines. The default has nearly the accuracy of all arms at a fraction of their cost.",
    )
    stack_ridge: float = Field(
        default=20.0,
        gt=0,
        description="Strength of the regularisation of the stack's weights towards equal weights.",
    )
    stack_every: Interval = Field(
        default="1d",
        description="Event time between two fits of the stack's weights. 6h is better for news.",
    )
    stack_fade: float = Field(
        default=0.97,
        gt=0,
        le=1,
        description="Factor per event day on the stack's statistics (1: no decay).",
    )
    bayes_fm: BayesFmSettings = BayesFmSettings()
    seed: int = Field(default=0, ge=0, description="Seed of the initial parameters.")
    threads: int = Field(
        default=0,
        ge=0,
        description="Number of torch threads; 0: all cores but one, which is left to the event loop. Results are identical bit for bit "
        "only with the same number, which checkpoints record.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device of the networks: auto (CUDA if available), cpu or cuda."
    )
    products: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Precision of the factors of the networks' matrix products; bfloat16 is faster on GPUs and on CPUs "
        "that support it (avx512_bf16, amx_bf16 in /proc/cpuinfo), slower on others.",
    )


class TpmSettings(Section):
    """TPM, the tiny pre-training model of long-term natural clicks."""

    dim: int = Field(default=16, ge=1, le=1024, description="Length of a frozen user or item vector.")
    hidden: tuple[PositiveInt, ...] = Field(default=(32,), description="Widths of the hidden layers of TPM.")
    lr: float = Field(
        default=1e-3, gt=0, description="Learning rate of Adam for the dense parameters of TPM."
    )
    embedding_lr: float = Field(
        default=0.1, gt=0, description="Learning rate of Adagrad for the embedding rows of TPM."
    )
    batch: int = Field(default=1024, ge=1, description="Number of rows of a chunk in which TPM learns.")
    k: int = Field(
        default=3,
        ge=1,
        le=36,
        description="Number of monthly snapshots that CPM and A-CTR read: the latest ones.",
    )
    month: str = Field(
        default="calendar",
        pattern=r"^(calendar|\d+d)$",
        description="Length of a TPM month: 'calendar' (calendar months, UTC) or a number of days such as '30d'.",
    )
    live: bool = Field(
        default=False,
        description="Whether the worker also trains TPM on the stream and writes the snapshot of each month in the background. "
        "If not, snapshots come only from `ecdctr tpm train`, and steps cost less.",
    )
    month_origin: str = Field(
        default="1970-01-01",
        description="Start date (UTC) of one month, if tpm.month is a number of days; other months start at multiples of this length "
        "before and after it.",
    )

    @field_validator("month")
    @classmethod
    def _month_has_a_length(cls, value: str) -> str:
        return value if value == "calendar" else check_above_zero(value)

    @field_validator("month_origin")
    @classmethod
    def _origin_is_a_date(cls, value: str) -> str:
        try:
            date.fromisoformat(value)
        except ValueError:
            raise ValueError("not a date: write it as 2026-01-31") from None
        return value


class ScheduleSettings(Section):
    """Schedule of CPM releases, in event time."""

    release_every: Interval = Field(
        default="7d",
        description="Event time between two CPM releases: minutes, hours or days.",
    )
    first_release_after: str = Field(
        default="1d",
        pattern=r"^\d+(m|h|d)$",
        description="Event time that natural rows must span before the first release, and before linked and stack predict (warm-up).",
    )
    ad_window_days: int = Field(
        default=30,
        ge=1,
        description="Length of the ad window in event days: the ad rows on which a release is calibrated and fine-tuned.",
    )
    fine_tune: bool = Field(
        default=True, description="Fine-tune in one pass over the ad window at each release."
    )
    releases: Literal["every", "once", "never"] = Field(
        default="every",
        description="Which CPM releases are made: every, only up to the first accepted one (once), or never.",
    )
    reset_batch_norm: bool = Field(
        default=True, description="Reset batch norm at a release (the paper); false: copy CPM's."
    )
    gate: bool = Field(
        default=True,
        description="Accept a release only if it is significantly worse neither than the current A-CTR nor than the ads-only control "
        "(in GAUC and NE, on rows that all of them predicted).",
    )
    gate_days: int = Field(
        default=3,
        ge=1,
        description="Number of event days at the end of the ad window whose rows the gate compares.",
    )


class StreamingFeatureSettings(Section):
    """Features computed from the streams themselves: what was known about a row's user, item and their pair just before it."""

    mode: Literal["off", "auto"] = Field(
        default="off",
        description="auto: the models also read counts, click rates and recency of streaming_features.keys and "
        "streaming_features.pairs, computed from strictly older rows of both streams (docs/features.md). off: they do not.",
    )
    keys: tuple[str, ...] = Field(
        default=("user", "item"),
        description="Keys with counts, click rates and recency by domain: user, item, or names of categorical features.",
    )
    pairs: tuple[str, ...] = Field(
        default=("user*item",),
        description="Pairs of such keys, as user*item: how often they were shown and clicked together, and how long ago.",
    )
    half_lives: tuple[Duration, ...] = Field(
        default=("6h", "7d"),
        min_length=1,
        max_length=4,
        description="Half-lives of the decayed counts of keys.",
    )
    smoothing: float = Field(
        default=20.0,
        gt=0,
        description="Weight of the domain's click rate in the click rate of a key, in impressions.",
    )
    visible_after: Duration = Field(
        default="0s",
        description="Time after its impression at which a click is known. 0s: with its row, since rows are labelled when they arrive. "
        "Set it to the join's waiting time to compute offline what is known online.",
    )
    expire_after: Duration = Field(
        default="30d",
        description="Keys without an event for this event time are removed (once per event day); also the largest time since an event.",
    )
    max_keys: int = Field(
        default=5_000_000,
        ge=1_000,
        description="Maximum number of keys of each kind. Beyond it, those whose last event is oldest are removed.",
    )
    refresh: int = Field(
        default=8,
        ge=1,
        le=256,
        description="Number of groups by event time into which the rows of a step are divided; each group sees the events before its "
        "first row. 1: all rows of a step see the state before the step. Larger values are more exact and cost more.",
    )
    form: Literal["numbers", "buckets", "both"] = Field(
        default="numbers",
        description="numbers: numeric features. buckets: categorical features of 64 buckets each. both: both.",
    )
    bucket_dim: int = Field(default=4, ge=1, le=1024, description="Embedding size of a bucket.")

    @field_validator("half_lives", "expire_after")
    @classmethod
    def _above_zero(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for text in (value,) if isinstance(value, str) else value:
            check_above_zero(text)
        return value

    @model_validator(mode="after")
    def _names_once(self) -> StreamingFeatureSettings:
        for name in self.pairs:
            if name.count("*") != 1:
                raise ValueError(f"streaming_features.pairs: {name!r} is not a pair: write it as user*item")
        for values in (self.keys, self.pairs, self.half_lives):
            if len(set(values)) != len(values):
                raise ValueError(f"streaming_features: {list(values)} names one twice")
        if not self.keys and not self.pairs:
            raise ValueError("streaming_features: name at least one key or pair, or set mode to off")
        return self
