"""Scoped list and count queries: the grammar, the rewritten text, and refusals."""

import timeit
import unicodedata
from time import process_time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orkestra.errors import InvalidQueryError, InvalidTenantError, TenantError
from orkestra.temporal.guard.query import (
    MAX_DEPTH,
    MAX_QUERY_LENGTH,
    is_own_row,
    scope_query,
    tokenize,
)
from tests.support.visibility_queries import (
    Attribute,
    conditions,
    hostile_queries,
    hostile_values,
    queries,
)
from tests.support.visibility_reader import UnreadableError, read

SCOPE = "(`tenantId` = 'acme' AND `WorkflowId` STARTS_WITH 'acme:')"
SCOPE_TREE = read(SCOPE).condition

FOREIGN = ["tenantId = 'beta'", "WorkflowId STARTS_WITH 'beta:'", ") OR (tenantId='beta'", "beta"]

values = st.one_of(st.text(st.characters(codec="utf-8"), max_size=8), hostile_values(*FOREIGN))
printable = values.filter(
    lambda value: (
        "\\" not in value
        and not {unicodedata.category(char) for char in value} & {"Cc", "Cf", "Cs"}
    )
)
numbers = st.sampled_from(["0", "7", "-5", "+5", "1.5", "-1.5", ".5", "2.", "1e3", "-1E-3", "007"])
ATTRIBUTES = (
    Attribute.keyword("WorkflowType", printable),
    Attribute.keyword("my-attribute", printable),
    Attribute.keyword("nested.name", printable),
    Attribute.keyword("tenantId", st.sampled_from(["acme", "beta", "*"])),
    Attribute("HistoryLength", numbers, ranges=True),
    Attribute("Paused", st.sampled_from(["true", "FALSE"])),
)


def scoped(text, *, id_field="WorkflowId"):
    return scope_query(text, tenant="acme", attribute="tenantId", id_field=id_field)


def refusal(text, **options):
    with pytest.raises(InvalidQueryError) as caught:
        scoped(text, **options)
    return str(caught.value)


def stays_inside(text):
    """Check that the server parses the scope around the same condition as in the text alone."""
    asked, reading = read(text), read(scoped(text))
    inner = SCOPE_TREE if asked.condition is None else reading.condition
    if asked.condition is not None:
        inner = ("and", SCOPE_TREE, ("parentheses", asked.condition))
    return reading == asked._replace(condition=inner)


@pytest.mark.parametrize("nothing", [None, "", " ", "\n\t "])
def test_an_empty_query_becomes_the_scope_alone(nothing):
    assert scoped(nothing) == SCOPE


@pytest.mark.parametrize("id_field", ["WorkflowId", "ScheduleId", "ActivityId"])
def test_the_scope_names_the_tenant_and_the_prefix_of_its_ids(id_field):
    expected = f"(`tenantId` = 'acme' AND `{id_field}` STARTS_WITH 'acme:')"
    assert scoped("", id_field=id_field) == expected
    assert scoped("a = 1", id_field=id_field) == f"{expected} AND (`a` = 1)"


def test_with_global_ids_the_scope_is_the_attribute_alone():
    text = scope_query(
        "a = 1", tenant="acme", attribute="team", id_field="WorkflowId", scoped_ids=False
    )
    assert text == "(`team` = 'acme') AND (`a` = 1)"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("WorkflowType='Order'", "`WorkflowType` = 'Order'"),
        ('WorkflowType = "Order"', "`WorkflowType` = 'Order'"),
        ("a <> 1", "`a` != 1"),
        ("a>=-1.5e3", "`a` >= -1.5e3"),
        ("a = true or b=FALSE", "`a` = TRUE OR `b` = FALSE"),
        ("`my-attr` in ('x',\"y\")", "`my-attr` IN ( 'x' , 'y' )"),
        ("a not in (1)", "`a` NOT IN ( 1 )"),
        ("a between 1 and 2 and b=3", "`a` BETWEEN 1 AND 2 AND `b` = 3"),
        ("a NOT BETWEEN 1 AND 2", "`a` NOT BETWEEN 1 AND 2"),
        ("a starts_with 'x'", "`a` STARTS_WITH 'x'"),
        ("a not starts_with 'x'", "`a` NOT STARTS_WITH 'x'"),
        ("a is null AND b IS\nNOT\tNULL", "`a` IS NULL AND `b` IS NOT NULL"),
        ("not(not a=1 and (b=2))", "NOT ( NOT `a` = 1 AND ( `b` = 2 ) )"),
        ("a='x'AND(b='y')", "`a` = 'x' AND ( `b` = 'y' )"),
        ("nested.name = 1", "`nested.name` = 1"),
        ("`x y` = 1 or `ünï:a/b` = 1", "`x y` = 1 OR `ünï:a/b` = 1"),
        ("limit = 1 OR union = 2", "`limit` = 1 OR `union` = 2"),
        ("tenantId = 'beta'", "`tenantId` = 'beta'"),
    ],
)
def test_a_condition_is_rewritten_inside_parentheses(text, written):
    assert scoped(text) == f"{SCOPE} AND ({written})"


