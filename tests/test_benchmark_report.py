"""The tables of benchmarks are those of the newest records, and a stale one is noticed."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = "docs/benchmarks.md"
OF_SETS = "docs/rded.md"
RATIOS = "docs/benchmark-ratios.svg"
OF_RANKS = "docs/scale.md"
OF_PROTOCOLS = "docs/protocols.md"
OF_CAMPAIGNS = "docs/reliability.md"
NAMES = ["README.md", PAGE, OF_SETS, OF_RANKS, OF_PROTOCOLS, OF_CAMPAIGNS, RATIOS]
TABLES = {
    "README.md": ["summary"],
    PAGE: ["times", "slower"],
    OF_SETS: ["sets"],
    OF_RANKS: ["ranks"],
    OF_PROTOCOLS: ["recipes", "protocols"],
    OF_CAMPAIGNS: ["campaigns", "busy"],
}
ROOFLINE = "docs/benchmark-roofline.svg"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("benchmarks.report")


def case(ours: float, limit: float = 0.5, **others: float) -> dict[str, Any]:
    seconds = {"pydream": ours, **others}
    return {
        "items": 10,
        "unit": "iteration",
        "seconds": {
            name: {
                "median": median,
                "lower_quartile": median,
                "upper_quartile": median,
                "rounds": 3,
            }
            for name, median in seconds.items()
        },
        "microseconds_per_item": {name: median / 10 * 1e6 for name, median in seconds.items()},
        "times_as_fast": {name: median / ours for name, median in others.items()},
        "fraction_of_limit": limit,
        "work": {"nbytes": 1000, "operations": 4000},
    }


def write(
    folder: Path,
    name: str,
    date: str,
    cases: dict[str, Any],
    machine: str = "Abacus",
    **described: Any,
) -> None:
    place = folder / "benchmarks" / "results" / machine.lower()
    place.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "date": f"{date}T00:00:00+00:00",
        "machine": {
            "processor": machine,
            "cores": 2,
            "versions": {"torch": "2.0"},
            "build": {"instruction_set": "beads"},
            **described,
        },
        "limits": {"copy_bytes": 1e9, "matrix_operations": 1e10, "dtype": "float32", "threads": 2},
        "results": cases,
    }
    number = len(list(place.iterdir()))
    (place / f"{number}-{name}.json").write_text(json.dumps(record))


@pytest.fixture
def repository(tmp_path: Path, report: ModuleType) -> Path:
    for name, tables in TABLES.items():
        page = tmp_path / name
        page.parent.mkdir(parents=True, exist_ok=True)
        marked = "old\n".join("\n".join(report.markers(table)) + "\n" for table in tables)
        page.write_text(f"before\n{marked}after\n")
    start = {"k-means++ (5000, 2048), k 128": case(2e-3, scikit=5e-3, faiss=1e-3)}
    write(tmp_path, "kmeans", "2026-02-01", start)
    write(tmp_path, "kmeans", "2026-01-01", {name: case(9.0) for name in start})  # older
    return tmp_path


def test_tables_are_of_the_newest_records(report: ModuleType, repository: Path) -> None:
    assert dict(report.update(repository, write=True)) == dict.fromkeys([*NAMES, ROOFLINE], False)
    assert dict(report.update(repository, write=False)) == dict.fromkeys([*NAMES, ROOFLINE], True)
    text = (repository / PAGE).read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" in text.split(report.markers("times")[1])[1].split(report.markers("slower")[0])[0]
    head, _, row = [line for line in text.splitlines() if line.startswith("| ")][:3]
    assert head == "|  | pydream | speed (a full matrix product = 100 %) | scikit | faiss |"
    assert "| 200 µs / iteration | 50 % | 500 µs, **2.5×** | 100 µs, **0.5×** |" in row
    slower = text.split(report.markers("slower")[0])[1]
    assert "| kmeans, k-means++ (5000, 2048), k 128 | 0.50 times as fast as faiss |" in slower
    assert "scikit" not in slower


def test_the_readme_shows_the_machine_with_most_of_its_rows_and_the_fastest_peers(
    report: ModuleType, repository: Path
) -> None:
    dict(report.update(repository, write=True))
    assert "Nothing has been measured yet." in (repository / "README.md").read_text()
    crop = {"ImageNet to 112, 2 threads": case(1e-3, OpenCV=3e-3, kornia=2e-3)}
    kmeans = {"CIFAR-10 features (1, 5000, 2048), k 128": case(2e-3, faiss=3e-3)}
    write(repository, "crop", "2026-02-02", crop)
    write(repository, "crop", "2026-02-02", crop, machine="Difference Engine")
    write(repository, "kmeans", "2026-02-03", kmeans, machine="Difference Engine")
    dict(report.update(repository, write=True))
    text = (repository / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split(" | ", 1)[1] for row in rows] == [
        "200 µs / iteration | faiss: **1.5×** as long |",
        "100 µs / iteration | kornia: **2.0×** as long |",
    ]
    assert "*Difference Engine, 2 cores, beads; float32, 2 threads, torch 2.0;" in text
    assert "2026-02-02 to 2026-02-03.*" in text


def test_what_is_not_of_the_records_is_seen(report: ModuleType, repository: Path) -> None:
    dict(report.update(repository, write=True))
    page = repository / PAGE
    page.write_text(page.read_text().replace("200 µs", "100 µs"))
    assert dict(report.update(repository, write=False))[PAGE] is False
    dict(report.update(repository, write=True))
    write(
        repository,
        "kmeans",
        "2026-03-01",
        {"k-means++ (5000, 2048), k 128": case(1e-3, faiss=2e-3)},
    )
    found = dict(report.update(repository, write=False))
    stale = dict.fromkeys([PAGE, RATIOS, ROOFLINE], False)
    others = ["README.md", OF_SETS, OF_RANKS, OF_PROTOCOLS, OF_CAMPAIGNS]
    assert found == {**stale, **dict.fromkeys(others, True)}
    assert "Nothing." not in (repository / PAGE).read_text()
    dict(report.update(repository, write=True))
    assert "Nothing." in (repository / PAGE).read_text()


def test_targets_and_machines(report: ModuleType, repository: Path) -> None:
    cases = {"ResNet-18, l1": case(1e-3, limit=0.7, **{"eager, layer by layer": 1.5e-3})}
    write(repository, "matching", "2026-02-02", cases, machine="Difference Engine")
    dict(report.update(repository, write=True))
    behind = (repository / PAGE).read_text()
    (line,) = [line for line in behind.splitlines() if "gradient_distance, ResNet-18, l1" in line]
    assert "1.50 times as fast as eager, layer by layer; target 2" in line
    assert "of its bound" not in behind
    text = (repository / PAGE).read_text()
    assert "### Abacus, 2 cores, beads\n\nfloat32, 2 threads, torch 2.0; 2026-02-01.\n" in text
    assert "Difference Engine" in text


def test_a_gpu_is_described_as_one_and_its_cases_are_held_to_targets(
    report: ModuleType, repository: Path
) -> None:
    gpu: dict[str, Any] = {
        "machine": "Jacquard",
        "gpu": "Jacquard",
        "build": {"instruction_set": "beads", "torch_cuda": "13.0"},
    }
    half = {"copy_bytes": 1e9, "matrix_operations": 4e10, "dtype": "float16", "threads": 2}
    kmeans = {
        "(32, 75600, 128), k 1000, float16, fast": {
            **case(1e-3, limit=0.3, **{"flash-kmeans": 1.1e-3, "fast_pytorch_kmeans": 9e-4}),
            "limits": half,
        },
        "k-means++ start, (1, 200000, 128)": {**case(1e-3, limit=0.1), "remarks": {}},
    }
    crop = "crop_resize, one batch, bfloat16"
    ops = {crop: case(1e-3, limit=0.7, **{"torchvision, a patch at a time": 4e-3})}
    write(repository, "cuda-kmeans", "2026-02-02", kmeans, **gpu)
    write(repository, "cuda-ops", "2026-02-02", ops, **gpu)
    dict(report.update(repository, write=True))
    text = (repository / PAGE).read_text()
    assert "\n### Jacquard\n\ntorch 2.0, CUDA 13.0; 2026-02-02.\n" in text
    assert "| `kmeans`, (32, 75600, 128), k 1000, float16, fast |" in text
    assert f"| {crop} |" in text
    behind = (repository / PAGE).read_text()
    lines = [line.split(" | ", 1) for line in behind.splitlines() if "(Jacquard)" in line]
    about = "| kmeans, (32, 75600, 128), k 1000, float16, fast (Jacquard)"
    assert sorted(lines) == sorted(
        [
            [about, "0.90 times as fast as fast_pytorch_kmeans |"],
            [about, "0.30 of its bound; target 0.6 |"],
            [about, "1.10 times as fast as flash-kmeans; target 1.2 |"],
            [
                f"| {crop} (Jacquard)",
                "4.00 times as fast as torchvision, a patch at a time; target 5 |",
            ],
        ]
    )
    points = report._points(list(report.newest_records(repository / "benchmarks" / "results")))
    own = {point["op"]: point["limits"] for point in points if point["machine"] == "Jacquard"}
    assert own["crop_resize"]["dtype"] == "float32"
    figure = (repository / ROOFLINE).read_text()
    assert figure.count(">float16<") == figure.count(">float32<") == 1


@pytest.mark.parametrize(
    "described",
    [
        {"build": {"instruction_set": "fingers"}},
        {"cores": 4},
        {"family": "25", "model": "1"},
        {"native_bfloat16": True},
        {"gpu": "Jacquard"},
    ],
)
def test_records_of_two_machines_in_one_folder_are_refused(
    report: ModuleType,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    described: dict[str, Any],
) -> None:
    write(repository, "score", "2026-02-02", {}, **described)
    monkeypatch.setattr(report, "REPOSITORY", repository)
    monkeypatch.setattr("sys.argv", ["report", "--check"])
    with pytest.raises(SystemExit) as refusal:
        report.main()
    (message,) = refusal.value.args
    assert "results/abacus/0-kmeans.json and results/abacus/2-score.json" in message
    key, value = next(iter(described.items()))
    name, value = ("instruction_set", "fingers") if key == "build" else (key, value)
    assert f"{name} is " in message
    assert f" and {value}" in message


def test_a_rival_without_a_figure_is_named_in_the_table(
    report: ModuleType, repository: Path
) -> None:
    name = "k-means++ (5000, 2048), k 128"
    odd = {**case(1e-3, scikit=2e-3), "remarks": {"flash-kmeans": "other result: inertia 3"}}
    write(repository, "kmeans", "2026-03-01", {name: odd, "(1, 9, 9)": {"failed": "no memory"}})
    dict(report.update(repository, write=True))
    text = (repository / PAGE).read_text()
    assert "| scikit | flash-kmeans |\n" in text
    assert "| 200 µs, **2.0×** | other result: inertia 3 |\n" in text


EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC(TM) 7763 64-Core Processor
stepping\t: 1

processor\t: 1
vendor_id\t: SomebodyElse
"""
NEOVERSE = """processor\t: 0
BogoMIPS\t: 243.75
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd0c
"""


