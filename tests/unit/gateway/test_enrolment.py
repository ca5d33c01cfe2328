"""Joining: a token lets one machine in, once; its secret is never in an event."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from access.joining import parse_join_token
from commands.gateway.enrolment import TokenRefused
from commands.host.add import AddHost
from commands.host.approve import ApproveHost
from commands.host.maintenance import MaintainHost
from commands.kernel.refusal import InvalidField, WrongState
from commands.state.host import HostStatus
from events.wire.agent import Join
from tests.unit.gateway.bench import Agent, Bench, der


async def added(bench: Bench, *, approved: bool = True, name: str = "host1") -> str:
    return await bench.do(AddHost(name=name, cluster=bench.cluster, approved=approved))


async def test_a_token_gives_a_certificate_for_the_machines_own_key(bench: Bench) -> None:
    host = await added(bench)
    answer = await bench.join(await bench.token(host), "machine")
    assert (answer.host, answer.name, answer.pending) == (host, "host1", False)
    assert answer.certificate is not None
    assert answer.trust.startswith("-----BEGIN CERTIFICATE-----")
    agent = Agent(host, "machine", der(answer.certificate), bench.engine)
    assert (await agent.say_hello()).status == 200


async def test_the_secret_is_in_no_event(bench: Bench) -> None:
    host = await added(bench)
    text = await bench.token(host)
    await bench.join(text, "machine")
    secret = parse_join_token(text).secret
    stored = b"".join(one.payload for one in await bench.log.read(0, 1_000))
    assert secret.encode() not in stored
    assert bench.secret._enrolment_key not in stored
    assert parse_join_token(text).token_id.encode() in stored
    answers = msgspec.json.encode([a.answer for a in bench.log._answers.values()])
    assert secret.encode() not in answers


async def test_the_same_machine_may_ask_again_with_the_same_token(bench: Bench) -> None:
    """given an answer that was lost, when the machine asks again, then it gets the same"""
    token = await bench.token(await added(bench))
    first = await bench.join(token, "machine")
    names = await bench.names()
    bench.clock.pass_time(100_000)  # even after the token has expired
    assert await bench.join(token, "machine") == first
    assert await bench.names() == names


async def test_a_host_that_was_not_approved_waits(bench: Bench) -> None:
    host = await added(bench, approved=False)
    token = await bench.token(host)
    for _again in range(2):
        answer = await bench.join(token, "machine")
        assert (answer.pending, answer.certificate) == (True, None)
    assert bench.engine.view.hosts[host].status is HostStatus.PENDING_APPROVAL
    await bench.do(ApproveHost(id=host))
    answer = await bench.join(token, "machine")
    assert (answer.pending, answer.certificate is None) == (False, False)
    assert (await bench.names()).count("host.certificate_issued") == 1


async def test_a_token_serves_one_key(bench: Bench) -> None:
    token = await bench.token(await added(bench))
    await bench.join(token, "machine")
    names = await bench.names()
    with pytest.raises(TokenRefused):
        await bench.join(token, "machine", key="stolen")
    assert await bench.names() == names


async def test_a_token_expires(bench: Bench) -> None:
    token = await bench.token(await added(bench), valid_s=60)
    bench.clock.pass_time(61)
    with pytest.raises(TokenRefused):
        await bench.join(token, "machine")


async def test_a_newer_token_ends_the_older(bench: Bench) -> None:
    host = await added(bench)
    older = await bench.token(host)
    newer = await bench.token(host)
    with pytest.raises(TokenRefused):
        await bench.join(older, "machine")
    assert not (await bench.join(newer, "machine")).pending


async def test_a_wrong_secret_is_refused(bench: Bench) -> None:
    host, other = await added(bench), await added(bench, name="host2")
    token = parse_join_token(await bench.token(host))
    secret_of_other = parse_join_token(await bench.token(other)).secret
    forged = f"cvj1.{token.token_id}.{secret_of_other}.{token.ca_fingerprint}"
    with pytest.raises(TokenRefused):
        await bench.join(forged, "machine")
    assert "host.join_requested" not in await bench.names()


@pytest.mark.parametrize("token", ["", "cvj1", "cvj1.a.b.c", "x" * 10_000])
async def test_a_token_that_is_none_is_refused(bench: Bench, token: str) -> None:
    with pytest.raises(TokenRefused):
        await bench.join(token, "machine")


@pytest.mark.parametrize("request_text", ["", "-----BEGIN CERTIFICATE REQUEST-----", "x" * 10_000])
async def test_a_request_that_cannot_be_signed_uses_no_token(
    bench: Bench, request_text: str
) -> None:
    token = await bench.token(await added(bench))
    join = Join(token=token, signing_request=request_text, hardware="h")
    with pytest.raises(InvalidField):
        await bench.enrolment.join(join, bench.source_for("machine"))
    assert "host.join_requested" not in await bench.names()


async def test_a_host_in_service_gets_no_new_token(bench: Bench) -> None:
    agent = await bench.agent()
    with pytest.raises(WrongState):
        await bench.token(agent.host)


async def test_another_machine_takes_a_hosts_place_in_maintenance_only(bench: Bench) -> None:
    """given a host refused as a clone, whose VMs may run, then no other machine speaks for it"""
    agent = await bench.agent()
    assert (await agent.say_hello(hardware="clone")).status == 403
    token = await bench.token(agent.host)
    with pytest.raises(TokenRefused):
        await bench.join(token, "another")
    assert not (await bench.join(token, "host1", key="new key")).pending
    await bench.do(ApproveHost(id=agent.host))
    await bench.do(MaintainHost(id=agent.host))
    await bench.settle()
    answer = await bench.join(await bench.token(agent.host), "another")
    assert answer.certificate is not None
    successor = Agent(agent.host, "another", der(answer.certificate), bench.engine)
    assert (await successor.say_hello()).status == 200
    assert (await agent.say_hello()).status == 403


async def test_a_certificate_runs_out_one_day(bench: Bench) -> None:
    host = await added(bench)
    await bench.join(await bench.token(host), "machine")
    (issued,) = [r.event for r in await bench.history() if r.name == "host.certificate_issued"]
    assert issued.expires - bench.clock.now < dt.timedelta(days=4_000)  # type: ignore[attr-defined]
