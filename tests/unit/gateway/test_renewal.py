"""Renewal: who gets which certificate, until when, and which of them count meanwhile."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from cryptography import x509

from access import succession
from access.host_keys import make_host_key_and_request
from commands.gateway.renewal import RENEW_PATH, RENEWAL_DAYS_MAX
from commands.host.maintenance import MaintainHost
from commands.host.remove import RemoveHost
from events.wire.agent import Renew, RenewAnswer
from tests.unit.gateway.bench import Agent, Answer, Bench, der

DAY_S = 86_400.0


async def ask(bench: Bench, agent: Agent, key: str = "host1") -> Answer:
    """Ask for the certificate to use, with the key of a machine."""
    request = make_host_key_and_request(bench.folder / f"key-{key}", "host")
    body = msgspec.json.encode(Renew(signing_request=request.decode()))
    answer = await agent.ask("POST", RENEW_PATH, content=body)
    await bench.seen()
    return answer


async def renewed(bench: Bench, agent: Agent) -> bytes:
    """Return the certificate (DER) that the engine wants the host to use."""
    answer = await ask(bench, agent)
    assert answer.status == 200, answer.body
    return der(msgspec.convert(answer.body, RenewAnswer).certificate)


def end_of(certificate: bytes) -> dt.datetime:
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


async def test_a_young_certificate_is_the_one_to_use(bench: Bench) -> None:
    agent = await bench.agent()
    names = await bench.names()

    bench.clock.pass_time(200 * DAY_S)

    assert await renewed(bench, agent) == agent.certificate
    assert await bench.names() == names


async def test_a_certificate_is_renewed_with_a_third_of_its_time_left(bench: Bench) -> None:
    agent = await bench.agent()
    bench.clock.pass_time(250 * DAY_S)

    newer = await renewed(bench, agent)

    assert newer != agent.certificate
    assert end_of(newer) - bench.clock.now == dt.timedelta(days=365)
    assert (await bench.names())[-1] == "host.certificate_issued"


async def test_an_answer_that_was_lost_is_given_again(bench: Bench) -> None:
    agent = await bench.agent()
    bench.clock.pass_time(250 * DAY_S)
    newer = await renewed(bench, agent)

    bench.clock.pass_time(60)

    assert await renewed(bench, agent) == newer
    assert (await bench.names()).count("host.certificate_issued") == 2


async def test_the_old_certificate_counts_until_the_new_one_was_shown(bench: Bench) -> None:
    """given a renewal, when the host dies before it stored it, then it is still heard"""
    agent = await bench.agent()
    bench.clock.pass_time(250 * DAY_S)
    old, newer = agent.certificate, await renewed(bench, agent)

    assert (await agent.poll()).status == 204
    assert (await agent.say_hello()).status == 200

    agent.certificate = newer
    assert (await agent.poll()).status == 204  # in the session that the old one began
    await bench.seen()
    assert (await bench.names())[-1] == "host.certificate_taken_up"
    agent.certificate = old
    assert (await agent.poll()).problem == "not-your-host"
    assert (await agent.say_hello()).problem == "not-your-host"


async def test_a_hello_takes_the_new_certificate_up(bench: Bench) -> None:
    agent = await bench.agent()
    bench.clock.pass_time(250 * DAY_S)
    agent.certificate = await renewed(bench, agent)

    assert (await agent.say_hello()).status == 200

    assert (await bench.names())[-2:] == ["host.certificate_taken_up", "host.session_started"]


async def test_any_certificate_of_the_hosts_key_can_be_renewed(bench: Bench) -> None:
    """given a host put back to an older state of its disk, when it asks, then it gets the newest"""
    agent = await bench.agent()
    first = agent.certificate
    bench.clock.pass_time(250 * DAY_S)
    agent.certificate = await renewed(bench, agent)
    assert (await agent.say_hello()).status == 200
    await bench.seen()
    newest, agent.certificate = agent.certificate, first

    assert await renewed(bench, agent) == newest


async def test_an_expired_certificate_is_renewed_for_90_days(bench: Bench) -> None:
    agent = await bench.agent()
    bench.clock.now = end_of(agent.certificate) + dt.timedelta(days=RENEWAL_DAYS_MAX)

    assert end_of(await renewed(bench, agent)) > bench.clock.now

    bench.clock.pass_time(1)
    assert (await ask(bench, agent)).problem == "renewal-too-late"


async def test_another_key_gets_nothing(bench: Bench) -> None:
    agent = await bench.agent()
    bench.clock.pass_time(250 * DAY_S)

    assert (await ask(bench, agent, key="stranger")).problem == "invalid-field"


async def test_the_key_that_another_machine_took_the_place_of_gets_nothing(bench: Bench) -> None:
    agent = await bench.agent()
    await bench.do(MaintainHost(id=agent.host))
    await bench.settle()
    await bench.join(await bench.token(agent.host), "machine2")

    assert (await ask(bench, agent)).problem == "not-your-host"


async def test_a_removed_host_gets_nothing(bench: Bench) -> None:
    agent = await bench.agent()
    await bench.do(MaintainHost(id=agent.host))
    await bench.settle()
    await bench.do(RemoveHost(id=agent.host))
    await bench.seen()

    assert (await ask(bench, agent)).problem == "not-your-host"


async def test_two_machines_of_one_identity_get_nothing(bench: Bench) -> None:
    agent = await bench.agent()
    assert (await agent.say_hello(hardware="another")).problem == "cloned-identity"
    await bench.seen()

    assert (await ask(bench, agent)).problem == "cloned-identity"


@pytest.mark.parametrize("request_text", ["", "nonsense", "x" * 10_000])
async def test_nonsense_is_refused(bench: Bench, request_text: str) -> None:
    agent = await bench.agent()
    body = msgspec.json.encode(Renew(signing_request=request_text))
    answer = await agent.ask("POST", RENEW_PATH, content=body)
    assert answer.problem == "invalid-field"


async def test_hosts_move_to_the_ca_that_replaces_theirs(bench: Bench) -> None:
    agent = await bench.agent()
    folder = bench.folder / "ca"
    successor = succession.begin(folder, bench.clock.now)
    assert bench.authorities.refresh()

    newer = await renewed(bench, agent)

    assert successor.issued(x509.load_der_x509_certificate(newer))
    answer = msgspec.convert((await ask(bench, agent)).body, RenewAnswer)
    assert len(x509.load_pem_x509_certificates(answer.trust.encode())) == 2


async def test_whoever_may_speak_no_more_is_told_of(bench: Bench) -> None:
    barred: list[str] = []
    bench.engine.view.on_barred = barred.append
    agent, other = await bench.agent("host1"), await bench.agent("host2")

    await bench.do(MaintainHost(id=agent.host))
    await bench.settle()
    assert barred == []
    await bench.do(RemoveHost(id=agent.host))
    await bench.seen()
    assert barred == [agent.host]
    await other.say_hello(hardware="another")
    await bench.seen()
    assert barred == [agent.host, other.host]
