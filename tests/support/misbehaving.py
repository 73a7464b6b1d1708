"""Functions that go wrong in a process of their own (``sluice.adapters.other_process``)."""

from __future__ import annotations

import os
import signal

from sluice.errors import Corrupt


def echo(request: bytes) -> bytes:
    print("a library says something")
    return request[::-1]


def environment(_: bytes) -> bytes:
    return "\n".join(os.environ).encode()


def segfault(_: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def leave(_: bytes) -> bytes:
    os._exit(3)


def spin(_: bytes) -> bytes:
    while True:
        pass


def sleep(_: bytes) -> bytes:
    signal.pause()
    return b""


def eat(_: bytes) -> bytes:
    return bytes(4 << 30)


def refuse(_: bytes) -> bytes:
    raise Corrupt("the seal is broken", where="box 7", fix="ask who", code="seal")


def divide(_: bytes) -> bytes:
    return bytes([1 // 0])
