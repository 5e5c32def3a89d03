"""What tenants may see of how a connection is configured."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NoReturn

from temporalio.service import ConnectConfig

from orkestra.errors import ForbiddenOperationError

_NO_METADATA: Final[Mapping[str, str | bytes]] = MappingProxyType({})
_UNCONFIGURED: Final = MappingProxyType(vars(ConnectConfig("", identity="nobody")))


class PublicConfig(ConnectConfig):
    """How a connection is configured, without its credentials, and not to be changed."""

    def __init__(self, config: ConnectConfig) -> None:
        # Past the dataclass, which would set field by field for each of many tenants' clients.
        vars(self).update(
            _UNCONFIGURED,
            target_host=config.target_host,
            identity=config.identity,
            lazy=config.lazy,
            runtime=config.runtime,
            rpc_metadata=_NO_METADATA,
        )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        refuse_change(name)


def refuse_change(what: str) -> NoReturn:
    """Refuse to change what a connection was configured with.

    Raises:
        ForbiddenOperationError: Always.
    """
    msg = (
        f"{what} cannot be changed on this client: its connection is shared with other tenants'"
        " clients, set it in the configuration"
    )
    raise ForbiddenOperationError(msg)
