"""Operations that run once for all concurrent callers."""

import asyncio

import pytest

from orkestra.caches import SingleFlight
from orkestra.tenancy import current_tenant, tenant_scope


class Operation:
    """Operation that counts its starts and ends when a test sets its outcome."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.started += 1
        try:
            return await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture
async def operation() -> Operation:
    return Operation()


async def waiting(flight: SingleFlight[str], operation: Operation, count: int):
    tasks = [asyncio.create_task(flight.join("key", operation)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_all_callers_get_the_result_of_one_operation(operation):
    tasks = await waiting(SingleFlight(), operation, 1000)
    operation.outcome.set_result("done")
    assert await asyncio.gather(*tasks) == ["done"] * 1000
    assert operation.started == 1


async def test_all_callers_get_the_error_and_the_next_call_starts_again(operation):
    flight = SingleFlight[str]()
    tasks = await waiting(flight, operation, 10)
    operation.outcome.set_exception(OSError("no"))
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in errors] == ["no"] * 10
    again = Operation()
    again.outcome.set_result("yes")
    assert await flight.join("key", again) == "yes"


async def test_a_caller_can_retry_as_soon_as_it_has_the_error(operation):
    flight = SingleFlight[str]()
    again = Operation()
    again.outcome.set_result("yes")

    async def stubborn() -> str:
        try:
            return await flight.join("key", operation)
        except OSError:
            return await flight.join("key", again)

    tasks = [asyncio.create_task(stubborn()) for _ in range(10)]
    await asyncio.sleep(0)
    operation.outcome.set_exception(OSError("no"))
    assert await asyncio.gather(*tasks) == ["yes"] * 10
    assert operation.started == again.started == 1


async def test_the_first_caller_can_give_up_without_cancelling_the_operation(operation):
    tasks = await waiting(SingleFlight(), operation, 3)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    operation.outcome.set_result("done")
    assert tasks[0].cancelled()
    assert await asyncio.gather(*tasks[1:]) == ["done"] * 2
    assert operation.cancelled == 0


async def test_the_operation_is_cancelled_with_its_last_caller(operation):
    flight = SingleFlight[str]()
    tasks = await waiting(flight, operation, 3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    (newcomer,) = await waiting(flight, operation, 1)
    assert operation.cancelled == 1
    assert operation.started == 2
    operation.outcome.set_result("done")
    assert await newcomer == "done"


async def test_the_operation_can_outlive_its_callers(operation):
    flight = SingleFlight[str](cancel_unwanted=False)
    tasks = await waiting(flight, operation, 3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    (newcomer,) = await waiting(flight, operation, 1)
    operation.outcome.set_result("done")
    assert await newcomer == "done"
    assert operation.started == 1


async def test_the_operation_runs_in_an_empty_context_unless_configured():
    async def tenant() -> str | None:
        return current_tenant()

    with tenant_scope("acme"):
        assert await SingleFlight[str | None]().join("key", tenant) is None
        assert await SingleFlight[str | None](isolated=False).join("key", tenant) == "acme"
        assert current_tenant() == "acme"


async def test_each_key_has_its_own_operation(operation):
    flight = SingleFlight[str]()
    tasks = [asyncio.create_task(flight.join(key, operation)) for key in ("a", "b", "a")]
    await asyncio.sleep(0)
    operation.outcome.set_result("done")
    await asyncio.gather(*tasks)
    assert operation.started == 2


async def test_cancelling_all_operations_cancels_their_callers(operation):
    flight = SingleFlight[str]()
    tasks = await waiting(flight, operation, 3)
    await flight.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert operation.cancelled == 1
    await flight.cancel()


def test_a_stopped_event_loop_does_not_block_others():
    flight = SingleFlight[str]()
    abandoned = asyncio.new_event_loop()
    task = abandoned.create_task(flight.join("key", lambda: asyncio.sleep(60, "late")))
    abandoned.run_until_complete(asyncio.sleep(0))

    async def elsewhere() -> str:
        result = await flight.join("key", lambda: asyncio.sleep(0, "soon"))
        await flight.cancel()
        return result

    assert asyncio.run(elsewhere()) == "soon"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        abandoned.run_until_complete(task)
    abandoned.close()
    assert asyncio.run(flight.join("key", lambda: asyncio.sleep(0, "again"))) == "again"
