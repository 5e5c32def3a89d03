"""What a plugin that is bound to a tenant gives out of tracing."""

from pydantic import SecretStr

from orkestra.config import LangfuseSettings, OrkestraConfig
from orkestra.temporal.plugin import OrkestraPlugin


async def test_a_bound_plugin_gives_out_no_credentials_of_the_langfuse_project() -> None:
    secret = SecretStr("sk-lf-secret")
    settings = LangfuseSettings(public_key="pk-lf-shared", secret_key=secret)
    plugin = OrkestraPlugin(OrkestraConfig(langfuse=settings))

    project = await plugin.for_tenant("acme").project_of("acme")

    assert project is not None
    public = {name: getattr(project, name) for name in dir(project) if not name.startswith("_")}
    holders = [
        name
        for name, value in public.items()
        if value == secret or getattr(value, "secret_key", None) == secret
    ]
    assert holders == []
    await plugin.close()
