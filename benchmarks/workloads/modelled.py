"""A workflow in a module like those of real applications, with models and a client's types."""

from datetime import timedelta

import httpx
from pydantic import BaseModel, Field
from temporalio import workflow


class Address(BaseModel):
    url: str
    timeout: float = Field(default=5.0, gt=0)


class Ticket(BaseModel):
    number: int
    text: str
    addresses: list[Address] = Field(default_factory=list)


class Answer(BaseModel):
    ticket: Ticket
    text: str
    codes: dict[str, int] = Field(default_factory=dict)


@workflow.defn
class Modelled:
    @workflow.run
    async def run(self, number: int) -> str:
        url = httpx.URL("https://desk.example/tickets").copy_add_param("n", str(number))
        ticket = Ticket(number=number, text="hello", addresses=[Address(url=str(url))])
        greeting: str = await workflow.execute_activity(
            "greet",
            ticket.text,
            start_to_close_timeout=timedelta(seconds=60),
            result_type=str,
        )
        return Answer(ticket=ticket, text=greeting).model_dump_json()
