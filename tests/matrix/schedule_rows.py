"""Rows: schedules, whose action decides what the server starts workflows with."""

from typing import Final

from tests.matrix.model import NO_CODE, Cell, Check, Row
from tests.matrix.schedules import (
    Call,
    Updater,
    backfill,
    carries,
    changed,
    create,
    delete,
    deleting,
    describe,
    describing,
    fresh,
    matching,
    matching_times,
    mismatch_create,
    mismatch_update,
    missing_create,
    other_create,
    other_matching,
    pause,
    pausing,
    refuses_mismatch,
    refuses_missing,
    refuses_other,
    same,
    trigger,
    unpause,
    unpausing,
    update,
)


def _row(
    kind: str,
    call: Call,
    carried: Cell,
    *,
    calls: str,
    rpcs: str,
    mismatch: Cell | None = None,
    replay: Cell | None = NO_CODE,
) -> Row:
    return Row(
        kind=kind,
        calls=calls,
        rpcs=rpcs,
        carried=carried,
        missing=refuses_missing(call),
        mismatch=mismatch or refuses_mismatch(call),
        other=refuses_other(call),
        replay=replay,
    )


_CONTRADICTS: Final = "another tenant's scope, header, memo or attribute: refused before it is sent"
_PREFIX: Final = "the ID's prefix carries it"


def _update_row(kind: str, updater: Updater) -> Row:
    call = update(updater)
    return _row(
        f"schedule update, updater returns {kind}",
        call,
        carries(call),
        calls="client.update_schedule",
        rpcs="update_schedule describe_schedule",
        mismatch=Check(_CONTRADICTS, mismatch_update),
        replay=None,
    )


def _patch_row(kind: str, call: Call, carried: Cell, replay: Cell | None = NO_CODE) -> Row:
    name = call.__name__
    return _row(
        f"schedule {kind}",
        call,
        carried,
        calls=f"client.{name}_schedule",
        rpcs="patch_schedule",
        replay=replay,
    )


SCHEDULES: Final = (
    Row(
        kind="schedule create",
        calls="client.create_schedule",
        rpcs="create_schedule",
        carried=carries(create),
        missing=Check(
            "refused before it is sent; the run of one made without Orkestra is refused by the"
            " worker",
            missing_create,
        ),
        mismatch=Check(_CONTRADICTS, mismatch_create),
        other=Check("the ID of another's schedule creates one of the caller's own", other_create),
    ),
    _update_row("the same action", same),
    _update_row("a changed action", changed),
    _update_row("a fresh action", fresh),
    _patch_row("trigger", trigger, carries(trigger, starts=True), None),
    _patch_row("backfill", backfill, carries(backfill, starts=True), None),
    _patch_row("pause", pause, Check(_PREFIX, pausing)),
    _patch_row("unpause", unpause, Check(_PREFIX, unpausing)),
    _row(
        "schedule delete",
        delete,
        Check(_PREFIX, deleting),
        calls="client.delete_schedule",
        rpcs="delete_schedule",
    ),
    _row(
        "schedule describe",
        describe,
        Check(_PREFIX, describing),
        calls="client.describe_schedule",
        rpcs="describe_schedule",
    ),
    Row(
        kind="schedule, times it will match (raw request)",
        rpcs="list_schedule_matching_times",
        carried=Check(_PREFIX, matching),
        missing=refuses_missing(matching_times),
        mismatch=refuses_mismatch(matching_times),
        other=Check("the guard refuses the ID before the request is sent", other_matching),
        replay=NO_CODE,
    ),
)
