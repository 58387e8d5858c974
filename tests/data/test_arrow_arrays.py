"""Arrays of Arrow made without pandas, against those that pyarrow makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rded_runs import write_pictures, write_random_observer

from pydream.data.arrow_arrays import as_numpy, numbers, optional_numbers, strings

REPOSITORY = Path(__file__).resolve().parents[2]
# A pandas that no run may import, put where an installed one would be. pyarrow swallows exceptions.
FORBIDDEN = "import os\nos.write(2, b'pandas was imported\\n')\nos._exit(9)\n"
WHOLE_RUNS = """
import sys
from pathlib import Path
from pydream.dream import DreamConfig, distill as dream
from pydream.inspection import inspect_set
from pydream.rded import RdedConfig, distill as rded
from pydream.sets import load_set
source, table, weights, out = sys.argv[1:]
made = [
    *(rded(RdedConfig(source=given, observer=weights, out=Path(out, f"rded{number}"), ipc=2,
                      factor=2, allow_weak_observer=True, device="cpu"))
      for number, given in enumerate((source, table))),
    dream(DreamConfig(source=source, out=Path(out, "dream"), ipc=1, iterations=1, side=16,
                      arch="convnet2-w16", device="cpu")),
]
for each in made:
    inspect_set(load_set(each.path))
print([name for name in ("pandas", "pyarrow.dataset") if name in sys.modules])
"""


def write_table(pictures: Path, table: Path) -> Path:
    """Write class folders as a table, with the classes by name."""
    files = sorted(pictures.glob("*/*"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [file.parent.name for file in files]
    pq.write_table(pa.table({"image": images, "label": labels}), table)
    return table


@pytest.mark.parametrize(
    "names", [[], [""], ["a"], ["a", "", "bc"], ["ä", "日本", "a\N{COMBINING DIAERESIS}", "𝄞"] * 3]
)
def test_strings_are_those_of_pyarrow(names: list[str]) -> None:
    made = strings(names)
    made.validate(full=True)
    assert made.equals(pa.array(names, pa.large_string()))


def test_a_string_that_is_no_text_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        strings(["fine", "\udcff"])


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_numbers_are_those_of_pyarrow(dtype: type[np.number], count: int) -> None:
    values = np.arange(count).astype(dtype)
    for given in (values, values[::-1], values[::3], values[1:]):
        made = numbers(given)
        made.validate(full=True)
        assert made.equals(pa.array(given))
        assert as_numpy(made).dtype == dtype
        np.testing.assert_array_equal(as_numpy(made), given)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_missing_numbers_are_those_of_pyarrow(count: int) -> None:
    for step in (1, 2, 7, count + 1):
        values = [None if at % step == 0 else float(at) for at in range(count)]
        made = optional_numbers(values, np.float32)
        made.validate(full=True)
        assert made.equals(pa.array(values, pa.float32()))
        assert made.null_count == values.count(None)
    assert optional_numbers([], np.int32).equals(pa.array([], pa.int32()))


def test_numbers_come_back_from_slices_and_from_chunks() -> None:
    whole = np.arange(11, dtype=np.int32)
    chunks = pa.chunked_array([numbers(whole[:4]), numbers(whole[:0]), numbers(whole[4:])])
    np.testing.assert_array_equal(as_numpy(chunks), whole)
    np.testing.assert_array_equal(as_numpy(chunks.slice(3, 5)), whole[3:8])
    np.testing.assert_array_equal(as_numpy(numbers(whole).slice(2, 4)), whole[2:6])
    assert as_numpy(pa.chunked_array([], pa.int64())).dtype == np.int64


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**63, 0.5])
def test_a_number_that_does_not_fit_its_type_is_refused(value: float) -> None:
    with pytest.raises(OverflowError, match="does not fit into int32"):
        optional_numbers([1, value, None], np.int32)


def test_missing_numbers_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="1 of 3 numbers are missing"):
        as_numpy(pa.array([1, None, 2]))


def test_a_whole_run_imports_no_pandas(tmp_path: Path) -> None:
    """It would take a third of a second of a run that takes two."""
    (tmp_path / "site" / "pandas").mkdir(parents=True)
    (tmp_path / "site" / "pandas" / "__init__.py").write_text(FORBIDDEN)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    weights = write_random_observer(tmp_path / "observer.safetensors")
    pictures = write_pictures(tmp_path / "pictures")
    table = write_table(pictures, tmp_path / "table.parquet")
    given = [str(path) for path in (pictures, table, weights, tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_RUNS, *given],
        env={**os.environ, "PYTHONPATH": path},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
