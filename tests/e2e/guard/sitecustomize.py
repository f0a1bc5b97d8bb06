"""Put on PYTHONPATH of a command under test: the network is written down and refused, only this machine is reached."""

import os
import socket

_connect, _getaddrinfo = socket.socket.connect, socket.getaddrinfo
_HERE = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None, socket.gethostname()}


def _check(host):
    if host not in _HERE and host not in {"b''", b"localhost", b"127.0.0.1"}:
        with open(os.environ["RLHF_TEST_NETWORK_LOG"], "a", encoding="utf-8") as log:
            log.write(f"{host}\n")
        raise OSError(f"the test forbids the network: {host}")


def connect(self, address):
    if self.family != socket.AF_UNIX:
        _check(address[0])
    return _connect(self, address)


def getaddrinfo(host, *rest, **named):
    _check(host)
    return _getaddrinfo(host, *rest, **named)


socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
