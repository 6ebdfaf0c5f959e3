"""The benchmark at tiny sizes: every loss covered, wrong contenders refused, numbers that a file can hold."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from representatives import THOROUGH

import fastloss as fl
from fastloss import bench
from fastloss.bench import arithmetic, by_formula, cases, contenders, limit, numpy_peers, sharing, table, torch_peers
from fastloss.bench.by_formula import taken
from fastloss.bench.cases import GOALS, SHAPES, WANTED, Case, all_cases, chosen, sweep_of
from fastloss.bench.data import operands
from fastloss.bench.measure import Result, measure
from fastloss.bench.primitives import Primitive, primitives_of
from fastloss.bench.timing import ENOUGH, LEAST_ROUNDS, Effort, Samples, interleaved
from fastloss.cpu.run import run as run_kernel
from fastloss.families.definition import Example
from fastloss.families.elementwise import ElementwiseLoss
from fastloss.families.loss import _REGISTRY, registry
from fastloss.formula.ops import exp, power, sqrt

TINY = Effort(rounds=3, sample=1e-5, budget=0.0, pause=0.0)
MOST = 600
BFLOAT16 = find_spec("ml_dtypes") is not None
MEASURED = [
    case
    for case in all_cases(MOST)
    if (case.dtype != "bfloat16" or BFLOAT16) and (case.loss.name in THOROUGH or not case.tiny)
]
IDS = [f"{case.loss.name}-{case.name}" for case in MEASURED]

Report = dict[str, Any]


@pytest.fixture(scope="module")
def tiny_run() -> tuple[Report, str]:
    """Measure every case at a tiny size, once."""
    output = StringIO()
    gc.freeze()  # it is collected before each case
    with redirect_stdout(output):
        report = bench.run(MEASURED, TINY)
    gc.unfreeze()
    return report, output.getvalue()


@pytest.fixture
def huber() -> Case:
    return next(case for case in MEASURED if case.loss.name == "huber" and not case.tiny)


# -- a whole run -------------------------------------------------------------------------------------------


def measurable():
    """Losses of families that have shapes to be measured at."""
    return {name for name, loss in registry().items() if sweep_of(loss) in SHAPES}


def test_every_registered_loss_is_measured(tiny_run: tuple[Report, str]) -> None:
    assert {result["loss"] for result in tiny_run[0]["results"]} == measurable()


def test_nothing_is_refused_at_any_case(tiny_run: tuple[Report, str]) -> None:
    refused = {f"{r['loss']} {r['case']}": r["refused"] for r in tiny_run[0]["results"] if r["refused"]}
    assert not refused


def test_a_report_survives_json_without_nan(tiny_run: tuple[Report, str]) -> None:
    assert json.loads(json.dumps(tiny_run[0], allow_nan=False)) == tiny_run[0]


def test_a_result_holds_what_was_measured(tiny_run: tuple[Report, str]) -> None:
    for result in tiny_run[0]["results"]:
        assert result["elements"] == math.prod(result["shape"])
        assert result["ns_per_element"] > 0
        assert result["gb_per_s"] > 0
        assert result["times"]["numpy"] > 0
        assert (result["share_of_limit"] is None) == (result["bytes"] < 1 << 18)
        for samples in result["contenders"].values():
            assert 0 < samples["p10"] <= samples["median"] <= samples["p90"]
            assert len(samples["seconds"]) == len(samples["waited"]) >= LEAST_ROUNDS


def test_half_precision_is_timed_beside_float32(tiny_run: tuple[Report, str]) -> None:
    halves = [result for result in tiny_run[0]["results"] if result["dtype"] in ("float16", "bfloat16")]
    assert halves
    assert all("fastloss float32" in result["contenders"] for result in halves)


def test_every_peer_that_is_installed_takes_part(tiny_run: tuple[Report, str]) -> None:
    for module, contender in (("torch", "torch"), ("sklearn", "scikit-learn")):
        takes_part = any(contender in result["contenders"] for result in tiny_run[0]["results"])
        assert takes_part == (find_spec(module) is not None)
        assert (contender in tiny_run[0]["environment"]["missing"]) != takes_part


def test_a_run_prints_where_what_and_goals(tiny_run: tuple[Report, str]) -> None:
    report, text = tiny_run
    lines = text.splitlines()
    assert report["environment"]["cpu"] in lines[0]
    assert f"fastloss {fl.__version__}" in lines[1]
    header = next(line for line in lines if line.startswith("loss "))
    assert all(column in header for column in table.HEADER)
    rows = lines[lines.index(header) + 2 :][: len(MEASURED)]
    assert [row.split()[0] for row in rows] == [case.loss.name for case in MEASURED]
    assert any(line.startswith("goals: ") for line in lines)


def test_threads_are_given_back() -> None:
    before = fl.get_num_threads()
    with redirect_stdout(StringIO()):
        report = bench.run(MEASURED[:1], TINY, threads=before + 1)
    assert report["environment"]["threads"] == before + 1
    assert fl.get_num_threads() == before


# -- the command -------------------------------------------------------------------------------------------


def test_the_command_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert bench.main(["mse", "--quick", "--case", "float32-8", "--json", str(file)]) == bench.DONE
    report = json.loads(file.read_text(encoding="utf-8"))
    assert [result["case"] for result in report["results"]] == ["float32-8"]
    assert report["quick"] is True
    assert {verdict["goal"] for verdict in report["results"][0]["goals"]} == {"us/call", "torch"}
    assert "mean_squared_error" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_loss"], "no loss 'no_such_loss'; there are binary_crossentropy"),
        (["huber", "--case", "1e99"], "no case has '1e99' in its name; there are float32-1e5"),
        (["huber", "--json", "no/such/folder/x.json"], "No such file or directory"),
    ],
)
def test_a_bad_request_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == bench.UNUSABLE
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_threads_must_be_a_number_above_0(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main([f"--threads={threads}"])
    assert f"--threads: must be an integer >= 1; got {threads!r}" in capsys.readouterr().err


def test_a_missing_peer_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch_peers, "available", lambda: "not importable")
    assert bench.main(["huber", "--quick", "--case", "float32-8"]) == bench.DONE
    output = capsys.readouterr().out
    assert "left out: torch (not importable)" in output
    assert "not judged: huber float32-8: torch not measured" in output


# -- cases -------------------------------------------------------------------------------------------------


def test_every_goal_has_its_case() -> None:
    by_key = {(case.loss.name, case.configuration, case.dtype, case.shape): case for case in all_cases()}
    assert all(by_key[key].goals.items() >= goals.items() for key, goals in WANTED.items())
    assert {goal for case in by_key.values() for goal in case.goals} == set(GOALS)


def test_every_loss_has_a_tiny_case_with_goals() -> None:
    tiny = [case for case in all_cases() if case.tiny]
    assert {case.loss.name for case in tiny} == measurable()
    assert all(
        case.elements == 8 and case.goals == cases.TINY_GOALS_OF.get(case.loss.family, cases.TINY_GOALS)
        for case in tiny
    )


def test_every_loss_has_the_goals_of_its_family() -> None:
    with_goals = {(case.loss.name, case.configuration) for case in all_cases() if case.goals and not case.tiny}
    assert with_goals == {(case.loss.name, case.configuration) for case in all_cases()}
    large = next(case for case in all_cases() if (case.loss.name, case.size) == ("huber", "1e7"))
    assert large.goals == {"torch": 5.0, "limit": 0.6}


def test_without_names_most_losses_are_measured_where_they_have_a_goal() -> None:
    usual = chosen(all_cases(), (), "")
    assert {case.loss.name for case in usual} == measurable()
    assert {case.name for case in usual if case.loss.name == "huber"} == {"float32-8", "float32-1e5", "float32-1e7"}
    others = [case for case in usual if case.loss.name not in THOROUGH]
    assert all(case.goals and not case.tiny for case in others)
    assert {case.loss.name for case in chosen(all_cases(MOST), (), "")} == set(THOROUGH)  # as with --quick


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_every_loss_has_an_expression_of_torch() -> None:
    for case in MEASURED:
        if case.configuration == "log-probabilities":  # torch's gradient holds behind its own log_softmax alone
            assert torch_peers.call(case.loss, *operands(case), 1) is None
            continue
        assert torch_peers.call(case.loss, *operands(case), 1) is not None, f"{case.loss.name} {case.configuration}"


def test_operands_are_what_the_loss_takes() -> None:
    for case in MEASURED:
        for kind, numbers in zip(
            case.loss.domain(), case.loss.arguments(*taken(case.loss, *operands(case))), strict=True
        ):
            numbers = numbers.astype(np.float64)
            match kind:
                case "label":
                    assert set(np.unique(numbers)) <= set(range(case.shape[-1]))
                case "unit" | "binary":
                    assert set(np.unique(numbers)) <= {0.0, 1.0}
                case "sign":
                    assert set(np.unique(numbers)) <= {-1.0, 1.0}
                case "probability":
                    assert ((numbers > 0) & (numbers < 1)).all()
                case "positive":
                    assert (numbers > 0).all()
                case "non_negative":
                    assert (numbers >= 0).all()
                case "log_probability" | "log_distribution":
                    assert (numbers < 0).all()
                case "distribution":
                    assert (numbers.sum(axis=-1) == 1).all()
                case _:
                    assert kind in ("real", "logit")


def test_names_of_cases_are_unique() -> None:
    for most in (None, MOST):
        names = [(case.loss.name, case.name) for case in all_cases(most)]
        assert len(set(names)) == len(names)


def test_a_shrunk_case_has_no_goals() -> None:
    full = {(case.loss.name, case.name): case for case in all_cases()}
    for case in MEASURED:
        assert not case.goals or full[case.loss.name, case.name] == case


def test_losses_are_chosen_by_alias_too() -> None:
    assert {case.loss.name for case in chosen(all_cases(), ["mse", "huber"], "")} == {
        "mean_squared_error",
        "huber",
    }


# -- agreement comes before speed --------------------------------------------------------------------------


def flipped(loss: Any, y: Any, p: Any, out: Any) -> float:
    value = numpy_peers._huber(loss, y, p, out)
    np.negative(out, out=out)
    return value


def doubled(loss: Any, y: Any, p: Any, out: Any) -> float:
    return 2.0 * numpy_peers._huber(loss, y, p, out)


def not_a_number(loss: Any, y: Any, p: Any, out: Any) -> float:
    value = numpy_peers._huber(loss, y, p, out)
    out[-1] = np.nan
    return value


def failing(loss: Any, y: Any, p: Any, out: Any) -> float:
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("peer", "fault"),
    [
        (flipped, "gradient off by"),
        (doubled, "value "),
        (not_a_number, "gradient off by nan"),
        (failing, "ValueError: no such thing"),
    ],
)
def test_a_wrong_contender_is_not_timed(peer: Any, fault: str, huber: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(numpy_peers.WRITTEN, ("huber", ""), peer)
    result = measure(huber, TINY, 1)
    assert "numpy" not in result.samples
    assert fault in result.refused["numpy"]
    assert result.as_json()["times"]["numpy"] is None
    assert table.cells(result)[table.HEADER.index("x NumPy")] == "wrong"


def test_a_wrong_fastloss_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = contenders._fastloss

    def wrong(case: Case, data: Any) -> contenders.Contender:
        made = right(case, data)
        return dataclasses.replace(made, result=lambda result: (result[0] + 1.0, result[1]))

    monkeypatch.setattr(contenders, "_fastloss", wrong)
    assert bench.main(["huber", "--quick", "--case", "float32-8"]) == bench.WRONG
    output = capsys.readouterr().out
    assert "not timed: fastloss in huber float32-8: value" in output


@pytest.mark.parametrize("case", MEASURED, ids=IDS)
def test_a_formula_stands_in_for_numpy_code(case: Case) -> None:
    data = operands(case)
    y, p = (side if side.dtype.kind == "i" else side.astype(np.float64) for side in data)
    value, gradient = by_formula.exact(case.loss, y, p)
    out = np.empty_like(p)
    np.testing.assert_allclose(numpy_peers.by_formula(case.loss, y, p, out), value, rtol=1e-6)
    np.testing.assert_allclose(out, gradient, rtol=1e-6, atol=1e-9 * np.abs(gradient).max())


@pytest.fixture
def picky_loss() -> Iterator[type[ElementwiseLoss]]:
    """A loss of positive predictions only, registered for one test."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class PickyLoss(ElementwiseLoss):
        """Finite above 0 only."""

        examples: ClassVar[tuple[Example, ...]] = (Example([1.0, 2.0], [4.0, 9.0], 5.0, [0.25, 1 / 6], [0.0, 0.0]),)

        @staticmethod
        def formula(y: Any, p: Any) -> Any:

            return sqrt(p), 0.5 / sqrt(p), -0.25 / (p * sqrt(p))

    yield PickyLoss
    del _REGISTRY["picky_loss"]


