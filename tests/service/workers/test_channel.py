from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.errors import BundleRefused, InferdError, NotFound, Overloaded, RuntimeFailure
from service.repository.control import VersionPolicy
from service.repository.golden import GoldenMismatch
from service.repository.placement import Key, Placement, Tuning
from service.workers import channel as module
from service.workers.channel import Channel, ChannelClosed, Handler, WireError, decode_error, encode_error
from tests.service.workers.channels import connected

T = TypeVar("T")

PATIENT_S = 20.0
ERRORS = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, InferdError)]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(PATIENT_S):
            await scenario

    asyncio.run(in_time())


@asynccontextmanager
async def half_connected(**handlers: Handler) -> AsyncIterator[tuple[Channel, asyncio.Task[None], socket.socket]]:
    """One end of a channel, that serves, and the bare socket of the other."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with theirs:
        channel = await Channel.over(ours)
        serving = asyncio.create_task(channel.serve(handlers))
        try:
            yield channel, serving, theirs
        finally:
            channel.close()
            await serving


async def add(one: int, other: int) -> int:
    return one + other


async def fail(number: int) -> None:
    raise made(ERRORS[number])


async def crash() -> None:
    raise LookupError("a secret of the server")


async def hang() -> None:
    await asyncio.Event().wait()


HANDLERS: dict[str, Handler] = {"add": add, "fail": fail, "crash": crash, "hang": hang}


def made(kind: type[InferdError]) -> InferdError:
    if issubclass(kind, Overloaded):
        return kind("the queue is full", retry_after_s=1.5)
    if issubclass(kind, BundleRefused):
        return kind("model.onnx", "is broken")
    return kind(f"a message of {kind.__name__}, \u00e4\u20ac")


def frame(*content: object) -> bytes:
    encoded = msgspec.msgpack.encode(content)
    return struct.pack(">I", len(encoded)) + encoded


# Calls


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_call_is_answered(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        async with connected({}, HANDLERS) as (here, _):
            assert await here.call("add", 2, 3, answer=int, timeout_s=PATIENT_S) == 5

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


def test_both_ends_call_each_other_at_once_and_within_each_others_calls() -> None:
    async def scenario() -> None:
        async def deeper(depth: int) -> int:
            return depth if depth == 0 else await here.call("deeper", depth - 1, answer=int, timeout_s=PATIENT_S) + 1

        async def deeper_there(depth: int) -> int:
            return depth if depth == 0 else await there.call("deeper", depth - 1, answer=int, timeout_s=PATIENT_S) + 1

        async with connected({"deeper": deeper}, {"deeper": deeper_there}) as (here, there):
            calls = [
                end.call("deeper", depth, answer=int, timeout_s=PATIENT_S)
                for end in (here, there)
                for depth in range(6)
            ]
            assert await asyncio.gather(*calls) == [*range(6), *range(6)]

    run(scenario())


def test_many_calls_at_once_get_each_its_own_answer_in_whatever_order_they_end() -> None:
    async def scenario() -> None:
        released = [asyncio.Event() for _ in range(200)]
        ended: list[int] = []

        async def wait(number: int) -> int:
            await released[number].wait()
            ended.append(number)
            return number

        async with connected({}, {"wait": wait}) as (here, _):
            calls = [asyncio.create_task(here.call("wait", n, answer=int, timeout_s=PATIENT_S)) for n in range(200)]
            await asyncio.sleep(0)
            for event in reversed(released):
                event.set()
                await asyncio.sleep(0)
            assert await asyncio.gather(*calls) == list(range(200))
        assert sorted(ended) == list(range(200))

    run(scenario())


def test_arguments_and_results_come_as_their_types() -> None:
    placements = [Placement("a", 1, "/a/1", Tuning({"model": ((1, 0.5),)})), Placement("b", 2, "/b/2")]
    seen: list[object] = []

    async def take(
        some: list[Placement], keys: list[Key], policy: VersionPolicy | None, word: str = "none"
    ) -> Placement:
        seen.extend((some, keys, policy, word))
        return some[-1]

    async def nothing() -> None:
        seen.append("nothing")

    async def scenario() -> None:
        async with connected({}, {"take": take, "nothing": nothing}) as (here, _):
            policy = VersionPolicy(specific=(1, 2))
            answer = await here.call("take", placements, [("a", 1)], policy, "x", answer=Placement, timeout_s=PATIENT_S)
            assert answer == placements[-1]
            assert seen == [placements, [("a", 1)], policy, "x"]
            seen.clear()
            await here.call("take", placements, [], None, "", answer=Placement, timeout_s=PATIENT_S)
            assert seen[2] is None
            seen.clear()
            assert await here.call("nothing", answer=type(None), timeout_s=PATIENT_S) is None
            assert seen == ["nothing"]

    run(scenario())


def test_large_messages_pass_and_do_not_hold_up_others_for_good() -> None:
    async def echo(content: bytes) -> bytes:
        return content

    async def scenario() -> None:
        async with connected({}, {"echo": echo, "add": add}) as (here, _):
            content = bytes(range(256)) * 2**15
            large = here.call("echo", content, answer=bytes, timeout_s=PATIENT_S)
            small = here.call("add", 1, 1, answer=int, timeout_s=PATIENT_S)
            assert await asyncio.gather(large, small) == [content, 2]

    run(scenario())


# Errors


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_arrives_as_what_it_was(kind: type[InferdError], caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with connected({}, HANDLERS) as (here, _):
            with pytest.raises(InferdError) as caught:
                await here.call("fail", ERRORS.index(kind), answer=type(None), timeout_s=PATIENT_S)
            expected = made(kind)
            assert type(caught.value) is kind
            assert str(caught.value) == str(expected)
            assert vars(caught.value) == vars(expected)
            assert await here.call("add", 1, 1, answer=int, timeout_s=PATIENT_S) == 2

    run(scenario())
    assert caplog.records == [], "it is no defect"


def test_an_error_of_a_class_from_elsewhere_arrives_as_its_nearest_ancestor() -> None:
    class Local(NotFound):
        pass

    arrived = decode_error(encode_error(Local("gone")))
    assert (type(arrived), str(arrived)) == (NotFound, "gone")
    mismatch = decode_error(encode_error(GoldenMismatch("golden.npz", "differs")))
    assert type(mismatch) is BundleRefused
    assert (mismatch.file, mismatch.problem) == ("golden.npz", "differs")


@given(st.text(st.characters(codec="utf-8")), st.floats(0, 1e6))
def test_an_error_keeps_its_words(text: str, seconds: float) -> None:
    wire = msgspec.msgpack.decode(
        msgspec.msgpack.encode(encode_error(Overloaded(text, retry_after_s=seconds))), type=WireError
    )
    arrived = decode_error(wire)
    assert isinstance(arrived, Overloaded)
    assert (str(arrived), arrived.retry_after_s) == (text, seconds)


async def unwritable() -> object:
    return object()


async def no_text() -> str:
    return "\ud800"


async def no_message() -> None:
    raise NotFound("there is no \udcff")


@pytest.mark.parametrize(
    ("method", "arguments", "cause"),
    [
        ("crash", (), "a secret of the server"),
        ("nobody", (), "KeyError"),
        ("add", ("one", 2), "Expected `int`, got `str`"),
        ("add", (1,), "Expected `array` of length 2, got 1"),
        ("add", (1, 2, 3), "Expected `array` of length 2, got 3"),
        ("unwritable", (), "Encoding objects of type object"),
        ("no_text", (), "UnicodeEncodeError"),
        ("no_message", (), "UnicodeEncodeError"),
    ],
)
def test_what_fails_unexpectedly_arrives_as_a_failure_and_is_logged(
    method: str, arguments: tuple[object, ...], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        odd: dict[str, Handler] = {"unwritable": unwritable, "no_text": no_text, "no_message": no_message}
        async with connected({}, HANDLERS | odd) as (here, _):
            with pytest.raises(RuntimeFailure, match=f"the control call '{method}' failed; see the log"):
                await here.call(method, *arguments, answer=object, timeout_s=PATIENT_S)
            assert await here.call("add", 1, 1, answer=int, timeout_s=PATIENT_S) == 2

    run(scenario())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert cause in caplog.text


def test_an_answer_of_another_type_is_a_failure_that_closes_nothing() -> None:
    async def scenario() -> None:
        async with connected({}, HANDLERS) as (here, _):
            with pytest.raises(RuntimeFailure, match="'add' was answered with something else: Expected `str`"):
                await here.call("add", 1, 1, answer=str, timeout_s=PATIENT_S)
            assert await here.call("add", 1, 1, answer=int, timeout_s=PATIENT_S) == 2

    run(scenario())


# The other end is gone, or silent


def test_when_the_other_end_goes_all_who_wait_are_told_and_those_who_come_later_too() -> None:
    async def scenario() -> None:
        async with half_connected() as (channel, serving, theirs):
            calls = [asyncio.create_task(channel.call("x", answer=int, timeout_s=PATIENT_S)) for _ in range(3)]
            await asyncio.sleep(0)
            theirs.close()
            for call in calls:
                with pytest.raises(ChannelClosed, match="is gone"):
                    await call
            await serving
            with pytest.raises(ChannelClosed, match="is gone"):
                await channel.call("x", answer=int, timeout_s=PATIENT_S)

    run(scenario())


@pytest.mark.parametrize("end", [0, 1])
def test_when_either_end_hangs_up_both_are_told(end: int) -> None:
    async def scenario() -> None:
        async with connected(HANDLERS, HANDLERS) as ends:
            calls = [asyncio.create_task(one.call("hang", answer=type(None), timeout_s=PATIENT_S)) for one in ends]
            await asyncio.sleep(0.01)
            ends[end].close()
            for call in calls:
                with pytest.raises(ChannelClosed):
                    await call

    run(scenario())


def test_what_is_being_answered_ends_with_the_channel() -> None:
    async def scenario() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with half_connected(work=work) as (_, serving, theirs):
            theirs.send(frame("call", 1, "work", ()))
            await begun.wait()
            theirs.close()
            await serving
            await ended.wait()

    run(scenario())


def test_an_end_that_goes_in_the_middle_of_a_frame_is_gone() -> None:
    async def scenario() -> None:
        async with half_connected() as (_, serving, theirs):
            theirs.send(frame("result", 1, "", 5)[:-1])
            theirs.close()
            await serving

    run(scenario())


def test_who_does_not_answer_in_time_is_taken_for_gone_and_its_late_answer_for_nothing() -> None:
    async def scenario() -> None:
        late = asyncio.Event()

        async def slow() -> int:
            await late.wait()
            return 1

        async with connected({}, {"slow": slow, "add": add}) as (here, _):
            with pytest.raises(ChannelClosed, match=r"has not answered 'slow' in 0\.01 s"):
                await here.call("slow", answer=int, timeout_s=0.01)
            late.set()
            assert await here.call("add", 1, 1, answer=int, timeout_s=PATIENT_S) == 2

    run(scenario())


def test_a_caller_who_leaves_disturbs_nobody() -> None:
    async def scenario() -> None:
        async with connected({}, HANDLERS) as (here, _):
            leaving = asyncio.create_task(here.call("hang", answer=type(None), timeout_s=PATIENT_S))
            staying = asyncio.create_task(here.call("add", 1, 1, answer=int, timeout_s=PATIENT_S))
            await asyncio.sleep(0)
            leaving.cancel()
            assert await staying == 2
            with pytest.raises(asyncio.CancelledError):
                await leaving

    run(scenario())


def test_answers_to_nobody_are_passed_over() -> None:
    async def scenario() -> None:
        async with half_connected() as (channel, _, theirs):
            theirs.send(frame("result", 77, "", 1) + frame("error", 78, "", ("NotFound", ("x",), 0.0)))
            call = asyncio.create_task(channel.call("x", answer=int, timeout_s=PATIENT_S))
            await asyncio.sleep(0)
            theirs.send(2 * frame("result", 1, "", 5))
            assert await call == 5
            call = asyncio.create_task(channel.call("x", answer=int, timeout_s=PATIENT_S))
            await asyncio.sleep(0)
            theirs.send(frame("result", 2, "", 6))
            assert await call == 6

    run(scenario())


# What is no frame

GARBAGE = {
    "no MessagePack": struct.pack(">I", 4) + b"\xc1\xc1\xc1\xc1",
    "no frame": frame("call"),
    "another kind": frame("shout", 1, "x", ()),
    "no number": frame("call", "one", "x", ()),
    "nothing": struct.pack(">I", 0),
    "too long": struct.pack(">I", 64 * 2**20 + 1),
    "HTTP": b"GET / HTTP/1.1\r\nHost: inferd\r\n\r\n",
    "no error": frame("error", 1, "", 5),
    "an unknown error": frame("error", 1, "", ("SystemExit", ("x",), 0.0)),
    "an error of other arguments": frame("error", 1, "", ("BundleRefused", ("x",), 0.0)),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_closes_the_channel_and_hangs_nobody(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with half_connected() as (channel, serving, theirs):
            call = asyncio.create_task(channel.call("x", answer=int, timeout_s=PATIENT_S))
            await asyncio.sleep(0)
            theirs.send(garbage)
            with pytest.raises(ChannelClosed):
                await call
            await serving
            received = b"?"
            while received:
                received = await asyncio.get_running_loop().sock_recv(theirs, 1024)

    run(scenario())
    (record,) = caplog.records
    assert record.getMessage() == "what came over the control channel can't be read; it is closed"


@given(st.binary(max_size=64))
def test_no_bytes_whatever_raise_anything_or_hang(garbage: bytes) -> None:
    async def scenario() -> None:
        async with half_connected() as (_, serving, theirs):
            theirs.send(garbage)
            theirs.shutdown(socket.SHUT_WR)
            await serving

    run(scenario())


def test_too_much_is_not_sent_at_all(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "_MAX_FRAME", 1000)

    async def much() -> bytes:
        return bytes(1000)

    async def take(content: bytes) -> int:
        return len(content)

    async def scenario() -> None:
        async with connected({}, {"much": much, "take": take}) as (here, _):
            with pytest.raises(RuntimeFailure, match="'much' failed"):
                await here.call("much", answer=bytes, timeout_s=PATIENT_S)
            with pytest.raises(ValueError, match=r"a frame of 1\d\d\d bytes; the most is 1000"):
                await here.call("take", bytes(1000), answer=int, timeout_s=PATIENT_S)
            assert await here.call("take", bytes(900), answer=int, timeout_s=PATIENT_S) == 900

    run(scenario())
    assert "a frame of 1" in caplog.text


def test_nothing_is_left_behind_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        before = asyncio.all_tasks()
        async with connected(HANDLERS, HANDLERS) as (here, there):
            calls = [
                asyncio.create_task(end.call("hang", answer=type(None), timeout_s=PATIENT_S)) for end in (here, there)
            ]
            await asyncio.sleep(0.01)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in results] == [ChannelClosed, ChannelClosed]
        here.close()  # once more does no harm
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    run(scenario())
    gc.collect()
    # Threads of other tests may still write what is theirs.
    assert [one for one in caplog.records if one.name in ("asyncio", module.logger.name)] == []
