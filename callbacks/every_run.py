"""The callbacks that every run has."""

from collections.abc import Sequence

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging

from callbacks.best_checkpoint import BestCheckpoint
from callbacks.class_report import ClassReport
from callbacks.dashboard import Dashboard
from callbacks.ema import EMA
from callbacks.epoch_means import EpochMeans
from callbacks.finite_loss import FiniteLoss
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.mean_loss import MeanLoss
from callbacks.prediction_store import PredictionStore
from callbacks.prediction_table import PredictionTable
from callbacks.provenance import Provenance
from callbacks.run_folder import RunFolder
from callbacks.run_loggers import RunLoggers
from callbacks.schedule import Schedule
from callbacks.step_seed import StepSeed
from callbacks.top_k_accuracy import TopKAccuracy
from callbacks.training_monitor import TrainingMonitor

RIVALS = {  # of which a run can have one; Lightning's averaging of weights would not notice the other
    (Schedule, StochasticWeightAveraging): "set the learning rate",
    (EMA, WeightAveraging, StochasticWeightAveraging): "average the weights",
}


def with_those_of_every_run(
    chosen: Sequence[Callback], config: str, command: str, loggers: str | None = None, classifies: bool = True
) -> list[Callback]:
    """An experiment's own callbacks, and those of every run of which it has none of the same class.

    Args:
        config: the resolved configuration as YAML text.
        command: the command line.
        loggers: names for ``RunLoggers``; None where there is no other logger either, and no step pays for a dashboard.
        classifies: whether the network is a classifier, of which accuracy, reports and predictions can be had.

    Raises:
        ValueError: two of those chosen would undo each other's work.
    """
    for kinds, deed in RIVALS.items():
        rivals = [type(callback).__name__ for callback in chosen if isinstance(callback, kinds)]
        if len(rivals) > 1:
            raise ValueError(
                f"{' and '.join(rivals)} would both {deed}; leave out one (--trainer.callbacks+=CLASS adds to those in "
                "the file, --trainer.callbacks=CLASS takes their place)"
            )
    always = [RunFolder(config, command), Provenance(config, command), StepSeed(), FiniteLoss()]
    always += [MeanLoss(), TrainingMonitor()]
    if classifies:
        always += [TopKAccuracy(), ClassReport(), PredictionStore(), PredictionTable()]
        always += [Dashboard()] * (loggers is not None)
    always += [BestCheckpoint(), LastCheckpoint()]
    added = [callback for callback in always if not any(isinstance(own, type(callback)) for own in chosen)]
    # Loggers are there before others look for them, and means are logged before the callbacks that read them.
    first = [RunLoggers(loggers)] if loggers else []
    return [*first, *sorted([*chosen, *added], key=lambda callback: not isinstance(callback, EpochMeans))]
