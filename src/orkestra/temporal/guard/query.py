"""Visibility queries, rewritten so that they select rows of one tenant only.

Filters cannot escape the tenant, because nothing of the caller's text is sent as it came: a query
is parsed and written again. A string is decoded and quoted again, a name is backquoted, a keyword
is upper case. So the server's lexer, which also knows backslash escapes, comments, hexadecimal
literals and bind variables, finds nothing to read in another way (B1).

```
query      := [condition] [GROUP BY name] [ORDER BY name [ASC | DESC] {"," ...}]
condition  := operand {(AND | OR) operand}
operand    := [NOT] ( "(" condition ")" | predicate )
predicate  := name ( comparison value
                   | [NOT] IN "(" value {"," value} ")"
                   | [NOT] BETWEEN value AND value
                   | [NOT] STARTS_WITH string
                   | IS [NOT] NULL )
comparison := "=" | "!=" | "<>" | "<" | "<=" | ">" | ">="
value      := string | number | TRUE | FALSE
```

The precedence of AND, OR and NOT is left to the server: the condition is written inside
parentheses, and its own are balanced, so no reading of it reaches out of them.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from orkestra.errors import InvalidQueryError
from orkestra.tenancy import check_tenant_id, owner_of

IdField = Literal["WorkflowId", "ScheduleId", "ActivityId"]
"""Name of the ID of a workflow, a schedule or a standalone activity in a query."""


def scope_query(
    query: str | None,
    *,
    tenant: str,
    attribute: str,
    id_field: IdField,
    scoped_ids: bool = True,
) -> str:
    """Rewrite a list or count query so that it selects rows of one tenant only.

    On SQLite STARTS_WITH ignores case, and in no store does a query bind what comes back: check
    the rows with `is_own_row`, too.

    Args:
        query: The caller's query; None or a blank one selects all of the tenant's rows.
        tenant: A well-formed tenant ID.
        attribute: Keyword search attribute that holds the tenant.
        id_field: `WorkflowId` for workflows, `ScheduleId` for schedules (the server refuses
            `WorkflowId` there), `ActivityId` for standalone activities.
        scoped_ids: Whether the tenant's IDs begin with `<tenant>:`; without it, the attribute
            alone is the scope.

    Returns:
        A query for the server. Scoping it again for the same tenant selects the same rows.

    Raises:
        InvalidQueryError: The server's language does not have the query, or it uses a part of it
            that cannot be limited to the tenant, comments for instance.
        InvalidTenantError: The tenant is malformed.

    Example:
        ```python
        scope_query(
            "WorkflowType = 'Order' OR CloseTime IS NULL ORDER BY StartTime",
            tenant="acme",
            attribute="tenantId",
            id_field="WorkflowId",
        )
        # (`tenantId` = 'acme' AND `WorkflowId` STARTS_WITH 'acme:')
        # AND ( `WorkflowType` = 'Order' OR `CloseTime` IS NULL ) ORDER BY `StartTime`
        ```
    """
    check_tenant_id(tenant)
    own = f"{backquoted(attribute)} = '{tenant}'"
    if scoped_ids:
        own += f" AND `{id_field}` STARTS_WITH '{tenant}:'"
    parts = [f"({own})"]
    # The server puts a schedule query between parentheses of its own, which take no clause; and
    # where it rewrites ScheduleId, it drops ORDER BY without an error.
    parsed = parse_query(query or "", clauses=id_field != "ScheduleId")
    if parsed.condition:
        parts.append(f"AND ({parsed.condition})")
    # GROUP BY must stay outside of the parentheses (T24).
    parts.extend(clause for clause in (parsed.group_by, parsed.order_by) if clause)
    return " ".join(parts)


def is_own_row(tenant: str, row_id: str) -> bool:
    """Check whether a row that the server returned belongs to the tenant.

    Args:
        tenant: A well-formed tenant ID.
        row_id: ID of the row's workflow, schedule or activity on the server.
    """
    return owner_of(row_id) == tenant


class Query(NamedTuple):
    """Parsed query, written again.

    Attributes:
        condition: Condition on the rows; empty for all.
        group_by: Clause of that name, or empty.
        order_by: Clause of that name, or empty.
    """

    condition: str
    group_by: str
    order_by: str


def parse_query(query: str, *, clauses: bool) -> Query:
    """Parse a query and write it again.

    Args:
        query: The caller's text.
        clauses: Whether it may group and order.

    Raises:
        InvalidQueryError: It does not follow the grammar of this module.
    """
    return _Parser(query).parse(clauses=clauses)


MAX_DEPTH: Final = 64
"""Nested parentheses; the server takes 199, and counts each NOT before one, too."""

NAME: Final = "name"
STRING: Final = "string"
NUMBER: Final = "number"
COMPARISON: Final = "comparison"
END: Final = "end"

_VALUES: Final = frozenset({STRING, NUMBER, "TRUE", "FALSE"})
_A_VALUE: Final = "a value: a quoted string, a number, true or false (for null write IS NULL)"
_A_NAME: Final = "a search attribute, such as WorkflowType or `my-attribute`"
_AN_OPERATOR: Final = (
    "an operator: =, !=, <, <=, >, >=, IN, BETWEEN, STARTS_WITH or IS [NOT] NULL"
    " (NOT goes before IN, BETWEEN and STARTS_WITH)"
)


class _Parser:
    def __init__(self, query: str) -> None:
        self._query = query
        self._tokens = tokenize(query)
        self._token = next(self._tokens)
        self._written: list[str] = []

    def parse(self, *, clauses: bool) -> Query:
        if self._token.kind not in {END, "GROUP", "ORDER"}:
            self._condition()
        condition = self._flush()
        if not clauses and self._token.kind in {"GROUP", "ORDER"}:
            problem = "schedules can be neither grouped nor ordered: leave the clause out"
            raise self._refusal(problem)
        if self._take("GROUP"):
            self._expect("BY", "BY after GROUP")
            self._expect(NAME, _A_NAME)
        group_by = self._flush()
        if self._take("ORDER"):
            self._expect("BY", "BY after ORDER")
            self._order()
            while self._take(","):
                self._order()
        order_by = self._flush()
        if self._token.kind != END:
            raise self._refusal(
                "this closes nothing: remove it"
                if self._token.kind == ")"
                else "expected AND, OR, GROUP BY with one attribute, ORDER BY, or the end"
            )
        return Query(condition, group_by, order_by)

    def _condition(self) -> None:
        """Parse without recursion, because the caller chooses the depth."""
        opened: list[Token] = []
        while True:
            self._take("NOT")
            bracket = self._token
            if self._take("("):
                opened.append(bracket)
                if len(opened) > MAX_DEPTH:
                    raise self._refusal(f"more than {MAX_DEPTH} nested parentheses: flatten them")
                continue
            self._predicate()
            while opened and self._take(")"):
                opened.pop()
            if not (self._take("AND") or self._take("OR")):
                break
        if opened and self._token.kind == END:
            problem = "this parenthesis is never closed: close it or remove it"
            raise invalid_query(self._query, opened[-1].position, problem)
        if opened:
            raise self._refusal("expected AND, OR or a closing parenthesis")

    def _predicate(self) -> None:
        self._expect(NAME, _A_NAME)
        if self._take(COMPARISON):
            self._value()
        elif self._take("IS"):
            self._take("NOT")
            self._expect("NULL", "NULL or NOT NULL")
        else:
            self._take("NOT")
            if self._take("IN"):
                self._values()
            elif self._take("BETWEEN"):
                self._value()
                self._expect("AND", "AND and the upper bound")
                self._value()
            elif self._take("STARTS_WITH"):
                self._expect(STRING, "a quoted string")
            else:
                raise self._refusal(f"expected {_AN_OPERATOR}")

    def _values(self) -> None:
        self._expect("(", "a list in parentheses")
        self._value()
        while self._take(","):
            self._value()
        self._expect(")", "a comma or the closing parenthesis of the list")

    def _value(self) -> None:
        if self._token.kind not in _VALUES:
            raise self._refusal(f"expected {_A_VALUE}")
        self._write()

    def _order(self) -> None:
        self._expect(NAME, _A_NAME)
        if not self._take("ASC"):
            self._take("DESC")

    def _take(self, kind: str) -> bool:
        if self._token.kind != kind:
            return False
        self._write()
        return True

    def _expect(self, kind: str, meaning: str) -> None:
        if not self._take(kind):
            raise self._refusal(f"expected {meaning}")

    def _write(self) -> None:
        self._written.append(self._token.written)
        self._token = next(self._tokens)

    def _flush(self) -> str:
        text = " ".join(self._written)
        self._written.clear()
        return text

    def _refusal(self, problem: str) -> InvalidQueryError:
        return invalid_query(self._query, self._token.position, problem)


MAX_QUERY_LENGTH: Final = 65_536
"""Characters of a query; room for some thousand IDs in one `IN (...)`."""

KEYWORDS: Final = frozenset(
    {
        *("AND", "ASC", "BETWEEN", "BY", "DESC", "FALSE", "GROUP", "IN"),
        *("IS", "NOT", "NULL", "OR", "ORDER", "STARTS_WITH", "TRUE"),
    }
)

# Possessive quantifiers, so that no text takes more than linear time.
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
_WRITTEN_AS_READ: Final[Mapping[str, str]] = {"number": NUMBER, "backquoted": NAME, "end": END}
_BLANK: Final = frozenset("\t\r\n")
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs"})
_SHOWN_CHARACTERS: Final = 20


class Token(NamedTuple):
    """Word of a query.

    Attributes:
        kind: `name`, `string`, `number`, `comparison`, `end`, or the keyword or mark itself.
        written: Text to write for it.
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
            f"visibility query of {len(query)} characters, beginning"
            f" {query[:_SHOWN_CHARACTERS]!r}, is too long: shorten it to {MAX_QUERY_LENGTH}, or"
            " split it"
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
        elif group in _WRITTEN_AS_READ:
            yield Token(_WRITTEN_AS_READ[group], text, position)
        else:
            raise _unreadable(query, position, comment=group == "comment")


def backquoted(name: str) -> str:
    """Quote the name of a search attribute.

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
    """Make the error that shows where a query is wrong.

    Args:
        query: The caller's text.
        position: Index of the character that is wrong; its length for the end.
        problem: The problem and how to fix it.
    """
    near = query[position : position + _SHOWN_CHARACTERS]
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
            problem = "stores read a backslash in different ways: leave it out"
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
        problem = "backquotes may contain letters, digits, spaces and any of _ - . : /"
    else:
        problem = "unexpected character: remove it, or quote the value as '...'"
    return invalid_query(query, position, problem)
