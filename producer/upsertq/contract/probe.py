"""Owns finding out what answers at an address in place of a Redis server: it says PING, and tries TLS.

It uses a socket of its own, sends no login and no data, and never raises: it is asked where a first one failed.
"""

import socket
import ssl
from contextlib import suppress
from typing import Final

SECONDS: Final = 2.0
"""For each of two attempts."""
_ENOUGH: Final = 64


def what_answers(host: str, port: int, *, tls: bool, certified: bool = False, sentinel: bool = False) -> str:
    """What is wrong with the address as one clause; empty where nothing is known to be.

    Args:
        host: name or address.
        port: its port.
        tls: whether the conversation that failed was over TLS.
        certified: whether the client showed a certificate in it.
        sentinel: whether a Sentinel was expected.
    """
    where, kind = f"{host}:{port}", "+sentinel" * sentinel
    answer = _ping(host, port)
    if answer is None:
        return ""
    if answer.startswith((b"HTTP/", b"<")):
        return f"{where} is an HTTP server: name the port of a Redis or Valkey server"
    if tls and answer.startswith((b"+", b"-")):
        return f"{where} does not speak TLS: use redis{kind}:// in place of rediss{kind}://"
    if tls and not certified and _wants_certificate(host, port):
        return f"{where} wants a certificate of the client: give --redis-cert-file and --redis-key-file"
    if not tls and not answer.startswith((b"+", b"-")) and (answer[:1] == b"\x15" or _speaks_tls(host, port)):
        return f"{where} speaks TLS: use rediss{kind}:// in place of redis{kind}://"
    return ""


def _ping(host: str, port: int) -> bytes | None:
    """The beginning of the answer to an inline PING; empty where it hangs up, as TLS does, `None` where none comes."""
    try:
        with socket.create_connection((host, port), SECONDS) as line:
            line.sendall(b"PING\r\n")
            return line.recv(_ENOUGH)
    except TimeoutError:
        return None
    except OSError:
        return b""


def _speaks_tls(host: str, port: int) -> bool:
    with suppress(OSError, ValueError), _wrapped(host, port):
        return True
    return False


def _wants_certificate(host: str, port: int) -> bool:
    """Whether it ends the conversation for that: with TLS 1.3 it says so only after the handshake."""
    try:
        with _wrapped(host, port) as line:
            line.settimeout(SECONDS / 4)
            line.recv(_ENOUGH)
    except ssl.SSLError as error:
        return "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error)
    except (OSError, ValueError):
        pass
    return False


def _wrapped(host: str, port: int) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: it is only asked whether this is TLS at all
    line = socket.create_connection((host, port), SECONDS)
    try:
        return context.wrap_socket(line, server_hostname=host)
    except BaseException:
        line.close()
        raise
