"""The monitor as a callback of Lightning and of Hugging Face's Trainer; either package is imported when it is asked for."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from criticality.arguments import checked
from criticality.errors import raised
from criticality.extras import require
from criticality.prescription.monitor import CriticalityWarning, Monitor
from criticality.schema import write_text

STATE_FILE = "criticality_monitor.json"
"""In each checkpoint folder of the Trainer: what the monitor had recorded."""


@checked
def lightning_callback(monitor: Monitor) -> Any:
    """A Lightning ``Callback`` that records step 0 and after optimizer steps and logs to every logger of the trainer.

    What was recorded is saved in Lightning's checkpoints, and taken up when a training goes on from one.

    Raises:
        MissingPackageError: Lightning is not installed.
    """
    require("lightning")
    from lightning.pytorch.callbacks import Callback

    class CriticalityCallback(Callback):
        """Records the monitor's model."""

        def __init__(self) -> None:
            self.last_step = -1

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._record(trainer)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self._record(trainer)

        def _record(self, trainer: Any) -> None:
            step = int(trainer.global_step)
            if step == self.last_step:  # gradients are being accumulated, or the training goes on from here
                return
            self.last_step = step
            scalars = monitor.step(step)
            if scalars is not None:
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, step)

        def state_dict(self) -> dict[str, Any]:
            return {"monitor": monitor.state(), "last_step": self.last_step}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            monitor.load_state(state_dict["monitor"])
            self.last_step = int(state_dict["last_step"])

    return CriticalityCallback()


@checked
def trainer_callback(monitor: Monitor, trainer: Any) -> Any:
    """A ``TrainerCallback`` that records step 0 and after optimizer steps, and logs through ``trainer.log``; it is added to
    the trainer.

    What was recorded is saved in each checkpoint folder (``criticality_monitor.json``), and taken up when a training goes on
    from one.

    Raises:
        MissingPackageError: transformers is not installed.
    """
    require("transformers")
    from transformers import TrainerCallback

    class CriticalityCallback(TrainerCallback):
        """Records the monitor's model."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = int(state.global_step)
            if step == 0:
                self._record(0)
                return
            folders = [args.resume_from_checkpoint, Path(args.output_dir) / f"checkpoint-{step}"]
            files = [Path(folder) / STATE_FILE for folder in folders if isinstance(folder, (str, Path))]
            saved = next((file for file in files if file.is_file()), None)
            if saved is None:
                return
            try:
                monitor.load_state(json.loads(saved.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                warnings.warn(
                    f"{saved} must hold what the monitor had recorded, and does not ({raised(error)}): it begins anew",
                    CriticalityWarning,
                    stacklevel=2,
                )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._record(int(state.global_step))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                write_text(json.dumps(monitor.state()), folder / STATE_FILE)

        @staticmethod
        def _record(step: int) -> None:
            scalars = monitor.step(step)
            if scalars is not None:
                trainer.log(scalars)

    callback = CriticalityCallback()
    trainer.add_callback(callback)
    return callback
