"""How and where traces are sent."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self

from pydantic import Field, SecretStr, model_validator

from orkestra.config.section import Duration, Section

_ENVIRONMENT = r"^(?!langfuse)[a-z0-9_-]{1,40}$"


class LangfuseProject(Section):
    """A tenant's own Langfuse project, `[tenants.<id>.langfuse]` in `orkestra.toml`.

    Attributes:
        public_key: Public key of the project.
        secret_key: Secret key of the project.
        base_url: Where its Langfuse is; None means `langfuse.base_url`.
        environment: Its Langfuse environment; None means `langfuse.environment`.
    """

    public_key: str = Field(min_length=1)
    secret_key: SecretStr
    base_url: str | None = None
    environment: str | None = Field(default=None, pattern=_ENVIRONMENT)


class LangfuseSettings(Section):
    """Tracing to Langfuse; off where there are no keys.

    Attributes:
        enabled: None means on where both keys are given, or a tenant has a project of its own.
        public_key: Public key of the Langfuse project.
        secret_key: Secret key of the Langfuse project.
        base_url: Where Langfuse is.
        environment: Langfuse environment, at most 40 of `a-z0-9_-`, not starting with `langfuse`.
        release: Release of the application, for grouping in Langfuse.
        version: Version of what is traced, for comparing in Langfuse.
        sample_rate: Share of traces that are sent, 0 to 1; a trace is sent whole or not at all.
        capture_input: Send arguments of workflows and activities.
        capture_output: Send their results.
        capture_except: Spans whose arguments and results are never sent, by their kind
            (`activity`, `signal`) or their name (`activity:charge_card`, `workflow:Payment*`).
        queries: Make spans of queries, too.
        timer_threshold: Make spans of timers that took as long; zero means of none.
        max_value_bytes: Inputs and outputs are cut at this many bytes.
        mask: Called as `mask(data=value)` with everything that would be sent; returns what is.
        flush_timeout: How long a shutdown waits for spans to be sent.
        queue_size: How many spans may wait to be sent to a project; more are dropped and counted.
        max_open_projects: How many tenants' projects are kept open; the longest unused is sent what
            it still has, and opened again when it is needed.
    """

    enabled: bool | None = None
    public_key: str | None = None
    secret_key: SecretStr | None = None
    base_url: str = "https://cloud.langfuse.com"
    environment: str | None = Field(default=None, pattern=_ENVIRONMENT)
    release: str | None = None
    version: str | None = None
    sample_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    capture_input: bool = True
    capture_output: bool = True
    capture_except: tuple[str, ...] = ()
    queries: bool = False
    timer_threshold: Duration = timedelta(seconds=10)
    max_value_bytes: int = Field(default=32 * 1024, ge=0)
    mask: Callable[..., Any] | None = Field(default=None, exclude=True)
    flush_timeout: Duration = timedelta(seconds=5)
    queue_size: int = Field(default=10_000, ge=1)
    max_open_projects: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _keys_where_enabled(self) -> Self:
        if self.enabled and not (self.public_key and self.secret_key):
            msg = "enabled needs public_key and secret_key"
            raise ValueError(msg)
        return self

    @property
    def is_on(self) -> bool:
        """Whether spans are sent."""
        return self.enabled is not False and bool(self.public_key and self.secret_key)
