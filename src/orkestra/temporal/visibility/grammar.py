"""The sentences of the visibility query language that are allowed.

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

What binds tighter than what is the server's to decide: the condition is written inside
parentheses of ours, and its own are balanced, so no reading of it reaches out of them.
"""

from typing import Final, NamedTuple

from orkestra.errors import InvalidQueryError
from orkestra.temporal.visibility.lexer import (
    COMPARISON,
    END,
    NAME,
    NUMBER,
    STRING,
    Token,
    invalid_query,
    tokenize,
)

MAX_DEPTH: Final = 64
"""Parentheses inside one another; the server takes 199, and counts each NOT before one, too."""

_VALUES: Final = frozenset({STRING, NUMBER, "TRUE", "FALSE"})
_A_VALUE: Final = "a value: a quoted string, a number, true or false (for null write IS NULL)"
_A_NAME: Final = "a search attribute, such as WorkflowType or `my-attribute`"
_AN_OPERATOR: Final = (
    "an operator: =, !=, <, <=, >, >=, IN, BETWEEN, STARTS_WITH or IS [NOT] NULL"
    " (NOT goes before IN, BETWEEN and STARTS_WITH)"
)


class Query(NamedTuple):
    """A query written anew.

    Attributes:
        condition: What rows it selects; empty for all.
        group_by: Its clause of that name, or empty.
        order_by: Its clause of that name, or empty.
    """

    condition: str
    group_by: str
    order_by: str


def parse_query(query: str, *, clauses: bool) -> Query:
    """Parse a query and write it anew.

    Args:
        query: The caller's text.
        clauses: Whether it may group and order.

    Raises:
        InvalidQueryError: The grammar of this module does not have it.
    """
    return _Parser(query).parse(clauses=clauses)


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
            raise self._refusal(
                "schedules can be neither grouped nor ordered: leave the clause out"
            )
        self._group_by()
        group_by = self._flush()
        self._order_by()
        order_by = self._flush()
        if self._token.kind != END:
            raise self._refusal(
                "this closes nothing: remove it"
                if self._token.kind == ")"
                else "expected AND, OR, GROUP BY with one attribute, ORDER BY, or the end"
            )
        return Query(condition, group_by, order_by)

    def _condition(self) -> None:
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

    def _group_by(self) -> None:
        if self._take("GROUP"):
            self._expect("BY", "BY after GROUP")
            self._expect(NAME, _A_NAME)

    def _order_by(self) -> None:
        if self._take("ORDER"):
            self._expect("BY", "BY after ORDER")
            self._order()
            while self._take(","):
                self._order()

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
