"""All shapes by the full name of their message."""

from collections.abc import Mapping
from typing import Final

from orkestra.temporal.guard.shape import Shape
from orkestra.temporal.guard.table.activities import ACTIVITIES
from orkestra.temporal.guard.table.parts import PARTS
from orkestra.temporal.guard.table.schedules import SCHEDULES
from orkestra.temporal.guard.table.workflows import WORKFLOWS

SHAPES: Final[Mapping[str, Shape]] = {
    shape.message.DESCRIPTOR.full_name: shape
    for shape in (*WORKFLOWS, *SCHEDULES, *ACTIVITIES, *PARTS)
}
"""The shape of each message that a tenant's request may hold."""
