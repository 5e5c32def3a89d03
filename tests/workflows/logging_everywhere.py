"""A workflow and activities that log with every logger there is."""

import logging
from datetime import timedelta

from temporalio import activity, workflow

_logger = logging.getLogger("app.talkative")


@activity.defn
async def talks(text: str) -> None:
    _logger.info("async activity, plain logger: %s", text)
    activity.logger.info("async activity, SDK's logger")


@activity.defn
def talks_in_a_thread() -> None:
    _logger.warning("activity in a thread", extra={"order": 42, "rate": 0.5, "tenant": "forged"})
    try:
        int("a\x1b[31mline\nforged: sk-secret-of-langfuse")
    except ValueError:
        _logger.exception("it failed")


@workflow.defn
class Talkative:
    @workflow.run
    async def run(self, text: str) -> None:
        _logger.info("workflow began, plain logger")
        workflow.logger.info("workflow began, SDK's logger")
        await workflow.execute_activity(talks, text, start_to_close_timeout=timedelta(seconds=30))
        _logger.info("workflow goes on")
        await workflow.execute_activity(
            talks_in_a_thread, start_to_close_timeout=timedelta(seconds=30)
        )
        await workflow.wait_condition(lambda: self._told)
        _logger.info("workflow ends")

    def __init__(self) -> None:
        self._told = False

    @workflow.signal
    def tell(self) -> None:
        _logger.info("signal, plain logger")
        self._told = True
