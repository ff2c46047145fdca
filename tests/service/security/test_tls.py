from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from uvicorn.loops.auto import auto_loop_factory

from service.security.tls import Tls
from service.settings import Settings
from tests.service.security.certificates import NEEDS_OPENSSL, Pair, encrypted, make_pair, trusting

pytestmark = NEEDS_OPENSSL

Connect = Callable[[ssl.SSLContext], Awaitable[str]]


@asynccontextmanager
async def greeting(tls: Tls) -> AsyncIterator[int]:
    """A server that says one line to whoever connects and echoes the next; its port."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(b"hello\n")
            writer.write(await reader.readline())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls.context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def version_of(port: int, trusted: ssl.SSLContext) -> str:
    """Connect, and say by which version of TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
    try:
        assert await reader.readline() == b"hello\n"
        return str(writer.get_extra_info("ssl_object").version())
    finally:
        writer.close()


def run(main: Callable[[], Awaitable[None]], factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())  # type: ignore[arg-type]


LOOPS = pytest.mark.parametrize("factory", [auto_loop_factory(), asyncio.new_event_loop], ids=["uvloop", "asyncio"])


def look(tls: Tls) -> None:
    tls.watched.look()
    tls.watched.look()


@LOOPS
def test_a_connection_has_the_certificate_that_is_there_when_it_begins(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    pair = make_pair(tmp_path)
    first = trusting(pair.certificate)
    tls = Tls(pair.certificate, pair.key)

    async def main() -> None:
        async with greeting(tls) as port:
            assert await version_of(port, first) == "TLSv1.3"
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=first)
            assert await reader.readline() == b"hello\n"
            make_pair(tmp_path)
            look(tls)
            second = trusting(pair.certificate)
            assert await version_of(port, second) == "TLSv1.3"
            with pytest.raises(ssl.SSLCertVerificationError):
                await version_of(port, first)
            writer.write(b"still here\n")  # what was connected before goes on
            assert await reader.readline() == b"still here\n"
            writer.close()

    run(main, factory)


@LOOPS
def test_clients_may_need_a_certificate_and_who_vouches_for_them_may_change(
    tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    pair, ours, others = (make_pair(tmp_path, name) for name in ("server", "ours", "others"))
    authority = tmp_path / "ca.crt"
    authority.write_bytes(ours.certificate.read_bytes())
    tls = Tls(pair.certificate, pair.key, authority)
    assert tls.asks_clients
    known, stranger, nobody = (trusting(pair.certificate, client=one) for one in (ours, others, None))

    async def refused(port: int, client: ssl.SSLContext) -> bool:
        try:
            await version_of(port, client)
        except (OSError, AssertionError):  # of TLS 1.3 a client learns it only from what it reads
            return True
        return False

    async def main() -> None:
        async with greeting(tls) as port:
            assert await version_of(port, known) == "TLSv1.3"
            assert await refused(port, stranger)
            assert await refused(port, nobody)
            authority.write_bytes(others.certificate.read_bytes())
            look(tls)
            assert await version_of(port, stranger) == "TLSv1.3"
            assert await refused(port, known)

    run(main, factory)


def test_old_versions_are_not_spoken(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    old = trusting(pair.certificate)
    newest = trusting(pair.certificate)
    newest.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1

    async def main() -> None:
        async with greeting(Tls(pair.certificate, pair.key)) as port:
            assert await version_of(port, newest) == "TLSv1.2"
            with pytest.raises(OSError):  # noqa: PT011 - who refuses whom depends on OpenSSL
                await version_of(port, old)

    asyncio.run(main())


def broken(pair: Pair, folder: Path) -> dict[str, tuple[Path, Path, Path | None, str]]:
    other, text = make_pair(folder, "other"), folder / "text"
    text.write_text("no PEM")
    certificate, key = pair.certificate, pair.key
    return {
        "no certificate": (text, key, None, "text: has no certificate (INFERD_TLS_CERT_FILE)"),
        "a key for it": (key, key, None, "server.key: has no certificate (INFERD_TLS_CERT_FILE)"),
        "no key": (certificate, text, None, "text: has no private key for"),
        "another's key": (certificate, other.key, None, "other.key: is not the key of the certificate in"),
        "an encrypted key": (certificate, encrypted(pair), None, "the key is encrypted; it must not be"),
        "no authority": (certificate, key, text, "text: has no certificates (INFERD_TLS_CLIENT_CA_FILE)"),
    }


CASES = ["no certificate", "a key for it", "no key", "another's key", "an encrypted key", "no authority"]


@pytest.mark.parametrize("case", CASES)
def test_files_that_do_not_fit_are_named(tmp_path: Path, case: str) -> None:
    certificate, key, client_ca, problem = broken(make_pair(tmp_path), tmp_path)[case]
    with pytest.raises(ValueError, match=re.escape(problem)):
        Tls(certificate, key, client_ca)


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, missing: str) -> None:
    pair = make_pair(tmp_path)
    files = {"certificate": pair.certificate, "key": pair.key, "client_ca": pair.certificate}
    with pytest.raises(OSError, match="no-such-file"):
        Tls(**{**files, missing: tmp_path / "no-such-file"})


@pytest.mark.parametrize("case", CASES[:4])
def test_what_can_not_be_used_leaves_everything_as_it_was(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    pair = make_pair(tmp_path)
    trusted = trusting(pair.certificate)
    tls = Tls(pair.certificate, pair.key)
    before = tls.pem
    certificate, key, _, _ = broken(make_pair(tmp_path, "new"), tmp_path)[case]
    pair.certificate.write_bytes(certificate.read_bytes())
    pair.key.write_bytes(key.read_bytes())

    async def main() -> None:
        async with greeting(tls) as port:
            look(tls)
            assert await version_of(port, trusted) == "TLSv1.3"

    asyncio.run(main())
    assert tls.pem is before
    assert "can't be used, so what was there before goes on" in caplog.text


def test_settings_say_all_of_it_or_nothing(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    assert Tls.of(Settings()) is None
    both = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key}
    found = Tls.of(Settings(**both))
    assert found
    assert not found.asks_clients
    for half in ({"tls_cert_file": pair.certificate}, {"tls_key_file": pair.key}, {"tls_client_ca_file": pair.key}):
        with pytest.raises(ValueError, match="both INFERD_TLS_CERT_FILE and INFERD_TLS_KEY_FILE"):
            Tls.of(Settings(**half))