@pytest.mark.parametrize(
    ("cpuinfo", "isa", "bfloat16", "folder"),
    [
        (EPYC, "avx2", False, "amd-epyc-7763-64-core-processor-family-25-model-1-avx2-2-cores"),
        (NEOVERSE, "plain", False, "arm-aarch64-model-0xd0c-plain-2-cores"),
        (
            EPYC.replace("AMD EPYC(TM) 7763 64-Core Processor", "Common KVM processor"),
            "avx512",
            True,
            "amd-common-kvm-processor-family-25-model-1-avx512-bf16-2-cores",
        ),
    ],
)
@pytest.mark.usefixtures("report")  # benchmarks on the path
def test_folders_are_named_by_what_decides_speed(
    cpuinfo: str, isa: str, bfloat16: bool, folder: str
) -> None:
    records = importlib.import_module("benchmarks.records")
    machine = {
        "processor": "aarch64",
        **records.read_cpuinfo(cpuinfo),
        "native_bfloat16": bfloat16,
        "cores": 2,
        "build": {"instruction_set": isa},
    }
    assert records.folder_of(machine) == folder
    assert records.folder_of({**machine, "gpu": "NVIDIA H100 80GB"}) == "nvidia-h100-80gb"


@pytest.mark.usefixtures("report")  # benchmarks on the path
def test_every_result_is_in_the_record_at_once(tmp_path: Path) -> None:
    records = importlib.import_module("benchmarks.records")
    record = records.GrowingRecord("counting", tmp_path)
    for number in range(3):
        record.add(f"case {number}", {"seconds": number})
        (file,) = tmp_path.glob("*/*")
        results = json.loads(file.read_text())["results"]
        assert results == {f"case {count}": {"seconds": count} for count in range(number + 1)}
    second = records.GrowingRecord("counting", tmp_path)
    second.add("case", {})
    assert second.path != record.path
    assert len(list(tmp_path.glob("*/*"))) == 2
    written_nowhere = records.GrowingRecord("counting", None)
    written_nowhere.add("case", {})
    assert written_nowhere.path is None


