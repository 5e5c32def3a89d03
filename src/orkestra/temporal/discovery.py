"""Finding every `@workflow.defn` and `@activity.defn` of a module or package."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from orkestra.errors import DiscoveryError

_WORKFLOW: Final = "__temporal_workflow_definition"
_ACTIVITY: Final = "__temporal_activity_definition"


@dataclass(frozen=True)
class Discovered:
    """What a module or package defines.

    Attributes:
        workflows: Workflow classes, in the order of their modules' names.
        activities: Activity functions, likewise.
    """

    workflows: tuple[type, ...]
    activities: tuple[Callable[..., Any], ...]


def discover(path: str | ModuleType) -> Discovered:
    """Import a module, and everything below it if it is a package, and collect definitions.

    A definition counts where it is defined, not where it is imported, and `__main__` modules are
    left alone.

    Args:
        path: Dotted name of the module or package, or the module itself.

    Returns:
        Its workflows and activities.

    Raises:
        DiscoveryError: It cannot be imported, defines neither, or two definitions share a name.
    """
    root = _import(path) if isinstance(path, str) else path
    workflows: dict[str, type] = {}
    activities: dict[str, Callable[..., Any]] = {}
    for module in _modules(root):
        for value in vars(module).values():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value) and _WORKFLOW in vars(value):
                _add(workflows, getattr(value, _WORKFLOW).name, value, "workflows")
            elif inspect.isfunction(value) and hasattr(value, _ACTIVITY):
                _add(activities, getattr(value, _ACTIVITY).name, value, "activities")
    if not workflows and not activities:
        msg = (
            f"module {root.__name__!r} defines no workflow and no activity: decorate with"
            " @workflow.defn or @activity.defn"
        )
        raise DiscoveryError(msg)
    return Discovered(tuple(workflows.values()), tuple(activities.values()))


def check_unique_names(workflows: Sequence[type], activities: Sequence[Callable[..., Any]]) -> None:
    """Refuse two workflows, or two activities, that share a name.

    Raises:
        DiscoveryError: They do; the message says where both stand.
    """
    for attribute, values, kind in (
        (_WORKFLOW, workflows, "workflows"),
        (_ACTIVITY, activities, "activities"),
    ):
        seen: dict[str, Any] = {}
        for value in values:
            definition = getattr(value, attribute, None)
            if definition is None:
                decorator = "workflow.defn" if kind == "workflows" else "activity.defn"
                msg = f"{value!r} is not one of the {kind}: decorate it with @{decorator}"
                raise DiscoveryError(msg)
            _add(seen, definition.name, value, kind)


def _add(found: dict[str, Any], name: str | None, value: object, kind: str) -> None:
    key = name or "(dynamic)"
    if found.setdefault(key, value) is not value:
        msg = f"two {kind} are named {key!r}: {_place(found[key])} and {_place(value)}; rename one"
        raise DiscoveryError(msg)


def _place(value: Any) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"


def _modules(root: ModuleType) -> Iterator[ModuleType]:
    yield root
    if hasattr(root, "__path__"):
        names = (found.name for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."))
        for name in sorted(names):
            if not name.endswith(".__main__"):
                yield _import(name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            msg = (
                f"module {name!r} does not exist: give a dotted name that can be imported from here"
            )
        else:
            msg = f"module {name!r} cannot be imported: {error.name!r} is not installed"
        raise DiscoveryError(msg) from error
    except (Exception, SystemExit) as error:
        msg = f"module {name!r} cannot be imported: {type(error).__name__}: {error}"
        raise DiscoveryError(msg) from error
