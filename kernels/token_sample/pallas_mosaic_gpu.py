"""Kernel that scans the vocabulary on Hopper GPUs.

A block takes a tile of rows and a part of the vocabulary. One warpgroup
streams tiles into a ring of shared memory, tile by tile; two others take turns
at them: each multiplies a tile of logits and then reduces it, so that one
multiplies while the other reduces. Blocks of a cluster share the columns, of
which each loads a part for all.

A thread keeps statistics of the logits that it holds: those of a row and of
eight columns' residues. They live in the outputs, and are merged outside, once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Float32, Int32, UInt32

from flexmdm_jax.kernels import common
from flexmdm_jax.kernels.common.mosaic_gpu import (
  gpu_interpreter,
  gpu_load,
  gpu_params,
)
from flexmdm_jax.kernels.token_sample import noise, stats
from flexmdm_jax.kernels.token_sample.config import GpuConfig, gpu_config

# A tile of logits: one instruction of the tensor cores makes it, and two
# warpgroups can hold two of them in registers.
_ROWS, _COLUMNS = 64, noise.BLOCK
# Columns of it that a thread's register lies in: one of eight neighbours.
_LANES = 8
# A row of this many bf16 fills a swizzle of 128 bytes.
_TILE_D = 64
_CONSUMERS = 2


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
  config: GpuConfig | None = None,
  interpret: Any = False,
) -> stats.Stats:
  """Runs the GPU kernel; see `xla.scan_vocab`.

  Raises:
    NotImplementedError: the type is float32, D is no multiple of 64, or this
      JAX lacks the interpreter that is asked for.
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
    interpret = gpu_interpreter()
  C, P, S = config.cluster, config.max_splits, config.stages
  clusters, tiles = pl.cdiv(N, C * _ROWS), pl.cdiv(V, _COLUMNS)

  def pad_rows(x):
    rows = clusters * C * _ROWS
    return jnp.pad(x, [(0, rows - N)] + [(0, 0)] * (x.ndim - 1))

  inputs = {
    "scalars": jnp.stack(
      [num_rows, offset, lax.bitcast_convert_type(draw, jnp.int32)]
    ),
    "hidden": pad_rows(hidden),
    # Whole swizzled rows; copies read zeros beyond the last.
    "unembed": jnp.pad(unembed, ((0, 0), (0, -V % 64))),
    "bias": jnp.pad(bias, (0, tiles * _COLUMNS - V), constant_values=stats.LOW),
    "key0": pad_rows(words[:, 0]),
    "key1": pad_rows(words[:, 1]),
  }
  # Without a floor the last two statistics are not wanted.
  fields = stats.Stats._fields[:-2]
  if floor is not None:
    inputs["floor"] = pad_rows(floor)
    fields = stats.Stats._fields
  transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
  if C == 1:
    cluster = {}
    empty = plgpu.Barrier(num_barriers=_CONSUMERS * S)
  else:
    cluster = {"cluster": (C,), "cluster_names": ("member",)}
    empty = plgpu.ClusterBarrier(
      collective_axes=("member",), num_barriers=_CONSUMERS * S
    )
  found = plgpu.kernel(
    functools.partial(
      _kernel,
      tuple(inputs),
      fields,
      config=config,
      tiles=tiles,
      clusters=clusters,
      temperature=temperature,
      aligned=aligned,
    ),
    out_type=[
      jax.ShapeDtypeStruct(
        (P * _CONSUMERS, clusters * C * _ROWS, _LANES),
        jnp.int32 if name == "token" else jnp.float32,
      )
      for name in fields
    ],
    scratch_types={
      "hidden_smem": plgpu.SMEM(
        (S, _ROWS, _TILE_D), jnp.bfloat16, transforms=transforms
      ),
      "unembed_smem": plgpu.SMEM(
        (S, _TILE_D, _COLUMNS), jnp.bfloat16, transforms=transforms
      ),
      # A slot is full after two copies. A warpgroup must see every phase of its
      # barriers, so each has its own of every slot.
      "full": plgpu.Barrier(num_arrivals=2, num_barriers=_CONSUMERS * S),
      "empty": empty,
    },
    grid=(P * clusters,),
    grid_names=("block",),
    **cluster,
    num_threads=_CONSUMERS + 1,
    thread_name="warpgroup",
    compiler_params=gpu_params(approx_math=True),
    interpret=interpret,
  )(*inputs.values())
  found = [x[:, :N] for x in found]
  if floor is None:
    found += [jnp.zeros_like(found[0])] * 2
  found = stats.merge(stats.Stats(*found), temperature, axis=-1)
  splits = _num_splits(pl.cdiv(num_rows, C * _ROWS), config)
  written = jnp.arange(P * _CONSUMERS) < splits * _CONSUMERS
  found = jax.tree.map(
    lambda x, start: jnp.where(written[:, None], x, start), found, stats.START
  )
  return stats.merge(found, temperature)


