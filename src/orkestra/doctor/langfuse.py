"""Langfuse: whether the shared project and those of tenants take traces."""

import asyncio
from datetime import timedelta
from importlib.util import find_spec

from orkestra.config import LangfuseProject, LangfuseSettings, OrkestraConfig
from orkestra.doctor.findings import Finding


async def examine_langfuse(config: OrkestraConfig, *, timeout: timedelta) -> list[Finding]:
    """Ask Langfuse about the keys of the configuration, the tenants' own included.

    Args:
        config: Has the keys.
        timeout: How long each step of a request may take.
    """
    settings = config.langfuse
    own = {
        tenant: _of_project(settings, record.langfuse)
        for tenant, record in config.tenants.items()
        if record.langfuse is not None and settings.enabled is not False
    }
    if not settings.is_on and not own:
        why = "switched off" if settings.enabled is False else "no keys"
        return [Finding("langfuse", ok=None, detail=f"tracing is off: {why}")]
    if find_spec("langfuse") is None:
        mend = 'pip install "orkestra-core[langfuse]"'
        return [Finding("langfuse", ok=False, detail="its SDK is not installed", mend=mend)]
    shared = {"": settings} if settings.is_on else {}
    asked = {**shared, **own}
    return list(await asyncio.gather(*(_ask(*each, timeout) for each in asked.items())))


async def _ask(tenant: str, settings: LangfuseSettings, timeout: timedelta) -> Finding:
    from orkestra.langfuse.access import project_of  # noqa: PLC0415 - an extra brings what it needs

    whose = f"of tenant {tenant!r}: " if tenant else ""
    where = f"{whose}{settings.base_url!r}"
    keys = f"tenants.{tenant}.langfuse" if tenant else "langfuse"
    try:
        project = await project_of(settings, timeout=timeout)
    except PermissionError as error:
        mend = f"check {keys}.public_key and secret_key, and that they are of this base_url"
        return Finding("langfuse", ok=False, detail=f"{where}: {error}", mend=mend)
    except ConnectionError as error:
        mend = f"check {keys}.base_url and the network: workflows run, their traces are lost"
        return Finding("langfuse", ok=False, detail=f"{where}: {error}", mend=mend)
    return Finding("langfuse", ok=True, detail=f"{where} takes traces for project {project!r}")


def _of_project(settings: LangfuseSettings, project: LangfuseProject) -> LangfuseSettings:
    return settings.model_copy(
        update={
            "public_key": project.public_key,
            "secret_key": project.secret_key,
            "base_url": project.base_url or settings.base_url,
        }
    )
