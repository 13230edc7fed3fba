#!/usr/bin/env bash
# What only a GPU can show, in one go: about half an hour of an H100.
#
#   experiments/on_a_gpu.sh OUT [PUBLIC_CHECKOUT]
#
# Writes a JSON file and a log for each part to OUT; a part that fails does not
# stop the others. With a checkout of the authors' code, and the extra [peers],
# it is timed too. TINY=1 runs every part on tiny shapes, on any machine.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?give a folder for the results}
public=${2:-}
python=${PYTHON:-python}
mkdir -p "$out"

failed=()
part() {
  local name=$1 begin=$SECONDS
  shift
  "$@" >"$out/$name.log" 2>&1 || failed+=("$name")
  echo "$name: $((SECONDS - begin)) s"
}
bench() {
  local name=$1
  shift
  part "$name" "$python" -m experiments.benchmark --out="$out/$name.json" "$@"
}

if [ -n "${TINY:-}" ]; then
  platforms=cpu
  shapes=(golden)
  sizes=(--max_length=8 --batch_size=2 --repeats=1)
  steps=(--steps=2)
  kernels=(--kernel_shapes=small --repeats=1)
else
  platforms=cuda,cpu
  shapes=(small medium 175m)
  sizes=()
  steps=(--steps=64)
  kernels=()
fi

# Kernels first: do they compile, and agree with their references?
part kernel_tests env JAX_PLATFORMS=$platforms "$python" -m pytest -q tests/kernels
bench kernels --suite=kernels "${kernels[@]}"
if [ -z "${TINY:-}" ]; then
  for kernel in insert_unmask token_sample; do
    part "tune_$kernel" "$python" -m experiments.tune_kernels \
      --kernel="$kernel" --out="$out/tune_$kernel.json"
  done
fi
for shape in "${shapes[@]}"; do
  bench "train_$shape" --suite=train --shape="$shape" "${sizes[@]}"
  bench "sample_$shape" --suite=sample --shape="$shape" "${sizes[@]}" \
    "${steps[@]}"
  if [ -n "$public" ]; then
    bench "train_public_$shape" --suite=train --shape="$shape" "${sizes[@]}" \
      --public="$public"
    bench "sample_public_$shape" --suite=sample --shape="$shape" \
      "${sizes[@]}" "${steps[@]}" --public="$public"
  fi
done
if [ -z "${TINY:-}" ]; then
  bench sample_llada_8b --suite=sample --shape=llada_8b --steps=64 --repeats=2
fi

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]} (see $out/NAME.log)" >&2
  exit 1
fi
