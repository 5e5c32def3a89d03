"""Sources of the settings: `temporal.toml`, `orkestra.toml` and the environment."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel, Field, SecretStr, create_model
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from temporalio.envconfig import ClientConfigProfile

from orkestra.errors import ConfigurationError

_PREFIX: Final = "ORKESTRA_"
_FILE_SELECTORS: Final = ("TEMPORAL_PROFILE", "TEMPORAL_CONFIG_FILE")


@dataclass(frozen=True)
class SettingsSource:
    """Settings with the name of the place that they were read from."""

    name: str
    values: Mapping[str, Any]

    def has(self, location: Sequence[int | str]) -> bool:
        """Return whether this source gives the setting, or a value in place of its section."""
        here: Mapping[Any, Any] = self.values
        for depth, key in enumerate(location, 1):
            if key not in here:
                return False
            if not isinstance(here[key], Mapping):
                return depth > 1
            here = here[key]
        return True


class _LangfuseEnvironment(BaseSettings):
    """Variables of the Langfuse SDK."""

    model_config = SettingsConfigDict(env_prefix="LANGFUSE_", env_ignore_empty=True)

    public_key: str | None = None
    secret_key: SecretStr | None = None
    base_url: str | None = None
    release: str | None = None
    sample_rate: str | None = None
    environment: str | None = Field(default=None, validation_alias="LANGFUSE_TRACING_ENVIRONMENT")
    enabled: str | None = Field(default=None, validation_alias="LANGFUSE_TRACING_ENABLED")
    host: str | None = None


def read_sources(config: type[BaseModel], file: Path | None) -> Iterator[SettingsSource]:
    """Read the sources in their order.

    Args:
        config: Class of the configuration, which defines the names of the settings.
        file: Path of the Orkestra file; None means `orkestra.toml`, if it exists.

    Raises:
        ConfigurationError: A file is missing or cannot be parsed.
    """
    # `OrkestraConfig` is no BaseSettings: it would read the environment even when made in code.
    names = create_model("Settings", __base__=(config, BaseSettings))
    settings = cast("type[BaseSettings]", names)
    yield SettingsSource("temporal.toml", {"temporal": _temporal_profile(from_file=True)})
    yield _orkestra_file(settings, file)
    yield SettingsSource(
        "environment (TEMPORAL_*)", {"temporal": _temporal_profile(from_file=False)}
    )
    yield SettingsSource("environment (LANGFUSE_*)", {"langfuse": _langfuse_environment()})
    yield SettingsSource("environment (ORKESTRA_*)", _orkestra_environment(settings))


def _temporal_profile(*, from_file: bool) -> dict[str, Any]:
    selectors = {name: os.environ[name] for name in _FILE_SELECTORS if name in os.environ}
    try:
        if from_file:
            # Only variables that select the file: the others override orkestra.toml, too.
            profile = ClientConfigProfile.load(
                config_file_strict=True, override_env_vars={"HOME": str(Path.home()), **selectors}
            )
        else:
            profile = ClientConfigProfile.load(disable_file=True)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        where = "temporal.toml" if from_file else "environment (TEMPORAL_*)"
        msg = f"cannot read the Temporal profile from {where}: {error}"
        raise ConfigurationError(msg) from error
    return {**profile.to_dict()}


def _orkestra_file(settings: type[BaseSettings], file: Path | None) -> SettingsSource:
    path = Path("orkestra.toml") if file is None else file
    if not path.exists():
        if file is None:
            return SettingsSource(str(path), {})
        msg = f"configuration file {str(path)!r} does not exist: check the path"
        raise ConfigurationError(msg)
    try:
        return SettingsSource(str(path), TomlConfigSettingsSource(settings, toml_file=path)())
    except (ValueError, OSError) as error:
        msg = f"cannot read configuration file {str(path)!r}: {error}"
        raise ConfigurationError(msg) from error


def _langfuse_environment() -> dict[str, Any]:
    values = _LangfuseEnvironment().model_dump(exclude_none=True)
    if (host := values.pop("host", None)) is not None:
        # LANGFUSE_HOST is the SDK's older name.
        values.setdefault("base_url", host)
    # Only false counts, as in the SDK: true must not demand keys that are given elsewhere.
    if (switch := values.pop("enabled", None)) is not None and switch.lower() == "false":
        values["enabled"] = False
    return values


def _orkestra_environment(settings: type[BaseSettings]) -> Mapping[str, Any]:
    source = EnvSettingsSource(settings, env_prefix=_PREFIX, env_nested_delimiter="__")
    try:
        return source()
    except SettingsError as error:
        msg = f"cannot read the environment (ORKESTRA_*): {error}"
        raise ConfigurationError(msg) from error
