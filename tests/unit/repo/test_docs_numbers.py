"""Headers, limits, ports and periods that hand-written pages give are those of the code."""

import re
from pathlib import Path

import pytest

from access import certificates
from access.trust import RENEW_BEFORE
from chronovisor.settings import Settings
from commands.api import answers, application, problems, requests
from commands.gateway.renewal import RENEWAL_DAYS_MAX
from commands.host.token import IssueEnrolmentToken
from commands.remote.steps import MIGRATION_PORT
from commands.state.ssh_work import INSTALL_STEPS
from hostagent import options
from projections.reads import context, lists

DOCS = Path(__file__).resolve().parents[3] / "docs"
SETTINGS = Settings()
SAID: list[tuple[str, str]] = [
    ("http.md", answers.POSITION_HEADER),
    ("http.md", context.POSITION_HEADER),
    ("http.md", context.MIN_POSITION_HEADER),
    ("http.md", problems.REQUEST_ID_HEADER),
    ("http.md", problems.MEDIA_TYPE),
    ("http.md", f"at most {application.BODY_BYTES_MAX // 1024} KiB"),
    ("http.md", f"({requests.WAIT_S_MAX} at most)"),
    ("http.md", f"{lists.LIMIT_DEFAULT} where nothing is said, {lists.LIMIT_MAX:,} at most"),
    ("http.md", f"after {context.BEHIND_TIMEOUT_S:.0f} s"),
    *(("http.md", f"`{name}`") for name in lists.PAGE_PARAMETERS),
    ("operations.md", f"| {SETTINGS.api.port} (`api.port`)"),
    ("operations.md", f"| {SETTINGS.api.port + 1} (`gateway.port`)"),
    ("operations.md", f"| {certificates.CA_VALID_DAYS // 365} years |"),
    ("operations.md", f"| API and gateway | {certificates.SERVER_VALID_DAYS} days |"),
    ("operations.md", f"| host | {certificates.HOST_VALID_DAYS} days |"),
    ("operations.md", f"in the last {RENEW_BEFORE.days} days"),
    ("certificates.md", f"| API and gateway | {certificates.SERVER_VALID_DAYS} days |"),
    ("certificates.md", f"| host | {certificates.HOST_VALID_DAYS} days |"),
    ("certificates.md", f"for {RENEWAL_DAYS_MAX} days.**"),
    ("operations.md", f"for {RENEWAL_DAYS_MAX} days more"),
    ("operations.md", f"`{certificates.CA_KEY_NAME}`"),
    ("operations.md", f"`{certificates.CA_CERTIFICATE_NAME}`"),
    ("operations.md", f"`{certificates.TRUST_BUNDLE_NAME}`"),
]


@pytest.mark.parametrize(("page", "said"), SAID)
def test_the_page_says_what_the_code_does(page: str, said: str) -> None:
    assert said in (DOCS / page).read_text(encoding="utf-8")


def test_a_token_is_good_for_an_hour_by_default() -> None:
    assert IssueEnrolmentToken(id="x").valid_s == 3600
    for page in ("enrolment.md", "threat-model.md"):
        assert "for an hour" in (DOCS / page).read_text(encoding="utf-8")


def test_the_page_on_enrolment_has_the_steps_and_the_port() -> None:
    page = (DOCS / "enrolment.md").read_text(encoding="utf-8")
    table = page.partition("| step | does |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| ([a-z]+) \| ", table, flags=re.MULTILINE)) == INSTALL_STEPS
    assert MIGRATION_PORT == options.MIGRATION_PORT
    assert f"TCP port {MIGRATION_PORT} " in page
