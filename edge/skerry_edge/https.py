"""HTTPS to the fleet's own cloud: one authority is trusted, nobody else; replies are small and bounded."""

import ssl

import urllib3

from skerry_shared.errors import InputError, LinkError, TrustError, UsageError

MAX_REPLY = 1 << 20  # bytes; the largest reply holds certificates, keys and a root: a few kB
TIMEOUT = urllib3.Timeout(connect=10.0, read=30.0)  # seconds; the cloud signs within milliseconds


def trusting(authority: bytes) -> ssl.SSLContext:
    """A context for clients that trusts one authority (PEM) and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority.decode())
    return context


def request(context: ssl.SSLContext, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and content. Raises UsageError on another scheme, TrustError, LinkError, or InputError on a long reply."""
    if not url.startswith("https://"):
        raise UsageError(f"{url}: only https:// can be trusted")
    try:
        with urllib3.PoolManager(ssl_context=context, retries=False, timeout=TIMEOUT) as pool:
            response = pool.request(method, url, body=body, preload_content=False, redirect=False)
            content = response.read(MAX_REPLY + 1)
            response.close()
    except urllib3.exceptions.SSLError as error:
        raise TrustError(f"{url}: {error}") from None
    except urllib3.exceptions.HTTPError as error:
        raise LinkError(f"{url}: {error}") from None
    if len(content) > MAX_REPLY:
        raise InputError(f"{url}: sends more than {MAX_REPLY} bytes")
    return response.status, content
