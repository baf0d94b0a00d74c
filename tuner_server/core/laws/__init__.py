"""Laws of loss curves and of schedules: formulas, and nothing that decides."""
