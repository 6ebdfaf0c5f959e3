"""The demo in its quick form: goals reached, the same curves as plain NumPy, a picture, clean text."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss import demo

DEMO_PACKAGES = ("sklearn", "matplotlib", "rich")
missing = [name for name in DEMO_PACKAGES if find_spec(name) is None]
if missing:
    pytest.skip(f"the demo needs {', '.join(missing)}: pip install 'fastloss[demo]'", allow_module_level=True)

from fastloss.demo import losses_numpy  # noqa: E402
from fastloss.demo.comparison import CURVE_TOLERANCE, Comparison, compare  # noqa: E402
from fastloss.demo.screen import PlainScreen, RichScreen  # noqa: E402
from fastloss.demo.tasks import all_tasks  # noqa: E402

TASKS = ("digits", "breast_cancer", "diabetes")
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def comparisons() -> dict[str, Comparison]:
    """Train every quick task once for all tests."""
    screen = PlainScreen(io.StringIO())
    return {task.name: compare(task, screen) for task in all_tasks(quick=True)}


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """Run the whole quick demo once, away from a terminal."""
    folder, output = tmp_path_factory.mktemp("demo") / "made" / "for it", io.StringIO()
    with redirect_stdout(output):
        status = demo.main(["--quick", "--out", str(folder)])
    return status, output.getvalue(), folder / demo.PICTURE_NAME


@pytest.mark.parametrize(("name", "goal"), [("digits", 0.96), ("breast_cancer", 0.95)])
def test_accuracy_reaches_the_goal(comparisons, name, goal):
    comparison = comparisons[name]
    assert comparison.score >= goal
    assert comparison.task.score(comparison.task.data, comparison.plain.test_predictions()) >= goal


def test_huber_regression_beats_predicting_the_mean(comparisons):
    comparison = comparisons["diabetes"]
    data = comparison.task.data
    error_of_mean = np.median(np.abs(data.test_targets - data.train_targets.mean())) * data.target_scale
    assert comparison.score < 0.9 * error_of_mean


@pytest.mark.parametrize("name", TASKS)
def test_curves_equal_those_of_plain_numpy(comparisons, name):
    fast, plain = comparisons[name].fast, comparisons[name].plain
    assert len(fast.losses) == comparisons[name].task.epochs * fast.steps_per_epoch
    np.testing.assert_allclose(fast.losses, plain.losses, rtol=0.0, atol=1e-5)
    np.testing.assert_allclose(fast.epoch_losses(), plain.epoch_losses(), rtol=1e-5)
    np.testing.assert_allclose(fast.test_predictions(), plain.test_predictions(), rtol=0.0, atol=1e-5)


def test_a_wrong_loss_would_be_seen(comparisons):
    task = comparisons["diabetes"].task
    wrong = task.training(lambda y, p: losses_numpy.huber(y, p, delta=1.001))
    for _ in range(task.epochs):
        wrong.run_epoch()
    assert not Comparison(task, wrong, comparisons["diabetes"].plain).reached
    assert CURVE_TOLERANCE == 1e-5


@pytest.mark.parametrize("name", TASKS)
def test_training_learns_and_is_timed(comparisons, name):
    for training in (comparisons[name].fast, comparisons[name].plain):
        assert training.epoch_losses()[-1] < 0.5 * training.epoch_losses()[0]
        assert len(training.loss_seconds) == len(training.losses)
        assert 0.0 < training.loss_share < 1.0


def test_same_seed_gives_the_same_bits(comparisons):
    task = comparisons["breast_cancer"].task
    again = task.training(task.fast)
    for _ in range(5):
        again.run_epoch()
    assert again.losses == comparisons["breast_cancer"].fast.losses[:5]


def test_run_succeeds_and_prints_the_table(quick_run):
    status, text, picture = quick_run
    assert status == 0
    for word in (*TASKS, "epoch", "goal", "time in the loss", "NumPy / fastloss", "curves differ by"):
        assert word in text
    assert f"Picture: {picture.resolve()}" in text


def test_run_writes_a_picture(quick_run):
    content = quick_run[2].read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 20_000


def test_output_without_terminal_is_plain(quick_run):
    text = quick_run[1]
    assert ESCAPE not in text
    assert "\r" not in text
    lines = [line for line in text.splitlines() if not line.startswith("Picture: ")]
    assert all(line.isascii() and len(line) <= 110 for line in lines)


def test_terminal_gets_live_bars(comparisons):
    from rich.console import Console

    stream = io.StringIO()
    screen = RichScreen(Console(file=stream, force_terminal=True, width=100))
    with screen.progress("digits", 2) as report:
        report(2, "loss [0.5]")
    screen.table(["", "digits"], [["loss [mean]", "0.5"]])
    screen.say("[done]")
    text = stream.getvalue()
    assert ESCAPE in text
    for word in ("loss [0.5]", "loss [mean]", "[done]"):
        assert word in text


@pytest.mark.parametrize("absent", ["sklearn", "matplotlib"])
def test_missing_package_is_one_line(monkeypatch, capsys, tmp_path, absent):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == absent else find_spec(name))
    assert demo.main(["--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    package = demo.REQUIRED[absent]
    assert captured.err == f"demo: needs {package}; install with: pip install 'fastloss[demo]'\n"


def test_unusable_folder_is_one_line(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert demo.main(["--out", str(file / "folder")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


PAIRS = {
    "softmax": (losses_numpy.softmax_crossentropy, fl.SparseCategoricalCrossentropy(from_logits=True)),
    "binary": (losses_numpy.binary_crossentropy, fl.BinaryCrossentropy(from_logits=True)),
    "huber": (losses_numpy.huber, fl.Huber()),
}


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("name", PAIRS)
def test_numpy_losses_are_careful(name, scale):
    generator = np.random.default_rng(7)
    predictions = scale * generator.normal(size=(50, 4))
    labels, numbers = generator.integers(0, 4, 50), generator.integers(0, 2, (50, 4)).astype(np.float64)
    targets = labels if name == "softmax" else numbers
    plain, fast = PAIRS[name]
    value, gradient = plain(targets, predictions.copy())
    expected_value, expected_gradient = fast.value_and_grad(targets, predictions)
    assert value == pytest.approx(expected_value, rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0.0, atol=1e-15)
