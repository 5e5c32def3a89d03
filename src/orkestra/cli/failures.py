"""What an exception means to whoever typed the command: an exit code and one line."""

import os
import sys
import traceback
from dataclasses import dataclass
from typing import Final

import typer

from orkestra.cli.output import write_error
from orkestra.errors import (
    ConfigurationError,
    ConnectionFailedError,
    ConnectionFailureReason,
    OrkestraError,
    SearchAttributeError,
    TenantError,
)

FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130

_WRONG_SETTING: Final = frozenset(
    {
        ConnectionFailureReason.BAD_ADDRESS,
        ConnectionFailureReason.BAD_CERTIFICATE,
        ConnectionFailureReason.NAMESPACE_NOT_FOUND,
    }
)


@dataclass(frozen=True)
class Failure:
    """How a command ended that did not do what it was asked for."""

    code: int
    line: str


def is_bad_input(error: OrkestraError) -> bool:
    """Whether it is for whoever typed the command to change something."""
    if isinstance(error, ConnectionFailedError):
        return error.reason in _WRONG_SETTING
    return isinstance(error, (ConfigurationError, SearchAttributeError, TenantError))


def report(error: BaseException, *, debug: bool) -> int:
    """Write one line about an exception, after its traceback where that is asked for.

    Args:
        error: What the command raised.
        debug: Whether to write the traceback, too.

    Returns:
        The exit code.
    """
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone; the interpreter must not complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if debug:
        traceback.print_exception(error)
    failure = _failure(error)
    write_error(failure.line)
    return failure.code


def _failure(error: BaseException) -> Failure:
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return Failure(INTERRUPTED, "interrupted")
        case typer.TyperException():
            return Failure(BAD_INPUT, _usage(error))
        case OrkestraError():
            return Failure(BAD_INPUT if is_bad_input(error) else FAILED, str(error))
        case OSError() if str(error):  # TimeoutError is one
            return Failure(FAILED, str(error))
        case _:
            line = f"{type(error).__name__}: {error} (--debug shows where it came from)"
            return Failure(FAILED, line)


def _usage(error: typer.TyperException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    return f"{message.rstrip('.')} (see `{context.command_path} --help`)"
