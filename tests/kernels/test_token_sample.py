"""One body of tests for every implementation of `token_sample`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from flexmdm_jax.kernels import common
from flexmdm_jax.kernels.token_sample import (
  api,
  noise,
  pallas_mosaic_gpu,
  pallas_mosaic_tpu,
  ref,
  stats,
  token_sample,
  xla,
)
from flexmdm_jax.kernels.token_sample.config import (
  GpuConfig,
  TpuConfig,
  XlaConfig,
  gpu_config,
  tpu_config,
)

N, D, V = 20, 64, 704
ROWS = 17
BANNED = (0, 5, 127, 128, 300, V - 1)


def interpreted(implementation):
  """Keywords that run an implementation here; skips if nothing does."""
  if implementation == "mosaic_tpu":
    return {
      "interpret": pltpu.InterpretParams(
        detect_races=True, uninitialized_memory="nan"
      )
    }
  if implementation == "mosaic_gpu":
    if not hasattr(plgpu, "InterpretGPUParams"):
      pytest.skip("This JAX cannot interpret Mosaic GPU kernels.")
    return {"interpret": plgpu.InterpretGPUParams(detect_races=True)}
  return {}


each_implementation = pytest.mark.parametrize(
  "implementation", ["reference", "xla", "mosaic_tpu", "mosaic_gpu"]
)
# Compared with the reference, bit for bit.
each_fast = pytest.mark.parametrize(
  "implementation", ["xla", "mosaic_tpu", "mosaic_gpu"]
)


@functools.cache
def inputs(V=V):
  """(hidden, unembed, bias); rows from ROWS on are poison."""
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(N, D)).astype(np.float32)
  hidden[ROWS:] = np.nan
  unembed = rng.normal(size=(D, V)).astype(np.float32) * 0.3
  bias = rng.normal(size=V).astype(np.float32)
  bias[7] = -np.inf
  return (
    jnp.asarray(hidden, jnp.bfloat16),
    jnp.asarray(unembed, jnp.bfloat16),
    jnp.asarray(bias),
  )


@functools.cache
def compiled(implementation, config=None, **static):
  static = {"temperature": 1.0, **static}
  return jax.jit(
    lambda hidden, unembed, num_rows, key, banned, bias: token_sample(
      hidden,
      unembed,
      num_rows,
      key,
      banned=banned,
      bias=bias,
      implementation=implementation,
      config=config,
      **interpreted(implementation),
      **static,
    )
  )


def run(implementation, num_rows=ROWS, key=None, **static):
  key = jax.random.key(1) if key is None else key
  hidden, unembed, bias = inputs()
  return compiled(implementation, **static)(
    hidden, unembed, num_rows, key, jnp.array(BANNED, jnp.int32), bias
  )


def assert_alike(ours, theirs, rows=ROWS):
  np.testing.assert_array_equal(ours.token[:rows], theirs.token[:rows])
  for name in ("log_prob", "top_prob", "margin", "entropy"):
    np.testing.assert_allclose(
      getattr(ours, name)[:rows],
      getattr(theirs, name)[:rows],
      atol=5e-6,
      err_msg=name,
    )


def log_law(V=V, banned=BANNED):
  """Log-probabilities of the rows, in float64."""
  hidden, unembed, bias = (np.asarray(x, np.float64) for x in inputs(V))
  logits = hidden[:ROWS] @ unembed + bias
  logits[:, list(banned)] = -np.inf
  return scipy.special.log_softmax(logits, axis=-1)


@each_implementation
def test_numbers_are_of_the_law(implementation):
  got = run(implementation)
  log_p = log_law()
  p = np.sort(np.exp(log_p), axis=-1)
  rows = np.arange(ROWS)
  expected = {
    "log_prob": log_p[rows, got.token[:ROWS]],
    "top_prob": p[:, -1],
    "margin": p[:, -1] - p[:, -2],
    "entropy": scipy.special.entr(p).sum(-1),
  }
  for name, values in expected.items():
    ours = np.asarray(getattr(got, name)[:ROWS], np.float64)
    np.testing.assert_allclose(ours, values, atol=5e-6, err_msg=name)


@each_fast
@pytest.mark.parametrize(
  ("temperature", "top_p"),
  [
    (1.0, 1.0),
    (0.3, 1.0),
    (0, 0.5),
    pytest.param(0.7, 0.8, marks=pytest.mark.slow),
    pytest.param(2, 0.05, marks=pytest.mark.slow),
  ],
)
def test_draws_what_the_reference_draws(implementation, temperature, top_p):
  static = {"temperature": temperature, "top_p": top_p}
  assert_alike(run(implementation, **static), run("reference", **static))


@each_implementation
def test_temperature_zero_takes_the_largest(implementation):
  got = run(implementation, temperature=0)
  np.testing.assert_array_equal(got.token[:ROWS], log_law().argmax(-1))


@each_implementation
def test_rows_beyond_do_not_matter(implementation):
  expected = run("reference")
  for rows in (0, 1, ROWS, N):
    got = run(implementation, num_rows=rows)
    assert_alike(got, expected, rows=min(rows, ROWS))


@each_implementation
def test_a_row_depends_on_its_key_alone(implementation):
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
    jax.random.key(1), jnp.arange(N, dtype=jnp.uint32)
  )
  order = np.random.default_rng(2).permutation(ROWS)
  order = np.concatenate([order, np.arange(ROWS, N)])
  hidden, unembed, bias = inputs()
  got = compiled(implementation)(
    hidden[order],
    unembed,
    ROWS,
    keys[order],
    jnp.array(BANNED, jnp.int32),
    bias,
  )
  expected = run(implementation)
  assert_alike(got, jax.tree.map(lambda x: x[order], expected))


CONFIGS = [
  ("xla", XlaConfig(tile_rows=7, tile_vocab=256)),
  ("xla", XlaConfig(tile_rows=1, tile_vocab=512)),
  ("mosaic_tpu", TpuConfig(tile_rows=16, tile_vocab=256, strip_rows=16)),
  (
    "mosaic_tpu",
    TpuConfig(tile_rows=32, tile_vocab=512, strip_rows=16, splits=2),
  ),
  ("mosaic_gpu", GpuConfig(cluster=1, stages=2, max_splits=3)),
  ("mosaic_gpu", GpuConfig(cluster=2, processors=4)),
]


@pytest.mark.parametrize(("implementation", "config"), CONFIGS)
def test_config_changes_speed_only(implementation, config):
  got = run(implementation, config=config)
  assert_alike(got, run("reference"))


@pytest.mark.slow
def test_config_changes_no_nucleus():
  implementation, config = CONFIGS[3]
  got = run(implementation, config=config, top_p=0.8)
  assert_alike(got, run("reference", top_p=0.8))


@pytest.mark.parametrize(
  ("implementation", "shards", "V", "top_p"),
  [
    *(("xla", n, V, 1.0) for n in (1, 2, 4, 8)),
    ("xla", 2, V, 0.8),
    ("xla", 2, 1024, 1.0),
    ("xla", 4, 1024, 0.8),
    ("reference", 4, V, 0.8),
    ("mosaic_tpu", 2, V, 1.0),
    ("mosaic_tpu", 2, 1024, 1.0),
    pytest.param("mosaic_tpu", 2, V, 0.8, marks=pytest.mark.slow),
  ],
)
def test_shards_change_nothing(implementation, shards, V, top_p):
  mesh = jax.make_mesh(
    (shards,),
    ("model",),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:shards],
  )
  hidden, unembed, bias = inputs(V)
  key, banned = jax.random.key(3), jnp.array(BANNED, jnp.int32)

  def sharded(hidden, unembed, bias, key, banned):
    return token_sample(
      hidden,
      unembed,
      ROWS,
      key,
      temperature=0.9,
      top_p=top_p,
      banned=banned,
      bias=bias,
      axis_name="model",
      implementation=implementation,
      **interpreted(implementation),
    )

  columns = P(None, "model"), P("model")
  got = jax.jit(
    jax.shard_map(
      sharded,
      mesh=mesh,
      in_specs=(P(), *columns, P(), P()),
      out_specs=P(),
      check_vma=not implementation.startswith("mosaic"),
    )
  )(hidden, unembed, bias, key, banned)
  expected = compiled("reference", temperature=0.9, top_p=top_p)(
    hidden, unembed, ROWS, key, banned, bias
  )
  assert_alike(got, expected)


@pytest.mark.parametrize(
  "kernel",
  [xla, pallas_mosaic_tpu, pallas_mosaic_gpu],
  ids=lambda x: x.__name__.split(".")[-1],
)
def test_parts_merge_wherever_they_are_cut(kernel):
  hidden, unembed, bias = inputs()
  bias = jnp.maximum(bias, stats.LOW).at[jnp.array(BANNED)].set(stats.LOW)
  words = noise.row_words(jax.random.key(1), N)
  name = kernel.__name__.split("pallas_")[-1]

  def scan(start, stop):
    return kernel.scan_vocab(
      hidden,
      unembed[:, start:stop],
      jnp.int32(ROWS),
      words,
      jnp.uint32(0),
      bias[start:stop],
      None,
      jnp.int32(start),
      temperature=1.0,
      aligned=False,
      **interpreted(name),
    )

  parts = scan(0, 88), scan(88, V)
  parts = jax.tree.map(lambda *x: jnp.stack(x), *parts)
  found = stats.merge(parts, 1.0)
  expected = run("reference")
  np.testing.assert_array_equal(found.token[:ROWS], expected.token[:ROWS])
  np.testing.assert_allclose(
    1 / found.total[:ROWS], expected.top_prob[:ROWS], atol=5e-6
  )


SHAPES = st.tuples(
  st.sampled_from([1, 16, 33]),
  st.sampled_from([1, 128]),
  st.sampled_from([1, 2, 127, 128, 129, 256, 257, 600]),
)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["xla", "mosaic_tpu"])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(shape=SHAPES)
def test_any_shape(implementation, shape):
  n, d, v = shape
  rng = np.random.default_rng(n * d * v)
  hidden = jnp.asarray(rng.normal(size=(n, d)), jnp.float32)
  unembed = jnp.asarray(rng.normal(size=(d, v)) / d**0.5, jnp.float32)
  draw = functools.partial(
    token_sample,
    hidden,
    unembed,
    n,
    jax.random.key(0),
    temperature=1.5,
  )
  got = jax.jit(
    lambda: draw(implementation=implementation, **interpreted(implementation))
  )()
  assert_alike(got, jax.jit(lambda: draw(implementation="reference"))(), n)


def draw_many(implementation, n=50_000, V=300, **static):
  """Counts of n draws from one row's law, and that law's logits."""
  rng = np.random.default_rng(4)
  bias = jnp.asarray(rng.normal(size=V) * 1.5, jnp.float32)
  got = compiled(implementation, **static)(
    jnp.zeros((n, 1)),
    jnp.zeros((1, V)),
    n,
    jax.random.key(5),
    jnp.array([1, 130], jnp.int32),
    bias,
  )
  logits = np.array(bias, np.float64)
  logits[[1, 130]] = -np.inf
  return np.bincount(got.token, minlength=V), logits


@pytest.mark.parametrize(
  ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (3.0, 1.0), (1.5, 0.6)]
)
def test_draws_from_the_law(temperature, top_p):
  counts, logits = draw_many("xla", temperature=temperature, top_p=top_p)
  p = scipy.special.softmax(logits / temperature)
  above = np.array([p[logits > x].sum() for x in logits])
  p = np.where(above < top_p, p, 0)
  p /= p.sum()
  assert not counts[p == 0].any()
  # The rare ids together.
  rare = p * counts.sum() < 10
  observed = np.append(counts[~rare], counts[rare].sum())
  expected = np.append(p[~rare], p[rare].sum()) * counts.sum()
  observed, expected = observed[expected > 0], expected[expected > 0]
  assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3


def test_noise_is_gumbel_and_as_defined():
  word = jax.random.key_data(jax.random.key(6))
  expected = ref._gumbel(word, jnp.uint32(3), 100_000)
  assert scipy.stats.kstest(expected, "gumbel_r").pvalue > 1e-3
  draw, start, width = jnp.uint32(3), jnp.int32(256), 700
  block = noise.gumbel_block(word[None], draw, start, width)[0]
  ids = jnp.arange(256, 256 + width)
  each = noise.gumbel_at(word[0], word[1], draw, ids)
  np.testing.assert_array_equal(block, each)
  # The bits are equal; logarithms may round differently.
  np.testing.assert_allclose(
    block, expected[256 : 256 + width], rtol=1e-5, atol=1e-6
  )


def test_noise_is_finite():
  ends = jnp.array([0, 1, 2**26, 2**31, 2**32 - 1], jnp.uint32)
  assert jnp.isfinite(noise.gumbel(ends)).all()


@each_implementation
def test_one_allowed_id(implementation):
  hidden, unembed, bias = inputs()
  only = 200
  got = compiled(implementation)(
    hidden,
    unembed,
    ROWS,
    jax.random.key(1),
    jnp.array(BANNED, jnp.int32),
    jnp.where(jnp.arange(V) == only, bias, -jnp.inf),
  )
  expected = {
    "token": only,
    "log_prob": 0,
    "top_prob": 1,
    "margin": 1,
    "entropy": 0,
  }
  for name, value in expected.items():
    np.testing.assert_allclose(
      getattr(got, name)[:ROWS], value, atol=1e-6, err_msg=name
    )


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_equal_logits(implementation):
  draw = functools.partial(
    token_sample,
    jnp.zeros((2, 8)),
    jnp.zeros((8, 10)),
    2,
    jax.random.key(0),
    implementation=implementation,
  )
  got = draw(temperature=0, banned=jnp.array([0], jnp.int32))
  np.testing.assert_array_equal(got.token, [1, 1])
  np.testing.assert_allclose(got.margin, 0, atol=1e-7)
  np.testing.assert_allclose(got.entropy, np.log(9), rtol=1e-6)
  # None is more probable than another: all are in the nucleus.
  loose, tight = (draw(temperature=1.0, top_p=p).token for p in (1.0, 0.01))
  np.testing.assert_array_equal(loose, tight)


def test_any_kind_of_key():
  hidden, unembed, _ = inputs()
  draw = functools.partial(token_sample, hidden, unembed, ROWS, temperature=1.0)
  typed = draw(jax.random.key(1)).token[:ROWS]
  raw = draw(jax.random.PRNGKey(1)).token[:ROWS]
  np.testing.assert_array_equal(typed, raw)
  other = [
    draw(jax.random.key(seed, impl="rbg")).token[:ROWS] for seed in (1, 2)
  ]
  assert (other[0] != other[1]).any()


def test_picks_by_backend():
  hidden, unembed, _ = inputs()
  draw = functools.partial(
    token_sample, hidden, unembed, ROWS, jax.random.key(1), temperature=1.0
  )
  assert_alike(draw(), draw(implementation="xla"))
  if not (common.target().is_tpu or common.target().is_hopper):
    with pytest.raises(ValueError, match="xla, reference"):
      draw(implementation="mosaic_gpu")
  with pytest.raises(ValueError, match=r"'fast' is unknown.*xla, reference"):
    draw(implementation="fast")


@pytest.mark.parametrize("name", ["mosaic_gpu", "mosaic_tpu"])
def test_on_device(name):
  if not api.IMPLEMENTATIONS[name].available(common.target()):
    pytest.skip(f"No device for {name}.")
  hidden, unembed, bias = inputs()
  draw = functools.partial(
    token_sample,
    hidden,
    unembed,
    ROWS,
    jax.random.key(1),
    temperature=0.7,
    top_p=0.8,
    bias=bias,
  )
  got = jax.jit(lambda: draw(implementation=name))()
  assert_alike(got, jax.jit(lambda: draw(implementation="reference"))())


GOOD = {
  "hidden": jnp.zeros((3, 8)),
  "unembed": jnp.zeros((8, 5)),
  "num_rows": 3,
  "key": jax.random.key(0),
  "temperature": 1.0,
}


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("hidden", jnp.zeros(8), "hidden must have two axes"),
    ("hidden", jnp.zeros((0, 8)), "hidden must have two axes, none empty"),
    ("hidden", jnp.zeros((3, 8), jnp.int32), "hidden must be bfloat16 or"),
    ("hidden", jnp.zeros((3, 8), jnp.bfloat16), r"unembed must be bfloat16\[8"),
    ("unembed", jnp.zeros((5, 8)), r"unembed must be float32\[8, V\]"),
    ("num_rows", 4, r"num_rows=4 must be in \[0, 3\]"),
    ("num_rows", -1, "num_rows=-1 must be"),
    ("num_rows", 1.0, "num_rows must be one integer"),
    ("num_rows", jnp.zeros(3, jnp.int32), "num_rows must be one integer"),
    ("key", jax.random.split(jax.random.key(0), 2), "key must be one PRNG key"),
    ("key", jnp.zeros(3), "key must be one PRNG key"),
    ("temperature", -1, "temperature must be a Python number"),
    ("temperature", float("nan"), "temperature must be"),
    ("temperature", float("inf"), "temperature must be"),
    ("temperature", jnp.ones(()), "temperature must be"),
    ("top_p", 0, "top_p must be a Python number in"),
    ("top_p", 1.1, "top_p must be"),
    ("top_p", float("nan"), "top_p must be"),
    ("bias", jnp.zeros(8), r"bias must be float32\[5\]"),
    ("bias", jnp.zeros(5, jnp.bfloat16), r"bias must be float32\[5\]"),
    ("banned", jnp.zeros((1, 1), jnp.int32), r"banned must be int32\[K\]"),
    ("banned", jnp.zeros(1), r"banned must be int32\[K\]"),
    ("banned", jnp.array([5], jnp.int32), r"banned must hold ids in \[0, 5\)"),
    ("banned", jnp.array([-1], jnp.int32), "banned must hold ids"),
    ("banned", jnp.arange(5, dtype=jnp.int32), "banned holds all 5 ids"),
    ("config", XlaConfig(), "config and interpret are of one implementation"),
  ],
)
def test_wrong_argument_is_named(name, value, message):
  with pytest.raises(ValueError, match=message):
    token_sample(**{**GOOD, name: value})


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: XlaConfig(tile_vocab=100), "XlaConfig.tile_vocab must be"),
    (lambda: XlaConfig(tile_rows=0), "XlaConfig.tile_rows must be"),
    (lambda: TpuConfig(tile_rows=100), "TpuConfig.tile_rows must be"),
    (lambda: GpuConfig(cluster=3), "GpuConfig.cluster=3 must be"),
    (lambda: GpuConfig(stages=9), "GpuConfig.stages=9 must be"),
  ],
)
def test_wrong_config_is_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_vmem_is_checked_before_launch():
  with pytest.raises(ValueError, match="bytes of VMEM"):
    token_sample(
      **{
        **GOOD,
        "hidden": jnp.zeros((3, 4096)),
        "unembed": jnp.zeros((4096, 5)),
      },
      implementation="mosaic_tpu",
      interpret=True,
      config=TpuConfig(tile_rows=1024, tile_vocab=1024),
    )


@pytest.mark.parametrize("D", [768, 4096, 8192])
@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5", "TPU v5 lite", "unknown"])
def test_tables_fit(kind, D):
  config = tpu_config(kind, 4096, D, 2)
  assert config.vmem_needed(D, 2) <= config.vmem_bytes
  assert gpu_config(kind, 4096).cluster == 2
