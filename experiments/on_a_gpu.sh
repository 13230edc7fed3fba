#!/usr/bin/env bash
# What only a GPU can show, in one go: about half an hour of an H100.
#
#   experiments/on_a_gpu.sh OUT [PUBLIC_CHECKOUT]
#
# Writes a JSON file and a log for each part to OUT; a part that fails, or takes
# longer than PART_SECONDS (300), does not stop the others. With a checkout of
# the authors' code, and the extra [peers], it is timed too. All parts compile
# at once first; then each is timed alone. PARTS="kernels sample_175m" runs these
# only. TINY=1 runs every part on tiny shapes, on any machine.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?give a folder for the results}
public=${2:-}
python=${PYTHON:-python}
limit=${PART_SECONDS:-300}
mkdir -p "$out/compiled"

if [ -n "${TINY:-}" ]; then
  platforms=cpu
  shapes=(golden)
  sizes=(--max_length=8 --batch_size=2)
  steps=(--steps=2)
  kernels=(--kernel_shapes=small)
  repeats=2
else
  platforms=cuda,cpu
  shapes=(small medium 175m)
  sizes=()
  steps=(--steps=64)
  kernels=()
  repeats=${REPEATS:-10}
fi

# The command of each part, by its name, without what all benchmarks take.
declare -A commands
order=()
add() {
  local name=$1
  shift
  commands[$name]="$*"
  order+=("$name")
}
add kernels --suite=kernels "${kernels[@]}"
for shape in "${shapes[@]}"; do
  batch=()
  # Without `features`, and in the public code, all logits are in memory.
  if [ "$shape" = 175m ]; then batch=(--batch_size=16); fi
  add "train_$shape" --suite=train --shape="$shape" "${sizes[@]}"
  add "sample_$shape" --suite=sample --shape="$shape" "${sizes[@]}" \
    "${batch[@]}" "${steps[@]}"
done
if [ -z "${TINY:-}" ]; then
  add sample_llada_8b --suite=sample --shape=llada_8b --steps=16 --baselines= \
    --buckets=256,1024
fi
# Last: its attention is tuned anew for each size, which takes minutes.
if [ -n "$public" ]; then
  for shape in "${shapes[@]}"; do
    batch=()
    if [ "$shape" = 175m ]; then batch=(--batch_size=16); fi
    for suite in train sample; do
      more=()
      if [ $suite = sample ]; then more=("${steps[@]}"); fi
      add "${suite}_public_$shape" --suite=$suite --shape="$shape" \
        "${sizes[@]}" "${batch[@]}" "${more[@]}" --public="$public"
    done
  done
fi

wanted() { [ -z "${PARTS:-}" ] || [[ " $PARTS " == *" $1 "* ]]; }
chosen=()
for name in "${order[@]}"; do
  if wanted "$name"; then chosen+=("$name"); fi
done

failed=()
part() {
  local name=$1 begin=$SECONDS
  shift
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || failed+=("$name")
  echo "$name: $((SECONDS - begin)) s"
}
# Kernels first: do they compile, and agree with their references? Meanwhile
# the benchmarks fill the compilation cache.
begin=$SECONDS
for name in "${chosen[@]}"; do
  # shellcheck disable=SC2086
  XLA_PYTHON_CLIENT_PREALLOCATE=false timeout "$limit" "$python" \
    -m experiments.benchmark ${commands[$name]} --repeats=1 \
    --out="$out/compiled/$name.json" >"$out/compiled/$name.log" 2>&1 &
done
if wanted kernel_tests; then
  part kernel_tests env JAX_PLATFORMS=$platforms \
    XLA_PYTHON_CLIENT_PREALLOCATE=false "$python" -m pytest -q tests/kernels
fi
wait
echo "compiled: $((SECONDS - begin)) s"

for name in "${chosen[@]}"; do
  # shellcheck disable=SC2086
  part "$name" "$python" -m experiments.benchmark ${commands[$name]} \
    --repeats="$repeats" --out="$out/$name.json"
done
if [ -z "${TINY:-}" ]; then
  for kernel in insert_unmask token_sample; do
    if wanted "tune_$kernel"; then
      part "tune_$kernel" "$python" -m experiments.tune_kernels \
        --kernel="$kernel" --out="$out/tune_$kernel.json"
    fi
  done
fi

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]} (see $out/NAME.log)" >&2
  exit 1
fi
