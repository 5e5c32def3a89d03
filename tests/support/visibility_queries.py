"""Random visibility queries for hypothesis: valid ones in every spelling, and hostile ones."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

Draw = st.DrawFn
Texts = st.SearchStrategy[str]

HOSTILE = (
    *("/*", "*/", "/* ' */", '/* " */', "/*!", "--", "-- ", "-- '\n", "#", "# '\n", "//", '// "\n'),
    *("'", '"', "`", "''", '""', "``", "\\", "\\'", '\\"', "\\\\", "(", ")", "((", "))", ") OR ("),
    *(";", ",", "?", ":a", "::a", "@@a'", "%", "_", "||", "&&", "<=>", "->", "x'41'", "0x41"),
    *("\0", "\n", "\r", "\t", "\x0b", "\x1b", "\x7f", "\x85", "\u00a0", "\u2028", "\u202e"),
    *("\ufeff", "\u2019", "\uff07", "\u02bc", "\ud800", "é"),
    *(" OR ", " AND ", " NOT ", "NOT (", " BETWEEN ", " IN (", " IS NULL", " LIKE '%'", "EXISTS("),
    *(" UNION SELECT * FROM table1 WHERE ", " HAVING 1 = 1", " LIMIT 1", " ESCAPE '!'", "CASE"),
    *(" ORDER BY ", " GROUP BY ", " GROUP BY ExecutionStatus", "1 = 1", "TRUE", "NULL", "''=''"),
    "TemporalNamespaceDivision IS NOT NULL",
    "TemporalNamespaceDivision = 'TemporalScheduler' OR ",
)
"""Fragments that open, close, hide or join something in some query language."""

_BLANKS = st.sampled_from([" ", "  ", "\n", "\t", " \r\n "])
_GAPS = st.sampled_from(["", " ", "\n"])
_SPELLINGS = st.sampled_from([str.upper, str.lower, str.capitalize])
_CLAUSES = st.sampled_from(["", "", "", "GROUP BY", "ORDER BY", "GROUP BY ORDER BY"])
_DIRECTIONS = st.sampled_from(["", " ASC", " desc", ", `my-attribute`", " DESC, a.b asc"])


@dataclass(frozen=True)
class Attribute:
    """Search attribute, the literals to compare it with, and the operators of its type."""

    name: str
    literals: Texts = field(repr=False)
    prefixes: bool = False
    ranges: bool = False

    @classmethod
    def keyword(cls, name: str, values: Texts) -> "Attribute":
        return cls(name, quoted(values), prefixes=True, ranges=True)


def quoted(values: Texts) -> Texts:
    """The values as string literals, in single or in double quotes."""
    return st.builds(
        lambda quote, value: quote + value.replace(quote, quote * 2) + quote,
        st.sampled_from("'\""),
        values,
    )


def hostile_values(*fragments: str) -> Texts:
    """Text for the inside of a string, without characters that are refused in values."""
    allowed = [text for text in (*HOSTILE, *fragments) if text.isprintable() and "\\" not in text]
    return st.lists(st.sampled_from(allowed), min_size=1, max_size=4).map("".join)


@st.composite
def conditions(draw: Draw, *attributes: Attribute) -> str:
    """Comparisons joined, negated and nested."""
    return _condition(draw, attributes, depth=draw(st.integers(0, 3)))


@st.composite
def queries(draw: Draw, *attributes: Attribute) -> str:
    """A condition, or none, with clauses that no type contradicts."""
    text = draw(st.one_of(conditions(*attributes), st.just("")))
    clauses = draw(_CLAUSES)
    if "GROUP" in clauses:
        text += draw(_BLANKS) + _keyword(draw, "GROUP BY") + " ExecutionStatus"
    if "ORDER" in clauses:
        text += draw(_BLANKS) + _keyword(draw, "ORDER BY") + " StartTime" + draw(_DIRECTIONS)
    return text


@st.composite
def hostile_queries(draw: Draw, *attributes: Attribute, fragments: tuple[str, ...] = ()) -> str:
    """Fragments planted anywhere in a valid query, between two of them, or in a row."""
    fragment = st.sampled_from([*HOSTILE, *fragments])
    valid = conditions(*attributes)
    parts = draw(st.lists(st.one_of(fragment, valid), max_size=4))
    text = " ".join([*parts, draw(valid)]) if draw(st.booleans()) else draw(valid)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(fragment) + text[at:]
    return text


def _condition(draw: Draw, attributes: tuple[Attribute, ...], *, depth: int) -> str:
    shape = draw(st.sampled_from(["simple", "AND", "OR", "brackets"])) if depth else "simple"
    negation = draw(st.sampled_from(["", "", "NOT"]))
    start = _keyword(draw, negation) + draw(_BLANKS)
    if shape == "simple":
        return start + _predicate(draw, draw(st.sampled_from(attributes)))
    left = _condition(draw, attributes, depth=depth - 1)
    if shape == "brackets":
        return f"{start}({draw(_GAPS)}{left}{draw(_GAPS)})"
    right = _condition(draw, attributes, depth=depth - 1)
    return left + draw(_BLANKS) + _keyword(draw, shape) + draw(_BLANKS) + right


def _predicate(draw: Draw, attribute: Attribute) -> str:
    operators = ["=", "!=", "<>", "IN", "IS"]
    operators += ["<", "<=", ">", ">=", "BETWEEN"] if attribute.ranges else []
    operators += ["STARTS_WITH"] if attribute.prefixes else []
    operator = draw(st.sampled_from(operators))
    column = _name(draw, attribute.name)
    literal = draw(attribute.literals)
    if not operator.isidentifier():
        return column + draw(_GAPS) + operator + draw(_GAPS) + literal
    negation = _keyword(draw, draw(st.sampled_from(["", "NOT"])))
    words = [column, negation, _keyword(draw, operator)]
    if operator == "IS":
        words = [column, words[2], negation, _keyword(draw, "NULL")]
    elif operator == "IN":
        more = draw(st.lists(attribute.literals, max_size=2))
        words.append("(" + draw(_GAPS) + ",".join([literal, *more]) + draw(_GAPS) + ")")
    elif operator == "BETWEEN":
        words += [literal, _keyword(draw, "AND"), draw(attribute.literals)]
    else:
        words.append(literal)
    return draw(_BLANKS).join(word for word in words if word)


def _keyword(draw: Draw, word: str) -> str:
    spelled: str = draw(_SPELLINGS)(word)
    return spelled


def _name(draw: Draw, name: str) -> str:
    plain = name.replace("_", "").replace(".", "").isalnum()
    return draw(st.sampled_from([name, f"`{name}`"])) if plain else f"`{name}`"
