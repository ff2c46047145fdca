from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from service.repository.batched_model import BatchedModel
from service.repository.placement import Placement, Tuning
from tests.bundles import golden_inputs, make_bundle
from tests.service.repository.serving import replica

PATIENCE_S = 60


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no nice value")
def test_long_runs_let_other_threads_go_first_and_short_ones_of_the_same_model_do_not(models: Path) -> None:
    folder = make_bundle(models)
    profile = ((1, 0.002), (4, 0.008))

    async def main() -> None:
        async with replica() as repository:
            placement = Placement(folder.parent.name, int(folder.name), str(folder), Tuning({"model": profile}))
            assert await repository.prepare([placement]) == [None]
            await repository.commit([placement.key], [])
            model = repository.get(folder.parent.name)
            assert isinstance(model, BatchedModel)
            own = os.getpriority(os.PRIO_PROCESS, 0)
            inputs = golden_inputs(4)
            for rows, name, steps in ((1, "run", 0), (4, "long-run", 10), (1, "run", 0)):
                answer = await model.submit({"image": np.ascontiguousarray(inputs[:rows])})
                assert answer.batch_rows == rows
                (thread,) = [one for one in threading.enumerate() if one.name.startswith(f"{name}-{model.name}")]
                assert thread.native_id
                assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(19, own + steps)

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    asyncio.run(bounded())
