"""Certificates made for a test, and both sides of TLS that use them."""

import ssl
from pathlib import Path

import trustme

from orkestra.config import CertificateSource, TlsSettings


def server_side(
    certificate: trustme.LeafCert, *, alpn: bool = True, clients: trustme.CA | None = None
) -> ssl.SSLContext:
    """A server's TLS; with `clients` it wants certificates of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if alpn:
        context.set_alpn_protocols(["h2"])
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def pem(text: trustme.Blob | str | bytes) -> CertificateSource:
    content = text.bytes() if isinstance(text, trustme.Blob) else text
    return CertificateSource(data=content if isinstance(content, str) else content.decode())


def trusting(authority: trustme.CA, **settings: CertificateSource | str) -> TlsSettings:
    return TlsSettings.model_validate({"server_ca_cert": pem(authority.cert_pem), **settings})


class ClientFiles:
    """The certificate and key of a client, in files that are exchanged under it."""

    def __init__(self, directory: Path, authority: trustme.CA) -> None:
        self._certificate = directory / "client.pem"
        self._key = directory / "client.key"
        self.exchange(authority)

    def settings(self, servers: trustme.CA) -> TlsSettings:
        return trusting(
            servers,
            client_cert=CertificateSource(path=self._certificate),
            client_key=CertificateSource(path=self._key),
        )

    def exchange(self, authority: trustme.CA) -> None:
        pair = authority.issue_cert("client@example.org")
        self._key.write_bytes(pair.private_key_pem.bytes())
        self._certificate.write_bytes(pair.cert_chain_pems[0].bytes())

    def spoil(self) -> None:
        """Exchange the key alone, as seen between the two writes of an exchange."""
        pair = trustme.CA().issue_cert("other@example.org")
        self._key.write_bytes(pair.private_key_pem.bytes())
