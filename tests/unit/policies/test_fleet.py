"""The placement's tree finds what a look at every host would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from commands.scheduler.first_fit import HOST_RESERVE_BYTES, Candidate, Need, choose
from commands.scheduler.fleet import FirstFitTree, Fleet
from commands.state.host import HostState, Identity
from tests.unit.policies.stage import CAPABILITIES

MIB = 1024**2


@given(
    st.lists(st.integers(-1, 50), min_size=1, max_size=70),
    st.lists(st.tuples(st.integers(0, 69), st.integers(-1, 50)), max_size=20),
    st.integers(0, 55),
    st.integers(0, 75),
)
def test_the_first_that_fits_is_found(
    values: list[int], changes: list[tuple[int, int]], least: int, start: int
) -> None:
    tree = FirstFitTree(values)
    for index, value in changes:
        if index < len(values):
            tree.set(index, value)
            values[index] = value
    expected = next((n for n in range(start, len(values)) if values[n] >= least), None)
    assert tree.first(least, start) == expected


def host(number: int, memory_mib: int, *, up: bool = True) -> HostState:
    """A host of a cluster, up or not."""
    return HostState(
        id=f"h{number}",
        name=f"host-{number:03}",
        cluster="c",
        data_center="d",
        address="",
        approved=True,
        identity=Identity(public_key_sha256="", hardware="", signing_request="", token=""),
        session="s" if up else None,
        capabilities=CAPABILITIES.__class__(
            **{
                name: getattr(CAPABILITIES, name)
                for name in CAPABILITIES.__struct_fields__
                if name != "memory_bytes"
            },
            memory_bytes=HOST_RESERVE_BYTES + memory_mib * MIB,
        ),
    )


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.integers(-10, 10)), max_size=20),
    st.integers(0, 45),
    st.booleans(),
)
def test_a_fleet_chooses_as_the_filters_do(
    hosts: list[tuple[int, bool]],
    takes: list[tuple[int, int]],
    need_mib: int,
    late: bool,  # noqa: FBT001 - drawn
) -> None:
    fleet = Fleet()
    states = [host(number, memory, up=up) for number, (memory, up) in enumerate(hosts)]
    need = Need(cluster="c", memory_bytes=need_mib * MIB)
    for state in states:
        fleet.put(state)
        if late:
            fleet.choose(need)
    taken = dict.fromkeys(range(len(states)), 0)
    for number, memory in takes:
        if number < len(states):
            fleet.take(f"h{number}", memory * MIB)
            taken[number] += memory * MIB
    candidates = [
        Candidate(host=state, memory_taken_bytes=taken[number])
        for number, state in enumerate(states)
    ]
    assert fleet.choose(need) == choose(need, candidates)


def test_a_host_that_was_removed_is_not_chosen() -> None:
    fleet = Fleet()
    fleet.put(host(1, 10))
    need = Need(cluster="c", memory_bytes=MIB)
    assert fleet.choose(need).host is not None
    gone = host(1, 10)
    fleet.put(
        HostState(**{n: getattr(gone, n) for n in gone.__struct_fields__} | {"removed": True})
    )
    assert fleet.choose(need).host is None
