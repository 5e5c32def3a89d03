"""The service client below the guard, for looking after the server itself.

Health checks and search attributes are the platform's matter: they need calls that no tenant may
make. Code that acts for a tenant gets the guarded service client back and is refused by it.
"""

from temporalio.client import Client
from temporalio.service import ServiceClient

from orkestra.errors import ForbiddenOperationError


def unconfined_service(client: Client) -> ServiceClient:
    """The service client that sends for the client, without the guard where that is allowed.

    Args:
        client: Any client; one that is bound to a tenant keeps its guard.
    """
    service = client.service_client
    try:
        inner: ServiceClient = getattr(service, "inner", service)
    except ForbiddenOperationError:
        return service
    return inner


def unconfined(client: Client) -> Client:
    """A bare client of the same namespace on `unconfined_service()`."""
    return Client(unconfined_service(client), namespace=client.namespace)
