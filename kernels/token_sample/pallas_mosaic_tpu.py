"""Kernel that scans the vocabulary on TPUs.

A tile of rows stays in VMEM while tiles of `unembed` stream by. Each tile's
logits are reduced into accumulators of one number a row and lane, which are
also the outputs: lanes and splits are merged outside, once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32, Int32, UInt32

from flexmdm_jax.kernels import common
from flexmdm_jax.kernels.token_sample import noise, stats
from flexmdm_jax.kernels.token_sample.config import TpuConfig, tpu_config

_LANES, _BLOCK = noise.LANES, noise.BLOCK


def scan_vocab(
  hidden: Float[Array, "N D"],
  unembed: Float[Array, "D V"],
  num_rows: Int32[Array, ""],
  words: UInt32[Array, "N 2"],
  draw: UInt32[Array, ""],
  bias: Float32[Array, " V"],
  floor: Float32[Array, " N"] | None,
  offset: Int32[Array, ""],
  *,
  temperature: float | int,
  aligned: bool,
  config: TpuConfig | None = None,
  interpret: Any = False,
) -> stats.Stats:
  """Runs the TPU kernel; see `xla.scan_vocab`.

  Raises:
    NotImplementedError: the rows are too long for VMEM.
    ValueError: the rows are too long for VMEM with the given config.
  """
  N, D = hidden.shape
  V = unembed.shape[1]
  itemsize = hidden.dtype.itemsize
  if config is None:
    config = tpu_config(common.target().kind, N, D, itemsize)
  needed = config.vmem_needed(D, itemsize)
  if needed > config.vmem_bytes:
    raise ValueError(
      f"{config} needs {needed} bytes of VMEM for rows of {D} numbers: make"
      " tile_rows or tile_vocab smaller."
    )
  R, W, splits = config.tile_rows, config.tile_vocab, config.splits
  tiles = pl.cdiv(V, W)
  tiles_of_split = pl.cdiv(tiles, splits)

  # A tile that is skipped maps to the one before, which is not moved again.
  def row_tile(i, scalars):
    return jnp.minimum(i, jnp.maximum(scalars[0] - 1, 0) // R)

  def vocab_tile(s, i, j, scalars):
    tile = jnp.minimum(s * tiles_of_split + j, tiles - 1)
    last = jnp.minimum((s + 1) * tiles_of_split, tiles) - 1
    return jnp.where(i * R < scalars[0], tile, last)

  def rows(width):
    return pl.BlockSpec(
      (R, width), lambda s, i, j, scalars: (row_tile(i, scalars), 0)
    )

  inputs = {
    "hidden": (hidden, rows(D)),
    "unembed": (
      unembed,
      pl.BlockSpec((D, W), lambda *at: (0, vocab_tile(*at))),
    ),
    "bias": (
      jnp.pad(bias, (0, tiles * W - V), constant_values=stats.LOW)[None],
      pl.BlockSpec((1, W), lambda *at: (0, vocab_tile(*at))),
    ),
    "words": (jax.lax.bitcast_convert_type(words, jnp.int32), rows(2)),
  }
  # Without a floor the last two statistics are not wanted.
  fields = stats.Stats._fields[:-2]
  if floor is not None:
    inputs["floor"] = (floor[:, None], rows(1))
    fields = stats.Stats._fields
  outputs = [
    jax.ShapeDtypeStruct(
      (splits, N, _LANES), jnp.int32 if name == "token" else jnp.float32
    )
    for name in fields
  ]
  scalars = jnp.stack(
    [num_rows, offset, jax.lax.bitcast_convert_type(draw, jnp.int32)]
  )
  found = pl.pallas_call(
    functools.partial(
      _kernel,
      tuple(inputs),
      fields,
      config=config,
      tiles=tiles,
      tiles_of_split=tiles_of_split,
      temperature=temperature,
      aligned=aligned,
    ),
    out_shape=outputs,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(splits, pl.cdiv(N, R), tiles_of_split),
      in_specs=[spec for _, spec in inputs.values()],
      out_specs=[
        pl.BlockSpec(
          (None, R, _LANES),
          lambda s, i, j, scalars: (s, row_tile(i, scalars), 0),
        )
      ]
      * len(fields),
      scratch_shapes=[pltpu.VMEM((R, W), jnp.float32)],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary", "arbitrary"),
      vmem_limit_bytes=config.vmem_bytes,
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * N * D * V,
      transcendentals=4 * N * V,
      bytes_accessed=itemsize * (N * D + pl.cdiv(N, R) * D * V),
    ),
    interpret=pltpu.InterpretParams() if interpret is True else interpret,
    name="token_sample",
  )(scalars, *(array for array, _ in inputs.values()))
  found = list(found)
  if floor is None:
    found += [jnp.zeros_like(found[0])] * 2
  lanes_merged = stats.merge(stats.Stats(*found), temperature, axis=-1)
  return stats.merge(lanes_merged, temperature)


def _kernel(
  inputs,
  fields,
  scalars,
  *refs,
  config,
  tiles,
  tiles_of_split,
  temperature,
  aligned,
):
  """Adds a tile of logits to the statistics of its rows.

  Args:
    inputs: names of the inputs.
    fields: names of the outputs, the accumulators.
    scalars: i32[3]: the number of rows, the id of the first column, the pass.
    *refs: inputs, outputs and f32[tile_rows, tile_vocab] scratch.
    config: a `TpuConfig`.
    tiles: tiles of the vocabulary.
    tiles_of_split: tiles of one split.
    temperature: a Python number.
    aligned: whether the first column's id is a multiple of 256.
  """
  *refs, logits = refs
  given = dict(zip(inputs, refs, strict=False))
  known = dict(zip(fields, refs[len(inputs) :], strict=True))
  split, row_tile, step = (pl.program_id(axis) for axis in range(3))
  tile = split * tiles_of_split + step
  active = (row_tile * config.tile_rows < scalars[0]) & (tile < tiles)

  @pl.when(active & (step == 0))
  def _():
    for name, start in zip(stats.Stats._fields, stats.START, strict=True):
      if name in known:
        known[name][...] = jnp.full_like(known[name], start)

  @pl.when(active)
  def _():
    f32 = given["hidden"].dtype == jnp.float32
    logits[...] = jnp.dot(
      given["hidden"][...],
      given["unembed"][...],
      precision=jax.lax.Precision.HIGHEST if f32 else None,
      preferred_element_type=jnp.float32,
    )
    first = scalars[1] + tile * config.tile_vocab
    draw = scalars[2].astype(jnp.uint32)

    @pl.loop(0, config.tile_rows // config.strip_rows)
    def _(strip):
      rows = pl.ds(strip * config.strip_rows, config.strip_rows)
      _add_strip(
        logits.at[rows],
        given["bias"],
        given["words"].at[rows],
        given["floor"].at[rows] if "floor" in given else None,
        {name: ref.at[rows] for name, ref in known.items()},
        first=first,
        draw=draw,
        temperature=temperature,
        aligned=aligned,
      )


def _add_strip(
  logits, bias, words, floor, known, *, first, draw, temperature, aligned
):
  """Adds logits f32[S, W] of a few rows to accumulators f32[S, 128]."""
  S, W = logits.shape
  lane = jax.lax.broadcasted_iota(jnp.int32, (S, _LANES), 1)
  slices = [pl.ds(start, _LANES) for start in range(0, W, _LANES)]
  values = []
  for columns in slices:
    shift = bias[:, columns]
    # Logits beyond the last column may be NaN.
    values.append(
      jnp.where(shift > stats.LOW, logits[:, columns] + shift, stats.LOW)
    )

  old_top = known["top"][...]
  top, second = old_top, known["second"][...]
  for value in values:
    second = jnp.maximum(second, jnp.minimum(top, value))
    top = jnp.maximum(top, value)
  known["top"][...], known["second"][...] = top, second

  drop = old_top - top
  keep = jnp.exp(drop)
  total = keep * known["total"][...]
  deviation = keep * known["deviation"][...] + drop * total
  for value in values:
    drop = value - top
    weight = jnp.exp(drop)
    total += weight
    deviation += drop * weight
  known["total"][...], known["deviation"][...] = total, deviation

  if floor is not None:
    inverse = stats.inverse(temperature)
    keep = jnp.exp((old_top - top) * inverse)
    tempered = keep * known["tempered"][...]
    above = keep * known["above"][...]
    for value in values:
      mass = jnp.exp((value - top) * inverse)
      tempered += mass
      above += jnp.where(value > floor[...], mass, 0)
    known["tempered"][...], known["above"][...] = tempered, above

  score, token = known["score"][...], known["token"][...]
  logit = known["logit"][...]
  key = tuple(
    jax.lax.bitcast_convert_type(words[:, i : i + 1], jnp.uint32)
    for i in range(2)
  )
  for block in range(W // _BLOCK):
    ids = [first + block * _BLOCK + half * _LANES + lane for half in range(2)]
    if temperature == 0:
      gumbel = 0.0, 0.0
    elif aligned:
      count = (first // 2 + block * _LANES + lane).astype(jnp.uint32)
      bits = noise.threefry(*key, count, draw)
      gumbel = [noise.gumbel(x) for x in bits]
    else:
      gumbel = [noise.gumbel_at(*key, draw, x) for x in ids]
    for half in range(2):
      value = values[2 * block + half]
      candidate = value + temperature * gumbel[half]
      better = candidate > score
      if floor is not None:
        better &= value > floor[...]
      score = jnp.where(better, candidate, score)
      token = jnp.where(better, ids[half], token)
      logit = jnp.where(better, value, logit)
  known["score"][...], known["token"][...] = score, token
  known["logit"][...] = logit
