"""The monitor as a callback of Lightning and of Hugging Face's Trainer; either package is imported when it is asked for."""

from __future__ import annotations

from typing import Any

from criticality.prescription.monitor import Monitor


def lightning_callback(monitor: Monitor) -> Any:
    """A Lightning ``Callback`` that records after optimizer steps and logs to every logger of the trainer.

    Raises:
        ValueError: Lightning is not installed.
    """
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError as error:
        raise ValueError("package 'lightning' must be installed for this callback: pip install lightning") from error

    class CriticalityCallback(Callback):
        """Records the monitor's model."""

        def __init__(self) -> None:
            self.last_step = -1

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            step = int(trainer.global_step)
            if step == self.last_step:  # gradients are being accumulated
                return
            self.last_step = step
            scalars = monitor.step(step)
            if scalars is not None:
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, step)

    return CriticalityCallback()


def trainer_callback(monitor: Monitor, trainer: Any) -> Any:
    """A ``TrainerCallback`` that records after optimizer steps and logs through ``trainer.log``; it is added to the trainer.

    Raises:
        ValueError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ValueError(
            "package 'transformers' must be installed for this callback: pip install transformers"
        ) from error

    class CriticalityCallback(TrainerCallback):
        """Records the monitor's model."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            scalars = monitor.step(int(state.global_step))
            if scalars is not None:
                trainer.log(scalars)

    callback = CriticalityCallback()
    trainer.add_callback(callback)
    return callback