@pytest.mark.parametrize(
    ("literal", "written"),
    [
        ("'it''s'", "'it''s'"),
        ('"it\'s"', "'it''s'"),
        ("'a\"b'", "'a\"b'"),
        ('"a""b"', "'a\"b'"),
        ("''", "''"),
        ('""', "''"),
        ("''''", "''''"),
        ("\"''\"", "''''''"),
        ("'/* -- # // ; ? %'", "'/* -- # // ; ? %'"),
        ("'naïve “q” 東京'", "'naïve “q” 東京'"),
    ],
)
def test_a_string_is_decoded_and_quoted_again(literal, written):
    assert scoped(f"a = {literal}") == f"{SCOPE} AND (`a` = {written})"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("GROUP BY ExecutionStatus", "GROUP BY `ExecutionStatus`"),
        ("order by a", "ORDER BY `a`"),
        ("a=1 order by b desc, c asc, d", "AND (`a` = 1) ORDER BY `b` DESC , `c` ASC , `d`"),
        ("a=1 group by b order by c", "AND (`a` = 1) GROUP BY `b` ORDER BY `c`"),
    ],
)
def test_clauses_follow_the_parentheses(text, written):
    assert scoped(text) == f"{SCOPE} {written}"


@pytest.mark.parametrize("clause", ["GROUP BY ExecutionStatus", "ORDER BY ScheduleId"])
def test_schedules_are_neither_grouped_nor_ordered_since_the_server_does_neither(clause):
    assert "schedules can be neither grouped nor ordered" in refusal(clause, id_field="ScheduleId")
    assert "schedules" in refusal(f"tenantId = 'acme' {clause}", id_field="ScheduleId")


def test_scoping_again_for_another_tenant_selects_no_rows():
    twice = scope_query(scoped("a = 1"), tenant="beta", attribute="tenantId", id_field="WorkflowId")
    tree = read(twice).condition
    beta = read("(tenantId = 'beta' AND WorkflowId STARTS_WITH 'beta:')").condition
    assert tree == ("and", beta, ("parentheses", read(scoped("a = 1")).condition))


@given(queries(*ATTRIBUTES))
def test_a_valid_query_is_read_by_the_server_as_it_was_inside_the_scope(text):
    assert stays_inside(text)


@given(queries(*ATTRIBUTES))
def test_a_scoped_query_can_be_parsed_again(text):
    assert stays_inside(scoped(text))


@given(hostile_queries(*ATTRIBUTES, fragments=tuple(FOREIGN)))
def test_a_hostile_query_is_refused_or_stays_inside_the_scope(text):
    message = _refused(text)
    assert stays_inside(text) if message is None else message.isprintable()


@given(st.text(st.sampled_from("'\"`\\ ()=,-#/*;aORrXx0\n"), max_size=30))
def test_random_punctuation_is_refused_or_stays_inside_the_scope(text):
    assert _refused(text) or stays_inside(text)


@given(conditions(*ATTRIBUTES), st.data())
def test_a_query_that_lost_a_quote_or_a_parenthesis_is_refused_or_stays_inside(text, data):
    marks = [position for position, char in enumerate(text) if char in "()'\"`"]
    assume(marks)
    lost = data.draw(st.sampled_from(marks))
    shorter = text[:lost] + text[lost + 1 :]
    assert _refused(shorter) or stays_inside(shorter)


