#!/usr/bin/env bash
# Trains on every host of a Cloud TPU slice, one process a host:
#
#   TPU=my-slice ZONE=us-east5-a experiments/launch/tpu_pod.sh \
#     --config=experiments/configs/openwebtext_175m.py --workdir=DIR ...
#
# Each host has the checkout in CHECKOUT, set up by `make EXTRAS=dev,tpu ...`;
# DIR is on a file system that all hosts mount, such as Filestore. JAX finds the
# other hosts by itself. The run ends with the connection; to stop it in order,
# with a checkpoint, send SIGTERM to Python on one host. Started again, it
# resumes.
set -euo pipefail

: "${TPU:?is the name of the TPU VM}" "${ZONE:?is its zone}"
CHECKOUT=${CHECKOUT:-flexmdm_jax}
PYTHON=${PYTHON:-.venv/python3-tpu/bin/python}

printf -v arguments ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd $(printf %q "$CHECKOUT") &&
    exec $PYTHON -m experiments.train$arguments"