def test_a_new_loss_is_measured_on_numbers_that_it_takes(picky_loss: type[ElementwiseLoss]) -> None:
    new = chosen(all_cases(MOST), ["picky_loss"], "")
    assert [case.shape for case in new] == [(8,), (MOST,)]
    data = operands(new[1])
    assert set(zip(data.y.tolist(), data.p.tolist(), strict=True)) == {(1.0, 4.0), (2.0, 9.0)}
    result = measure(new[1], TINY, 1)
    assert not result.refused
    assert set(result.samples) == {"fastloss", "numpy"}


# -- timing ------------------------------------------------------------------------------------------------


def test_contenders_are_told_apart() -> None:
    calls = {"slow": lambda: time.sleep(2e-2), "fast": lambda: time.sleep(1e-3)}
    results = interleaved(calls, Effort(rounds=4, sample=1e-3, budget=60.0, pause=0.0))
    assert all(len(samples.seconds) >= 4 for samples in results.values())
    assert results["slow"].median > 2 * results["fast"].median


def test_a_round_starts_only_in_time() -> None:
    results = interleaved({"slow": lambda: time.sleep(1e-3)}, Effort(rounds=1000, budget=0.0, pause=0.0))
    assert len(results["slow"].seconds) == LEAST_ROUNDS


