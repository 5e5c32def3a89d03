"""`OrkestraConfig`, and how it is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from orkestra.config.langfuse import LangfuseSettings
from orkestra.config.settings import TenancySettings, TenantSettings
from orkestra.config.temporal import TemporalSettings
from orkestra.config.worker import WorkerSettings
from orkestra.errors import ConfigurationError

if TYPE_CHECKING:
    from orkestra.config.sources import Source

_SECRET_KEYS: Final = frozenset({"api_key", "secret_key", "data", "grpc_meta", "password"})


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

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True
    )

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
        # Reading costs an import of a tenth of a second, which clients built in code need not pay.
        from orkestra.config.sources import read_sources  # noqa: PLC0415

        sources = list(read_sources(OrkestraConfig, None if file is None else Path(file)))
        merged: dict[str, Any] = {}
        for source in sources:
            _merge(merged, source.values)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            lines = [_explain(detail, sources) for detail in error.errors()]
            raise ConfigurationError("; ".join(lines)) from None


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), cast("Mapping[str, Any]", value))
        else:
            into[key] = value


def _explain(detail: ErrorDetails, sources: "Sequence[Source]") -> str:
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
