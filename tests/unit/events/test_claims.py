"""The table of claims equals the fold of the events, whatever commands come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.claims import Claim, Mode, amount, check, exclusive, release, shared
from events.log.claims import ClaimTable, Holding, Kind, Need, Plan, plan

KEYS = st.sampled_from(["a", "b"])
HOLDERS = st.sampled_from(["vm/1", "vm/2", "vm/3"])
CLAIMS = st.builds(
    Claim,
    key=KEYS,
    holder=HOLDERS,
    mode=st.sampled_from(Mode),
    amount=st.integers(0, 4),
    limit=st.integers(4, 6),
)
COMMANDS = st.lists(st.lists(CLAIMS, max_size=5), max_size=25)

Rows = dict[tuple[str, str], Holding]


def refuses(rows: Rows, claim: Claim) -> bool:
    """The rules of one claim, said plainly and apart from the code under test."""
    others = {holder: held for (key, holder), held in rows.items() if key == claim.key}
    others.pop(claim.holder, None)
    taken_alone = any(held.mode is Mode.EXCLUSIVE for held in others.values())
    match claim.mode:
        case Mode.RELEASE:
            return False
        case Mode.EXCLUSIVE:
            return bool(others)
        case Mode.SHARED | Mode.CHECK:
            return taken_alone
        case Mode.AMOUNT:
            total = claim.amount + sum(held.amount for held in others.values())
            return taken_alone or total > claim.limit


def fold(rows: Rows, claims: list[Claim]) -> Rows | None:
    """The rows after a command, claim by claim; None if a claim is refused."""
    rows = dict(rows)
    for claim in claims:
        if refuses(rows, claim):
            return None
        if claim.mode is Mode.RELEASE:
            rows.pop((claim.key, claim.holder), None)
        elif claim.mode is not Mode.CHECK:
            taken = claim.amount if claim.mode is Mode.AMOUNT else 0
            rows[claim.key, claim.holder] = Holding(claim.mode, taken)
    return rows


@given(COMMANDS)
def test_the_table_equals_the_fold_claim_by_claim(commands: list[list[Claim]]) -> None:
    table = ClaimTable()
    rows: Rows = {}
    for claims in commands:
        planned = plan(claims)
        after = fold(rows, claims)
        assert (table.obstacle(planned.needs) is None) == (after is not None)
        if after is not None:
            table.apply(planned.effects)
            rows = after
        assert table.rows() == rows


def test_no_claims_need_and_leave_nothing() -> None:
    assert plan(()) == Plan((), ())


def test_a_release_and_a_take_of_one_key_come_to_a_take() -> None:
    planned = plan([release("a", "vm/1"), exclusive("a", "vm/1")])
    assert planned.needs == (Need("a", Kind.FREE, ("vm/1",)),)
    assert [(effect.holder, effect.holding) for effect in planned.effects] == [
        ("vm/1", Holding(Mode.EXCLUSIVE))
    ]


def test_a_take_and_a_release_still_need_what_the_take_needed() -> None:
    planned = plan([exclusive("a", "vm/1"), release("a", "vm/1")])
    assert planned.needs == (Need("a", Kind.FREE, ("vm/1",)),)
    assert [effect.holding for effect in planned.effects] == [None]


def test_amounts_of_two_holders_in_one_command_are_added_up() -> None:
    planned = plan([amount("a", "vm/1", 3, 5), amount("a", "vm/2", 3, 5)])
    assert ClaimTable().obstacle(planned.needs) is not None


def test_a_check_leaves_no_effect() -> None:
    assert (
        plan([check("a", "vm/1"), shared("b", "vm/1")]).effects
        == plan([shared("b", "vm/1")]).effects
    )


def test_a_negative_amount_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="negative"):
        plan([amount("a", "vm/1", -1, 5)])
