"""Asking the engine over HTTP."""

from __future__ import annotations

import contextlib
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import msgspec

from chronovisor.cli.exits import CliError, Exit, Refused

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
WAIT_S_MAX = 60
ATTEMPTS_MAX = 4
RETRY_S = 0.5
SETTLE_TIMEOUT_S = 4.0
PAGE_ITEMS = 500
POLL_S_MAX = 2.0
POSITION_HEADER = "Chronovisor-Position"
MIN_POSITION_HEADER = "Chronovisor-Min-Position"
UNAVAILABLE = 503
Json = dict[str, Any]


class Engine:
    """The engine at a URL. A command is repeated under one key where the network fails."""

    def __init__(
        self,
        url: str,
        token: str | None,
        authority: Path | None,
        *,
        timeout_s: float | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CliError(f"{url!r} is no URL such as https://engine:8800", Exit.USAGE)
        self._url = url
        # With a time-out of its own, it is one attempt: somebody waits for each key typed.
        self._timeout_s = timeout_s
        self._attempts_max = ATTEMPTS_MAX if timeout_s is None else 1
        headers = {"Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            verify=_trust(authority) if parts.scheme == "https" else False,
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Json:
        """Return a document."""
        found: Json = self._send("GET", path, parameters=parameters)[1]
        return found

    def items(self, path: str, parameters: Mapping[str, str], limit: int) -> list[Json]:
        """Return a list's items, page by page, `limit` of them at most."""
        found: list[Json] = []
        page = self.get(path, {**parameters, "limit": str(min(limit, PAGE_ITEMS))})
        while True:
            found += page["items"]
            if len(found) >= limit or not page["next"]:
                return found[:limit]
            page = self.get(page["next"])

    def id_of(self, collection: str, one: str, given: str) -> str:
        """Return the id of an object given by its name or id."""
        if _is_id(given):
            return given
        if collection == "operations":
            raise CliError(f"{given!r} is no operation's id", Exit.USAGE)
        if not given or "*" in given:
            raise CliError(f"{given!r} is no name of a {one}", Exit.USAGE)
        page = self.get(f"/v1/{collection}", {"name": given, "fields": "id,name"})
        found = page["items"]
        if not found:
            raise CliError(f"There is no {one} with the name {given}.", Exit.REFUSED)
        if len(found) > 1:
            ids = ", ".join(item["id"] for item in found)
            raise CliError(f"Several have the name {given}: {ids}. Give the id.", Exit.USAGE)
        return str(found[0]["id"])

    def command(
        self,
        method: str,
        path: str,
        body: Json,
        *,
        wait_s: float = 0.0,
        key: str | None = None,
        if_match: str | None = None,
    ) -> Json:
        """Send a command; with `wait_s`, wait for its operation's end and answer that.

        The answer's `operation` has an `outcome` where it ended. Raises CliError.
        """
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        content = msgspec.json.encode(body) if body else None
        deadline = time.monotonic() + wait_s
        while True:
            left_s = deadline - time.monotonic()
            granted = max(1, min(WAIT_S_MAX, round(left_s))) if wait_s else 0
            if granted:
                headers["Prefer"] = f"wait={granted}"
            response, answer = self._send(
                method, path, content=content, headers=headers, timeout_s=READ_TIMEOUT_S + granted
            )
            operation = answer.get("operation")
            ended = operation is None or "outcome" in operation
            # The same request under the same key answers the same, and waits on.
            if not wait_s or ended or time.monotonic() >= deadline:
                self._settle(response.headers.get(POSITION_HEADER))
                return answer

    def _settle(self, position: str | None) -> None:
        """Let the inventory take in what was done, so that whatever is asked next sees it.

        Only a courtesy: where the inventory is behind, or away, nothing is lost.
        """
        if position is None:
            return
        with contextlib.suppress(httpx.HTTPError):
            self._http.get(
                "/v1/events",
                params={"limit": "1", "fields": "id"},
                headers={MIN_POSITION_HEADER: position},
                timeout=SETTLE_TIMEOUT_S,
            )

    def await_operation(self, operation: str, wait_s: float) -> Json | None:
        """Return an operation's document once it has ended; None if it has not in time."""
        deadline = time.monotonic() + wait_s
        pause_s = 0.1
        while True:
            document = self.get(f"/v1/operations/{operation}")
            if document["ended_at"] is not None:
                return document
            if time.monotonic() + pause_s > deadline:
                return None
            time.sleep(pause_s)
            pause_s = min(POLL_S_MAX, pause_s * 1.5)

    def _send(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> tuple[httpx.Response, Json]:
        """Send a request; one that got no answer, or 503, is sent again a few times."""
        own = dict(headers or {})
        limit_s = self._timeout_s or timeout_s
        if content is not None:
            own["Content-Type"] = "application/json"
        request = self._http.build_request(
            method,
            path,
            params=dict(parameters) if parameters else None,
            content=content,
            headers=own,
            timeout=httpx.Timeout(limit_s, connect=min(limit_s, CONNECT_TIMEOUT_S)),
        )
        for attempt in _attempts(self._attempts_max):
            try:
                response = self._http.send(request)
            except httpx.ConnectError as error:
                raise self._unreachable(error) from error
            except httpx.HTTPError as error:
                if attempt == self._attempts_max:
                    raise self._unreachable(error) from error
                continue
            if response.status_code == UNAVAILABLE and attempt < self._attempts_max:
                continue
            return response, _content(response)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, error: httpx.HTTPError) -> CliError:
        reason = str(error) or type(error).__name__
        hint = ""
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            hint = "\n  Name the installation's CA with --ca-file (DIR/ca/trust.crt)."
        return CliError(
            f"The engine at {self._url} cannot be reached: {reason}{hint}", Exit.UNREACHABLE
        )


def _attempts(attempts_max: int) -> Iterator[int]:
    for attempt in range(1, attempts_max + 1):
        if attempt > 1:
            time.sleep(RETRY_S * (attempt - 1))
        yield attempt


def _content(response: httpx.Response) -> Json:
    try:
        document = msgspec.json.decode(response.content, type=Json)
    except msgspec.DecodeError:
        document = {"detail": response.text[:500]}
        if response.is_success:
            raise CliError("The answer is no JSON: is this Chronovisor?", Exit.ERROR) from None
    if not response.is_success:
        raise Refused(response.status_code, document)
    return document


def _is_id(given: str) -> bool:
    try:
        return str(uuid.UUID(given)) == given
    except ValueError:
        return False


def _trust(authority: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authority is not None:
        try:
            context.load_verify_locations(cafile=authority)
        except (OSError, ssl.SSLError) as error:
            raise CliError(
                f"The CA file {authority} cannot be used: {error}", Exit.USAGE
            ) from error
    return context
