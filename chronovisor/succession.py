"""Who still has a certificate of the CA that is being replaced."""

from __future__ import annotations

import datetime as dt

from cryptography import x509

from access.certificates import CertificateAuthority
from commands.gateway.renewal import RENEWAL_DAYS_MAX
from commands.state.host import HOST, HostState
from events.codec import CODEC
from events.log.port import LogReader


async def hosts_of(
    reader: LogReader, authority: CertificateAuthority, now: dt.datetime
) -> list[str]:
    """Return the names of the hosts that a CA's end would lock out, in order.

    They use a certificate of it that is valid, or can still be renewed. The whole log is read: it
    is asked once in a CA's life.
    """
    hosts: dict[str, HostState] = {}
    position = 0
    while stored := await reader.read(position):
        position = stored[-1].position
        for one in stored:
            kind, _, key = one.stream.partition("/")
            if kind == HOST.kind:
                state = HOST.evolve(hosts.get(key), CODEC.decode(one))
                if state is not None:
                    hosts[key] = state
    return sorted(host.name for host in hosts.values() if _depends(host, authority, now))


def _depends(host: HostState, authority: CertificateAuthority, now: dt.datetime) -> bool:
    if host.removed or host.certificate is None:
        return False
    certificate = x509.load_pem_x509_certificate(host.certificate.encode())
    last = certificate.not_valid_after_utc + dt.timedelta(days=RENEWAL_DAYS_MAX)
    return last > now and authority.issued(certificate)
