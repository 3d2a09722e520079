"""The device's next certificate, asked for by itself when two thirds of the present one's life are over, or all of it.

The key stays: a request signed with it is the proof. Links and servers show the new certificate from their next
connection on.
"""

import json
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from skerry_edge.config import Folders
from skerry_shared import identity
from skerry_shared.errors import LinkError, TrustError
from skerry_shared.files import write_durably

SHARE = 2 / 3  # of a certificate's life, after which the next one is asked for


def due(pem: bytes, now: datetime) -> bool:
    """Whether it is time to replace this certificate."""
    certificate = x509.load_pem_x509_certificate(pem)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= start + SHARE * (end - start)


def renew(url: str, folders: Folders) -> datetime:
    """Replace the device's certificate by one from the cloud at ``url``; until when it is valid.

    Raises LinkError if the cloud cannot be asked, TrustError if it refuses or answers with another's certificate.
    """
    from skerry_edge.https import request, trusting

    key = identity.load_key(folders.key.read_bytes())
    name = identity.common_name(x509.load_pem_x509_certificate(folders.certificate.read_bytes()))
    body = json.dumps({"csr": identity.request(name, key).decode()}).encode()
    authority = folders.authority.read_bytes()
    status, reply = request(trusting(authority), "POST", f"{url.rstrip('/')}/v1/renew", body)
    pem = _certificate(url, status, reply)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise TrustError(f"{url}: sent no certificate of this fleet: {error}".rstrip(": ")) from None
    if certificate.public_key() != key.public_key() or identity.common_name(certificate) != name:
        raise TrustError(f"{url}: sent a certificate that is not for this device's key and name")
    write_durably(folders.certificate, pem)
    return certificate.not_valid_after_utc


def _certificate(url: str, status: int, reply: bytes) -> bytes:
    try:
        document = json.loads(reply)
        if status == 200:
            return str(document["certificate"]).encode()
        reason = str(document["error"])
    except (ValueError, KeyError, TypeError):
        raise LinkError(f"{url}: answers {status} without a reason; is it a skerry-cloud?") from None
    raise TrustError(f"{url}: refuses to renew the certificate: {reason}")
