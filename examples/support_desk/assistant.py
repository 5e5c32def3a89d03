"""The `Assistant` protocol, and an implementation that works offline."""

import asyncio
import re
from typing import Final, Protocol

from support_desk.knowledge import Brand
from support_desk.models import Draft, Question

_WORD: Final = re.compile(r"[a-z0-9]+")


class Assistant(Protocol):
    """Author of draft answers; a real model is a class with these two members."""

    @property
    def model(self) -> str:
        """Name of the model, for traces."""
        ...

    async def draft(self, question: Question, brand: Brand) -> Draft:
        """Draft an answer in the name of a brand."""
        ...


class KnowledgeAssistant:
    """Assistant that returns the article with the most words of the question; deterministic."""

    model = "keyword-match-1"

    async def draft(self, question: Question, brand: Brand) -> Draft:
        text = " ".join([question.subject, *question.messages]).lower()
        words = set(_WORD.findall(text))
        best = max(brand.articles, key=lambda article: len(article.keywords & words))
        hits = len(best.keywords & words)
        await asyncio.sleep(0.05 + 0.001 * len(words))  # simulates the latency of a model
        if not hits:
            return Draft("I am not sure what this is about.", 0.1)
        return Draft(best.answer, min(0.98, 0.35 + 0.2 * hits))
