"""Mixed traffic: a user class for each task that the server has a model for, and thresholds that fail the run.

`make serve` in one terminal, then in another:
`make loadtest ARGS="--host http://127.0.0.1:8000 --users 64 --spawn-rate 64 --run-time 20s"`

`make loadtest-ci` does both for 30 seconds. Names of user classes after the options choose some of them; answers are
looked into, and one that is not what was asked for is a failure as any other.
"""

from __future__ import annotations

import json
import logging
import random
import struct
import time
import urllib.parse
import urllib.request
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

ROOT = Path(__file__).resolve().parents[1]
PICTURE = (ROOT / "docs" / "examples" / "shoe.png").read_bytes()
SENTENCES = (ROOT / "loadtests" / "sentences.txt").read_text(encoding="utf-8").splitlines()
PROMPTS = ("ROMEO:", "First Citizen:", "The king", "My lord, ", "What is")
TOKENS = 60
"""Of a text that grows."""

_JSON = {"content-type": "application/json"}
logger = logging.getLogger("inferd.loadtest")

models: dict[str, Mapping[str, Any]] = {}
"""What the server says of a model for each task, once the test starts."""


class Asking(FastHttpUser):
    """A user of the model of one task; it asks again as soon as it is answered, or pauses as `--pause` says."""

    abstract = True
    tasks_of: ClassVar[tuple[str, ...]] = ()
    """The tasks that it can ask for, as manifests name them."""

    @classmethod
    def described(cls) -> Mapping[str, Any] | None:
        """What the server says of the model, if it has one for these users."""
        return next((models[name] for name in cls.tasks_of if name in models), None)

    def on_start(self) -> None:
        """Take the model that all users of this class ask."""
        described = self.described()
        assert described
        self.model = described
        self.name: str = described["model"]
        self.path = f"/predict/{urllib.parse.quote(self.name)}"

    def wait_time(self) -> float:
        """Seconds before the next request."""
        return random.uniform(0, 2 * self.environment.parsed_options.pause)

    def context(self) -> dict[str, str]:
        """What listeners are told of each request: which users it is of."""
        return {"user": type(self).__name__}

    def ask(self, name: str, path: str, check: Callable[[Any], None], **how: Any) -> None:
        """Ask, and have `check` look into an answer that is good as far as its status tells.

        Args:
            name: of this kind of request.
            path: of the call.
            check: fails with an error if the answer is not what was asked for.
            how: body and headers.
        """
        with self.client.post(path, name=name, catch_response=True, **how) as response:
            if response.status_code == 200:
                try:
                    check(response)
                except (AssertionError, LookupError, TypeError, ValueError) as error:
                    response.failure(f"it is not what was asked for: {error!r}")


class Classifier(Asking):
    """Classifies pictures, by the picture itself and by its tensor."""

    weight = 4
    tasks_of = ("image-classification",)

    def on_start(self) -> None:
        """Make the requests of tensors once: making them is not what is measured."""
        super().on_start()
        seen = self.model["input"]["seen_as"]
        shape = [1, seen["channels"], seen["height"], seen["width"]]
        with self.client.get(f"/v2/models/{self.name}", name="(description)", catch_response=True) as response:
            (tensor,) = response.json()["inputs"]
        numbers = [round(random.uniform(-1, 2), 3) for _ in range(shape[1] * shape[2] * shape[3])]
        described = {"name": tensor["name"], "shape": shape, "datatype": "FP32"}
        self.json_body = json.dumps({"inputs": [{**described, "data": numbers}]})
        raw = struct.pack(f"<{len(numbers)}f", *numbers)
        header = json.dumps(
            {
                "inputs": [{**described, "parameters": {"binary_data_size": len(raw)}}],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        self.binary_body = header + raw
        self.binary_headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(header)),
        }

    @task(2)
    def picture(self) -> None:
        """The task dialect, a PNG."""

        def check(response: Any) -> None:
            best, *_ = response.json()
            assert best["label"] in self.model["labels"]
            assert 0 <= best["score"] <= 1

        self.ask("predict: picture", self.path, check, data=PICTURE, headers={"content-type": "image/png"})

    @task
    def tensor(self) -> None:
        """The Open Inference Protocol, JSON."""

        def check(response: Any) -> None:
            (output,) = response.json()["outputs"]
            assert len(output["data"]) == len(self.model["labels"])

        self.ask("infer: JSON", f"/v2/models/{self.name}/infer", check, data=self.json_body, headers=_JSON)

    @task
    def raw_tensor(self) -> None:
        """The Open Inference Protocol, raw bytes."""

        def check(response: Any) -> None:
            length = int(response.headers["inference-header-content-length"])
            assert len(response.content) - length == 4 * len(self.model["labels"])

        path = f"/v2/models/{self.name}/infer"
        self.ask("infer: binary", path, check, data=self.binary_body, headers=self.binary_headers)


