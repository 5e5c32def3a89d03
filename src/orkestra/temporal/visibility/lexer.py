"""The words of Temporal's visibility query language, each in the one form in which it is written.

Nothing of the caller's text goes on as it came: a string is decoded and quoted again, a name is
backquoted, a keyword is upper case. So the server's lexer, which also knows backslash escapes,
comments, hexadecimal literals and bind variables, has nothing to read in another way.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from orkestra.errors import InvalidQueryError

MAX_QUERY_LENGTH: Final = 65_536
"""Characters of a query; room for some thousand IDs in one `IN (...)`."""

KEYWORDS: Final = frozenset(
    {
        *("AND", "ASC", "BETWEEN", "BY", "DESC", "FALSE", "GROUP", "IN"),
        *("IS", "NOT", "NULL", "OR", "ORDER", "STARTS_WITH", "TRUE"),
    }
)

NAME: Final = "name"
STRING: Final = "string"
NUMBER: Final = "number"
COMPARISON: Final = "comparison"
END: Final = "end"

_TOKEN: Final = re.compile(
    r"""
    [ \t\r\n]*+
    (?: (?P<word>       [A-Za-z_][A-Za-z0-9_]*+ (?: \.[A-Za-z_][A-Za-z0-9_]*+ )*+ )
    |   (?P<string>     '[^'\x00-\x1f\x7f]*+ (?: ''[^'\x00-\x1f\x7f]*+ )*+ '
                    |   "[^"\x00-\x1f\x7f]*+ (?: ""[^"\x00-\x1f\x7f]*+ )*+ " )
    |   (?P<comparison> != | <> | <= | >= | [=<>] )
    |   (?P<mark>       [(),] )
    |   (?P<comment>    /\* | -- | \# | // )
    |   (?P<number>     [+-]?+ (?: [0-9]++ (?: \.[0-9]*+ )?+ | \.[0-9]++ )
                        (?: [eE][+-]?+[0-9]++ )?+ (?![A-Za-z_@]) )
    |   (?P<backquoted> `(?: [\w\ .:] | -(?!-) | /(?!/) )++` )
    |   (?P<end>        \Z )
    |   (?P<unknown>    . )
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_NAME: Final = re.compile(r"(?:[\w .:]|-(?!-)|/(?!/))+")
_AS_THEY_ARE: Final[Mapping[str, str]] = {"number": NUMBER, "backquoted": NAME, "end": END}
_BLANK: Final = frozenset("\t\r\n")
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs"})
_SHOWN: Final = 20


class Token(NamedTuple):
    """A word of a query.

    Attributes:
        kind: `name`, `string`, `number`, `comparison`, `end`, or the keyword or mark itself.
        written: What to write for it.
        position: Index of its first character in the query.
    """

    kind: str
    written: str
    position: int


def tokenize(query: str) -> Iterator[Token]:
    """Split a query into tokens, the last of kind `end`.

    Args:
        query: The caller's text, at most `MAX_QUERY_LENGTH` characters.

    Yields:
        The tokens in their order; one that cannot be read raises when its turn comes.

    Raises:
        InvalidQueryError: It is too long, or has something that no token begins with.
    """
    if len(query) > MAX_QUERY_LENGTH:
        msg = (
            f"visibility query of {len(query)} characters, beginning {query[:_SHOWN]!r}, is too"
            f" long: shorten it to {MAX_QUERY_LENGTH}, or ask in parts"
        )
        raise InvalidQueryError(msg)
    _check_characters(query)
    for match in _TOKEN.finditer(query):
        group = match.lastgroup or "unknown"
        text, position = match[group], match.start(group)
        if group == "word" and (keyword := text.upper()) in KEYWORDS:
            yield Token(keyword, keyword, position)
        elif group == "word":
            yield Token(NAME, f"`{text}`", position)
        elif group == "string":
            yield Token(STRING, _requoted(text), position)
        elif group == "mark":
            yield Token(text, text, position)
        elif group == "comparison":
            yield Token(COMPARISON, "!=" if text == "<>" else text, position)
        elif group in _AS_THEY_ARE:
            yield Token(_AS_THEY_ARE[group], text, position)
        else:
            raise _unreadable(query, position, comment=group == "comment")


def backquoted(name: str) -> str:
    """Write the name of a search attribute.

    Args:
        name: Letters, digits, spaces and any of `_ - . : /`, without `--` and `//`.

    Raises:
        InvalidQueryError: It has another character, or none.
    """
    if _NAME.fullmatch(name) is None:
        msg = f"search attribute {name!r} cannot be named in a query: use letters, digits and '_'"
        raise InvalidQueryError(msg)
    return f"`{name}`"


def invalid_query(query: str, position: int, problem: str) -> InvalidQueryError:
    """Make the error that says where a query is wrong.

    Args:
        query: The caller's text.
        position: Index of the character that is wrong; its length for the end.
        problem: What is wrong there and how to mend it.
    """
    near = query[position : position + _SHOWN]
    where = f"at character {position + 1}, near {near!r}" if near else "at its end"
    return InvalidQueryError(f"visibility query refused {where}: {problem}")


def _requoted(text: str) -> str:
    quote = text[0]
    value = text[1:-1].replace(quote * 2, quote)
    return "'" + value.replace("'", "''") + "'"


def _check_characters(query: str) -> None:
    if query.isprintable() and "\\" not in query:
        return
    for position, char in enumerate(query):
        if char == "\\":
            problem = "a backslash is read differently by every store: leave it out"
            raise invalid_query(query, position, problem)
        if char not in _BLANK and unicodedata.category(char) in _UNPRINTABLE:
            problem = "a control, format or surrogate character: remove it"
            raise invalid_query(query, position, problem)


def _unreadable(query: str, position: int, *, comment: bool) -> InvalidQueryError:
    char = query[position]
    if comment:
        problem = "comments are not allowed: remove it, or quote the value that it belongs to"
    elif char in "'\"":
        problem = "this string does not end on its line: close it, and double quotes inside it"
    elif char == "`":
        problem = "between backquotes go letters, digits, spaces and any of _ - . : /"
    else:
        problem = "this is no part of the query language: remove it, or quote it as '...'"
    return invalid_query(query, position, problem)
