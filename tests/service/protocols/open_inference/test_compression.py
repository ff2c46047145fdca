"""Compressed bodies, without a server."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadInput, TooLarge, UnsupportedMediaType
from service.protocols.open_inference import compression
from service.protocols.open_inference.compression import choose, compress, decompress, encoding_of

LIMIT = 1000


def raw_deflate(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(content) + stream.flush()


@given(st.binary(max_size=LIMIT), st.sampled_from(["gzip", "deflate"]))
def test_what_was_compressed_comes_back(content: bytes, encoding: str) -> None:
    assert decompress(compress(content, encoding), encoding, LIMIT) == content


@given(st.binary(max_size=LIMIT))
def test_what_others_compress_is_read(content: bytes) -> None:
    assert decompress(gzip.compress(content), "gzip", LIMIT) == content
    assert decompress(zlib.compress(content), "deflate", LIMIT) == content
    assert decompress(raw_deflate(content), "deflate", LIMIT) == content
    assert gzip.decompress(compress(content, "gzip")) == content
    assert zlib.decompress(compress(content, "deflate")) == content


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_the_limit_counts_what_comes_out(encoding: str) -> None:
    assert decompress(compress(bytes(LIMIT), encoding), encoding, LIMIT) == bytes(LIMIT)
    with pytest.raises(TooLarge, match=r"larger than 1000 bytes once decompressed \(INFERD_MAX_BODY_BYTES\)"):
        decompress(compress(bytes(LIMIT + 1), encoding), encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_costs_no_more_than_the_limit(encoding: str) -> None:
    bomb = compress(bytes(200 * 2**20), encoding)
    assert len(bomb) < 2 * 2**20
    tracemalloc.start()
    with pytest.raises(TooLarge):
        decompress(bomb, encoding, 2**20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 2**20


@pytest.mark.parametrize(
    ("encoding", "body", "said"),
    [
        ("gzip", b"", "it ends too early"),
        ("gzip", b"{}", "incorrect header"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], "it ends too early"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"x", "must be one gzip stream; 1 bytes follow"),
        ("gzip", gzip.compress(b"{}", mtime=0) * 2, "must be one gzip stream; 22 bytes follow"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-8] + bytes(8), "incorrect data check"),
        ("gzip", zlib.compress(b"{}"), "incorrect header"),
        ("deflate", b"", "it ends too early"),
        ("deflate", b'{"inputs": []}', "no deflate stream"),
        ("deflate", gzip.compress(b"{}", mtime=0), "no deflate stream"),
        ("deflate", zlib.compress(b"{}")[:-1], "it ends too early"),
        ("deflate", zlib.compress(b"{}") + b"xy", "must be one deflate stream; 2 bytes follow"),
        ("deflate", raw_deflate(b"{}" * 50)[:-1], "it ends too early"),
    ],
)
def test_a_body_that_is_no_whole_stream_is_refused(encoding: str, body: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        decompress(body, encoding, LIMIT)


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_read_or_refused(body: bytes, encoding: str) -> None:
    with contextlib.suppress(BadInput):
        assert len(decompress(body, encoding, LIMIT)) <= LIMIT


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        (" GZIP ", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
    ],
)
def test_the_encoding_of_a_body(header: str | None, encoding: str | None) -> None:
    assert encoding_of(header) == encoding


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, gzip", "identity,gzip", "gzip;q=1", "x" * 1000])
def test_another_encoding_is_refused_with_those_allowed(header: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="is not taken; allowed: gzip, deflate, identity") as refused:
        encoding_of(header)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate, gzip", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("deflate;q=0.4, gzip; q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0, *", "deflate"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("gzip;q=much", None),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
        ("gzip;level=1", "gzip"),
        (",;,=", None),
    ],
)
def test_how_an_answer_is_compressed(header: str | None, encoding: str | None) -> None:
    assert choose(header) == encoding


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_body_of_several_pieces_is_one_stream_with_nothing_behind_it(
    monkeypatch: pytest.MonkeyPatch, encoding: str, pieces: int
) -> None:
    content = bytes(range(256)) * 30
    body = compress(content, encoding)
    monkeypatch.setattr(compression, "_PIECE", -(-len(body) // pieces))
    assert decompress(body, encoding, len(content)) == content
    for behind in (1, 1000):  # also where the stream ends with a piece
        with pytest.raises(BadInput, match=f"; {behind} bytes follow it"):
            decompress(body + b"x" * behind, encoding, len(content))
    with pytest.raises(TooLarge):
        decompress(body, encoding, len(content) - 1)
