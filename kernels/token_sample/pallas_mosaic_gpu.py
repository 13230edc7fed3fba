"""`scan_vocab` for Hopper GPUs.

A block takes a tile of rows and a part of the vocabulary. One warpgroup
streams tiles into two rings of shared memory, in turns; each ring feeds a
warpgroup that multiplies a tile of logits and then reduces it. So one of them
multiplies while the other reduces, and the order in which the rings are filled
is all that keeps them apart.

A thread keeps statistics of the logits that it holds: of a row and eight
columns' residues. They live in the outputs, and are merged outside, once.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from flexmdm_jax.kernels import common
from flexmdm_jax.kernels.token_sample import noise, stats
from flexmdm_jax.kernels.token_sample.config import gpu_config

# What one instruction of the tensor cores takes, and what a thread of it gets.
_ROWS, _LANES = 64, 8
# A row of this many bf16 fills a swizzle of 128 bytes.
_TILE_D = 64
_CONSUMERS = 2


def scan_vocab(
  hidden,
  unembed,
  num_rows,
  words,
  draw,
  bias,
  floor,
  offset,
  *,
  temperature,
  aligned,
  config=None,
  interpret=False,
):
  """See `xla.scan_vocab`; config is a `GpuConfig`.

  Raises:
    NotImplementedError: float32, D not a multiple of 64, or a JAX without an
      interpreter where one is asked for.
  """
  N, D = hidden.shape
  V = unembed.shape[1]
  if hidden.dtype != jnp.bfloat16 or D % _TILE_D:
    raise NotImplementedError(
      f"The GPU kernel takes bfloat16[N, D] with D a multiple of {_TILE_D},"
      f" not {hidden.dtype}{list(hidden.shape)}."
    )
  config = config or gpu_config(common.target().kind, N)
  if interpret is True:
    interpret = common.gpu_interpreter()
  R, W, P = config.tile_rows, config.tile_vocab, config.max_splits
  row_tiles, tiles = pl.cdiv(N, R), pl.cdiv(V, noise.BLOCK) * noise.BLOCK // W

  def pad_rows(x):
    return jnp.pad(x, [(0, row_tiles * R - N)] + [(0, 0)] * (x.ndim - 1))

  # Copies read zeros beyond the end of an array whose rows are aligned.
  unembed = jnp.pad(unembed, ((0, 0), (0, -V % 8)))
  inputs = {
    "scalars": jnp.stack(
      [num_rows, offset, lax.bitcast_convert_type(draw, jnp.int32)]
    ),
    "hidden": pad_rows(hidden),
    "unembed": unembed,
    "bias": jnp.pad(bias, (0, tiles * W - V), constant_values=stats.LOW),
    "key0": pad_rows(words[:, 0]),
    "key1": pad_rows(words[:, 1]),
  }
  # Without a floor the last two statistics are not wanted.
  fields = stats.Stats._fields[:-2]
  if floor is not None:
    inputs["floor"] = pad_rows(floor)
    fields = stats.Stats._fields
  slots = _CONSUMERS * config.stages
  transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
  found = plgpu.kernel(
    functools.partial(
      _kernel,
      tuple(inputs),
      fields,
      config=config,
      tiles=tiles,
      row_tiles=row_tiles,
      temperature=temperature,
      aligned=aligned,
    ),
    out_type=[
      jax.ShapeDtypeStruct(
        (P * _CONSUMERS, row_tiles * R, _LANES),
        jnp.int32 if name == "token" else jnp.float32,
      )
      for name in fields
    ],
    scratch_types={
      "hidden_smem": plgpu.SMEM(
        (slots, R, _TILE_D), jnp.bfloat16, transforms=transforms
      ),
      "unembed_smem": plgpu.SMEM(
        (slots, _TILE_D, W), jnp.bfloat16, transforms=transforms
      ),
      # A slot is full after three copies.
      "full": plgpu.Barrier(num_arrivals=3, num_barriers=slots),
      "empty": plgpu.Barrier(num_arrivals=1, num_barriers=slots),
    },
    grid=(P * row_tiles,),
    grid_names=("block",),
    num_threads=_CONSUMERS + 1,
    thread_name="warpgroup",
    compiler_params=plgpu.CompilerParams(approx_math=True),
    interpret=interpret,
  )(*inputs.values())
  found = [x[:, :N] for x in found]
  if floor is None:
    found += [jnp.zeros_like(found[0])] * 2
  found = stats.merge(stats.Stats(*found), temperature, axis=-1)
  splits = _num_splits(pl.cdiv(num_rows, R), config)
  written = jnp.arange(P * _CONSUMERS) < splits * _CONSUMERS
  found = jax.tree.map(
    lambda x, start: jnp.where(written[:, None], x, start), found, stats.START
  )
  return stats.merge(found, temperature)


def _num_splits(active, config):
  """Parts of the vocabulary, so that the row tiles fill the processors."""
  fit = lax.div(jnp.int32(config.processors), jnp.maximum(active, 1))
  return jnp.minimum(jnp.maximum(fit, 1), config.max_splits)


def _kernel(
  inputs,
  fields,
  *refs,
  hidden_smem,
  unembed_smem,
  full,
  empty,
  config,
  tiles,
  row_tiles,
  temperature,
  aligned,
):
  """One block; `inputs` and `fields` name its references."""
  given = dict(zip(inputs, refs, strict=False))
  known = dict(zip(fields, refs[len(inputs) :], strict=True))
  scalars = given["scalars"]
  R, W, S = config.tile_rows, config.tile_vocab, config.stages
  steps = given["hidden"].shape[1] // _TILE_D
  half = W // 2

  block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
  row_tile, split = lax.rem(block, row_tiles), lax.div(block, row_tiles)
  active = lax.div(scalars[0] + (R - 1), R)
  splits = _num_splits(active, config)
  share = lax.div(tiles + splits - 1, splits)
  start = jnp.minimum(split * share, tiles)
  count = jnp.minimum(share, tiles - start)
  works = jnp.logical_and(row_tile < active, split < splits)

  def columns(tile):
    """First columns of a tile's two halves, `noise.LANES` apart."""
    per_block = noise.BLOCK // W
    first = lax.div(tile, per_block) * noise.BLOCK
    first += lax.rem(tile, per_block) * half
    return first, first + noise.LANES

  @pl.when(jnp.logical_and(works, warpgroup == _CONSUMERS))
  def _():
    plgpu.set_max_registers(40, action="decrease")

    @pl.loop(0, count)
    def _(i):
      ring = lax.rem(i, _CONSUMERS)

      @pl.loop(0, steps)
      def _(k):
        step = lax.div(i, _CONSUMERS) * steps + k
        slot = ring * S + lax.rem(step, S)
        depth = pl.ds(k * _TILE_D, _TILE_D)

        @pl.when(step >= S)
        def _():
          plgpu.barrier_wait(empty.at[slot])

        plgpu.copy_gmem_to_smem(
          given["hidden"].at[pl.ds(row_tile * R, R), depth],
          hidden_smem.at[slot],
          full.at[slot],
        )
        for part, first in enumerate(columns(start + i)):
          plgpu.copy_gmem_to_smem(
            given["unembed"].at[depth, pl.ds(first, half)],
            unembed_smem.at[slot, :, pl.ds(part * half, half)],
            full.at[slot],
          )

  @pl.when(jnp.logical_and(works, warpgroup < _CONSUMERS))
  def _():
    plgpu.set_max_registers(232, action="increase")
    part = split * _CONSUMERS + warpgroup
    strips = [pl.ds(row_tile * R + row, _ROWS) for row in range(0, R, _ROWS)]
    for name, begin in zip(stats.Stats._fields, stats.START, strict=True):
      if name in known:
        ref = known[name]
        for rows in strips:
          ref[part, rows] = _wgmma(jnp.full((_ROWS, _LANES), begin, ref.dtype))

    @pl.loop(0, lax.div(count - warpgroup + _CONSUMERS - 1, _CONSUMERS))
    def _(i):
      def multiply(acc):
        @pl.loop(0, steps)
        def _(k):
          step = i * steps + k
          slot = warpgroup * S + lax.rem(step, S)
          plgpu.barrier_wait(full.at[slot])
          plgpu.wgmma(acc, hidden_smem.at[slot], unembed_smem.at[slot])
          # All but the newest product are done with their slots.
          plgpu.wgmma_wait(1)

          @pl.when(k > 0)
          def _():
            last = warpgroup * S + lax.rem(step - 1, S)
            plgpu.barrier_arrive(empty.at[last])

        plgpu.wgmma_wait(0)
        last = warpgroup * S + lax.rem(i * steps + steps - 1, S)
        plgpu.barrier_arrive(empty.at[last])
        return acc[...]

      logits = pl.run_scoped(multiply, plgpu.ACC((R, W), jnp.float32))
      first, _ = columns(start + _CONSUMERS * i + warpgroup)
      for strip, rows in enumerate(strips):
        _add_strip(
          logits[strip * _ROWS : (strip + 1) * _ROWS],
          given,
          {name: ref.at[part, rows] for name, ref in known.items()},
          rows=rows,
          first=first,
          temperature=temperature,
          aligned=aligned,
        )


