"""Recorded histories: does the code of today still replay what ran yesterday?"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.worker import Replayer

from orkestra.config import LangfuseSettings, OrkestraConfig
from orkestra.temporal.plugin import OrkestraPlugin

HistoryMode = Literal["replay", "record", "update"]
"""`replay` reads; `record` also writes what is missing; `update` writes everything anew."""

_OPTION: Final = "--orkestra-histories"


async def assert_replays(
    *workflows: type,
    histories: Path | Sequence[WorkflowHistory],
    config: OrkestraConfig | None = None,
    data_converter: DataConverter = DataConverter.default,
) -> None:
    """Replay histories against the code of today.

    Args:
        workflows: The workflow classes that are in them.
        histories: A file, a directory of `*.json` files, or histories.
        config: What the workers are configured with; None means the defaults.
        data_converter: The workers' converter.

    Raises:
        AssertionError: One does not replay, or there is none; the message names it and says why.

    Example:
        ```python
        await assert_replays(Order, histories=Path("tests/histories"))
        ```
    """
    found = _read(histories) if isinstance(histories, Path) else histories
    if not found:
        raise AssertionError(
            f"no history is in {str(histories)!r}: record some by {_OPTION}=record"
        )
    untraced = (config or OrkestraConfig()).model_copy(update={"langfuse": LangfuseSettings()})
    with ThreadPoolExecutor(1) as thread:  # the SDK leaves the one it makes to itself
        replayer = Replayer(
            workflows=workflows,
            plugins=[OrkestraPlugin(untraced)],
            data_converter=data_converter,
            workflow_task_executor=thread,
        )
        for history in found:
            result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
            if result.replay_failure is not None:
                why = result.replay_failure
                raise AssertionError(f"{history.workflow_id!r} does not replay: {why}") from why


class Histories:
    """The recorded histories of a test module; the fixture `histories` is one.

    Args:
        directory: Where the files are, one for each history.
        mode: Whether to read them or to write them.
        config: What the workers are configured with.
    """

    def __init__(
        self, directory: Path, *, mode: HistoryMode = "replay", config: OrkestraConfig | None = None
    ) -> None:
        self._directory = directory
        self._mode = mode
        self._config = config

    async def replays(self, name: str, handle: WorkflowHandle[Any, Any], *workflows: type) -> None:
        """Check that a recorded history replays; in the other modes, record it first.

        Args:
            name: Name of the file, without `.json`.
            handle: A workflow that has run just now, to record.
            workflows: The workflow classes that are in it.

        Raises:
            AssertionError: It does not replay, or nothing was recorded yet.
        """
        file = self._directory / f"{name}.json"
        if self._mode == "update" or (self._mode == "record" and not file.exists()):
            history = await handle.fetch_history()
            self._directory.mkdir(parents=True, exist_ok=True)
            file.write_text(_written(history), encoding="utf-8")
        if not file.exists():
            raise AssertionError(f"{str(file)!r} is missing: record it by {_OPTION}=record")
        await assert_replays(*workflows, histories=file, config=self._config)


def _read(path: Path) -> list[WorkflowHistory]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [_history(file) for file in files]


def _history(file: Path) -> WorkflowHistory:
    content = json.loads(file.read_text(encoding="utf-8"))
    workflow_id = content.pop("workflowId", file.stem)
    return WorkflowHistory.from_json(workflow_id, content)


def _written(history: WorkflowHistory) -> str:
    """With the workflow's ID, which the SDK leaves out and a scoped ID's owner is read from."""
    content = {"workflowId": history.workflow_id, **json.loads(history.to_json())}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
