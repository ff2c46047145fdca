from __future__ import annotations

from contextlib import nullcontext
from xml.etree import ElementTree

from loadtests.compare.__main__ import content
from loadtests.compare.measuring import Server
from loadtests.compare.peers import INFERD, PEERS, Setting
from loadtests.compare.report import plot, report
from loadtests.compare.summary import row_of
from service.bench.address import Address
from service.bench.plan import Plan
from tests.loadtests.compare.measured import figures

PLAN = Plan(clients=(1, 8, 32, 64), rates=[3000.0], seconds=1.5, warm_up_s=0.5, rounds=3)
ABOUT = {"model": "resnet-20", "processor": "A processor", "cores": 2, "commit": "abc", "onnxruntime": None}


def server(title: str, setting: Setting, per_s: float, *problems: str) -> Server:
    closed = {clients: [figures(per_s * clients)] for clients in PLAN.clients} if per_s else {}
    opened = [figures(3000.0)] if per_s > 50 else []
    return Server(title, setting, "1.2", lambda: nullcontext(Address("127.0.0.1", 1)), closed, opened, list(problems))


SERVERS = [
    server("inferd", INFERD, 120.0),
    server("mosec", PEERS[1].settings[0], 100.0),
    server("mosec", PEERS[1].settings[1], 80.0, "it ended with 1 before it answered: an error"),
    server("Ray Serve", PEERS[6].settings[0], 10.0),
    server("BentoML", PEERS[5].settings[0], 0.0, "it could not be installed: no such version"),
]
ROWS = [row_of(one) for one in SERVERS if one.closed]


def test_the_report_has_everybody_with_version_setting_and_how_it_is_asked() -> None:
    text = report(ABOUT, PLAN, SERVERS, ROWS)
    assert "On model resnet-20; processor A processor; cores 2; commit abc." in text
    assert "| inferd | 120 | 960 | 3,840 | 7,680 | 1 | 2 | 3,000 | 2 | 0.0% |" in text
    assert "| Ray Serve, no batches | 10 | 80 | 320 | 640 | 1 | 2 |  |  |  |" in text
    assert "| the best of the others | 1.20 (mosec, no batches) |" in text
    assert "| Ray Serve | 12.00 | 12.00 | 12.00 | 12.00 |" in text
    assert "| answers/s with one client, by those of the best of the others | at least 1.1 | 1.20 | yes |" in text
    assert "BentoML: the least | at least 3 |  | not measured |" in text
    assert "- mosec 1.2, no batches: a worker process a core. Raw float32 in both directions." in text
    assert "- BentoML 1.2, no batches: it could not be installed: no such version" in text


def test_who_could_not_be_measured_is_in_the_json_with_the_reason() -> None:
    result = content(ABOUT, PLAN, SERVERS, ROWS, workers=2)
    assert [one["problems"] for one in result["servers"]][-1] == ["it could not be installed: no such version"]
    assert [one["title"] for one in result["medians"]] == ["inferd", "mosec", "mosec", "Ray Serve"]
    assert result["plan"]["workers"] == 2
    assert result["servers"][0]["closed_loops"]["64"][0]["per_s"] == 7680.0


def test_the_plot_has_a_line_for_each_server_with_its_best_setting() -> None:
    picture = ElementTree.fromstring(plot(ABOUT, PLAN, ROWS))  # noqa: S314 - made here
    lines = picture.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2 * 3
    texts = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("Ray Serve") == 2
    assert texts.count("mosec") == 2