class Writer(Asking):
    """Has texts continued, as a whole and as they come."""

    weight = 2
    tasks_of = ("text-generation",)

    @task(2)
    def stream(self) -> None:
        """Events of the Open Inference Protocol's generate extension: they have no status before the first is there."""
        body = json.dumps({"text_input": self.prompt(), "parameters": {"max_tokens": TOKENS}})
        check = partial(self._read, time.perf_counter())
        path = f"/v2/models/{self.name}/generate_stream"
        self.ask("generate_stream: first token", path, check, data=body, headers=_JSON, stream=True)

    def _read(self, started: float, response: Any) -> None:
        """Read a stream to its end, and count all of it as a request of its own."""
        count = 0
        while line := response.stream.readline(b"\n"):
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                assert "error" not in event, event["error"]
                assert event["text_output"]
                count += 1
        assert count == TOKENS, f"{count} events"
        self.environment.events.request.fire(
            request_type="SSE",
            name="generate_stream: all of it",
            response_time=1000 * (time.perf_counter() - started),
            response_length=0,
            exception=None,
            context={},
        )

    @task
    def whole(self) -> None:
        """The task dialect."""
        body = json.dumps({"inputs": self.prompt(), "parameters": {"max_new_tokens": TOKENS}})

        def check(response: Any) -> None:
            (answer,) = response.json()
            assert len(answer["generated_text"]) == TOKENS

        self.ask("predict: text", self.path, check, data=body, headers=_JSON)

    @task
    def completion(self) -> None:
        """OpenAI's dialect."""
        body = json.dumps({"model": self.name, "prompt": self.prompt(), "max_tokens": TOKENS})

        def check(response: Any) -> None:
            assert response.json()["usage"]["completion_tokens"] == TOKENS

        self.ask("completions", "/v1/completions", check, data=body, headers=_JSON)

    def prompt(self) -> str:
        """One that the model can read."""
        known = self.model["input"]["characters"]
        return "".join(one for one in random.choice(PROMPTS) if one in known)


class Translator(Asking):
    """Has sentences translated, one at a time and a few together."""

    weight = 1
    tasks_of = ("translation",)

    @task(3)
    def sentence(self) -> None:
        """The task dialect."""
        self.translate("predict: sentence", random.choice(SENTENCES))

    @task
    def sentences(self) -> None:
        """Several texts in a request."""
        self.translate("predict: four sentences", random.sample(SENTENCES, 4))

    def translate(self, name: str, texts: str | list[str]) -> None:
        """Ask, and see that every text has a translation."""

        def check(response: Any) -> None:
            answers = response.json()
            assert len(answers) == (len(texts) if isinstance(texts, list) else 1)
            assert all(one["translation_text"] for one in answers)

        self.ask(name, self.path, check, data=json.dumps({"inputs": texts}), headers=_JSON)


