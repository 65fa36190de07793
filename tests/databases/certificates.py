"""A server's certificate, and how a server of the tests comes to speak TLS with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from .mysql import LocalMySQL
from .server import Instance


@dataclass(frozen=True)
class Certificate:
    """A certificate that is signed by itself: its own authority.

    Parameters
    ----------
    text, key : str
        In PEM.
    """

    text: str
    key: str

    @classmethod
    def of(cls, host: str) -> Certificate:
        """Make one that names a host, or an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server of the tests")])
        now = datetime.now(timezone.utc)
        try:
            named: x509.GeneralName = x509.IPAddress(ip_address(host))
        except ValueError:
            named = x509.DNSName(host)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([named]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate.public_bytes(Encoding.PEM).decode(),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        )


def turn_on_tls(server: Instance, certificate: Certificate) -> None:
    """Let a server speak TLS, and wait until it does."""
    paths = {
        "ssl_cert": server.put("server.crt", certificate.text),
        "ssl_key": server.put("server.key", certificate.key),
    }
    if server.kind == "postgresql":
        for name, path in paths.items():
            server.admin.execute(f"ALTER SYSTEM SET {name}_file = '{path}'")
        server.admin.execute("ALTER SYSTEM SET ssl = on")
        server.restart()
    elif isinstance(server, LocalMySQL):
        server.options += [f"--{name.replace('_', '-')}={path}" for name, path in paths.items()]
        server.restart()
    else:
        for name, path in paths.items():
            server.admin.execute(f"SET GLOBAL {name} = '{path}'")
        server.admin.execute("ALTER INSTANCE RELOAD TLS")