@pytest.mark.parametrize(
    "attack",
    [
        "WorkflowType='t' /* ' */ ) OR (tenantId='beta' /* ' */",
        "WorkflowType='t' -- ' \n ) OR (tenantId='beta' -- '",
        "WorkflowType='t' # ' \n ) OR (tenantId='beta' # '",
        "WorkflowType='t' // ' \n ) OR (tenantId='beta' // '",
        "WorkflowType='t' /*! OR tenantId='beta' */",
        "a = 1 /",
        "a = 1--1",
        "`a--b` = 1",
        "`a//b` = 1",
    ],
)
def test_a_comment_cannot_hide_an_unbalanced_parenthesis(attack):
    refusal(attack)


@pytest.mark.parametrize(
    ("attack", "problem"),
    [
        ("a = 'x') OR (tenantId = 'beta'", "this closes nothing"),
        ("a = 1)", "this closes nothing"),
        ("(a = 1", "never closed"),
        ("((a = 1)", "never closed"),
        ("()", "expected a search attribute"),
        ("a = 'x", "does not end on its line"),
        ('a = "x', "does not end on its line"),
        ("a = 'x\"", "does not end on its line"),
        ("a = 'x\ny'", "does not end on its line"),
        ("a = 'x' 'y'", "expected AND, OR, GROUP BY"),
        ("a = 'it's'", "expected AND, OR, GROUP BY"),
        ("`a = 1", "backquotes may contain"),
        ("`` = 1", "backquotes may contain"),
        ("`a``b` = 1", "expected an operator"),
        ("`a'b` = 1", "backquotes may contain"),
        ("`@@a'b` = 1", "backquotes may contain"),
    ],
)
def test_an_unbalanced_query_is_refused(attack, problem):
    assert problem in refusal(attack)


@pytest.mark.parametrize(
    "attack",
    [
        *("a = 'x\\'", "a = 'x\\' OR tenantId = ''beta'", "a = \\'x\\'", "\\"),
        *("a = 'x\0y'", "a = 1\0", "a = 'x\x1b[2J'", "a = 1\x0b", "a = 'x\x85'", "a = 'x\x7f'"),
        *("a = '\u202ex'", "a = 1\u200b", "\ufeffa = 1", "a = '\ud800'", "a = 'x\u00ad'"),
    ],
)
def test_backslashes_and_invisible_characters_are_refused_and_shown_escaped(attack):
    message = refusal(attack)
    assert "backslash" in message or "control, format or surrogate" in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "attack",
    [
        *("a = 1;", "a = 1; DROP TABLE executions", "a = 1 UNION SELECT * FROM t", "a=1 LIMIT 1"),
        *(
            "a = 1 HAVING b = 1",
            "a = 1 FOR UPDATE",
            "EXISTS(SELECT 1)",
            "a LIKE 'x%'",
            "a REGEXP 'x'",
        ),
        *("a = b", "1 = 1", "'x' = a", "TRUE", "a", "NOT a", "(a) = 1", "a = (1)", "a = 1 + 1"),
        *("a <=> 1", "a = 1 && b = 2", "a = 1 || b = 2", "a = !1", "a = ~1", "a == 1", "a =< 1"),
        *("a = x'41'", "a = 0x41", "a = b'1'", "a = :v", "a = ?", "a = @@a", "a@b = 1", "a = 1e"),
        *(
            "a = 5x",
            "a = 5AND b = 2",
            "a = - 1",
            "a = ++1",
            "a = 1.2.3",
            "a. b = 1",
            ".a = 1",
            "a = \u2018x\u2019",
        ),
        *(
            "a = NULL",
            "a IN ()",
            "a IN (b)",
            "a IN (1,)",
            "a IN 1",
            "a IN (SELECT 1)",
            "a BETWEEN 1",
        ),
        *("a BETWEEN 1 OR 2", "a STARTS_WITH 1", "a STARTS_WITH b", "a IS TRUE", "a IS 1"),
        *(
            "a = 1 OR",
            "OR a = 1",
            "a = 1 AND AND b = 2",
            "a = 1 b = 2",
            "f(a) = 1",
            "a = f(1)",
            "*",
        ),
        *("NOT NOT a = 1", "GROUP BY", "GROUP a", "GROUP BY a, b", "GROUP BY 1", "ORDER BY", "AND"),
        *("ORDER BY a b", "ORDER BY a,", "ORDER BY a GROUP BY b", "(GROUP BY a)", "naïve = 1"),
        *("a = 1 (ORDER BY b)", "ORDER BY a; a"),
    ],
)
def test_a_query_outside_the_grammar_is_refused(attack):
    refusal(attack)


