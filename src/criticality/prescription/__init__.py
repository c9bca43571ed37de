"""Prescriptions that make a network critical, set on real models, and a monitor for training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticality.lazy import lazy_names

if TYPE_CHECKING:
    from criticality.prescription.apply import (
        Applied,
        Change,
        Untouched,
        apply_edits,
        apply_prescription,
        planned_changes,
        schedule_from_data,
    )
    from criticality.prescription.callbacks import lightning_callback, trainer_callback
    from criticality.prescription.monitor import CriticalityWarning, Monitor, to_tensorboard
    from criticality.prescription.scaling import WriteError
    from criticality.prescription.solve import (
        Prescription,
        least_amplification,
        prescribe,
        scheduled_log_apjn,
        trade_off,
    )
    from criticality.prescription.tune import Tuning, power_law, tune

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "apply": (
            "Applied",
            "Change",
            "Untouched",
            "apply_edits",
            "apply_prescription",
            "planned_changes",
            "schedule_from_data",
        ),
        "callbacks": ("lightning_callback", "trainer_callback"),
        "monitor": ("CriticalityWarning", "Monitor", "to_tensorboard"),
        "scaling": ("WriteError",),
        "solve": ("Prescription", "least_amplification", "prescribe", "scheduled_log_apjn", "trade_off"),
        "tune": ("Tuning", "power_law", "tune"),
    },
)

__all__ = [
    "Applied",
    "Change",
    "CriticalityWarning",
    "Monitor",
    "Prescription",
    "Tuning",
    "Untouched",
    "WriteError",
    "apply_edits",
    "apply_prescription",
    "least_amplification",
    "lightning_callback",
    "planned_changes",
    "power_law",
    "prescribe",
    "schedule_from_data",
    "scheduled_log_apjn",
    "to_tensorboard",
    "trade_off",
    "trainer_callback",
    "tune",
]
