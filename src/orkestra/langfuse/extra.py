"""Whether the optional dependency is there, without importing it."""

from importlib.util import find_spec

from orkestra.errors import MissingExtraError


def require_langfuse() -> None:
    """Check that the Langfuse SDK is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if find_spec("langfuse") is None:
        raise MissingExtraError("Tracing to Langfuse", "langfuse")
