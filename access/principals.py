"""Who is asking."""

import enum

import msgspec


class PrincipalKind(enum.StrEnum):
    """What sort of caller a principal is."""

    ADMIN = "admin"
    HOST = "host"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller whose identity has been proved.

    `name` is the user's name for an admin and the host's id for a host; together with `kind` it
    is what the log stores as the actor.
    """

    name: str
    kind: PrincipalKind

    @property
    def actor(self) -> str:
        """The principal as one word, as events carry it: `admin:bootstrap`, `host:<id>`."""
        return f"{self.kind.value}:{self.name}"


BOOTSTRAP_ADMIN = Principal(name="bootstrap", kind=PrincipalKind.ADMIN)


def host_principal(host_id: str) -> Principal:
    """The principal of the host agent whose certificate names `host_id`."""
    return Principal(name=host_id, kind=PrincipalKind.HOST)
