"""Behaviours of a run, one a file; ``class_path: callbacks.PolyDecay`` in an experiment's YAML names one."""

from callbacks.adversarial_means import AdversarialMeans
from callbacks.best_checkpoint import BestCheckpoint
from callbacks.channels_last import ChannelsLast
from callbacks.checkpoint_io import WholeCheckpointIO, newest_whole
from callbacks.class_report import ClassReport
from callbacks.class_weights import ClassWeights
from callbacks.compile import Compile
from callbacks.cosine_decay import CosineDecay
from callbacks.dashboard import Dashboard
from callbacks.ema import EMA
from callbacks.enlargement_quality import EnlargementQuality
from callbacks.epoch_means import EpochMeans
from callbacks.every_run import with_those_of_every_run
from callbacks.finite_loss import FiniteLoss
from callbacks.inverse_time_decay import InverseTimeDecay
from callbacks.last_checkpoint import LastCheckpoint, Paused
from callbacks.mean_loss import MeanLoss
from callbacks.montage import Montage
from callbacks.poly_decay import PolyDecay
from callbacks.prediction_store import PredictionStore
from callbacks.prediction_table import PredictionTable
from callbacks.provenance import Provenance
from callbacks.run_folder import RunFolder
from callbacks.run_loggers import RunLoggers
from callbacks.schedule import Schedule
from callbacks.snapshot_ensemble import SnapshotEnsemble
from callbacks.step_schedule import StepSchedule
from callbacks.step_seed import StepSeed
from callbacks.top_k_accuracy import TopKAccuracy
from callbacks.training_monitor import TrainingMonitor
from callbacks.unfreeze import Unfreeze

__all__ = [
    "EMA",
    "AdversarialMeans",
    "BestCheckpoint",
    "ChannelsLast",
    "ClassReport",
    "ClassWeights",
    "Compile",
    "CosineDecay",
    "Dashboard",
    "EnlargementQuality",
    "EpochMeans",
    "FiniteLoss",
    "InverseTimeDecay",
    "LastCheckpoint",
    "MeanLoss",
    "Montage",
    "Paused",
    "PolyDecay",
    "PredictionStore",
    "PredictionTable",
    "Provenance",
    "RunFolder",
    "RunLoggers",
    "Schedule",
    "SnapshotEnsemble",
    "StepSchedule",
    "StepSeed",
    "TopKAccuracy",
    "TrainingMonitor",
    "Unfreeze",
    "WholeCheckpointIO",
    "newest_whole",
    "with_those_of_every_run",
]
