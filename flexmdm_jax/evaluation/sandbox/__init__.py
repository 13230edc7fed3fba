"""Programs that a model wrote, run where they can do no harm."""

from flexmdm_jax.evaluation.sandbox.api import (
  Verdict,
  active_layers,
  run_program,
  run_programs,
)

__all__ = ["Verdict", "active_layers", "run_program", "run_programs"]
