"""From what is handed in to what is posted: described, masked, encoded, sent."""

from collections.abc import Sequence
from dataclasses import dataclass

from orkestra.config import LangfuseSettings
from orkestra.langfuse.delivery import Delivery, Reply
from orkestra.langfuse.items import Ended, Observed
from orkestra.langfuse.labels import Scrubber
from orkestra.langfuse.masking import Masker
from orkestra.langfuse.naming import Describer
from orkestra.langfuse.otlp import Envelope, encoded


@dataclass(frozen=True, slots=True)
class Part:
    """Some spans, encoded.

    Attributes:
        content: A span of ours, or a whole request.
        is_ours: Which of both.
        spans: How many spans it has.
    """

    content: bytes
    is_ours: bool
    spans: int


class Wire:
    """The way to one project; used by one thread."""

    def __init__(self, settings: LangfuseSettings) -> None:
        """Send to the project of the settings."""
        masker = Masker(settings.mask)
        self._describer = Describer(settings, masker)
        self._scrubber = Scrubber(masker)
        self._envelope = Envelope(settings)
        self._delivery = Delivery(settings)

    def encode(self, item: Ended | Observed) -> Part:
        """Mask and encode; whatever goes wrong is raised."""
        if isinstance(item, Observed):
            return Part(self._scrubber.scrubbed(item), is_ours=False, spans=item.spans)
        try:
            span = self._encoded(item)
        except Exception:  # noqa: BLE001 - what code put on the span may be what cannot be written
            span = self._encoded(Ended(item.record))
        return Part(span, is_ours=True, spans=1)

    def _encoded(self, ended: Ended) -> bytes:
        describer = self._describer
        failure = describer.failure(ended.record.outcome)
        return encoded(ended.record, describer.name(ended), describer.attributes(ended), failure)

    def post(self, parts: Sequence[Part]) -> Reply:
        """Post some parts in one request."""
        ours = [part.content for part in parts if part.is_ours]
        others = b"".join(part.content for part in parts if not part.is_ours)
        return self._delivery.post((self._envelope.around(ours) if ours else b"") + others)

    def close(self) -> None:
        """Close the connections."""
        self._delivery.close()
