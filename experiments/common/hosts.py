"""Flags that make several processes one run, and join them.

On each of N hosts, with I from 0 to N - 1; HOST is that of process 0:

  python -m experiments.train ... --coordinator=HOST:PORT \
    --num_processes=N --process_id=I

Under Slurm's srun, Open MPI's mpirun and on a TPU pod none is needed: JAX reads
them from the environment. `--coordinator=auto` asks for that where it is not
tried unasked (a Kubernetes job).
"""

import os
import re
import socket
import threading

import jax
from absl import flags
from jax._src.clusters import ClusterEnv  # there is no public way to ask

from experiments.common import cli
from flexmdm_jax.errors import InputError

_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "Address HOST:PORT of process 0, or auto."
)
_NUM_PROCESSES = cli.count(
  "num_processes", None, "Number of processes of the run."
)
_PROCESS_ID = cli.count(
  "process_id", None, "Number of this process, from 0.", least=0
)
_TIMEOUT = cli.count(
  "initialization_timeout", 300, "Seconds until all processes have to be there."
)
_HEARTBEAT = cli.count(
  "heartbeat_timeout", 100, "Seconds until a silent process ends the run."
)

# Clusters that are asked unless --coordinator is given. Not Kubernetes: most
# pods are no such job.
_CLUSTERS = ("slurm", "ompi", "gcetpu", "gketpu")
# Process 0 gives up last: without it the others cannot end in order.
_LAST_SECONDS = 5


def start() -> None:
  """Joins the other processes, if there are any; touches no device.

  Raises:
    InputError: a flag is out of range or contradicts another, or process 0
      cannot listen. If the others do not come, the process ends, status 2.
  """
  address, settings = _settings()
  if address is None:
    return
  # JAX aborts when its own time is up: this watch speaks before.
  watch = threading.Timer(
    _TIMEOUT.value + (0 if settings.get("process_id") else _LAST_SECONDS),
    lambda: os._exit(cli.fail(_absence(address, settings), 2)),
  )
  watch.daemon = True
  watch.start()
  try:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
      **settings,
      initialization_timeout=_TIMEOUT.value + 60,
      heartbeat_timeout_seconds=_HEARTBEAT.value,
    )
  except (RuntimeError, ValueError) as error:
    fix = "is the address this host's, and its port free?"
    if address == "auto":
      fix = "give HOST:PORT, --num_processes and --process_id instead."
    raise InputError(f"--coordinator={address} ({error}): {fix}") from error
  finally:
    watch.cancel()


def _settings() -> tuple[str | None, dict]:
  """Returns the coordinator (None: one process) and JAX's settings."""
  address = _COORDINATOR.value
  given = {
    "coordinator": address,
    "num_processes": _NUM_PROCESSES.value,
    "process_id": _PROCESS_ID.value,
  }
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == 3:
    return ("auto", {}) if _cluster_size() > 1 else (None, {})
  if address == "auto":
    if len(missing) < 2:
      raise InputError(
        "--coordinator=auto finds --num_processes and --process_id by itself:"
        " leave them out."
      )
    return "auto", {}
  if missing:
    raise InputError(
      "--coordinator, --num_processes and --process_id belong together:"
      f" --{missing[0]} is missing."
    )
  port = re.fullmatch(r".+:(\d+)", address)
  if not (port and 0 < int(port[1]) < 2**16):
    raise InputError(f"--coordinator={address} must be HOST:PORT or auto.")
  if _PROCESS_ID.value >= _NUM_PROCESSES.value:
    raise InputError(
      f"--process_id={_PROCESS_ID.value} must be below"
      f" --num_processes={_NUM_PROCESSES.value}: the first is 0."
    )
  return address, {
    "coordinator_address": address,
    "num_processes": _NUM_PROCESSES.value,
    "process_id": _PROCESS_ID.value,
    # Under Slurm it would leave a process one of its GPUs.
    "cluster_detection_method": "deactivate",
  }


def _cluster_size() -> int:
  """Number of processes of the cluster that JAX finds; 1 without one."""
  for cluster in ClusterEnv._cluster_types:
    if cluster.name in _CLUSTERS and cluster.is_env_present():
      return cluster.get_process_count()
  return 1


def _absence(address: str, settings: dict) -> str:
  """Explains why the processes did not find together."""
  problem = "not all processes came"
  fix = "start every one, and look at what the missing ones say"
  if settings.get("process_id"):
    host, port = address.rsplit(":", 1)
    try:
      socket.create_connection((host.strip("[]"), int(port)), 5).close()
    except OSError as error:
      problem = f"the coordinator cannot be reached ({error})"
      fix = "start process 0 there, and see that no firewall closes the port"
  if settings:
    problem += f"; --num_processes={settings['num_processes']}"
  return (
    f"--coordinator={address}: after {_TIMEOUT.value} s {problem}: {fix};"
    " --initialization_timeout gives it more time."
  )