def _wgmma(x):
  return plgpu.layout_cast(x, plgpu.Layout.WGMMA)


def _add_strip(logits, given, known, *, rows, first, temperature, aligned):
  """Adds logits f32[64, W] of a few rows to statistics f32[64, 8].

  Args:
    logits: columns `first` on, W / 2 of them, and as many 128 later.
    given: references of the inputs, by name.
    known: references of the statistics, by name.
    rows: which rows they are.
    first: i32[].
    temperature: a Python number.
    aligned: whether the first column's id is a multiple of 256.
  """
  half = logits.shape[1] // 2
  shape = (_ROWS, _LANES)
  lane = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA)
  offset = given["scalars"][1]
  draw = given["scalars"][2].astype(jnp.uint32)

  def load(name):
    return common.gpu_load(
      known[name], layout=plgpu.Layout.WGMMA, optimized=False
    )

  def of_rows(name):
    x = common.gpu_load(
      given[name].at[rows],
      layout=plgpu.Layout.WGMMA.reduce(1),
      optimized=False,
    )
    return lax.broadcast_in_dim(x, shape, (0,))

  # Columns by eights: those of the first half, each followed by its partner.
  values, places = [], []
  for start in range(0, half, _LANES):
    for part in range(2):
      place = first + part * noise.LANES + start
      shift = common.gpu_load(
        given["bias"].at[pl.ds(place, _LANES)],
        layout=plgpu.Layout.WGMMA.reduce(0),
        optimized=False,
      )
      shift = lax.broadcast_in_dim(shift, shape, (1,))
      column = part * half + start
      value = logits[:, column : column + _LANES] + shift
      values.append(jnp.where(shift > stats.LOW, value, stats.LOW))
      places.append(place)

  old_top = load("top")
  top, second = old_top, load("second")
  for value in values:
    second = jnp.maximum(second, jnp.minimum(top, value))
    top = jnp.maximum(top, value)
  known["top"][...], known["second"][...] = top, second

  drop = old_top - top
  keep = jnp.exp(drop)
  total = keep * load("total")
  deviation = keep * load("deviation") + drop * total
  for value in values:
    drop = value - top
    weight = jnp.exp(drop)
    total += weight
    deviation += drop * weight
  known["total"][...], known["deviation"][...] = total, deviation

  if "floor" in given:
    floor = of_rows("floor")
    inverse = stats.inverse(temperature)
    keep = jnp.exp((old_top - top) * inverse)
    tempered, above = keep * load("tempered"), keep * load("above")
    for value in values:
      mass = jnp.exp((value - top) * inverse)
      tempered += mass
      above += jnp.where(value > floor, mass, 0.0)
    known["tempered"][...], known["above"][...] = tempered, above

  score, token, logit = load("score"), load("token"), load("logit")
  key = of_rows("key0"), of_rows("key1")
  for pair in range(0, len(values), 2):
    if temperature == 0:
      gumbels = None, None
    elif aligned:
      block = lax.div(first, noise.BLOCK) * noise.BLOCK
      # Ids of the first halves of blocks, without the gaps between them.
      start = lax.div(offset + block, 2) + (places[pair] - block)
      count = (start + lane).astype(jnp.uint32)
      gumbels = [noise.gumbel(x) for x in noise.threefry(*key, count, draw)]
    else:
      gumbels = [
        noise.gumbel_at(*key, draw, offset + place + lane)
        for place in places[pair : pair + 2]
      ]
    for value, place, gumbel in zip(
      values[pair : pair + 2], places[pair : pair + 2], gumbels, strict=True
    ):
      candidate = value if gumbel is None else value + temperature * gumbel
      better = candidate > score
      if "floor" in given:
        better = jnp.logical_and(better, value > floor)
      score = jnp.where(better, candidate, score)
      token = jnp.where(better, offset + place + lane, token)
      logit = jnp.where(better, value, logit)
  known["score"][...], known["token"][...] = score, token
  known["logit"][...] = logit
