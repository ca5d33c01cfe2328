"""The filter grammar: what it takes, what it says of what it does not take, and who is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.types.base import Severity
from notifier.filters import FilterError, Recipient, parse_filter

ANN = Recipient("smtp", "ann@example.org")
BEN = Recipient("smtp", "ben@example.org")
TRAPS = Recipient("snmp", "")


def told(text: str, name: str, severity: Severity) -> set[str]:
    return {str(each) for each in parse_filter(text).told(name, severity)}


def test_a_named_event_goes_to_its_recipient_alone() -> None:
    text = "include:VM_DOWN(smtp:ann@example.org) include:VM_UP(smtp:ben@example.org)"
    assert told(text, "VM_DOWN", Severity.NORMAL) == {str(ANN)}
    assert told(text, "VM_UP", Severity.NORMAL) == {str(BEN)}
    assert told(text, "OTHER", Severity.ALERT) == set()


@pytest.mark.parametrize(
    ("pattern", "severities"),
    [
        ("include:*:WARNING(snmp:)", ["WARNING", "ERROR", "ALERT"]),
        ("include:*:ALERT(snmp:)", ["ALERT"]),
        ("include:*:*(snmp:)", ["NORMAL", "WARNING", "ERROR", "ALERT"]),
        ("exclude:*:WARNING include:*(snmp:)", ["ERROR", "ALERT"]),
        ("exclude:*:ALERT include:*(snmp:)", []),
    ],
)
def test_an_include_takes_what_is_above_and_an_exclude_what_is_below(
    pattern: str, severities: list[str]
) -> None:
    answers = [each.name for each in Severity if told(pattern, "X", each)]
    assert answers == severities


def test_the_first_pattern_that_matches_decides() -> None:
    text = "exclude:VM_DOWN(smtp:ann@example.org) include:*(smtp:ann@example.org) exclude:*"
    assert told(text, "VM_DOWN", Severity.ERROR) == set()
    assert told(text, "VM_UP", Severity.ERROR) == {str(ANN)}


def test_star_and_missing_recipient_stand_for_everyone_named_elsewhere() -> None:
    text = "exclude:A(*) include:*(smtp:ann@example.org) include:*(smtp:ben@example.org)"
    assert told(text, "A", Severity.ERROR) == set()
    assert told(text, "B", Severity.ERROR) == {str(ANN), str(BEN)}
    assert parse_filter("include:*").recipients == ()


@pytest.mark.parametrize("text", ["", "   ", "exclude:*", "include:A exclude:*:NORMAL(*)\n\t"])
def test_what_is_well_formed_is_taken(text: str) -> None:
    parse_filter(text)


@pytest.mark.parametrize(
    ("text", "offset", "reason"),
    [
        ("incude:A", 0, "a pattern begins with 'include:' or 'exclude:'"),
        ("include A", 0, "a pattern begins"),
        ("exclude:* include:(smtp:a@b)", 18, "the name of an event"),
        ("include:A:HIGH", 9, "a severity is one of *, NORMAL, WARNING, ERROR, ALERT"),
        ("include:A:error", 9, "a severity is one of"),
        ("include:A:", 9, "a severity is one of"),
        ("include:A(ann@example.org)", 9, "a recipient is written"),
        ("include:A(smtp:ann@example.org", 9, "a recipient is written"),
        ("include:A(*)exclude:*", 12, "white space"),
        ("include:A;exclude:B", 9, "white space"),
    ],
)
def test_what_is_not_says_where_and_why(text: str, offset: int, reason: str) -> None:
    with pytest.raises(FilterError) as refusal:
        parse_filter(text)
    assert refusal.value.offset == offset
    assert reason in str(refusal.value)
    assert f"character {offset + 1} " in str(refusal.value)


@given(st.text(alphabet="includexclude:*()AB smtp@.ERROR", max_size=60))
def test_any_text_is_taken_or_refused_within_itself(text: str) -> None:
    try:
        parse_filter(text)
        offset = 0
    except FilterError as error:
        offset = error.offset
    assert 0 <= offset <= len(text)


@given(
    st.lists(
        st.builds(
            lambda action, event, severity, who: f"{action}:{event}:{severity}{who}",
            st.sampled_from(["include", "exclude"]),
            st.sampled_from(["*", "A", "B"]),
            st.sampled_from(["*", "NORMAL", "WARNING", "ERROR", "ALERT"]),
            st.sampled_from(["", "(*)", "(smtp:ann@example.org)", "(snmp:)"]),
        ),
        max_size=6,
    ),
    st.sampled_from(["A", "B", "C"]),
    st.sampled_from(list(Severity)),
)
def test_a_leading_exclude_of_everything_silences_everyone(
    patterns: list[str], name: str, severity: Severity
) -> None:
    parsed = parse_filter(" ".join(patterns))
    assert set(parsed.told(name, severity)) <= set(parsed.recipients)
    assert told(" ".join(["exclude:*", *patterns]), name, severity) == set()