def test_pages_name_records_that_are_there() -> None:
    named = re.findall(r"`(profiles/[^`]*)`", (REPOSITORY / PAGE).read_text())
    assert named
    results = REPOSITORY / "benchmarks" / "results"
    assert not [name for name in named if not list(results.glob(f"*/{name}"))]


def test_the_repositorys_own_are_those_of_its_records(report: ModuleType) -> None:
    stale = [name for name, current in report.update(REPOSITORY, write=False) if not current]
    assert not stale
    for chart in (RATIOS, ROOFLINE):
        assert f"]({Path(chart).name})" in (REPOSITORY / PAGE).read_text()


def test_pipelines_run_in_turns(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipeline = importlib.import_module("benchmarks.pipeline")
    (tmp_path / "rivals.py").write_text(
        "import json, sys\n"
        "assert sys.argv[1] == '--data'\n"
        "if sys.argv[-1] == 'fails': raise SystemExit(3)\n"
        "found = {'seconds': {'ours': 2.0, 'theirs': 5.0, 'slow': 9.0}[sys.argv[-1]]}\n"
        "print('talk')\n"
        "if sys.argv[-1] == 'slow':\n"  # the only one to spend seconds on the import of PyTorch
        "    from benchmarks.pipeline import print_run\n"
        "    held = b'x' * (1 << 30)\n"
        "    print_run(found)\n"
        "else:\n"
        "    print(json.dumps({**found, 'peak_mib': 7.0}))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    given = ["--data", "here"]
    seen = []
    runs = pipeline.run_in_turns(
        "rivals",
        ["ours", "theirs", "slow", "fails"],
        given,
        2,
        once=["slow"],
        after=lambda runs: seen.append(sum(map(len, runs.values()))),
    )
    assert seen == [1, 2, 3, 4, 5]
    found = pipeline.summary(runs, ours="ours", label="a race")
    assert found["times_as_fast"] == {"theirs": 2.5, "slow": 4.5}
    assert found["remarks"] == {"fails": "did not finish"}
    rounds = {name: timing["rounds"] for name, timing in found["seconds"].items()}
    assert rounds == {"ours": 2, "theirs": 2, "slow": 1}
    # What that rival holds itself, in MiB, beside at most as much of Python and PyTorch.
    assert 1024 < found["peak_mib"].pop("slow") < 2048
    assert found["peak_mib"] == {"ours": 7.0, "theirs": 7.0}
    with pytest.raises(SystemExit, match="fails failed"):
        pipeline.run_in_turns("rivals", ["fails"], given, 1)


@pytest.mark.parametrize(
    ("cores", "precision", "wanted"),
    [
        (2, "float32", ["ours", "theirs"]),
        (2, "bfloat16", ["ours", "ours, bfloat16", "theirs"]),
        (16, "float32", ["ours", "theirs", "theirs, 2 loader workers"]),
    ],
)
@pytest.mark.usefixtures("report")  # benchmarks on the path
def test_rivals_are_those_that_the_machine_is_for(
    monkeypatch: pytest.MonkeyPatch, cores: int, precision: str, wanted: list[str]
) -> None:
    pipeline = importlib.import_module("benchmarks.pipeline")
    monkeypatch.setattr(pipeline.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(pipeline, "resolve_precision", lambda *_: precision)
    names = ["ours", "ours, bfloat16", "theirs", "theirs, 2 loader workers"]
    assert pipeline.rivals_here(names, "ours, bfloat16") == wanted


def of_students(images: str, labels: str, *top1: float) -> dict[str, Any]:
    return {
        "student": "convnet3",
        "labels": labels,
        "images": images,
        "top1": top1,
        "mean": sum(top1) / len(top1),
        "std": (top1[1] - top1[0]) / 2**0.5 if len(top1) == 2 else None,
    }


def test_sets_are_compared_by_their_students(report: ModuleType, repository: Path) -> None:
    dict(report.update(repository, write=True))
    assert "Nothing has been measured yet." in (repository / OF_SETS).read_text()
    ways = {
        "as published": {
            "settings": {"factor": 1, "ipc": 10},
            "epochs": 300,
            "students": [of_students("distilled", "hard", 0.401)],
        },
        "refined": {
            "settings": {"factor": 2, "ipc": 10},
            "epochs": 300,
            "students": [
                of_students("distilled", "hard", 0.52, 0.56),
                of_students("random-tiled", "hard", 0.3),
                of_students("distilled", "online", 0.7),
            ],
        },
    }
    write(repository, "sets", "2026-02-02", ways)
    small = {"refined": {**ways["refined"], "settings": {"ipc": 1}, "epochs": 20}}
    write(repository, "sets-small", "2026-02-02", small)
    found = dict(report.update(repository, write=True))
    assert found == {**dict.fromkeys([*NAMES, ROOFLINE], True), OF_SETS: False}
    text = (repository / OF_SETS).read_text()
    table = """10 images a class, `convnet3` trained for 300 epochs (Abacus):

| set | observer’s labels | hard labels |
|---|---|---|
| as published |  | 40.1 % (one seed) |
| refined | 70.0 % (one seed) | 54.0 ± 2.8 % (2 seeds) |
| random-tiled images |  | 30.0 % (one seed) |
"""
    assert table in text
    assert "\nOne image a class, `convnet3` trained for 20 epochs (Abacus):\n\n| set |" in text


def test_the_machine_with_the_most_students_shows_each_record_of_sets(
    report: ModuleType, repository: Path
) -> None:
    def ways(*top1: float) -> dict[str, Any]:
        students = [of_students("distilled", "hard", *top1)]
        return {"refined": {"settings": {"ipc": 10}, "epochs": 300, "students": students}}

    write(repository, "sets", "2026-02-02", ways(0.5))
    write(repository, "sets", "2026-02-01", ways(0.52, 0.56), machine="Counter")
    write(repository, "sets-parts", "2026-02-01", ways(0.4, 0.4))
    write(repository, "sets-parts", "2026-02-02", ways(0.3), machine="Counter")
    dict(report.update(repository, write=True))
    text = (repository / OF_SETS).read_text()
    titles = [line for line in text.splitlines() if "trained for" in line]
    assert [title.split("(")[1] for title in titles] == ["Counter):", "Abacus):"]
    assert "54.0 ± 2.8 %" in text
    assert "30.0 %" not in text


def test_one_set_under_each_recipe_is_shown(report: ModuleType, repository: Path) -> None:
    row = {
        "set": "some set",
        "student": "convnet3",
        "test_images": 5000,
        "seeds": [0, 1],
        "share": 0.1,
        "labels": "hard",
        "epochs": 30,
        "steps": 1200,
        "otherwise": "",
        **{kind: {"mean": 0.5, "std": 0.0123} for kind in ("last", "best")},
        "reported": {"mean": 0.51, "std": None},
    }
    write(repository, "protocols", "2026-02-01", {"dc": row})
    dict(report.update(repository, write=True))
    text = (repository / OF_PROTOCOLS).read_text()
    assert "some set; convnet3, 5,000 test images, 2 seeds, 10% of the published epochs" in text
    assert "| `dc` | hard | 30 | 1,200 | 50.0 ± 1.2 % | 50.0 ± 1.2 % | 51.0 % |  |" in text


def test_every_recipe_is_shown_with_its_numbers(report: ModuleType, repository: Path) -> None:
    dict(report.update(repository, write=True))
    text = (repository / OF_PROTOCOLS).read_text()
    for name, recipe in importlib.import_module("pydream.students.recipes").RECIPES.items():
        shown, source = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert shown.split("|")[2].split(",")[0].strip() == str(recipe.epochs)
        assert shown.count("|") == 9
        assert source.count("|") == 5
    edc = next(line for line in text.splitlines() if line.startswith("| `edc` |"))
    assert "4 observers (mean of logits), MSE of logits + 0.025 · CE, weights averaged" in edc


def test_campaigns_are_listed_part_by_part(report: ModuleType, repository: Path) -> None:
    parts = {
        "RDED": {"trials": 1200, "seconds": 3725.2},
        "observer": {"trials": 20, "seconds": 59.7},
    }
    write(repository, "campaign-kills", "2026-02-01", parts)
    dict(report.update(repository, write=True))
    text = (repository / OF_CAMPAIGNS).read_text()
    assert "| kills | RDED | 1,200 | 1:02:05 | 2026-02-01 |\n" in text
    assert "| kills | observer | 20 | 0:01:00 | 2026-02-01 |\n" in text


def test_the_times_of_a_busy_machine_have_a_table_of_their_own(
    report: ModuleType, repository: Path
) -> None:
    times = {"seconds_alone": [4.2, 4.0, 9.0], "seconds_beside": [8.0, 6.3, 6.2], "slower": 1.5}
    part = {"`rded` beside two busy processes": {"trials": 3, "seconds": 40.0, **times}}
    write(repository, "campaign-busy", "2026-02-01", part)
    dict(report.update(repository, write=True))
    assert "| `rded` | 4.2 | 6.3 | 1.50 |\n" in (repository / OF_CAMPAIGNS).read_text()
