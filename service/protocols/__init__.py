"""The HTTP dialects, each a thin file over the same models."""
