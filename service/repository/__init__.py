"""Bundles on disk become models that answer: `scan` finds them, `bundle` loads and replays one, `model` serves it."""
