"""Of the spans of a run those that Langfuse lacks, to where the tenant's spans go."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from orkestra.errors import LangfuseUnavailableError
from orkestra.temporal.histories.episodes import Episode
from orkestra.temporal.histories.reports import BackfillReport
from orkestra.tracing import SpanRecord, TraceProject

_PATIENCE: Final = timedelta(seconds=30)
_BATCH: Final = 500
_MICROSECOND: Final = timedelta(microseconds=1)
_NANOSECONDS: Final = 1000

Answers = dict[tuple[str | None, str], frozenset[str]]
"""What the tenant's project has of the trace, for each that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How to backfill.

    Attributes:
        dry_run: Ask and report only.
        force: Send everything that has ended, without asking.
        older_than: Leave out what ended less than this ago.
    """

    dry_run: bool
    force: bool
    older_than: timedelta


class Backfiller:
    """Sends each span once at most, however often it is asked to.

    What Langfuse has just taken it cannot tell yet, so what was sent is remembered here.
    """

    def __init__(self, manner: Manner) -> None:
        """Send in this manner."""
        self._manner = manner
        self._taken: set[tuple[str, str]] = set()

    async def add(
        self,
        report: BackfillReport,
        episodes: Sequence[Episode],
        project: TraceProject,
        answers: Answers,
    ) -> BackfillReport:
        """Send what is missing of a run.

        Args:
            report: What was done before.
            episodes: The run.
            project: Where its spans go.
            answers: What the project has said for this report; what it says now is added.

        Returns:
            The report with this run.
        """
        ended = [each.record for each in episodes if each.record is not None]
        settled = [record for record in ended if self._is_settled(record)]
        sampled = [record for record in settled if project.is_sampled(record.span)]
        if not self._manner.force:
            for asked in {_place(record) for record in sampled} - set(answers):
                answers[asked] = await project.present(asked[1], _PATIENCE)
        missing = [record for record in sampled if self._take(record, answers)]
        if not self._manner.dry_run:
            await _send(project, missing)
        return replace(
            report,
            missing=(*report.missing, *(record.span for record in missing)),
            present=report.present + len(sampled) - len(missing),
            recent=report.recent + len(ended) - len(settled),
            unended=report.unended + len(episodes) - len(ended),
            unsampled=report.unsampled + len(settled) - len(sampled),
            dry_run=self._manner.dry_run,
        )

    def _is_settled(self, record: SpanRecord) -> bool:
        if self._manner.force:
            return True
        age_ns = time.time_ns() - record.end_ns
        return age_ns >= self._manner.older_than // _MICROSECOND * _NANOSECONDS

    def _take(self, record: SpanRecord, answers: Answers) -> bool:
        """Whether the span is missing; asked for the second time, it is not."""
        key = record.span.trace_id, record.span.span_id
        if key in self._taken or record.span.span_id in answers.get(_place(record), ()):
            return False
        self._taken.add(key)
        return True


def _place(record: SpanRecord) -> tuple[str | None, str]:
    return record.span.tenant, record.span.trace_id


async def _send(project: TraceProject, records: Sequence[SpanRecord]) -> None:
    for begin in range(0, len(records), _BATCH):
        for record in records[begin : begin + _BATCH]:
            project.emit(record)
        if not await project.flush(_PATIENCE):
            msg = (
                f"Langfuse did not take all of {len(records)} spans within {_PATIENCE}:"
                " run the backfill again when it can be reached"
            )
            raise LangfuseUnavailableError(msg)
