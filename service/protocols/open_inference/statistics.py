"""What models have done, as Triton's statistics extension tells it."""

from __future__ import annotations

from typing import Any

from service.repository.statistics import Duration, VersionStatistics


def describe(statistics: VersionStatistics) -> dict[str, Any]:
    """One entry of `model_stats`. There is no response cache, so nothing of it is counted."""
    none = Duration()
    return {
        "name": statistics.name,
        "version": str(statistics.version),
        "last_inference": statistics.last_inference_ms,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": {
            "success": statistics.success,
            "fail": statistics.fail,
            "queue": statistics.queue,
            "compute_input": statistics.compute_input,
            "compute_infer": statistics.compute_infer,
            "compute_output": statistics.compute_output,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": batch.compute_input,
                "compute_infer": batch.compute_infer,
                "compute_output": batch.compute_output,
            }
            for rows, batch in sorted(statistics.batches.items())
        ],
    }
