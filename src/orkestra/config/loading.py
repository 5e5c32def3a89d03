"""`OrkestraConfig`, and how it is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from orkestra.config.settings import (
    LangfuseSettings,
    TemporalSettings,
    TenancySettings,
    TenantSettings,
    WorkerSettings,
)
from orkestra.config.sources import Source, read_sources
from orkestra.errors import ConfigurationError

_SECRET_KEYS: Final = frozenset({"api_key", "secret_key", "data", "grpc_meta"})


class OrkestraConfig(BaseModel):
    """Everything that can be configured.

    Construct it in code, which reads nothing, or `load()` it.

    Attributes:
        temporal: Where the Temporal service is and how connections behave.
        tenancy: How the tenant is carried and enforced.
        langfuse: Tracing; off where there are no keys.
        worker: How workers run and stop.
        tenants: The directory of tenants, by ID; where there is none, every well-formed tenant is
            known, active and in the shared namespace and queues.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    temporal: TemporalSettings = TemporalSettings()
    tenancy: TenancySettings = TenancySettings()
    langfuse: LangfuseSettings = LangfuseSettings()
    worker: WorkerSettings = WorkerSettings()
    tenants: Mapping[str, TenantSettings] = Field(default_factory=dict)

    @classmethod
    def load(cls, file: Path | str | None = None) -> Self:
        """Read the configuration, later over earlier.

        The order: defaults; the profile of `temporal.toml` that `TEMPORAL_PROFILE` names, as the
        `temporal` command line reads it; `orkestra.toml`; the environment: `TEMPORAL_*` and
        `LANGFUSE_*` as those tools define them, and `ORKESTRA_<SECTION>__<KEY>` for the rest.

        Args:
            file: The Orkestra file; None means `orkestra.toml` in the working directory, where
                there is one.

        Returns:
            The configuration.

        Raises:
            ConfigurationError: A file is missing or malformed, a key is unknown or a value is
                wrong; the message names the key, the value and where it came from.
        """
        sources = list(read_sources(_Names, None if file is None else Path(file)))
        merged: dict[str, Any] = {}
        for source in sources:
            _merge(merged, source.values)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            lines = [_explain(detail, sources) for detail in error.errors()]
            raise ConfigurationError("; ".join(lines)) from None


class _Names(OrkestraConfig, BaseSettings):
    """Tells the readers of pydantic-settings the names; never instantiated."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        present = into.get(key)
        if isinstance(value, Mapping) and isinstance(present, dict):
            _merge(present, value)
        else:
            into[key] = {**value} if isinstance(value, Mapping) else value


def _explain(detail: ErrorDetails, sources: Sequence[Source]) -> str:
    location = detail["loc"]
    key = ".".join(str(part) for part in location)
    origin = next((source.name for source in reversed(sources) if source.has(location)), "defaults")
    shown = "" if _SECRET_KEYS.intersection(location) else f" = {detail['input']!r}"
    if isinstance(detail["input"], Mapping):
        shown = ""
    reason = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        reason = "unknown key"
    return f"{key}{shown} from {origin}: {reason}"
