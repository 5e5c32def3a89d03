"""Second parser of visibility queries, with all the rules of the server's own.

Comments are skipped, a backslash escapes, both quotes delimit strings, NOT binds tighter than AND
and AND tighter than OR. It follows the server's parser, and shares no code with Orkestra's.
"""

import re
from typing import NamedTuple

Tree = tuple[object, ...]

_WORD = re.compile(r"[A-Za-z_@][A-Za-z0-9_@]*")
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d*)?")
_COMMENT = re.compile(r"(?:--|#|//)[^\n]*\n?|/\*.*?\*/", re.DOTALL)
_OPERATOR = re.compile(r"<=>|<=|>=|<>|!=|&&|\|\||[=<>(),.;+\-]")
_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
_RESERVED = {
    *("AND", "OR", "NOT", "IN", "BETWEEN", "STARTS_WITH", "IS", "NULL", "TRUE", "FALSE"),
    *("GROUP", "ORDER", "BY", "ASC", "DESC"),
}


class UnreadableError(Exception):
    """Query that the server refuses as a syntax error, or that this parser does not support."""


class Reading(NamedTuple):
    condition: Tree | None
    group_by: tuple[str, ...]
    order_by: tuple[tuple[str, str], ...]


def read(query: str) -> Reading:
    return _Reader(_words(query)).query()


def _words(text: str) -> list[tuple[str, str]]:
    words: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        if text[at] in " \t\r\n":
            at += 1
        elif comment := _COMMENT.match(text, at):
            at = comment.end()
        elif text[at] in "'\"":
            value, at = _string(text, at)
            words.append(("string", value))
        elif text[at] == "`":
            value, at = _backquoted(text, at)
            words.append(("name", value))
        elif (found := _WORD.match(text, at)) and text[found.end() : found.end() + 1] != "'":
            upper = found[0].upper()
            words.append((upper, upper) if upper in _RESERVED else ("name", found[0]))
            at = found.end()
        elif found and found[0].upper() in _RESERVED:
            words.append((found[0].upper(), found[0].upper()))
            at = found.end()
        elif (number := _NUMBER.match(text, at)) and not _WORD.match(text, number.end()):
            words.append(("number", number[0]))
            at = number.end()
        elif operator := _OPERATOR.match(text, at):
            words.append((operator[0], operator[0]))
            at = operator.end()
        else:
            raise UnreadableError(text[at:])
    return [*words, ("end", "")]


def _string(text: str, at: int) -> tuple[str, int]:
    quote = text[at]
    value = ""
    at += 1
    while at < len(text):
        if text[at] == "\\":
            value += _ESCAPES.get(text[at + 1 : at + 2], text[at + 1 : at + 2])
            at += 2
        elif text[at] != quote:
            value += text[at]
            at += 1
        elif text[at + 1 : at + 2] == quote:
            value += quote
            at += 2
        else:
            return value, at + 1
    raise UnreadableError(text)


def _backquoted(text: str, at: int) -> tuple[str, int]:
    end = text.find("`", at + 1)
    if end <= at + 1 or text[end + 1 : end + 2] == "`":
        raise UnreadableError(text)
    return text[at + 1 : end], end + 1


class _Reader:
    def __init__(self, words: list[tuple[str, str]]) -> None:
        self._words = words
        self._at = 0

    def query(self) -> Reading:
        condition = None if self._next() in {"end", "GROUP", "ORDER"} else self._either()
        group_by: list[str] = []
        order_by: list[tuple[str, str]] = []
        if self._skip("GROUP"):
            self._need("BY")
            group_by = self._list(self._name)
        if self._skip("ORDER"):
            self._need("BY")
            order_by = self._list(self._order)
        self._skip(";")
        self._need("end")
        return Reading(condition, tuple(group_by), tuple(order_by))

    def _either(self) -> Tree:
        tree = self._both()
        while self._skip("OR") or self._skip("||"):
            tree = ("or", tree, self._both())
        return tree

    def _both(self) -> Tree:
        tree = self._negated()
        while self._skip("AND") or self._skip("&&"):
            tree = ("and", tree, self._negated())
        return tree

    def _negated(self) -> Tree:
        if self._skip("NOT"):
            return ("not", self._negated())
        if self._skip("("):
            tree = self._either()
            self._need(")")
            return ("parentheses", tree)
        return self._predicate()

    def _predicate(self) -> Tree:
        name = self._name()
        if self._next() in {"=", "!=", "<>", "<", "<=", ">", ">=", "<=>"}:
            operator = self._need(self._next()).replace("<>", "!=")
            return (operator, name, self._value())
        if self._skip("IS"):
            negated = self._skip("NOT")
            self._need("NULL")
            return ("is", name, negated)
        negated = self._skip("NOT")
        if self._skip("IN"):
            self._need("(")
            values = self._list(self._value)
            self._need(")")
            return ("in", name, negated, tuple(values))
        if self._skip("STARTS_WITH"):
            return ("starts with", name, negated, self._value())
        self._need("BETWEEN")
        low = self._value()
        self._need("AND")
        return ("between", name, negated, low, self._value())

    def _value(self) -> Tree:
        sign = ""
        while self._next() in {"+", "-"}:
            sign += self._need(self._next())
        kind = self._next()
        if kind not in {"string", "number", "TRUE", "FALSE"} or (sign and kind != "number"):
            raise UnreadableError(kind)
        return (kind, sign + self._need(kind))

    def _order(self) -> tuple[str, str]:
        name = self._name()
        descending = self._skip("DESC")
        if not descending:
            self._skip("ASC")
        return name, "DESC" if descending else "ASC"

    def _name(self) -> str:
        name = self._need("name")
        while self._skip("."):
            name += "." + self._need("name")
        return name

    def _list(self, item):
        found = [item()]
        while self._skip(","):
            found.append(item())
        return found

    def _next(self) -> str:
        return self._words[self._at][0]

    def _skip(self, kind: str) -> bool:
        found = self._next() == kind
        self._at += found
        return found

    def _need(self, kind: str) -> str:
        if self._next() != kind:
            raise UnreadableError(f"{self._next()} instead of {kind}")
        self._at += 1
        return self._words[self._at - 1][1]
