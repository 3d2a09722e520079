"""Where the agent listens: on this machine only, or on the network with certificates on both sides.

With mutual TLS the agent shows the device's certificate, and lets in whom the fleet's authority certified. A device's
certificate names it as ``DEVICE.skerry.internal``, which a client expects of it whatever address it dialled. A
certificate that was renewed is shown from the next connection on.
"""

import ssl
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import grpc

from skerry_edge.serve import oip, rest
from skerry_edge.serve.catalog import Catalog
from skerry_edge.serve.http1 import HttpServer
from skerry_edge.serve.pool import Pool
from skerry_shared.errors import ConfigError
from skerry_shared.ports.carrier import TlsFiles

THREADS = 8  # of each server; the runtime releases the GIL, more only wait for a core
WAITING = 64  # calls at once of each server; one more gets RESOURCE_EXHAUSTED


@dataclass(frozen=True)
class Place:
    """An address to listen on; with an identity over mutual TLS, else in the clear."""

    address: str
    identity: TlsFiles | None = None


def grpc_server(place: Place, port: int, *services: grpc.GenericRpcHandler) -> tuple[grpc.Server, int]:
    """A started server and its port; port 0 is any free one. Raises ConfigError."""
    host = f"[{place.address}]" if ":" in place.address else place.address
    return start_grpc(f"{host}:{port}", place.identity, *services)


def start_grpc(target: str, identity: TlsFiles | None, *services: grpc.GenericRpcHandler) -> tuple[grpc.Server, int]:
    """As ``grpc_server``; ``target`` as gRPC names addresses, such as unix:PATH."""
    limits = ("grpc.max_receive_message_length", "grpc.max_send_message_length")
    options = [(limit, oip.MAX_MESSAGE) for limit in limits] + [("grpc.so_reuseport", 0)]
    server = grpc.server(cast(Any, Pool(THREADS)), options=options, maximum_concurrent_rpcs=WAITING)
    server.add_generic_rpc_handlers(services)
    try:
        port = server.add_secure_port(target, _credentials(identity)) if identity else server.add_insecure_port(target)
    except RuntimeError as error:
        raise ConfigError(f"{target}: cannot be served on: {error}") from None
    server.start()
    return server, port


def http_server(place: Place, port: int, catalog: Catalog) -> HttpServer:
    """A started REST server. Raises ConfigError."""
    tls = partial(_context, place.identity) if place.identity else None
    return HttpServer(place.address, port, rest.RestService(catalog).respond, tls)


def _credentials(identity: TlsFiles) -> grpc.ServerCredentials:
    def configuration() -> grpc.ServerCertificateConfiguration:
        pair = (identity.key.read_bytes(), identity.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], identity.authority.read_bytes())

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration, require_client_authentication=True)


def _context(identity: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(identity.certificate, identity.key)
    context.load_verify_locations(identity.authority)
    return context
