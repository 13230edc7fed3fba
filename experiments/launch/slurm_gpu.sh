#!/usr/bin/env bash
# Trains on 2 nodes of 8 GPUs under Slurm, one process a node:
#
#   sbatch experiments/launch/slurm_gpu.sh \
#     --config=experiments/configs/openwebtext_175m.py --workdir=DIR ...
#
# Submit it in the checkout; DIR and the checkout lie on a file system that all
# nodes share. Submitted again, it resumes.
#SBATCH --job-name=flexmdm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
# SIGTERM five minutes before the end: the run saves and stops. A node that
# fails puts the job back into the queue.
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

PYTHON=${PYTHON:-.venv/python3/bin/python}
PORT=${PORT:-8476}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export PYTHON coordinator="$head:$PORT"

# With a process a GPU instead (--ntasks-per-node=8) the three flags are left
# out: JAX finds them, and gives each process its GPU. It costs 8 times the host
# memory. `exec` lets the signal reach Python.
# shellcheck disable=SC2016  # expanded on each node
srun --kill-on-bad-exit=1 bash -c 'exec "$PYTHON" -m experiments.train "$@" \
  --coordinator="$coordinator" \
  --num_processes="$SLURM_NNODES" \
  --process_id="$SLURM_NODEID"' train "$@"