def _num_splits(active, config):
  """Number of parts of the vocabulary with which clusters fill the device."""
  fit = lax.div(
    jnp.int32(config.processors // config.cluster), jnp.maximum(active, 1)
  )
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
  clusters,
  temperature,
  aligned,
):
  """Runs one block; `inputs` and `fields` name its references."""
  given = dict(zip(inputs, refs, strict=False))
  known = dict(zip(fields, refs[len(inputs) :], strict=True))
  num_rows = given["scalars"][0]
  C, S = config.cluster, config.stages
  steps = given["hidden"].shape[1] // _TILE_D

  # All of a cluster must agree on what there is to do.
  block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
  cluster, split = lax.rem(block, clusters), lax.div(block, clusters)
  active = lax.div(num_rows + (C * _ROWS - 1), C * _ROWS)
  splits = _num_splits(active, config)
  share = lax.div(tiles + splits - 1, splits)
  start = jnp.minimum(split * share, tiles)
  count = jnp.minimum(share, tiles - start)
  works = jnp.logical_and(cluster < active, split < splits)
  tile_row = cluster * C + (lax.axis_index("member") if C > 1 else 0)
  rows = pl.ds(tile_row * _ROWS, _ROWS)

  def slot_of(step):
    """Returns (slot, barrier) of a step; a tile takes `steps` of them."""
    slot = lax.rem(step, S)
    return slot, lax.rem(lax.div(step, steps), _CONSUMERS) * S + slot

  @pl.when(jnp.logical_and(works, warpgroup == _CONSUMERS))
  def _():
    plgpu.set_max_registers(40, action="decrease")

    @pl.loop(0, count * steps)
    def _(step):
      slot, barrier = slot_of(step)

      @pl.when(step >= S)
      def _():
        _, taken = slot_of(step - S)
        plgpu.barrier_wait(empty.at[taken])

      depth = pl.ds(lax.rem(step, steps) * _TILE_D, _TILE_D)
      tile = start + lax.div(step, steps)
      plgpu.copy_gmem_to_smem(
        given["hidden"].at[rows, depth],
        hidden_smem.at[slot],
        full.at[barrier],
      )
      plgpu.copy_gmem_to_smem(
        given["unembed"].at[depth, pl.ds(tile * _COLUMNS, _COLUMNS)],
        unembed_smem.at[slot],
        full.at[barrier],
        collective_axes="member" if C > 1 else None,
      )

    # No block may leave while another still has to tell it of an empty slot.
    @pl.loop(jnp.maximum(count * steps - S, 0), count * steps)
    def _(step):
      plgpu.barrier_wait(empty.at[slot_of(step)[1]])

  @pl.when(jnp.logical_and(works, warpgroup < _CONSUMERS))
  def _():
    plgpu.set_max_registers(232, action="increase")
    part = split * _CONSUMERS + warpgroup
    mine = {name: ref.at[part, rows] for name, ref in known.items()}
    for name, begin in zip(stats.Stats._fields, stats.START, strict=True):
      if name in mine:
        dtype = known[name].dtype
        mine[name][...] = _wgmma(jnp.full((_ROWS, _LANES), begin, dtype))

    @pl.loop(0, lax.div(count - warpgroup + _CONSUMERS - 1, _CONSUMERS))
    def _(i):
      turn = _CONSUMERS * i + warpgroup

      def multiply(logits):
        @pl.loop(0, steps)
        def _(k):
          slot, barrier = slot_of(turn * steps + k)
          plgpu.barrier_wait(full.at[barrier])
          plgpu.wgmma(logits, hidden_smem.at[slot], unembed_smem.at[slot])
          # All but the newest product are done with their slots.
          plgpu.wgmma_wait(1)

          @pl.when(k > 0)
          def _():
            plgpu.barrier_arrive(empty.at[slot_of(turn * steps + k - 1)[1]])

        plgpu.wgmma_wait(0)
        plgpu.barrier_arrive(empty.at[slot_of(turn * steps + steps - 1)[1]])
        return logits[...]

      _add_tile(
        pl.run_scoped(multiply, plgpu.ACC((_ROWS, _COLUMNS), jnp.float32)),
        given,
        mine,
        rows=rows,
        first=(start + turn) * _COLUMNS,
        temperature=temperature,
        aligned=aligned,
      )


def _wgmma(x):
  """Casts an array to the layout of the tensor cores' results."""
  return plgpu.layout_cast(x, plgpu.Layout.WGMMA)


def _add_tile(logits, given, known, *, rows, first, temperature, aligned):
  """Adds logits f32[64, 256] to statistics f32[64, 8].

  Args:
    logits: logits of the columns from `first` on.
    given: references of the inputs, by name.
    known: references of the rows' statistics, by name.
    rows: indices of the rows.
    first: first column, i32[], a multiple of 256.
    temperature: a Python number.
    aligned: whether the first column's id is a multiple of 256.
  """
  shape = (_ROWS, _LANES)
  lane = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA)
  offset = given["scalars"][1]
  draw = given["scalars"][2].astype(jnp.uint32)

  def load(name):
    """Loads a statistic of the rows."""
    return gpu_load(known[name], layout=plgpu.Layout.WGMMA, optimized=False)

  def of_rows(name):
    """Loads an input with a number a row, and repeats it over lanes."""
    x = gpu_load(
      given[name].at[rows],
      layout=plgpu.Layout.WGMMA.reduce(1),
      optimized=False,
    )
    return lax.broadcast_in_dim(x, shape, (0,))

  # Eights of columns, each followed by those that share its hash.
  values, places = [], []
  for column in range(0, _COLUMNS // 2, _LANES):
    for place in (column, column + noise.LANES):
      shift = gpu_load(
        given["bias"].at[pl.ds(first + place, _LANES)],
        layout=plgpu.Layout.WGMMA.reduce(0),
        optimized=False,
      )
      shift = lax.broadcast_in_dim(shift, shape, (1,))
      value = logits[:, place : place + _LANES] + shift
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
      start = lax.div(offset + first, 2) + places[pair]
      count = (start + lane).astype(jnp.uint32)
      gumbels = [noise.gumbel(x) for x in noise.threefry(*key, count, draw)]
    else:
      gumbels = [
        noise.gumbel_at(*key, draw, offset + first + place + lane)
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
      token = jnp.where(better, offset + first + place + lane, token)
      logit = jnp.where(better, value, logit)
  known["score"][...], known["token"][...] = score, token
  known["logit"][...] = logit
