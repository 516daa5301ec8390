"""Makes `scripted`, what these tests share, importable by its name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# By its own folder, since `tests` is no package here, and learn2learn installs one of that name.
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("scripted")
