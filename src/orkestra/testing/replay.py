"""Recorded histories, to check that changed workflow code still replays them."""

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
"""`replay` only reads; `record` also writes missing files; `update` overwrites all files."""

_OPTION: Final = "--orkestra-histories"


async def assert_replays(
    *workflows: type,
    histories: Path | Sequence[WorkflowHistory],
    config: OrkestraConfig | None = None,
    data_converter: DataConverter = DataConverter.default,
) -> None:
    """Replay histories against the current workflow code.

    Args:
        workflows: The workflow classes in the histories.
        histories: A file, a directory of `*.json` files, or histories.
        config: Configuration of the workers; None means the defaults.
        data_converter: Data converter of the workers.

    Raises:
        AssertionError: There is no history, or one does not replay; the message says which and
            why.

    Example:
        ```python
        await assert_replays(Order, histories=Path("tests/histories"))
        ```
    """
    found = _read(histories) if isinstance(histories, Path) else histories
    if not found:
        raise AssertionError(
            f"no history is in {str(histories)!r}: record some with {_OPTION}=record"
        )
    # A replay is no execution: its spans would appear in Langfuse a second time.
    untraced = (config or OrkestraConfig()).model_copy(update={"langfuse": LangfuseSettings()})
    with ThreadPoolExecutor(1) as thread:  # the SDK never shuts down the one it makes
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
    """Recorded histories of a test module; the fixture `histories` is one.

    Args:
        directory: Directory of the files, one for each history.
        mode: Read the files, or also write them.
        config: Configuration of the workers.
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
            handle: A workflow that has just run, to record.
            workflows: The workflow classes in it.

        Raises:
            AssertionError: The history does not replay, or was never recorded.
        """
        file = self._directory / f"{name}.json"
        if self._mode == "update" or (self._mode == "record" and not file.exists()):
            history = await handle.fetch_history()
            self._directory.mkdir(parents=True, exist_ok=True)
            # The SDK leaves the workflow ID out, but the owner of a scoped ID is read from it.
            content = {"workflowId": history.workflow_id, **json.loads(history.to_json())}
            # In a stable form, so that a recorded file shows its changes in a review.
            text = json.dumps(content, indent=1, sort_keys=True)
            file.write_text(f"{text}\n", encoding="utf-8")
        if not file.exists():
            raise AssertionError(f"{str(file)!r} is missing: record it with {_OPTION}=record")
        await assert_replays(*workflows, histories=file, config=self._config)


def _read(path: Path) -> list[WorkflowHistory]:
    found: list[WorkflowHistory] = []
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        content = json.loads(file.read_text(encoding="utf-8"))
        workflow_id = content.pop("workflowId", file.stem)
        found.append(WorkflowHistory.from_json(workflow_id, content))
    return found
