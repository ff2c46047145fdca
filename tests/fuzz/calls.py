"""gRPC: messages with odd fields, messages that are none, streams of both, and bytes that are no HTTP/2."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from random import Random
from typing import Any, Final

import grpc
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from service.protocols.open_inference.grpc import open_inference_pb2 as pb
from service.protocols.open_inference.grpc.errors import UNEXPECTED
from service.protocols.open_inference.grpc.service import SERVICE
from tests.fuzz.edits import Edit, edited, edits, edits_by
from tests.fuzz.playing import HANG_S, Finding, Target

_DEFECTS: Final = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
)
_SILENCE_S: Final = 0.01
_BEGINS_ANEW_S: Final = 2.0
_STREAM: Final = "ModelStreamInfer"
_METHODS: Final = tuple(one.name for one in SERVICE.methods)

_SMALL: Final = st.sampled_from((0, 1, 2, 3, 4, -1, 2**31, 2**62, -(2**63)))
_NAMES: Final = st.sampled_from(
    ("x", "y", "bare", "kinds", "lengths", "tiny-text", "text_input", "", "1", "é", "a" * 300)
)
_TYPES: Final = st.sampled_from(("FP32", "FP32", "BYTES", "INT64", "BF16", "FP16", "BOOL", "", "fp32", "FP8"))
_CONTENTS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}


@st.composite
def _parameters(draw: DrawFn) -> dict[str, pb.InferParameter]:
    names = st.sampled_from(
        ("timeout", "priority", "classification", "binary_data", "max_tokens", "seed", "stop", "temperature", "top_k",
         "shared_memory_region", "sequence_id", "é")
    )  # fmt: skip
    values = st.one_of(
        st.booleans().map(lambda value: pb.InferParameter(bool_param=value)),
        _SMALL.map(lambda value: pb.InferParameter(int64_param=value)),
        st.text(max_size=5).map(lambda value: pb.InferParameter(string_param=value)),
        st.floats().map(lambda value: pb.InferParameter(double_param=value)),
        st.just(pb.InferParameter()),
    )
    return draw(st.dictionaries(names, values, max_size=2))


@st.composite
def _infer_requests(draw: DrawFn) -> pb.ModelInferRequest:
    """A message that can be read, whatever it says."""
    request = pb.ModelInferRequest(
        model_name=draw(st.sampled_from(("bare", "bare", "kinds", "lengths", "tiny-text", "no")))
    )
    rows = draw(st.sampled_from((1, 1, 2, 0)))
    for _ in range(draw(st.sampled_from((1, 1, 1, 0, 2)))):
        odd = draw(st.booleans())
        tensor = request.inputs.add(
            name=draw(_NAMES) if odd else "x",
            datatype=draw(_TYPES) if odd else "FP32",
            shape=draw(st.lists(_SMALL, max_size=4)) if odd else [rows, 3],
        )
        if draw(st.booleans()):
            request.raw_input_contents.append(draw(st.binary(max_size=30)) if odd else b"\0\0\x80?" * 3 * rows)
        else:
            field = draw(st.sampled_from((*_CONTENTS, "fp32_contents", "fp32_contents")))
            size = draw(st.integers(0, 8)) if odd else 3 * rows
            getattr(tensor.contents, field).extend(draw(st.lists(_CONTENTS[field], min_size=size, max_size=size)))
        if odd:
            for name, value in draw(_parameters()).items():
                tensor.parameters[name].CopyFrom(value)
    if draw(st.booleans()):
        for name, value in draw(_parameters()).items():
            request.parameters[name].CopyFrom(value)
        request.id = draw(st.text(max_size=4))
        request.model_version = draw(st.sampled_from(("", "1", "2", "-1", "x", "9" * 30)))
    if draw(st.booleans()):
        output = request.outputs.add(name=draw(st.sampled_from(("y", "y", "x", "", "text_output"))))
        for name, value in draw(_parameters()).items():
            output.parameters[name].CopyFrom(value)
    return request


_messages: Final = st.one_of(
    _infer_requests().map(lambda request: request.SerializeToString(deterministic=True)),
    st.tuples(_infer_requests(), edits).map(
        lambda both: edited(both[0].SerializeToString(deterministic=True), both[1])
    ),
    st.binary(max_size=40),
)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _header(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _conversation() -> bytes:
    """What a client of gRPC sends for one call, down to its frames."""
    message = pb.ModelReadyRequest(name="bare").SerializeToString()
    head = b"".join(
        _header(name, value)
        for name, value in (
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/inference.GRPCInferenceService/ModelReady"),
            (b":authority", b"a"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
            (b"grpc-timeout", b"5S"),
        )
    )  # fmt: skip
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(4, 0, 0, struct.pack(">HI", 4, 65535))
        + _frame(1, 4, 1, head)
        + _frame(8, 0, 0, struct.pack(">I", 1000))
        + _frame(0, 1, 1, struct.pack(">BI", 0, len(message)) + message)
        + _frame(6, 0, 0, b"pingpong")
    )


_CONVERSATION: Final = _conversation()
Case = tuple[str, list[bytes], list[tuple[str, str]]]


@st.composite
def _cases(draw: DrawFn) -> Case:
    """A method, or "" for a bare connection; its messages; its metadata."""
    how = draw(st.sampled_from(("infer",) * 6 + ("stream", "stream", "other", "other", "frames")))
    if how == "frames":
        changes: list[Edit] = draw(edits)
        return "", [edited(_CONVERSATION, changes)], []
    keys = st.sampled_from(("x-request-timeout-ms", "x-request-id", "authorization", "grpc-x", "b-bin", "accept"))
    metadata = draw(
        st.lists(st.tuples(keys, st.sampled_from(("", "1", "nan", "-1", "Bearer x", "~" * 200))), max_size=2)
    )
    if how == "stream":
        return _STREAM, draw(st.lists(_messages, max_size=4)), metadata
    if how == "infer":
        return "ModelInfer", [draw(_messages)], metadata
    name = draw(st.sampled_from((b"bare", b"tiny-text", b"", b"x", b"\xff", b"1")))
    method = draw(st.sampled_from(_METHODS))
    message = b"".join(
        bytes([field << 3 | 2, len(name)]) + name for field in draw(st.lists(st.integers(1, 3), max_size=3))
    )
    return method, [edited(message, draw(edits)) if draw(st.booleans()) else message], metadata


class Calls:
    """Calls of every method."""

    cases = _cases()
    variants = 9

    def __init__(self, target: Target) -> None:
        self._address = target.grpc
        self._name = target.name
        self._channel = grpc.insecure_channel(target.grpc, options=[("grpc.use_local_subchannel_pool", 1)])

    def vary(self, case: Case, random: Random) -> Case:
        """Edit a message."""
        method, messages, metadata = case
        if not messages:
            return case
        place = random.randrange(len(messages))
        changed = [edited(one, edits_by(random)) if number == place else one for number, one in enumerate(messages)]
        return method, changed, metadata

    def attempt(self, case: Case, number: int) -> str:
        """Make a call, or open a bare connection.

        One of the bare ones may end gRPC's server, which begins anew. What was under way at that moment is tried again.
        """
        outcome = self._attempt(case, number)
        if outcome == grpc.StatusCode.UNAVAILABLE.name:
            time.sleep(_BEGINS_ANEW_S)
            outcome = self._attempt(case, number)
            if outcome == grpc.StatusCode.UNAVAILABLE.name:
                raise Finding(f"{case[0]}: nobody answers", b"".join(case[1]))
        return outcome

    def _attempt(self, case: Case, number: int) -> str:
        method, messages, metadata = case
        if not method:
            return self._converse(messages[0])
        sent = b"".join(struct.pack(">BI", 0, len(message)) + message for message in messages)
        named = [("x-request-id", f"{self._name}-{number}"), *metadata]
        named = [(key, value.encode() if key.endswith("-bin") else value) for key, value in named]
        path = f"/{SERVICE.full_name}/{method}"
        try:
            if method == _STREAM:
                answers: Iterable[bytes] = self._channel.stream_stream(path)(iter(messages), HANG_S, named)
                _check_stream(list(answers), messages, sent)
            else:
                self._channel.unary_unary(path)(messages[0], HANG_S, named)
        except grpc.RpcError as error:
            code = error.code()
            told = f"{method}: {code.name}: {error.details()!r}"
            if code in _DEFECTS:
                raise Finding(told, sent) from error
            if code is grpc.StatusCode.DEADLINE_EXCEEDED and not any("timeout" in one.decode("latin-1") for one in (
                sent, *(key.encode() for key, _ in metadata))):  # fmt: skip
                raise Finding(f"no answer within {HANG_S:g} s; {told}", sent) from error
            return str(code.name)
        return "OK"

    def close(self) -> None:
        """End the channel."""
        self._channel.close()

    def _converse(self, sent: bytes) -> str:
        """Send frames; gRPC answers, ends the connection, or waits for more: the good requests show that it lives."""
        host, _, port = self._address.rpartition(":")
        try:
            connection = socket.create_connection((host, int(port)), HANG_S)
        except ConnectionError:  # its server is just beginning anew
            return str(grpc.StatusCode.UNAVAILABLE.name)
        with connection:
            connection.settimeout(_SILENCE_S)
            try:
                connection.sendall(sent)
                while connection.recv(2**16):
                    pass
            except TimeoutError:
                return "waited"
            except ConnectionError:
                pass
            return "closed"


def _check_stream(answers: list[bytes], messages: list[bytes], sent: bytes) -> None:
    if len(answers) != len(messages):
        raise Finding(f"a stream of {len(messages)} requests has {len(answers)} answers", sent)
    for answer in answers:
        if (told := pb.ModelStreamInferResponse.FromString(answer).error_message) == UNEXPECTED:
            raise Finding(f"{_STREAM}: {told}", sent)