class Painter(Asking):
    """Has pictures drawn, one as a file and a few in JSON."""

    weight = 1
    tasks_of = ("text-to-image", "unconditional-image-generation")

    @task(2)
    def picture(self) -> None:
        """The task dialect, a PNG."""
        body = json.dumps({"parameters": self.wanted()})

        def check(response: Any) -> None:
            assert response.content.startswith(b"\x89PNG")
            assert int(response.headers["x-inferd-seed"]) >= 0

        self.ask("predict: drawing", self.path, check, data=body, headers=_JSON)

    @task
    def pictures(self) -> None:
        """Several in a request."""
        body = json.dumps({"parameters": {**self.wanted(), "num_images": 4}})

        def check(response: Any) -> None:
            assert [one["content_type"] for one in response.json()] == ["image/png"] * 4

        self.ask("predict: four drawings", self.path, check, data=body, headers=_JSON)

    def wanted(self) -> dict[str, Any]:
        """A class, where there are any."""
        labels = self.model["labels"]
        return {"label": random.choice(labels)} if labels else {}


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    """What this file may be told."""
    ours = parser.add_argument_group("inferd", "Users, and the thresholds past which the exit code is 1")
    ours.add_argument("--pause", type=float, default=0.0, help="mean seconds between a user's requests; default: 0")
    ours.add_argument("--most-failures", type=float, default=0.0, help="share of all requests; default: 0")
    ours.add_argument("--most-p95-ms", type=float, default=5000.0, help="of each kind of request; default: 5000")
    ours.add_argument("--least-requests", type=int, default=10, help="of each user class, good ones; default: 10")
    ours.add_argument("--tasks-wanted", default="", help="tasks that there must be a model for, with commas between")


@events.test_start.add_listener
def _find_models(environment: Environment, **_: Any) -> None:
    """Ask the server which models it has, and leave out users that have none."""
    index = _fetch(f"{environment.host}/v2/repository/index", b'{"ready": true}')
    for name in sorted({one["name"] for one in index}):
        described = _fetch(f"{environment.host}/predict/{urllib.parse.quote(name)}")
        models.setdefault(described["task"], described)
    environment.user_classes[:] = [one for one in environment.user_classes if one.described()]
    for one in environment.user_classes:
        logger.info("%s asks %s", one.__name__, one.described()["model"])
    wanted = set(filter(None, environment.parsed_options.tasks_wanted.split(",")))
    if missing := wanted - set(models):
        _fail(environment, f"there is no model for {', '.join(sorted(missing))}")
    if not environment.user_classes:
        _fail(environment, f"{environment.host} has no model that any user asks")
        environment.runner.quit()


@events.request.add_listener
def _count(context: Mapping[str, Any], exception: object, **_: Any) -> None:
    """Count good requests by user class; those that have no user are parts of others."""
    if exception is None and (user := context.get("user")):
        good[user] = good.get(user, 0) + 1


@events.quitting.add_listener
def _judge(environment: Environment, **_: Any) -> None:
    """Fail the run where a threshold was passed."""
    options: Namespace = environment.parsed_options
    total = environment.stats.total
    if total.fail_ratio > options.most_failures:
        _fail(environment, f"{total.fail_ratio:.2%} of all requests failed, and {options.most_failures:.2%} may")
    for entry in environment.stats.entries.values():
        p95 = entry.get_response_time_percentile(0.95) or 0
        if p95 > options.most_p95_ms:
            _fail(environment, f"{entry.name}: p95 was {p95:.0f} ms, and {options.most_p95_ms:.0f} may be")
    for one in environment.user_classes:
        if good.get(one.__name__, 0) < options.least_requests:
            counted = good.get(one.__name__, 0)
            _fail(environment, f"{one.__name__}: {counted} good requests, and {options.least_requests} must be")


good: dict[str, int] = {}
"""Good requests by the name of their user class."""


def _fail(environment: Environment, why: str) -> None:
    logger.error("failed: %s", why)
    environment.process_exit_code = 1


def _fetch(url: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, body, _JSON), timeout=30) as response:
        return json.load(response)
