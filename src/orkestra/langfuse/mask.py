"""Masking and cutting of everything that leaves.

The mask sees each value whole, and then each text in what it returned: a mask that looks for keys
and one that only knows texts both work. What is cut loses a margin beyond the cut, so that a secret
that was cut in half, and no longer looks like one, goes too.
"""

import json
from collections.abc import Callable
from typing import Any, Final, cast

from orkestra.langfuse import attribute_names as names
from orkestra.tracing import Captured, Json

HIDDEN: Final = "<hidden: the mask failed>"
"""Stands for a value on which the mask raised."""

MARGIN_BYTES: Final = 512
"""How much a secret may straddle the cut."""

_WRITER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
_CUT: Final = "… (cut)"
_OPENING: Final = ("{", "[", '"')


class Masker:
    """Applies the mask of the settings.

    Attributes:
        is_on: Whether there is a mask.
    """

    def __init__(self, mask: Callable[..., Any] | None) -> None:
        """Mask by `mask(data=value)`; None leaves everything as it is."""
        self._mask = mask
        self.is_on: Final = mask is not None

    def value(self, value: Json) -> Json:
        """The masked value; hidden where the mask raises."""
        if self._mask is None:
            return value
        try:
            return cast("Json", self._leaves(self._mask(data=value)))
        except Exception:  # noqa: BLE001 - whatever a mask raises, the value must not leave
            return HIDDEN

    def text(self, text: str) -> str:
        """The masked text, which remains a text."""
        if self._mask is None:
            return cleaned(text)
        try:
            return cleaned(str(self._mask(data=text)))
        except Exception:  # noqa: BLE001 - as above
            return HIDDEN

    def rendered(self, captured: Captured, max_bytes: int) -> str:
        """What to send of a captured value: masked, as JSON unless it is a text, and cut.

        Args:
            captured: The picture of the value.
            max_bytes: How many bytes of UTF-8 to send at most.
        """
        value = self.value(captured.value)
        try:
            text = value if isinstance(value, str) else _json(value)
        except (TypeError, ValueError, RecursionError):
            text = HIDDEN
        return _fitted(cleaned(text), max_bytes, is_cut=captured.is_cut and text != HIDDEN)

    def cut(self, text: str, max_bytes: int) -> str:
        """A masked text, of so many bytes of UTF-8 at most."""
        return _fitted(text, max_bytes, is_cut=False)

    def written(self, text: str) -> str:
        """A text of others, masked as what it says where it is JSON, and then as a text."""
        if self._mask is None or not text.lstrip().startswith(_OPENING):
            return self.text(text)
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        value = self.value(said)
        return HIDDEN if value == HIDDEN else _json(value)

    def key(self, key: str) -> str:
        """The masked name of an attribute, of which Langfuse must still know its own."""
        for prefix in names.METADATA_PREFIXES:
            if key.startswith(prefix):
                return prefix + self.text(key.removeprefix(prefix))
        is_known = key.startswith("langfuse.") or key in names.USERS | names.SESSIONS | names.TAGS
        return key if is_known else self.text(key)

    def _leaves(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.written(value)
        if isinstance(value, dict):
            found = cast("Any", value)
            return {self._leaves(key): self._leaves(item) for key, item in found.items()}
        if isinstance(value, list | tuple):
            return [self._leaves(item) for item in cast("list[Any]", value)]
        return value


def cleaned(text: str) -> str:
    """The text without what UTF-8, and so the wire, cannot carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _json(value: Json) -> str:
    return cleaned(_WRITER.encode(value))


def _fitted(text: str, max_bytes: int, *, is_cut: bool) -> str:
    if not is_cut and text.isascii() and len(text) <= max_bytes:
        return text
    encoded = text.encode()
    if not is_cut and len(encoded) <= max_bytes:
        return text
    # Where the value itself was cut, its end is the end of the text, closing brackets aside.
    length = len(encoded) - MARGIN_BYTES if is_cut else len(encoded)
    kept = max(0, min(length, max_bytes - len(_CUT.encode())))
    return encoded[:kept].decode("utf-8", "ignore") + _CUT
