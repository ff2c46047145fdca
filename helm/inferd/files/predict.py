"""Asks each model of a running server, or one, for a real prediction: `helm test` runs it in the image's own Python.

As tensors, which every model speaks: its own metadata says which it takes. Ends with 1 where an answer is not one.
"""

import json
import math
import os
import ssl
import sys
import urllib.request
from typing import Any

URL, MODEL, KEY = (os.environ.get(name, "") for name in ("URL", "MODEL", "API_KEY"))
# The certificate is made out to names that clients use, which the Service's own may not be among.
CONTEXT = ssl._create_unverified_context() if URL.startswith("https") else None  # noqa: S323 - see above


def call(path: str, body: Any = None) -> Any:
    """Ask, by POST if there is a body, and read the answer."""
    headers = {"content-type": "application/json", **({"x-api-key": KEY} if KEY else {})}
    request = urllib.request.Request(URL + path, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30, context=CONTEXT) as answer:
        return json.load(answer)


def tensor(described: dict[str, Any]) -> dict[str, Any]:
    """Make up an input: open axes have the size 1, and there are zeros in it, or texts."""
    shape = [1 if size < 0 else size for size in described["shape"]]
    value = "The sun is shining." if described["datatype"] == "BYTES" else 0
    return {
        "name": described["name"],
        "datatype": described["datatype"],
        "shape": shape,
        "data": [value] * math.prod(shape),
    }


index = call("/v2/repository/index", {})
models = [MODEL] if MODEL else sorted({one["name"] for one in index if one["state"] == "READY"})
if not models:
    sys.exit("no model serves")
for model in models:
    inputs = [tensor(one) for one in call(f"/v2/models/{model}")["inputs"]]
    outputs = call(f"/v2/models/{model}/infer", {"inputs": inputs})["outputs"]
    if not outputs or not all(one["data"] for one in outputs):
        sys.exit(f"{model}: an empty answer: {outputs}")
    print(model, "answers:", ", ".join(f"{one['name']} {one['datatype']} {one['shape']}" for one in outputs))
