"""Replacing the certificate authority while everything runs: two CAs overlap for as long as needed.

1. `begin`: a new CA is made beside the old one, and both are trusted. From now on hosts get their
   certificates from the new one, and renew those of the old one as soon as they ask. Servers keep
   theirs, since a host that was not heard yet trusts the old CA alone.
2. Hosts move over. One that shows a certificate of the new CA has stored the trust in it, too.
3. `finish`: the new CA takes the old one's place. Servers get their certificates from it, the old
   one is trusted no more, and its key is gone.

Each step may be killed at any point and done again.
"""

import datetime as dt
import shutil
from pathlib import Path

from cryptography import x509

from access.certificates import (
    CA_CERTIFICATE_NAME,
    CA_KEY_NAME,
    SUCCESSOR_NAME,
    TRUST_BUNDLE_NAME,
    CertificateAuthority,
    CertificateRefusal,
)
from access.files import PUBLIC_MODE, read_bounded, write_atomically
from access.trust import add_to_trust_bundle, read_trust_bundle, replace_trust_bundle


class NoSuccession(CertificateRefusal):
    """No new CA was begun, so that there is nothing to finish."""


class Authorities:
    """The CAs of a folder as they were when last looked at."""

    current: CertificateAuthority
    """Signs servers' certificates, and is named in join tokens."""
    signer: CertificateAuthority
    """Signs hosts' certificates: the successor, if there is one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[bytes, ...] = ()
        self.refresh()

    @property
    def overlap(self) -> bool:
        """Whether a CA is being replaced."""
        return self.signer.fingerprint != self.current.fingerprint

    def refresh(self) -> bool:
        """Look again; tell whether anything changed. BrokenAuthority leaves all as it was."""
        folder, successor = self._folder, self._folder / SUCCESSOR_NAME
        files = (
            folder / CA_CERTIFICATE_NAME,
            folder / TRUST_BUNDLE_NAME,
            successor / CA_CERTIFICATE_NAME,
        )
        seen = tuple(read_bounded(file) if file.exists() else b"" for file in files)
        if seen == self._seen:
            return False
        current = CertificateAuthority.load(folder)
        self.current, self.signer = current, successor_of(folder) or current
        self._seen = seen
        return True


def successor_of(folder: Path) -> CertificateAuthority | None:
    """The CA that is to replace a folder's CA; None unless it is whole and trusted already."""
    place = folder / SUCCESSOR_NAME
    if not (place / CA_CERTIFICATE_NAME).exists():
        return None
    successor = CertificateAuthority.load(place)
    trusted = read_trust_bundle(folder / TRUST_BUNDLE_NAME)
    return successor if successor.certificate in trusted else None


def begin(folder: Path, now: dt.datetime) -> CertificateAuthority:
    """Make the CA that is to replace the one in `folder`, and trust both; begun, it goes on."""
    current = CertificateAuthority.load(folder)
    place = folder / SUCCESSOR_NAME
    if (place / CA_KEY_NAME).exists() and current.has_key(read_bounded(place / CA_KEY_NAME)):
        # The end of an earlier succession was interrupted.
        _settle(folder, current)
    successor = CertificateAuthority.load_or_create(place, now)
    add_to_trust_bundle(folder / TRUST_BUNDLE_NAME, successor.certificate)
    return successor


def finish(folder: Path) -> CertificateAuthority:
    """Put the successor in the place of the CA in `folder`, which is trusted no more.

    Raises NoSuccession. Whoever still has a certificate of the old CA is locked out: see that
    nobody has.
    """
    place = folder / SUCCESSOR_NAME
    if not (place / CA_CERTIFICATE_NAME).exists():
        message = "no new certificate authority was begun"
        raise NoSuccession(message)
    successor = CertificateAuthority.load(place)
    certificate = read_bounded(place / CA_CERTIFICATE_NAME)
    # The certificate first: `CertificateAuthority.load` finds its key in either place.
    write_atomically(folder / CA_CERTIFICATE_NAME, certificate, mode=PUBLIC_MODE)
    _settle(folder, successor)
    return successor


def _settle(folder: Path, successor: CertificateAuthority) -> None:
    """Let the CA whose certificate is in place have its key there too, and be trusted alone."""
    place = folder / SUCCESSOR_NAME
    write_atomically(folder / CA_KEY_NAME, read_bounded(place / CA_KEY_NAME))
    replace_trust_bundle(folder / TRUST_BUNDLE_NAME, successor.certificate)
    # Its certificate first, by which a successor is known.
    (place / CA_CERTIFICATE_NAME).unlink(missing_ok=True)
    shutil.rmtree(place)


def is_of(authority: CertificateAuthority, pem: str) -> bool:
    """Tell whether a certificate in PEM was signed by a CA."""
    return authority.issued(x509.load_pem_x509_certificate(pem.encode()))
