"""The result of a flush while its project is being closed."""

from concurrent.futures import Future

from orkestra.config import LangfuseSettings
from orkestra.langfuse.exporter import DropCounter, Sender
from tests.support.waiting import PATIENCE, PATIENTLY


def test_a_flush_that_a_close_overtakes_succeeds_where_nothing_was_left():
    settings = LangfuseSettings(public_key="pk", secret_key="sk", base_url="http://127.0.0.1:9")
    overtaken: list[Future[bool]] = []

    def closing() -> None:
        if not overtaken:
            overtaken.append(sender.flush(PATIENTLY))
            sender.stop()

    sender = Sender(settings, DropCounter(), closing)
    assert sender.flush(PATIENTLY).result(PATIENCE)
    assert overtaken[0].result(PATIENCE)
