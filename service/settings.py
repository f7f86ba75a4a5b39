"""Every setting of a deployment, and the only reader of the environment. Each default stands here once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.connection import parse_url

from service.policy.a2c import A2CConfig
from service.policy.boltzmann import BoltzmannConfig
from service.policy.factory import configured
from service.policy.variants import Mixture, ServingConfig, Variant

Reward = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s?#@*,A-Z]+)$")]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings(BaseSettings):
    """Read from `IALP_*` environment variables (`REDIS_URL` also works without the prefix)."""

    model_config = SettingsConfigDict(env_prefix="IALP_", extra="ignore", frozen=True)

    # Where things are
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("REDIS_URL", "IALP_REDIS_URL"),
        description="Redis-protocol server: redis://, rediss:// or unix://. May hold a password; never logged.",
        repr=False,
    )
    key_prefix: str = Field("ialp", min_length=1, description="Prefix of every key in Redis.")
    data_dir: Path = Field(
        Path("runs/service"), description="Policy versions and checkpoints; shared by API and worker."
    )
    snapshot: Path | None = Field(
        None, description="Folder written by `offline pretrain`; becomes version 1 of an empty registry."
    )
    host: str = Field("127.0.0.1", description="Address the API binds to.")
    auth: Literal["on", "off"] = Field(
        "on", description="on: requests need an API key. off: they do not; allowed only where `host` is loopback."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port the API binds to.")
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Path at which a reverse proxy shows the service, such as /ialp; it may strip it or leave it.",
    )
    cors_origins: list[Origin] = Field(
        [],
        description='Origins whose pages may call the API from a browser, as JSON: `["https://shop.example"]`. Empty: '
        'none but its own. `["*"]`: any, which needs `IALP_AUTH=on`.',
    )
    seed: int | None = Field(None, description="Seed of slate sampling; if unset, a random one.")

    # What it tells of itself
    log_format: Literal["text", "json"] = Field("text", description="Form of the log on stderr: text or json.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    telemetry: Literal["on", "off"] = Field(
        "off",
        description="OpenTelemetry traces and metrics over OTLP; needs the extra `otel`. OTEL_* say where they go.",
    )

    # Redis, as the API uses it
    redis_timeout_s: float = Field(
        1.0, gt=0, description="Longest wait for an answer of Redis. Raised, requests wait longer while it is away."
    )
    recommend_redis_timeout_s: float = Field(
        0.075, gt=0, description="Longest wait of /recommend for Redis; after it, the answer comes from memory."
    )
    refresh_interval_s: float = Field(
        0.2,
        gt=0,
        le=0.5,
        description="Seconds between looks at the live pointer and the API keys. Raised, the kill switch is slower.",
    )

    # Sessions
    history_length: int = Field(
        20, ge=1, le=200, description="Responses kept of a user. Raised, policies see further back."
    )
    shown_length: int = Field(30, ge=0, le=200, description="Latest shown items without a response that a policy sees.")
    seen_limit: int = Field(
        200, ge=1, le=10_000, description="Shown items kept of a user, and used ones by type. Raised, they stay away."
    )
    repeat: Literal["never", "when_empty", "freely"] = Field(
        "when_empty",
        description="When items that a user has seen may be shown again: never; when_empty, if fewer others are left "
        "than a request asks for (those seen longest ago, with the warning repeated_items); or freely.",
    )
    session_ttl_s: int = Field(30 * 86_400, ge=1, description="A user is forgotten after so long without a request.")

    # Feedback
    rewards: dict[str, Reward] = Field(
        {"view": 0.2, "click": 1.0, "like": 1.0, "purchase": 1.0, "skip": 0.0, "dislike": -1.0},
        description="Reward of each feedback type.",
    )
    reward_max: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Largest reward of an event, in absolute value: such an event counts as one full like or, if "
        "negative, takes one back; smaller rewards count in proportion. Unset: the largest of `rewards`.",
    )
    explicit_types: list[str] | None = Field(
        None,
        description="Types by which users state an opinion of an item, as JSON: such a response replaces earlier ones "
        "to the item; one of another type counts only if it is at least as strong. Unset: like, and those with a "
        "negative reward.",
    )
    ending_types: list[str] | None = Field(
        None,
        description="Types after which a visit may well be over, as JSON: if nothing follows them, the slate is not "
        "blamed. Unset: purchase.",
    )
    dedupe_ttl_s: int = Field(86_400, ge=1, description="How long a repeated event_id is known as a duplicate.")

    # Limits
    max_body_bytes: int = Field(1_000_000, ge=1_000, description="Largest request body; larger ones get 413.")
    max_header_bytes: int = Field(16_384, ge=1_024, description="Largest request head; larger ones get 431.")
    header_timeout_s: float = Field(10.0, gt=0, description="A connection without a complete head by then is closed.")
    body_timeout_s: float = Field(10.0, gt=0, description="A body not complete so long after its head gets 408.")

    # Stopping
    drain_s: float = Field(
        0.0,
        ge=0,
        description="Seconds for which the API goes on serving after SIGTERM while /readyz answers 503. Set it to "
        "more than your load balancer takes to notice; 0 where nothing watches /readyz, as in `dev`.",
    )
    stop_timeout_s: int = Field(10, ge=1, description="Then, how long requests in progress may take to finish.")

    # Traffic and variant
    control_share: Share = Field(
        0.1, description="Share of users on the frozen pre-trained policy. Raised, a bad version is noticed sooner."
    )
    variant: Variant = Field(
        Variant.AP,
        description="What the adaptive arm serves: frozen, the pre-trained policy, at once; or, from the next version "
        "on, ft, a fine-tuned one, or ap, the pre-trained and a learned one together.",
    )
    mixture: Mixture = Field(
        Mixture.ADAPTIVE, description="How ap weighs its two policies, from the next version on: fixed or adaptive."
    )
    fixed_weight: Share = Field(0.5, description="Share of the learned policy in the fixed mixture.")
    mixture_temperature: float = Field(
        0.1, gt=0, description="Temperature of the adaptive mixture, in log odds. Raised, the better policy gets less."
    )
    candidates: int = Field(
        512,
        ge=100,
        description="Items that a policy chooses among for a request, in a catalogue of over eight times as many. "
        "Raised, fewer good items are missed, and a request takes longer.",
    )

    index_from: int = Field(
        100_000,
        ge=1,
        description="Size of the catalogue from which on candidates come from an index, if the extra `index` is "
        "installed. In a smaller one, every request looks at all items.",
    )

    new_item_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Least share of the adaptive arm for new items: those that came after the first version and have "
        "hardly an answer yet (some twenty, where one in twenty is a like). Raised, new items are shown more often.",
    )

    exploration_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Least share of the adaptive arm for all items alike, beside what the learner explores by itself. "
        "Raised, every item is tried more often, and slates are more random.",
    )

    # The worker
    learner: Literal["boltzmann", "a2c"] = Field("boltzmann", description="Learning algorithm.")
    learner_config: dict[str, float] = Field({}, description="Overrides of the learner's hyper-parameters, as JSON.")
    gamma: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Discount of the next slate's value (a2c). Raised, later slates count more."
    )
    reward_window_s: float = Field(
        600.0, gt=0, description="How long feedback to a slate is waited for. Raised, the learner gets slates later."
    )
    reward_window_entries: int = Field(
        1_000_000, ge=1, description="Log entries after which a slate closes even if the log's clock stands still."
    )
    replay_capacity: int = Field(
        50_000, ge=1, description="Transitions that the learner remembers. Raised, it learns longer from old ones."
    )
    replay_slots: int = Field(10, ge=1, le=100, description="Slots of a slate, from the first, that are learned from.")
    learn_every: int = Field(
        32, ge=1, description="Closed slates and organic likes between learning steps. Raised, learning lags more."
    )
    publish_every: int = Field(
        1_000,
        ge=1,
        description="Closed slates and organic likes between policy versions. At first they come sooner: one after a "
        "twentieth of this number, at least 50, and then each time the log has doubled. Raised, versions come less "
        "often.",
    )
    checkpoint_every: int = Field(
        5_000, ge=1, description="Events between checkpoints; one follows each version. Raised, restarts take longer."
    )
    stream_retention_s: int = Field(
        7 * 86_400, ge=60, description="How long learned events stay in the log. Raised, Redis needs more memory."
    )
    keep_versions: int = Field(20, ge=2, description="Policy versions kept on disk, besides those that may be needed.")
    lease_ttl_s: float = Field(
        5.0, gt=0, description="A worker silent for so long may be replaced. Raised, a failed one is replaced later."
    )
    max_lag_s: float | None = Field(
        3600.0,
        gt=0,
        description="Seconds that the worker may lag before feedback is refused with 503; null: never.",
    )
    dead_letters_limit: int = Field(10_000, ge=1, description="Unusable entries of the log kept for replay.")
    worker_seed: int = Field(0, description="Seed of the learner.")

    # The gate
    gate_margin: float = Field(
        0.2, ge=0, description="Fraction of the logged reward by which a version may be lower. Raised, more pass."
    )
    gate_min_ess: float = Field(
        200.0,
        ge=1,
        description="Effective sample size from which on the log can judge a version. With less, the version must be "
        "surely no worse, or serves with a small share at first. Raised, more versions begin with a small share.",
    )
    gate_trial_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Share of the learned policy, beside the pre-trained one, in the first version that the log "
        "cannot judge; each further one has twice as much. 1: versions get their full share at once.",
    )
    gate_max_kl: float = Field(
        3.0,
        gt=0,
        description="Largest mean KL(new || live), in nats over what could be shown, with which a version passes that "
        "the log cannot judge, once an earlier one has its full share. Raised, versions may change more without "
        "proof.",
    )
    gate_patience: int = Field(
        3, ge=1, description="Refusals in a row after which the learner starts again from the version that serves."
    )

    # The watch over what serves
    watch_margin: Share = Field(
        0.05, description="Fraction of the control's reward that the adaptive arm may lack. Raised, fewer roll-backs."
    )
    watch_alpha: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Probability of any false roll-back over a deployment's life. Raised, losses are found sooner.",
    )

    @property
    def serving(self) -> ServingConfig:
        """Configuration of how the policies are put together."""
        return ServingConfig(
            self.variant,
            self.mixture,
            self.fixed_weight,
            self.mixture_temperature,
            new_items=0.0 if self.learner == "a2c" else self.new_item_share,  # which counts no answers
            explore=self.exploration_share,
            largest_reward=self.largest_reward,
            candidates=self.candidates,
        )

    @property
    def largest_reward(self) -> float:
        """Largest reward of an event, in absolute value."""
        return self.reward_max or max(map(abs, self.rewards.values()), default=1.0)

    @property
    def possible_rewards(self) -> tuple[float, float]:
        """Least reward of any type (0 if none is negative), and the largest reward of an event."""
        return min([0.0, *self.rewards.values()]), self.largest_reward

    def is_explicit(self, kind: str | None, reward: float) -> bool:
        """Check whether a response replaces earlier ones to its item; `kind` is None if only a reward was given."""
        if kind is None or self.explicit_types is None:
            return kind == "like" or reward < 0
        return kind in self.explicit_types

    def ends_visit(self, kind: str | None) -> bool:
        """Check whether a visit may well be over after such a response."""
        return kind in (["purchase"] if self.ending_types is None else self.ending_types)

    @property
    def hyper_parameters(self) -> dict[str, float]:
        """Hyper-parameters of the learner that are not its own defaults."""
        scale = {"reward_scale": self.largest_reward} if self.learner == "boltzmann" else {}
        return scale | self.learner_config

    @field_validator("redis_url")
    @classmethod
    def _check_scheme(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        try:
            parse_url(url)
        except ValueError:  # its message may quote the password
            raise ValueError("is not a valid URL; special characters in a password must be percent-encoded") from None
        return url

    @field_validator("auth")
    @classmethod
    def _off_on_loopback_only(cls, auth: str, info: ValidationInfo) -> str:
        host = info.data.get("host", LOOPBACK[0])  # absent if it is itself wrong
        if auth == "off" and host not in LOOPBACK:
            raise ValueError(f"IALP_AUTH=off needs IALP_HOST to be one of {', '.join(LOOPBACK)}, and it is {host!r}")
        return auth

    @field_validator("cors_origins")
    @classmethod
    def _any_needs_keys(cls, origins: list[str], info: ValidationInfo) -> list[str]:
        if "*" in origins and info.data.get("auth") == "off":
            raise ValueError('"*" needs IALP_AUTH=on: any page in a browser on this machine could do everything')
        return origins

    @model_validator(mode="after")
    def _rewards_make_sense(self) -> Settings:
        if self.rewards and max(self.rewards.values()) <= 0:
            raise ValueError("IALP_REWARDS: no type has a reward above 0, so there would be nothing to recommend for")
        for name, reward in self.rewards.items():
            if abs(reward) > self.largest_reward:
                raise ValueError(f"IALP_REWARDS: {name} has {reward:g}, and IALP_REWARD_MAX is {self.largest_reward:g}")
        for setting, types in (("EXPLICIT", self.explicit_types), ("ENDING", self.ending_types)):
            if unknown := [name for name in types or () if name not in self.rewards]:
                raise ValueError(f"IALP_{setting}_TYPES: {', '.join(unknown)} has no reward in IALP_REWARDS")
        return self

    @model_validator(mode="after")
    def _check_hyper_parameters(self) -> Settings:
        if self.learner == "a2c":
            configured(A2CConfig(), self.learner_config)
        else:
            configured(BoltzmannConfig(), self.learner_config)
        return self
