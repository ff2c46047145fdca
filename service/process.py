"""The processes that inferd starts for itself: workers, and those in which bundles are tried."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys

from service.machine import memory_limit
from service.observability import configure_logging
from service.repository.bundle import LoadOptions
from service.repository.profiles import Profiling
from service.repository.tuning import load_tuned, tuning_of
from service.runtime.devices import CPU
from service.runtime.runs import Runs, open_runs
from service.security.usage import open_usage
from service.settings import Settings
from service.workers.children import be_first_to_go, bound_memory, end_with_parent
from service.workers.counts import Counts
from service.workers.sizing import default_load_memory
from service.workers.trial import Try, answer_trial


def main() -> int:
    """Run as what the command line says, with settings from standard input."""
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(required=True)
    worker = kinds.add_parser("worker")
    worker.add_argument("--index", type=int, required=True)
    worker.add_argument("--descriptors", required=True)
    worker.set_defaults(run=_work)
    kinds.add_parser("trial").set_defaults(run=_try)
    given = parser.parse_args()
    try:
        code: int = given.run(given)
    except (OSError, ValueError) as error:
        print(f"inferd: {error}", file=sys.stderr)
        return 1
    return code


def _work(given: argparse.Namespace) -> int:
    from service.serving import serve_as_worker  # a trial takes half the time without what serves

    settings = Settings.from_json(sys.stdin.buffer.read())
    configure_logging(settings.log_level, worker=given.index)
    counted, used, ran, *sockets = map(int, given.descriptors.split(","))
    counts, usage = Counts(counted, given.index), open_usage(used, given.index)
    runs = Runs(longest_s=settings.max_run_s, memory=open_runs(ran), own=given.index)
    os.close(counted)
    os.close(used)
    os.close(ran)
    with contextlib.suppress(ValueError):  # the application will say that the device is not to be had
        if LoadOptions.of(settings).providers[0] == CPU:
            bound_memory(memory_limit())
    control, *listeners = (socket.socket(fileno=one) for one in sockets)
    return serve_as_worker(settings, control, listeners, counts, usage, runs)


def _try(_: argparse.Namespace) -> int:
    def make_try(settings: Settings) -> Try:
        end_with_parent(sys.stdin.buffer)
        configure_logging(settings.log_level)
        options, profiling = LoadOptions.of(settings), Profiling.of(settings)
        be_first_to_go()
        if options.providers[0] == CPU:  # a GPU's memory is mapped too, all of it
            bound_memory(settings.load_memory_bytes or default_load_memory())
        return lambda folder: tuning_of(load_tuned(folder, options, profiling))

    # What libraries print goes where the log goes: only outcomes may come out of here.
    with os.fdopen(os.dup(1), "wb") as taken:
        os.dup2(2, 1)
        answer_trial(sys.stdin.buffer, taken, make_try)
    return 0


if __name__ == "__main__":
    sys.exit(main())