def test_an_error_is_one_line_with_position_text_and_fix():
    message = refusal("WorkflowType = 'Order' -- all of\nthem")
    assert message == (
        "visibility query refused at character 24, near '-- all of\\nthem':"
        " comments are not allowed: remove it, or quote the value that it belongs to"
    )
    assert "at its end: expected a value" in refusal("WorkflowType = ")


def test_an_invalid_query_is_a_tenant_error_and_a_value_error():
    assert issubclass(InvalidQueryError, TenantError)
    assert issubclass(InvalidQueryError, ValueError)


@pytest.mark.parametrize("tenant", ["Acme", "", "a' OR 'a' = 'a", "temporal-sys", "acme:x"])
def test_a_malformed_tenant_is_refused(tenant):
    with pytest.raises(InvalidTenantError):
        scope_query("", tenant=tenant, attribute="tenantId", id_field="WorkflowId")


@pytest.mark.parametrize("attribute", ["", "a`b", "a' = '", "a--b", "a\nb"])
def test_an_attribute_that_cannot_be_quoted_is_refused(attribute):
    with pytest.raises(InvalidQueryError, match="search attribute"):
        scope_query("", tenant="acme", attribute=attribute, id_field="WorkflowId")


def test_the_depth_of_parentheses_is_limited():
    nested = "(" * MAX_DEPTH + "a = 1" + ")" * MAX_DEPTH
    assert stays_inside(nested)
    assert f"more than {MAX_DEPTH} nested" in refusal(f"({nested})")


def test_the_length_of_a_query_is_limited():
    padding = "x" * (MAX_QUERY_LENGTH - len("a = ''"))
    assert scoped(f"a = '{padding}'")
    message = refusal(f"a = '{padding}x'")
    assert "65537 characters" in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "flood",
    [
        *("(", "'", '"', "`", "''", "a.", "a ", "1", ".", " ", "-", "a=1 or ", "NOT ", "/", "é"),
        *("a='", "a=''", 'a="', "a in (", "x'", "`a", "\n", "\t'", "1e", "(a=1)"),
    ],
)
def test_parsing_time_is_linear_in_the_length(flood):
    def seconds(length):
        text = flood * (length // len(flood))
        return min(timeit.repeat(lambda: _refused(text), timer=process_time, number=1, repeat=3))

    assert seconds(MAX_QUERY_LENGTH) < 40 * seconds(MAX_QUERY_LENGTH // 8) + 0.05


def test_parsing_costs_a_small_multiple_of_splitting_into_tokens():
    text = (
        "WorkflowType = 'Order' AND ExecutionStatus IN ('Running', \"Failed\")"
        " AND NOT (TaskQueue = 'x' OR CloseTime IS NULL)"
    )
    parsing = min(timeit.repeat(lambda: scoped(text), timer=process_time, number=200, repeat=5))
    splitting = min(
        timeit.repeat(lambda: list(tokenize(text)), timer=process_time, number=200, repeat=5)
    )
    assert parsing < 4 * splitting


@pytest.mark.parametrize(
    ("row", "own"),
    [
        *(("acme:order-1", True), ("acme:beta:order-1", True), ("acme:", True)),
        *(("Acme:order-1", False), ("beta:order-1", False), ("acmex:order-1", False)),
        *(("acme", False), ("", False), (":order-1", False), (" acme:order-1", False)),
        ("temporal-sys-scheduler:acme:nightly", False),
    ],
)
def test_a_row_belongs_to_the_tenant_of_its_exact_prefix(row, own):
    assert is_own_row("acme", row) is own


def test_the_reader_of_these_tests_sees_the_comments_that_the_server_sees():
    assert read("a = 1 /* ' */ OR b = 2 -- '").condition == read("a = 1 OR b = 2").condition
    assert read("a = 1 # x\n OR b = 2 // y").condition == read("a = 1 OR b = 2").condition
    with pytest.raises(UnreadableError):
        read("a = 'x\\'")


def _refused(text):
    try:
        scoped(text)
    except InvalidQueryError as error:
        return str(error)
    return None
