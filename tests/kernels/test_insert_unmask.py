"""One body of tests for every implementation of `insert_unmask`.

On an accelerator: `JAX_PLATFORMS=cuda pytest tests/kernels`, or `=tpu`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu

from flexmdm_jax.kernels import insert_unmask as kernel
from flexmdm_jax.kernels.common import Implementation, Target, dispatch, target
from flexmdm_jax.kernels.insert_unmask import config as tuning

MASK, PAD = 8, 9
B, L = 4, 5
INTERPRETED = {
  "mosaic_tpu": pltpu.InterpretParams(
    detect_races=True, uninitialized_memory="nan"
  ),
  "mosaic_gpu": True,
}
no_gpu_interpreter = pytest.mark.skipif(
  not hasattr(plgpu, "InterpretGPUParams"),
  reason="this JAX has no interpreter of Mosaic GPU",
)


def each_of(names):
  """Parametrises over (implementation, interpret)."""
  cases = []
  for name in names:
    if name in INTERPRETED:
      marks = [no_gpu_interpreter] if name == "mosaic_gpu" else []
      cases.append(
        pytest.param(
          name, INTERPRETED[name], id=f"{name}-interpreted", marks=marks
        )
      )
    available = name is None or kernel.api.IMPLEMENTATIONS[name].available(
      target()
    )
    skip = pytest.mark.skipif(
      not available, reason=f"{name} does not run on a {target().kind}"
    )
    cases.append(pytest.param(name, False, id=str(name), marks=[skip]))
  return pytest.mark.parametrize(("implementation", "interpret"), cases)


each_implementation = each_of([None, *kernel.api.IMPLEMENTATIONS])


@functools.partial(
  jax.jit, static_argnames=("implementation", "interpret", "config")
)
def run_jit(*arrays, **kwargs):
  return kernel.insert_unmask(*arrays, mask=MASK, pad=PAD, **kwargs)


def run(arrays, implementation, interpret=False, config=None):
  return run_jit(
    *(jnp.asarray(x, jnp.int32) for x in arrays),
    implementation=implementation,
    interpret=interpret,
    config=config,
  )


def oracle(tokens, length, revealed, insertions):
  """One row, token by token: (tokens, length, truncated)."""
  L = len(tokens)
  room = L - length
  out = []
  for i in range(length + 1):
    given = min(insertions[i], room)
    room -= given
    out += [MASK] * given
    if i < length:
      out.append(revealed[i] if revealed[i] >= 0 else tokens[i])
  wanted = sum(insertions[: length + 1])
  return out + [PAD] * (L - len(out)), len(out), wanted > L - length


def check(rows, *how):
  """Compares with the oracle; `rows` are its arguments."""
  got = run(map(np.array, zip(*rows, strict=True)), *how)
  expected = zip(*(oracle(*row) for row in rows), strict=True)
  for ours, theirs in zip(got, expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)


KEEP, NONE = [-1] * 5, [0] * 6
# What lies beyond the length is poison: no implementation may read it.
HAND = {
  "nothing": ([1, 2, PAD, PAD, PAD], 2, KEEP, NONE),
  "reveal": ([1, 8, 8, 7, 7], 3, [-1, 5, -1, 6, 6], [0, 0, 0, 0, 99, 99]),
  "empty_row": ([7] * 5, 0, [6] * 5, [2, 99, 99, 99, 99, 99]),
  "every_gap": ([1, 2, 7, 7, 7], 2, [-1, -1, 6, 6, 6], [1, 1, 1, 99, 99, 99]),
  "reveal_moves": ([8, 2, 7, 7, 7], 2, [3, -1, 6, 6, 6], [2, 0, 1, 99, 99, 99]),
  "overflow": ([1, 2, 3, 7, 7], 3, [-1, -1, -1, 6, 6], [0, 1, 3, 1, 99, 99]),
  "full": ([1, 2, 8, 4, 5], 5, [-1, -1, 3, -1, -1], [0, 0, 0, 0, 0, 1]),
  "huge": ([1, 7, 7, 7, 7], 1, [-1, 6, 6, 6, 6], [0, 2**31 - 1, 0, 0, 0, 0]),
  "more_than_a_row": ([7] * 5, 0, [6] * 5, [6, 99, 99, 99, 99, 99]),
  "sum_overflows": ([1, 7, 7, 7, 7], 1, KEEP, [2**31 - 1] * 6),
}
WORKED = {
  "nothing": ([1, 2, 9, 9, 9], 2, False),
  "reveal": ([1, 5, 8, 9, 9], 3, False),
  "empty_row": ([8, 8, 9, 9, 9], 2, False),
  "every_gap": ([8, 1, 8, 2, 8], 5, False),
  "reveal_moves": ([8, 8, 3, 2, 8], 5, False),
  "overflow": ([1, 8, 2, 8, 3], 5, True),
  "full": ([1, 2, 3, 4, 5], 5, True),
  "huge": ([1, 8, 8, 8, 8], 5, True),
  "more_than_a_row": ([8, 8, 8, 8, 8], 5, True),
  "sum_overflows": ([8, 8, 8, 8, 1], 5, True),
}


@each_implementation
def test_worked_by_hand(implementation, interpret):
  for start in range(0, len(HAND), B):
    names = list(HAND)[start : start + B]
    names += ["nothing"] * (B - len(names))
    columns = zip(*(HAND[name] for name in names), strict=True)
    got = run(map(np.array, columns), implementation, interpret)
    for ours, theirs in zip(
      got, zip(*(WORKED[name] for name in names), strict=True), strict=True
    ):
      np.testing.assert_array_equal(ours, theirs, err_msg=str(names))


def row_strategy():
  token = st.integers(0, 9)
  count = st.sampled_from([0, 0, 0, 1, 2, 7, 2**31 - 1])
  return st.tuples(
    st.lists(token, min_size=L, max_size=L),
    st.integers(0, L),
    st.lists(st.just(-1) | token, min_size=L, max_size=L),
    st.lists(count, min_size=L + 1, max_size=L + 1),
  )


def as_token_by_token(max_examples):
  @settings(max_examples=max_examples, deadline=None)
  @given(st.lists(row_strategy(), min_size=B, max_size=B))
  def test(implementation, interpret, rows):
    check(rows, implementation, interpret)

  return test


@each_implementation
def test_as_token_by_token(implementation, interpret):
  as_token_by_token(25 if interpret else 200)(implementation, interpret)


def random_rows(seed, B, L):
  """Rows of all kinds, with poison beyond their ends."""
  rng = np.random.default_rng(seed)
  for row in range(B):
    length = [0, L, rng.integers(L + 1)][min(row, 2)]
    room, gaps = L - length, length + 1
    tokens = rng.integers(0, 8, L)
    revealed = np.where(rng.random(L) < 0.3, rng.integers(0, 8, L), -1)
    # From no insertion to far too many.
    mean = rng.choice([0, 0.5, 1, 3]) * room / gaps
    insertions = rng.poisson(mean, L + 1)
    tokens[length:], revealed[length:], insertions[gaps:] = -7, 77, 2**31 - 1
    yield tokens.tolist(), length, revealed.tolist(), insertions.tolist()


# One token, a width of lanes and its neighbours, several chunks of a warpgroup,
# blocks of rows that are not full, more insertions than the room.
SHAPES = [(2, 1), (3, 127), (9, 128), (10, 300), (3, 1025)]


@each_implementation
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ragged_shapes(implementation, interpret, shape):
  check(list(random_rows(0, *shape)), implementation, interpret)


@each_of(INTERPRETED)
@pytest.mark.slow
def test_longest_rows(implementation, interpret):
  check(list(random_rows(1, 3, 8192)), implementation, interpret)


@each_of(INTERPRETED)
@pytest.mark.slow
def test_tuning_changes_no_result(implementation, interpret):
  for config in tuning.CANDIDATES[implementation]:
    check(list(random_rows(2, 9, 300)), implementation, interpret, config)


@each_of(INTERPRETED)
def test_longer_rows_are_the_reference_s(implementation, interpret):
  arrays = [jnp.zeros(shape, jnp.int32) for shape in ((1, 9000), 1, (1, 9000))]
  with pytest.raises(NotImplementedError, match="no shape"):
    run([*arrays, jnp.zeros((1, 9001))], implementation, interpret)


def test_moved_by_bits_tokens_never_meet():
  # The argument of both kernels, for all shifts of four tokens in 8 cells.
  for a, b, c, d in np.ndindex(5, 5, 5, 5):
    shifts = np.cumsum([a, b, c, d])
    if shifts[-1] > 4:
      continue
    places = np.arange(4)
    for bit in (4, 2, 1):
      places = places + (shifts & bit)
      assert (np.diff(places) > 0).all()
    assert (places == np.arange(4) + shifts).all()


ARGUMENTS = {
  "tokens": jnp.zeros((B, L), jnp.int32),
  "length": jnp.zeros(B, jnp.int32),
  "revealed": jnp.zeros((B, L), jnp.int32),
  "insertions": jnp.zeros((B, L + 1), jnp.int32),
}


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("tokens", jnp.zeros(L, jnp.int32), r"tokens must be \[B, L\]"),
    ("tokens", jnp.zeros((B, L)), "tokens must be int32"),
    ("length", jnp.zeros((B, 1), jnp.int32), "length must be int32"),
    ("revealed", jnp.zeros((B, L + 1), jnp.int32), "revealed must be int32"),
    ("insertions", jnp.zeros((B, L), jnp.int32), "insertions must be int32"),
    ("insertions", jnp.zeros((B, L + 1)), "insertions must be int32"),
  ],
)
def test_wrong_argument_is_named(name, value, message):
  with pytest.raises(ValueError, match=message):
    kernel.insert_unmask(**{**ARGUMENTS, name: value}, mask=MASK, pad=PAD)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_list_is_no_array(name):
  with pytest.raises(ValueError, match=f"{name} must be an array"):
    kernel.insert_unmask(**{**ARGUMENTS, name: [[0]]}, mask=MASK, pad=PAD)


WRONG_VALUES = [
  ("length", np.full(B, -1, np.int32), r"length must be in \[0, 5\]"),
  ("length", np.full(B, L + 1, np.int32), r"length must be in \[0, 5\]"),
  (
    "insertions",
    np.full((B, L + 1), -1, np.int32),
    "insertions must not be negative",
  ),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_VALUES)
def test_wrong_values_are_named(name, value, message):
  numpy = {k: np.asarray(v) for k, v in ARGUMENTS.items()}
  ids = dict(mask=MASK, pad=PAD)
  with pytest.raises(ValueError, match=message):
    kernel.insert_unmask(**{**numpy, name: value}, **ids)
  on_device = {**ARGUMENTS, name: jnp.asarray(value)}
  kernel.insert_unmask(**on_device, **ids)  # not looked at
  with pytest.raises(ValueError, match=message):
    kernel.insert_unmask(**on_device, **ids, check=True)

  @jax.jit
  @checkify.checkify
  def checked(arrays):
    return kernel.insert_unmask(**arrays, **ids, check=True)

  error, _ = checked(on_device)
  with pytest.raises(checkify.JaxRuntimeError, match=message):
    error.throw()
  checked(ARGUMENTS)[0].throw()


def test_values_beyond_the_end_are_not_checked():
  numpy = {k: np.asarray(v) for k, v in ARGUMENTS.items()}
  insertions = np.full((B, L + 1), -1, np.int32)
  insertions[:, 0] = 1  # rows are empty: the only gap
  out, length, _ = kernel.insert_unmask(
    **{**numpy, "insertions": insertions}, mask=MASK, pad=PAD
  )
  assert length.tolist() == [1] * B
  assert out.tolist() == [[MASK] + [PAD] * (L - 1)] * B


def call(**kwargs):
  return kernel.insert_unmask(**ARGUMENTS, mask=MASK, pad=PAD, **kwargs)


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"implementation": "fast"}, "'fast' is unknown: available .* reference"),
    ({"interpret": True}, "name it, one of mosaic_gpu, mosaic_tpu, reference"),
    ({"config": tuning.TpuConfig()}, "name it"),
    (
      {"implementation": "reference", "config": tuning.TpuConfig()},
      "must be None",
    ),
    (
      {
        "implementation": "mosaic_tpu",
        "interpret": True,
        "config": tuning.GpuConfig(),
      },
      "must be TpuConfig",
    ),
  ],
)
def test_wrong_keyword_is_named(kwargs, message):
  with pytest.raises(ValueError, match=message):
    call(**kwargs)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="they are here")
@pytest.mark.parametrize("implementation", ["mosaic_gpu", "mosaic_tpu"])
def test_accelerators_are_not_here(implementation):
  with pytest.raises(ValueError, match="not available on cpu: reference are"):
    call(implementation=implementation)


@pytest.mark.parametrize("rows", [0, 4, -8])
def test_wrong_tuning_is_refused(rows):
  with pytest.raises(ValueError, match=f"block_rows={rows} must"):
    tuning.TpuConfig(rows)
  with pytest.raises(ValueError, match="chunk=96 must"):
    tuning.GpuConfig(96)


def one_of_two(first):
  return {"first": Implementation(first), "last": Implementation(lambda x: -x)}


def test_falls_back_on_what_is_not_implemented_only():
  def cannot(x):
    raise NotImplementedError

  def broken(x):
    raise TypeError("a defect")

  def alone(function):
    """On one device: these tests have eight."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
      return dispatch(one_of_two(function), None, 3)

  assert alone(lambda x: x) == 3
  assert alone(cannot) == -3
  with pytest.raises(TypeError, match="a defect"):
    alone(broken)
  with pytest.raises(NotImplementedError):
    dispatch(one_of_two(cannot), "first", 3)


@pytest.mark.skipif(jax.device_count() == 1, reason="needs several devices")
def test_no_kernel_where_the_compiler_would_have_to_partition_it():
  several = jax.make_mesh(
    (2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  implementations = one_of_two(lambda x: x)

  def choose(x):
    return dispatch(implementations, None, x)

  ones = jnp.ones(2)
  assert choose(ones).tolist() == [-1, -1]
  with jax.set_mesh(several):
    assert choose(ones).tolist() == [-1, -1]
    spec = jax.sharding.PartitionSpec("x")
    mapped = jax.shard_map(choose, in_specs=spec, out_specs=spec)
    assert mapped(ones).tolist() == [1, 1]


@pytest.mark.parametrize(
  ("kind", "hopper"),
  [
    ("NVIDIA H100 80GB HBM3", True),
    ("NVIDIA H200", True),
    ("NVIDIA GH200 480GB", True),
    ("NVIDIA A100-SXM4-80GB", False),
    ("NVIDIA B200", False),
  ],
)
def test_hopper_by_its_name(kind, hopper):
  assert Target("gpu", kind).is_hopper == hopper
