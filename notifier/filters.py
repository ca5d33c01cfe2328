"""Who is told what: filters in the grammar of oVirt's notifier.

    filters   := pattern*                                     separated by white space
    pattern   := ("include" | "exclude") ":" event [":" severity] [recipient]
    event     := "*" | the name of an audit record, such as VM_DOWN_ERROR
    severity  := "*" | "ALERT" | "ERROR" | "WARNING" | "NORMAL"
    recipient := "(" ("*" | transport ":" name) ")"           name: a mail address, an SNMP profile

For each record and each recipient that any pattern names, the patterns are tried in their order and
the first that matches decides; if none does, the recipient is not told. An include with a severity
matches that one and those above, an exclude that one and those below.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NoReturn

import msgspec

from events.types.base import Severity

EVERY = "*"
SEVERITIES = (Severity.NORMAL, Severity.WARNING, Severity.ERROR, Severity.ALERT)
_ACTION = re.compile(r"(include|exclude):")
_EVENT = re.compile(r"\*|\w+")
_SEVERITY = re.compile(r":(\*|[A-Za-z]+)")
_RECIPIENT = re.compile(r"\((?:\*|(\w+):([^)]*))\)")


class FilterError(ValueError):
    """A filter that cannot be understood or kept: where, and why."""

    def __init__(self, text: str, offset: int, reason: str) -> None:
        self.offset = offset
        self.reason = reason
        shown = text[offset : offset + 40] or "its end"
        super().__init__(f"filter, character {offset + 1} ({shown!r}): {reason}")


class Recipient(msgspec.Struct, frozen=True, order=True):
    """Whom a pattern names: transport `smtp` with a mail address, `snmp` with a profile."""

    transport: str
    name: str

    def __str__(self) -> str:
        return f"{self.transport}:{self.name}"


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """One pattern; `recipient` None stands for every one."""

    include: bool
    event: str
    severity: Severity | None
    recipient: Recipient | None
    offset: int

    def matches(self, name: str, severity: Severity, recipient: Recipient) -> bool:
        """Whether the pattern is about this record and this recipient."""
        if self.event not in {EVERY, name}:
            return False
        if self.recipient is not None and self.recipient != recipient:
            return False
        if self.severity is None:
            return True
        mine, other = SEVERITIES.index(self.severity), SEVERITIES.index(severity)
        return other >= mine if self.include else other <= mine


class Filter(msgspec.Struct, frozen=True):
    """A list of patterns, in order."""

    patterns: tuple[Pattern, ...]

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """Every recipient that a pattern names, in a fixed order."""
        named = {each.recipient for each in self.patterns if each.recipient is not None}
        return tuple(sorted(named))

    def told(self, name: str, severity: Severity) -> tuple[Recipient, ...]:
        """Return whom to tell of a record of this name and severity."""
        return tuple(each for each in self.recipients if self._includes(name, severity, each))

    def _includes(self, name: str, severity: Severity, recipient: Recipient) -> bool:
        for pattern in self.patterns:
            if pattern.matches(name, severity, recipient):
                return pattern.include
        return False

    def unknown_events(self, known: Collection[str]) -> tuple[str, ...]:
        """Return the names in patterns that no record has: they may be misspelt."""
        named = {each.event for each in self.patterns} - {EVERY}
        return tuple(sorted(named - set(known)))


class _Parser:
    """Reads one filter from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._offset = 0

    def fail(self, reason: str) -> NoReturn:
        raise FilterError(self._text, self._offset, reason)

    def patterns(self) -> tuple[Pattern, ...]:
        found: list[Pattern] = []
        while True:
            rest = self._text[self._offset :]
            blank = len(rest) - len(rest.lstrip())
            self._offset += blank
            if self._offset == len(self._text):
                return tuple(found)
            if found and blank == 0:
                self.fail("white space must stand between two patterns")
            found.append(self._pattern())

    def _take(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        match = expression.match(self._text, self._offset)
        if match is not None:
            self._offset = match.end()
        return match

    def _next_is(self, character: str) -> bool:
        return self._text.startswith(character, self._offset)

    def _pattern(self) -> Pattern:
        offset = self._offset
        action = self._take(_ACTION)
        if action is None:
            self.fail("a pattern begins with 'include:' or 'exclude:'")
        event = self._take(_EVENT)
        if event is None:
            self.fail("the name of an event or '*' must follow")
        severity = self._severity()
        recipient = self._recipient()
        return Pattern(
            include=action[1] == "include",
            event=event[0],
            severity=severity,
            recipient=recipient,
            offset=offset,
        )

    def _severity(self) -> Severity | None:
        if not self._next_is(":"):
            return None
        before = self._offset
        match = self._take(_SEVERITY)
        word = match[1] if match is not None else ""
        if word == EVERY:
            return None
        known = {each.name: each for each in SEVERITIES}
        if word not in known:
            self._offset = before
            self.fail(f"a severity is one of *, {', '.join(known)}")
        return known[word]

    def _recipient(self) -> Recipient | None:
        if not self._next_is("("):
            return None
        match = self._take(_RECIPIENT)
        if match is None:
            self.fail("a recipient is written (*) or (transport:name)")
        return None if match[1] is None else Recipient(match[1], match[2])


def parse_filter(text: str) -> Filter:
    """Return the filter of a text; raises FilterError."""
    return Filter(_Parser(text).patterns())
