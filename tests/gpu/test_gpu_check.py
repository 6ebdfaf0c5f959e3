"""The check for GPU machines, as far as it goes without one: small, in the emulator; its tables on made-up numbers."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_cupy import FakeCupy
from through_device import use

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ci"))

import gpu_check
from gpu_check import Case, Effort, Manner

SMALL = Effort(
    lengths=((1003,), (11, 9)), sequences=((5, 9, 7),), rows=((37, 10), (9, 100), (5, 1000)), runs=2, every=29
)
FEW = SMALL._replace(rows=((37, 10),), every=10**6)
ON_A_GPU_ONLY = ("graph", "synchronisation", "large", "sanitizer", "host_time", "bench")


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy(schedule="shuffled", seed=3)
    use(monkeypatch, fake)
    return fake


# -- sections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["correctness", "determinism", "devices", "bad_input"])
def test_sections_find_nothing(cupy, name):
    result = gpu_check.run_section(name, SMALL)
    assert result["failures"] == []
    assert result["ok"]
    assert result["checks"] > 5
    assert cupy.launches


def test_parts_share_all_cases():
    dtypes = ("float32", "float64", "float16", "bfloat16")
    everything = gpu_check.cases(dtypes, gpu_check.FULL)
    parts = [list(enumerate(everything))[:: gpu_check.FULL.every][part::8] for part in range(8)]
    assert sorted(number for part in parts for number, _ in part) == list(range(len(everything)))
    for loss in {case.loss for case in everything}:
        own = [case for case in everything if case.loss == loss]
        assert {case.dtype for case in own} == set(dtypes)
        assert {case.manner for case in own} >= set(gpu_check.MANNERS[:4])
        if loss.family == "rowwise":
            assert {case.shape for case in own} == set(gpu_check.FULL.rows)
            assert {case.manner for case in own} == set(gpu_check.MANNERS)
    assert {case.manner.call for case in everything} == set(gpu_check.RESULTS)


PLANTED = {
    "gradients a hundred-thousandth too large": (
        "* normalizer.scale * results[1]",
        "* normalizer.scale * 1.00001f * results[1]",
    ),
    "a loss left out": ("if constexpr (VALUE) total += double(loss);", "if (VALUE && first) total += double(loss);"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_wrong_result_fails(cupy, fault):
    right, wrong = PLANTED[fault]
    case = Case(gpu_check.fl.MeanSquaredError(), "float32", (1003,), Manner())
    for patch, found in ((lambda text: text, 0), (lambda text: text.replace(right, wrong), 2)):
        cupy.patch = patch
        gpu_check.the_cupy()
        report = gpu_check.Report()
        gpu_check.check_case(report, case, np.dtype(np.float32), 0)
        assert len(report.failures) == found, report.failures
    assert "are off" in report.failures[0]


def test_a_crash_fails_and_the_rest_is_tried(cupy, monkeypatch, capsys):
    tried = []

    def fall_over(report, case, dtype, number):
        tried.append(number)
        raise RuntimeError(f"number {number}")

    monkeypatch.setattr(gpu_check, "check_case", fall_over)
    monkeypatch.setattr(gpu_check, "check_edges", lambda report: None)
    result = gpu_check.run_section("correctness", SMALL)
    assert len(tried) == len(result["failures"]) > 3
    assert not result["ok"]
    assert "RuntimeError: number 0" in result["failures"][0]
    assert "FAILED" in capsys.readouterr().out


def test_other_bits_are_found(cupy, monkeypatch):
    drawn = iter(range(10**6))
    monkeypatch.setattr(gpu_check, "bits", lambda results: (next(drawn),))
    result = gpu_check.run_section("determinism", FEW)
    assert any("other bits in 2 of 2 runs" in failure for failure in result["failures"])
    assert any("streams" in failure for failure in result["failures"])


def test_labels_that_go_unnoticed_are_found(cupy):
    cupy.patch = lambda text: text.replace("head.bad ? not_a_number<T>()", "head.bad ? T(1)").replace(
        "if (head.bad) return not_a_number<T>();", ""
    )
    result = gpu_check.run_section("bad_input", FEW)
    assert any("are NaN" in failure for failure in result["failures"])


@pytest.mark.parametrize("name", ON_A_GPU_ONLY)
def test_no_figures_from_an_emulator(cupy, name):
    result = gpu_check.run_section(name, SMALL)
    assert not result["ok"]
    assert "not a GPU" in result["failures"][0]
    assert result["data"] == {}
    assert not cupy.launches


# -- tolerances ------------------------------------------------------------------------------------------------


def test_one_ulp_of_half_types():
    half = np.array([1.0, 0.75, -3.0, 60000.0, 2.0**-14, 2.0**-20, 0.0])
    np.testing.assert_array_equal(gpu_check.spacing(half, "float16"), np.abs(np.spacing(half.astype(np.float16))))
    np.testing.assert_array_equal(
        gpu_check.spacing(np.array([1.0, 0.75, -3.0]), "bfloat16"), [2.0**-7, 2.0**-8, 2.0**-6]
    )


def test_small_gradients_of_many_classes_count():
    loss = gpu_check.fl.SparseCategoricalCrossentropy(from_logits=True)
    case = Case(loss, "float32", (1, 100_000), Manner())
    gradient = np.full(case.shape, 1e-5)
    gradient[0, 7] = -1.0
    allowed = gpu_check.allowance(case, gradient, gradient < 0, True)
    assert allowed[0, 0] < 1e-2 * gradient[0, 0]
    assert allowed[0, 7] < 1e-4


# -- tables, from made-up numbers --------------------------------------------------------------------------------


def made_up():
    """No measurement: numbers to see the tables with."""
    case = gpu_check.BenchCase("MADE UP", "ce", "value_and_grad", "float32", (1000, 5000), 8, 0.9)
    times = {"fastloss": 10.0, "torch eager": 45.0, "torch.compile": 15.0}
    row = gpu_check.bench_row(case, times, {"Liger": "MADE UP reason"}, 4000.0)
    sections = [
        {"name": "correctness", "ok": False, "failures": ["MADE UP failure"], "data": {"cases": 3}},
        {"name": "host_time", "ok": True, "failures": [], "data": {"MADE UP loss": 30.0}},
        {
            "name": "bench",
            "ok": True,
            "failures": [],
            "data": {"copy_gb_per_second": 4000.0, "rows": [row, row | {"goal": None}]},
        },
    ]
    sections = [{"seconds": 1.5, "checks": 7, "notes": ["MADE UP note"], **section} for section in sections]
    return {"environment": {"date": "2000-01-01", "card": "MADE UP"}, "quick": True, "sections": sections}


def test_speed_in_plain_types():
    row = made_up()["sections"][2]["data"]["rows"][0]
    assert row["gb_per_second"] == pytest.approx((1000 * 5000 * 8 + 1000 * 8) / 10e-6 / 1e9)
    assert row["share_of_copy"] == pytest.approx(row["gb_per_second"] / 4000)
    assert gpu_check.cells_of(row)[2:] == ["10.0", "4001", "100.0", "90", "4.50", "1.50", "-", "-"]


def test_report(tmp_path):
    result = made_up()
    gpu_check.write(tmp_path, result)
    assert json.loads((tmp_path / "gpu-check.json").read_text()) == result
    text = (tmp_path / "gpu-check.md").read_text()
    assert "2000-01-01: card MADE UP" in text
    assert "| correctness | FAILED | 7 | 2 |" in text
    assert "| MADE UP 1000x5000 | float32 | 10.0 | 4001 | 100.0 | 90 | 4.50 | 1.50 | - | - |" in text
    assert "- correctness: MADE UP failure" in text
    assert "- bench: MADE UP note" in text
    for line in gpu_check.missed_goals(result["sections"]):
        assert f"- {line}" in text


def test_missed_goals():
    sections = made_up()["sections"]
    missed = gpu_check.missed_goals(sections)
    assert any("1.50 x torch.compile; goal 2 x" in line for line in missed)
    assert "host time of MADE UP loss: 30.0 us; goal 20 us" in missed
    assert not any("of copy" in line for line in missed)
    sections[2]["data"]["rows"][0]["share_of_copy"] = 0.5
    assert "MADE UP 1000x5000 float32: 50.0 % of copy; goal 90 %" in gpu_check.missed_goals(sections)


def test_cases_shrink_to_the_memory():
    case = gpu_check.bench_cases()[-1]
    assert gpu_check.shrunk(case, 1 << 40) == case
    less = gpu_check.shrunk(case, 1 << 30)
    assert less.shape[1:] == case.shape[1:]
    assert 1 <= less.shape[0] < case.shape[0]
    assert less.goal is None


# -- the command -------------------------------------------------------------------------------------------------


def test_without_a_gpu(cupy, tmp_path, capsys):
    assert gpu_check.main(["--output", str(tmp_path / "none")]) == gpu_check.UNUSABLE == 2
    assert capsys.readouterr().err == "gpu_check: no usable GPU: the module cupy is a stand-in, not a GPU\n"
    assert not (tmp_path / "none").exists()


def test_without_cupy(monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None)
    assert gpu_check.main(["--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "gpu_check: no usable GPU: CuPy is not installed\n"


def test_unknown_sections_are_refused(capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["correctnes"])
    assert "no section 'correctnes'" in capsys.readouterr().err


@pytest.fixture
def sections(monkeypatch, tmp_path):
    """Sections that run as this code, in processes of their own; gives their results and the exit status."""
    code = {}

    def start(command, shown=False):
        name, file = command[2], command[command.index("--child") + 1]
        return started([sys.executable, "-c", code[name], file], shown=shown)

    def run():
        status = gpu_check.run_all(list(code), quick=True, output=tmp_path)
        found = json.loads((tmp_path / "gpu-check.json").read_text())["sections"]
        return status, {section["name"]: section for section in found}

    started = gpu_check.start
    monkeypatch.setattr(gpu_check, "start", start)
    monkeypatch.setattr(gpu_check, "environment", lambda folder: {"card": "MADE UP"})
    monkeypatch.setattr(gpu_check, "SECTIONS", {n: s._replace(seconds=5.0) for n, s in gpu_check.SECTIONS.items()})
    return code, run


GOOD = """
import json, sys
from pathlib import Path
found = {"ok": True, "checks": 2, "notes": ["MADE UP"], "failures": [], "data": {"cases": 3}}
Path(sys.argv[1]).write_text(json.dumps(found))
"""


def test_a_crash_or_a_hang_does_not_hide_the_other_sections(sections):
    code, run = sections
    gpu_check.SECTIONS["graph"] = gpu_check.SECTIONS["graph"]._replace(seconds=0.5)
    code |= {"determinism": "import os; os.abort()", "graph": "import time; time.sleep(60)", "devices": GOOD}
    begun = time.monotonic()
    status, found = run()
    assert time.monotonic() - begun < 20
    assert status == gpu_check.FAILED == 1
    assert "ended with status -6" in found["determinism"]["failures"][0]
    assert "took too long" in found["graph"]["failures"][0]
    assert found["devices"]["ok"]


def test_parts_become_one_section(sections, monkeypatch):
    code, run = sections
    monkeypatch.setattr(gpu_check.os, "cpu_count", lambda: 6)
    code["correctness"] = GOOD
    status, found = run()
    assert status == 0
    assert found["correctness"]["checks"] == 6
    assert found["correctness"]["data"] == {"cases": 9}
    assert found["correctness"]["notes"] == ["MADE UP"]


def test_the_whole_command_without_cupy(tmp_path):
    """A process of its own: nothing but this file and the checkout."""
    if gpu_check.find_spec("cupy"):
        pytest.skip("CuPy is installed here")
    child = gpu_check.start([sys.executable, gpu_check.__file__, "bench", "--output", str(tmp_path)])
    status, output = gpu_check.finish(child, time.monotonic() + 60)
    assert (status, output) == (2, "gpu_check: no usable GPU: CuPy is not installed\n")
