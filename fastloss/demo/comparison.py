"""Training a task twice, with the loss by fastloss and by plain NumPy, and the table of what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .screen import Report, Screen
from .tasks import Task
from .train import Training, largest_difference

CURVE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """One task, trained with both implementations of its loss.

    Attributes
    ----------
    task : Task
        What was learned.
    fast, plain : Training
        The two trainings.
    """

    task: Task
    fast: Training
    plain: Training

    @property
    def score(self) -> float:
        """Score of the network that fastloss trained, on the test rows."""
        return self.task.score(self.task.data, self.fast.test_predictions())

    @property
    def difference(self) -> float:
        """Largest difference between the two training curves, over all steps."""
        return largest_difference(self.fast, self.plain)

    @property
    def times_faster(self) -> float:
        """Time of a loss call with plain NumPy over that with fastloss."""
        return self.plain.microseconds_per_call / self.fast.microseconds_per_call

    @property
    def reached(self) -> bool:
        """Whether the score is good enough and the curves are the same."""
        return self.task.reached(self.score) and self.difference <= CURVE_TOLERANCE


def compile_kernels(tasks: Sequence[Task]) -> None:
    """Call every loss once, so that no training is charged with compiling or loading a kernel."""
    for task in tasks:
        for loss in (task.fast, task.plain):
            task.training(loss).run_epoch()


def compare(task: Task, screen: Screen) -> Comparison:
    """Train a task twice, in turns of one epoch so that both find the machine in the same state."""
    comparison = Comparison(task, task.training(task.fast), task.training(task.plain))
    turns = [comparison.fast, comparison.plain]
    with screen.progress(task.name, task.epochs) as report:
        for epoch in range(task.epochs):
            for training in turns:
                training.run_epoch()
            turns.reverse()
            _report(comparison, epoch + 1, report)
    return comparison


def _report(comparison: Comparison, epoch: int, report: Report) -> None:
    task, last_losses = comparison.task, comparison.fast.losses[-comparison.fast.steps_per_epoch :]
    loss = sum(last_losses) / len(last_losses)
    report(epoch, f"loss {loss:.4f}   test {task.unit} {task.in_words(comparison.score)}")


def table_header(comparisons: Sequence[Comparison]) -> list[str]:
    """Name the columns of the table, one for each task."""
    return ["", *(comparison.task.name for comparison in comparisons)]


def table_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Write the rows of the table."""
    columns = [_column(comparison) for comparison in comparisons]
    return [[label, *(column[label] for column in columns)] for label in columns[0]]


def _column(comparison: Comparison) -> dict[str, str]:
    task, fast, plain = comparison.task, comparison.fast, comparison.plain
    return {
        "model": task.model,
        "loss": task.loss_name,
        "test score": task.unit,
        "  reached": task.in_words(comparison.score),
        "  goal": task.goal_in_words(),
        "time in the loss": "% of training",
        "  plain NumPy": f"{100 * plain.loss_share:.1f} %",
        "  fastloss": f"{100 * fast.loss_share:.1f} %",
        "one loss call": f"batch of {task.batch}",
        "  by plain NumPy": f"{plain.microseconds_per_call:.1f} us",
        "  by fastloss": f"{fast.microseconds_per_call:.1f} us",
        "  NumPy / fastloss": f"{comparison.times_faster:.1f} x",
        "curves differ by": f"{comparison.difference:.1g}",
    }
