from __future__ import annotations

import sys
from pathlib import Path

# The scripts there are run by their paths, and so find one another by their bare names.
sys.path.append(str(Path(__file__).resolve().parents[2] / "loadtests"))
