"""`python -m training TASK train | evaluate | export`: the one command of the offline half."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
from pathlib import Path

from training.core.config import read_config
from training.core.run import runs_dir

TASKS = ("image_classification", "image_generation", "text_generation", "translation")


def main() -> None:
    """Parse the command line and run one step of one task."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("step", choices=("train", "evaluate", "export"))
    parser.add_argument("--config", type=Path, help="a TOML file (default: the task's config.toml)")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one value")
    parser.add_argument("--run", default="default", help="name of the run's folder in INFERD_RUNS_DIR")
    given = parser.parse_args()
    if importlib.util.find_spec(f"training.{given.task}.{given.step}") is None:
        parser.error(f"{given.task} can't {given.step} yet")
    # The libraries tell at length what they do; what they warn of is enough.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    step = importlib.import_module(f"training.{given.task}.{given.step}")
    config_file = given.config or Path(__file__).parent / given.task / "config.toml"
    config = read_config(importlib.import_module(f"training.{given.task}.train").Config, config_file, given.set)
    getattr(step, given.step)(config, runs_dir() / given.task / given.run)


if __name__ == "__main__":
    main()