def test_disturbed_samples_are_set_aside() -> None:
    samples = Samples(1, seconds=[1.0, 9.0, 1.2, 1.1, 8.0], waited=[0.0, 0.9, 0.0, 0.01, 0.8])
    assert sorted(samples.counted) == [1.0, 1.1, 1.2]
    assert samples.median == 1.1
    assert not samples.doubtful


def test_the_least_disturbed_samples_count_where_others_lack() -> None:
    samples = Samples(1, seconds=[5.0, 2.0, 3.0, 9.0], waited=[0.5, 0.2, 0.0, 0.9])
    assert ENOUGH == 3
    assert samples.counted == [3.0, 2.0, 5.0]
    assert samples.doubtful


# -- limit and goals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [["huber"], ["--case", "1e5"], ["--threads", "1"]])
def test_one_thread_against_two_is_all_or_nothing(other, capsys):
    assert bench.main(["--sharing", *other]) == 2
    assert "--sharing takes no" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process")
def test_one_thread_against_two(monkeypatch, tmp_path, capsys):
    """Each situation in its own process, with what was asked for: the goals are not judged here."""
    some = [sharing.Situation("one core", 1000, 1e9, pinned=True), sharing.Situation("busy", 1000, 0.0, busy=True)]
    monkeypatch.setattr(sharing, "SITUATIONS", some)
    file = tmp_path / "sharing.json"
    assert bench.main(["--sharing", "--quick", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    one_core, busy = json.loads(file.read_text())["results"]
    assert one_core["reached"] is True
    assert busy["reached"] is False
    assert len(one_core["seconds"]) == len(busy["seconds"]) == 2
    assert min(*one_core["seconds"], *busy["seconds"]) > 0
    assert [line.endswith("missed") for line in printed.splitlines() if "<=" in line] == [False, True]


@pytest.mark.parametrize("bypass_cache", [False, True])
@pytest.mark.parametrize("size", [64, 4096, 5 * 4096 + 64])
def test_the_limit_really_moves_its_bytes(size: int, bypass_cache: bool) -> None:
    left, right = np.random.default_rng(1).standard_normal((2, size), np.float32)
    result = np.zeros(size, np.float32)
    chunks = -(-size // limit.elements_per_chunk(size))
    run_kernel(limit._entry(bypass_cache), (left, right, result), (size,), chunks, float("inf"))
    np.testing.assert_array_equal(result, left + right)


def test_the_limit_moves_as_many_bytes_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(limit, "run", lambda entry, arrays, sizes_, chunks, work: sizes.append(arrays))
    for stream in limit.streams(1_000_000).values():
        stream()
    moved = [sum(array.nbytes for array in arrays) for arrays in sizes]
    assert len(moved) == len(limit.STREAMS)
    assert all(1_000_000 <= count < 1_000_000 + 12 * limit.LANES for count in moved)


def test_primitives_are_counted_as_a_compiler_would() -> None:
    def counted(loss: Any) -> dict[tuple[str, float | None], int]:
        return {tuple(primitive): number for primitive, number in primitives_of(loss).items()}

    assert counted(fl.Huber()) == {}
    assert counted(fl.BinaryCrossentropy(from_logits=True)) == {("exp_nonpositive", None): 1, ("log1p_unit", None): 1}
    assert counted(fl.SparseCategoricalCrossentropy(from_logits=True)) == {("exp_nonpositive", None): 1}


@pytest.mark.parametrize("name", sorted(name for name, loss in registry().items() if loss.family != "sequence"))
def test_primitives_of_every_loss_are_counted(name: str) -> None:
    assert all(number > 0 for number in primitives_of(registry()[name]()).values())


def test_what_only_the_hessian_needs_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def formula(y: Any, p: Any, delta: Any) -> Any:
        twice = sqrt(p) + sqrt(p)
        return twice, power(p, delta) - power(p, 0.5), exp(p)

    monkeypatch.setattr(fl.Huber, "formula", staticmethod(formula))
    assert primitives_of(fl.Huber()) == {("sqrt", None): 1, ("power", 1.0): 1, ("power", 0.5): 1}
    assert primitives_of(fl.Huber(delta=2.0)) == {("sqrt", None): 1, ("power", None): 1, ("power", 0.5): 1}


@pytest.mark.parametrize("computing", ["float32", "float64"])
@pytest.mark.parametrize("elements", [1000, 40_000])
def test_the_arithmetic_limit_computes_every_primitive_of_every_element(
    computing: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    wanted = Counter({Primitive("exp_nonpositive"): 2, Primitive("power", 3.0): 1, Primitive("log"): 1})
    run = arithmetic.run
    monkeypatch.setattr(
        arithmetic, "run", lambda entry, arrays, *rest: (given.append(arrays), run(entry, arrays, *rest))
    )
    arithmetic.arithmetic(wanted, elements, computing)()
    (numbers, sums), lanes = given[0], arithmetic.LANES[computing]
    x = numbers.astype(np.float64)
    terms = np.exp(-x) + np.exp(-0.99 * x) + np.log(0.98 * x) + (0.97 * x) ** 3
    size = -(-elements // lanes) * lanes
    chunk = limit.elements_per_chunk(size)
    expected = sum(terms[: min(chunk, size - first)].sum() for first in range(0, size, chunk))
    np.testing.assert_allclose(sums.sum(dtype=np.float64), expected, rtol=1e-4 if computing == "float32" else 1e-12)


def test_the_slower_limit_binds() -> None:
    case = Case(fl.Huber(), "", "float32", (10**6,), {"limit": 0.6})
    samples = {"fastloss": Samples(1, [1e-3] * 3, [0.0] * 3)}
    samples |= {name: Samples(1, [5e-4] * 3, [0.0] * 3) for name in limit.STREAMS}
    result = Result(case, 12 * 10**6, samples)
    assert (result.binding, result.share_of_limit) == ("memory", 0.5)
    samples[arithmetic.ARITHMETIC] = Samples(1, [8e-4] * 3, [0.0] * 3)
    assert (result.binding, result.share_of_limit) == ("arithmetic", 0.8)
    assert result.as_json()["binding"] == "arithmetic"
    assert result.as_json()["limits"] == {"memory": 5e-4, "arithmetic": 8e-4}
    assert table.cells(result)[table.HEADER.index("limit")] == "exp/log"
    assert [verdict.reached for verdict in result.verdicts()] == [True]
    samples[arithmetic.ARITHMETIC].waited[:] = [0.5] * 3
    assert [verdict.reached for verdict in result.verdicts()] == [None]


def test_goals_are_judged_in_their_direction() -> None:
    case = Case(fl.Huber(), "", "float32", (8,), {"torch": 15.0, "us/call": 4.0, "limit": 0.8})
    samples = {"fastloss": Samples(1, [5e-6] * 3, [0.0] * 3), "torch": Samples(1, [1e-4] * 3, [0.0] * 3)}
    verdicts = {verdict.goal: verdict for verdict in Result(case, 96, samples).verdicts()}
    assert verdicts["torch"].reached is True
    assert verdicts["us/call"].reached is False
    assert verdicts["limit"].reached is None
    assert str(verdicts["us/call"]) == "huber float32-8: us/call 5 (<= 4)"
    samples["torch"].waited[0] = 0.5
    busy = {verdict.goal: verdict for verdict in Result(case, 96, samples).verdicts()}
    assert busy["torch"].reached is None
    assert str(busy["torch"]) == "huber float32-8: torch 20~ (>= 15)"
    assert str(verdicts["limit"]) == "huber float32-8: limit not measured (>= 0.8)"


def test_the_drawn_table_has_every_result(
    huber: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich", reason="the drawn table needs rich: pip install 'fastloss[bench]'")
    monkeypatch.setenv("COLUMNS", str(table.DRAWN_FROM))
    drawn = table.RichTable([huber])
    drawn.start(huber, 1, 1)
    drawn.add(Result(huber, 96, {"fastloss": Samples(1, [5e-6], [0.0])}))
    drawn.end()
    assert "huber" in capsys.readouterr().out
