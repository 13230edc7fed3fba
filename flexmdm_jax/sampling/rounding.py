"""Parameters in the type that the network reads them in, before the loop.

Trained parameters are float32. A network that computes in 16 bits rounds them
wherever it reads them: in a sampler's loop anew at every call, block by block,
which costs more bytes than the products themselves where rows are few. What a
network rounds before anything else can be rounded once, to the same bits.
"""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from flexmdm_jax.prediction import Denoiser, features_or_prediction

# Operations that move numbers and change none.
_MOVES = {
  "broadcast_in_dim",
  "dynamic_slice",
  "reshape",
  "slice",
  "split",
  "squeeze",
  "transpose",
}
_HALF = ({jnp.dtype(jnp.bfloat16)}, {jnp.dtype(jnp.float16)})


def round_parameters(denoiser: Denoiser, B: int, L: int) -> Denoiser:
  """Rounds the parameters that a denoiser reads rounded only.

  Args:
    denoiser: a denoiser that is a pytree.
    B: number of rows that it is shown.
    L: number of their positions.

  Returns:
    The denoiser, whose predictions are the same to the bit.
  """
  leaves, structure = jax.tree.flatten(denoiser)
  shapes = tuple((x.shape, x.dtype) for x in map(jnp.asarray, leaves))
  if not any(dtype == jnp.float32 for _, dtype in shapes):
    return denoiser
  read_as = _types_read(structure, shapes, B, L)
  return structure.unflatten(
    x if dtype is None else x.astype(dtype)
    for x, dtype in zip(leaves, read_as, strict=True)
  )


@functools.lru_cache(maxsize=64)
def _types_read(
  structure: Any, shapes: tuple, B: int, L: int
) -> tuple[np.dtype | None, ...]:
  """Finds the type to which to round each leaf; None where it must stay.

  Args:
    structure: the denoiser's tree.
    shapes: shape and type of each leaf.
    B: number of rows.
    L: number of positions.
  """

  def predict(leaves, *state):
    return features_or_prediction(structure.unflatten(leaves))(*state)

  def like(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)

  program = jax.make_jaxpr(predict)(
    [like(*x) for x in shapes],
    like((B, L), jnp.int32),
    like((B,), jnp.int32),
    like((B,), jnp.float32),
  )
  return tuple(
    next(iter(types)) if dtype == jnp.float32 and types in _HALF else None
    for (_, dtype), types in zip(shapes, _reads(program.jaxpr), strict=False)
  )


def _reads(program: core.Jaxpr) -> list[set]:
  """Lists the types in which a program reads each of its inputs.

  What is moved or converted is followed to where it is read as it then is, into
  functions and loops too.
  """
  found = collections.defaultdict(set)
  for x in program.outvars:
    if isinstance(x, core.Var):
      found[x].add(x.aval.dtype)
  for equation in reversed(program.eqns):
    reads = _reads_of(equation, found)
    for x, types in zip(equation.invars, reads, strict=True):
      if isinstance(x, core.Var):
        found[x] |= types
  return [found[x] for x in program.invars]


def _reads_of(equation: core.JaxprEqn, found: dict) -> list[set]:
  """Lists the types in which an operation reads each of its inputs.

  Args:
    equation: the operation.
    found: types in which its results are read.
  """
  name, options = equation.primitive.name, equation.params
  reads = [{x.aval.dtype} for x in equation.invars]
  if name == "convert_element_type":
    return [{options["new_dtype"]}]
  if name in _MOVES:
    reads[0] = set().union(*(found[x] for x in equation.outvars))
    return reads
  inner = [getattr(x, "jaxpr", x) for x in options.values()]
  inner = [x for x in inner if isinstance(x, core.Jaxpr)]
  if len(inner) != 1 or len(inner[0].invars) != len(reads):
    return reads
  within = _reads(inner[0])
  if name == "scan":
    # Of a loop, what each turn has a part of. What a turn hands to the next one
    # keeps its type.
    pairs = zip(equation.invars, inner[0].invars, strict=True)
    parts = [x.aval.shape != y.aval.shape for x, y in pairs]
    return [y if p else x for x, y, p in zip(reads, within, parts, strict=True)]
  return within
