"""Requests that nobody well-meaning makes, a hundred of each kind: what `hostile.py` puts on a server.

Each attack has a connection of its own, and says what became of it: a status, `closed` where the server ended it
without an answer, or `open` where neither had happened when its time was up. What is sent is made before: the process
says `ready`, and begins when it is sent a line. Attackers share the machine with the server here, which they would not
elsewhere; so they take as little of it as they can, and nothing is copied that is sent.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import socket
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable

from PIL import Image

UNREAD = "answers that are not read"
COUNT = 100
AT_ONCE = 20
_PATIENCE_S = 20.0

Send = Callable[[bytes], Awaitable[None]]
Attack = Callable[[Send], Awaitable[None]]
"""What is given sends all of some bytes on a connection."""


def post(path: str, body: bytes, kind: str = "application/json", **headers: object) -> bytes:
    """A whole request."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-type: {kind}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def at_once(content: bytes) -> Attack:
    """An attack that is one request."""

    async def attack(send: Send) -> None:
        await send(content)

    return attack


def bit_by_bit(begin: bytes, bit: bytes, every_s: float) -> Attack:
    """An attack that begins something and never ends it."""

    async def attack(send: Send) -> None:
        await send(begin)
        while True:
            await asyncio.sleep(every_s)
            await send(bit)

    return attack


async def ask_for_much(send: Send) -> None:
    """Ask for large answers again and again."""
    large = {"num_images": 64, "width": 448, "height": 448}
    body = json.dumps({"inputs": "boots", "parameters": large}).encode()
    for _ in range(8):
        await send(post("/predict/fashion-gan", body, accept="application/json"))


def picture(width: int, height: int) -> bytes:
    """A PNG of one colour, which is small whatever it is large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    row = b"\0" * (1 + width)
    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def frames(count: int) -> bytes:
    """An animated WebP."""
    images = [Image.new("L", (64, 64), number % 256) for number in range(count)]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:])
    return buffer.getvalue()


def attacks() -> dict[str, Callable[[], Attack]]:
    """What makes each kind of them, by its name: some take long to be made."""
    mega = 2**20
    classify, infer = "/predict/fashion-classifier", "/v2/models/fashion-classifier/infer"
    write, translate = "/v2/models/shakespeare/generate", "/predict/en-de"
    tensor = {"name": "image", "datatype": "FP32", "shape": [10**6, 1, 28, 28], "data": []}
    return {
        "a body of 10 GB, said": lambda: at_once(
            f"POST {infer} HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000000\r\n\r\n".encode() + b"x" * mega
        ),
        "a body of 20 MB": lambda: at_once(post(classify, b"x" * 20 * mega, "image/png")),
        "a body without an end": lambda: bit_by_bit(
            f"POST {infer} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode(),
            b"100000\r\n" + b"x" * mega + b"\r\n",
            0.0,
        ),
        "gzip, 1 GB inside": lambda: at_once(
            post(infer, gzip.compress(b"\0" * 1000 * mega, 9), content_encoding="gzip")
        ),
        "headers of 1 MB": lambda: at_once(b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * mega + b"\r\n\r\n"),
        "100,000 headers": lambda: at_once(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 100_000 + b"\r\n"),
        "a target of 1 MB": lambda: at_once(b"GET /" + b"x" * mega + b" HTTP/1.1\r\nhost: x\r\n\r\n"),
        "a picture of 900 megapixels": lambda: at_once(post(classify, picture(30_000, 30_000), "image/png")),
        "a picture of 16 megapixels": lambda: at_once(post(classify, picture(4096, 4096), "image/png")),
        "500 frames": lambda: at_once(post(classify, frames(500), "image/webp")),
        "JSON, a million deep": lambda: at_once(post(infer, b"[" * mega)),
        "JSON, 5 million arrays": lambda: at_once(post(infer, b"[" + b"[]," * (5 * mega) + b"1]")),
        "JSON, 8 million numbers": lambda: at_once(post(infer, b'{"inputs": [' + b"1," * (7 * mega) + b"1]}")),
        "a million rows, said": lambda: at_once(post(infer, json.dumps({"inputs": [tensor]}).encode())),
        "a prompt of 15 MB": lambda: at_once(post(write, json.dumps({"text_input": "a" * 15 * mega}).encode())),
        "a million stop strings": lambda: at_once(
            post(write, json.dumps({"text_input": "a", "parameters": {"stop": ["b"] * 10**6}}).encode())
        ),
        "a text of 15 MB to translate": lambda: at_once(
            post(translate, json.dumps({"inputs": "Hi. " * 4 * mega}).encode())
        ),
        "a million texts to translate": lambda: at_once(
            post(translate, json.dumps({"inputs": ["Hi."] * 10**6}).encode())
        ),
        "a million pictures to draw": lambda: at_once(
            post(
                "/predict/fashion-gan",
                json.dumps({"inputs": "boots", "parameters": {"num_images": 10**6}}).encode(),
            )
        ),
        "a form of 100,000 fields": lambda: at_once(
            post(
                classify,
                b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n' * 100_000 + b"--x--\r\n",
                "multipart/form-data; boundary=x",
            )
        ),
        "10,000 requests at once on a connection": lambda: at_once(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n" * 10_000),
        "a head, bit by bit": lambda: bit_by_bit(b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"x", 0.5),
        "a body, bit by bit": lambda: bit_by_bit(post(infer, b"x" * 1000)[:-900], b"x", 0.5),
        "half a body, then nothing": lambda: at_once(post(infer, b"x" * 1000)[:-900]),
        UNREAD: lambda: ask_for_much,
        "no HTTP": lambda: at_once(os.urandom(64 * 1024)),
    }


async def attack_all(attack: Attack, port: int, *, reads: bool = True) -> Counter[str]:
    """Attack a hundred times, and count what became of it.

    Args:
        attack: of one attacker.
        port: of the server.
        reads: whether attackers look at what comes back.
    """
    found = Counter[str]()
    turns = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with turns:
            found[await _outcome(attack, port, reads=reads)] += 1

    await asyncio.gather(*(one() for _ in range(COUNT)))
    return found


async def _outcome(attack: Attack, port: int, *, reads: bool) -> str:
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, ("127.0.0.1", port))
        except OSError:
            return "refused"
        sending = asyncio.ensure_future(attack(lambda content: loop.sock_sendall(connection, content)))
        try:
            if not reads:
                await asyncio.sleep(_PATIENCE_S / 2)
                return "open"
            async with asyncio.timeout(_PATIENCE_S):
                head = await loop.sock_recv(connection, 1024)
            return head.split()[1].decode() if head else "closed"
        except TimeoutError:
            return "open"
        except (OSError, ValueError):
            return "closed"
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


if __name__ == "__main__":
    os.nice(10)  # what it takes to make them is not what is measured
    _, kind, given_port = sys.argv
    made = attacks()[kind]()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(attack_all(made, int(given_port), reads=kind != UNREAD))))
