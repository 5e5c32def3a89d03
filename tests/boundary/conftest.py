"""Fixtures of the hostile tenant."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from tests.support.guard_attack import Attack
from tests.support.guarded_clients import GuardDesk
from tests.support.names import Fresh


@pytest.fixture
async def attack(raw_client: Client, fresh: Fresh) -> AsyncIterator[Attack]:
    desk = GuardDesk(raw_client, fresh)
    acme = desk.client(desk.acme)
    async with desk.worker():
        target = await desk.mailbox(desk.beta, "target")
        bare = Client(acme.service_client)
        yield Attack(desk, acme, bare, desk.client(desk.beta), target)
        # Whatever was tried, beta's workflow has neither ended nor heard of it.
        assert await desk.client(desk.beta).get_workflow_handle(target.id).query("count") == [
            0,
            desk.beta,
        ]
        await target.terminate()
