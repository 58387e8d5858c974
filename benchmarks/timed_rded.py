"""`pydream rded`, with the times at which its parts begin and end in a file.

    python -m benchmarks.timed_rded FILE rded SOURCE …

For `benchmarks.fixed_costs`. It imports nothing that the command would not import.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pydream.rded
from pydream.cli import main as run_command


def main() -> None:
    file = Path(sys.argv[1])
    del sys.argv[1]
    times = {"start": time.time()}
    assert callable(pydream.rded.distill)  # imports it, as the command would
    times["imported"] = time.time()
    module = sys.modules["pydream.rded.distill"]
    score_all = vars(module)["distill_classes"]

    def timed(*given: Any) -> None:
        times["first image"] = time.time()
        score_all(*given)
        times["last image"] = time.time()

    with patch.object(module, "distill_classes", timed):
        run_command()
    times["end"] = time.time()
    file.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
