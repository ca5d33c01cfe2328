"""Answers to accepted commands: what is stored with the events, made fit for HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from starlette.responses import Response

from commands.api.endings import Ending
from commands.kernel.command import Declaration
from commands.kernel.handler import Accepted
from events.types.operation import Outcome

POSITION_HEADER = "Chronovisor-Position"
OPERATIONS_PATH = "/v1/operations"
OK, CREATED, ACCEPTED = 200, 201, 202


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The command is done; `id` names the object that it was about."""

    id: str


class OperationLink(msgspec.Struct, frozen=True, kw_only=True):
    """The operation that carries the command out, and where it can be read."""

    id: str
    href: str


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """The command is accepted, and its operation is under way."""

    id: str
    operation: OperationLink


class EndedOperation(msgspec.Struct, frozen=True, kw_only=True):
    """The operation, which has ended within the time that the client wanted to wait."""

    id: str
    href: str
    outcome: Outcome
    reason: str


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The command is accepted, and its operation has ended: `outcome` says how."""

    id: str
    operation: EndedOperation


class TokenIssued(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolment token: `token` is the text for `chronovisor agent join`; it holds a secret."""

    id: str
    token_id: str
    expires: dt.datetime
    token: str


_decoder = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


def stored_fields(accepted: Accepted) -> dict[str, Any]:
    """Return the fields of the stored answer."""
    return _decoder.decode(accepted.answer)


def answer(
    declaration: Declaration,
    fields: dict[str, Any],
    position: int,
    ending: Ending | None,
    wait_s: int | None,
) -> Response:
    """Return the answer of an accepted command; `wait_s` is the wait that was granted."""
    headers = {POSITION_HEADER: str(position)}
    status = CREATED if declaration.creates else OK
    operation: str | None = fields.get("operation")
    if declaration.creates:
        headers["Location"] = f"{declaration.path}/{fields['id']}"
    if operation is not None:
        href = f"{OPERATIONS_PATH}/{operation}"
        link: dict[str, str] = {"id": operation, "href": href}
        if ending is None:
            status = ACCEPTED
            headers["Location"] = href
        else:
            link |= {"outcome": ending.outcome, "reason": ending.reason}
            status = status if ending.outcome == Outcome.SUCCEEDED else OK
        fields["operation"] = link
        if wait_s is not None:
            headers["Preference-Applied"] = f"wait={wait_s}"
    return Response(
        _encoder.encode(fields),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )
