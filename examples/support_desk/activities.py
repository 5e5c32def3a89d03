"""Activities of the desk: calls to a database, a model and a mail server."""

import hashlib
import time
from typing import Final
from zlib import crc32

from temporalio import activity
from temporalio.exceptions import ApplicationError

from orkestra import current_tenant
from support_desk.assistant import Assistant, KnowledgeAssistant
from support_desk.knowledge import brand_of
from support_desk.models import Customer, Draft, Message, Question
from support_desk.recording import generation

ASSISTANT: Final[Assistant] = KnowledgeAssistant()
"""Replace it with a real model: any object with `model` and `draft()`."""


@activity.defn
def lookup_customer(email: str) -> Customer:
    """Find the customer. The database drops the first connection for one address in four."""
    time.sleep(0.02)
    if activity.info().attempt == 1 and crc32(email.encode()) % 4 == 0:
        raise ConnectionError("customer database: connection reset by peer")
    name, _, domain = email.partition("@")
    if domain.endswith(".invalid"):
        msg = f"no customer has the address {email!r}"
        raise ApplicationError(msg, type="UnknownCustomer", non_retryable=True)
    return Customer(
        name=name.replace(".", " ").title(),
        email=email,
        plan="free" if domain.endswith(".example") else "business",
    )


@activity.defn
async def draft_answer(question: Question) -> Draft:
    """Draft an answer from the knowledge of the tenant's brand."""
    brand = brand_of(current_tenant())
    with generation(ASSISTANT.model, question) as record:
        draft = await ASSISTANT.draft(question, brand)
        record(draft)
    return draft


@activity.defn
def send_message(message: Message) -> str:
    """Send the answer in the name of the tenant's brand, and return the message ID."""
    brand = brand_of(current_tenant())
    text = f"{brand.greeting} {message.to.name},\n\n{message.text}\n\n{brand.name}"
    time.sleep(0.02)
    activity.logger.info("%s: %d characters to %s", brand.name, len(text), message.to.email)
    return "m-" + hashlib.sha256(f"{message.subject}\n{text}".encode()).hexdigest()[:12]
