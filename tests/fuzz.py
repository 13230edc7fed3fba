"""Hostile files: odd JSON and bytes, and a check that an error is one line."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexmdm_jax.errors import InputError

# Examples of a test, few in the quick suite; the same ones in every run.
EXAMPLES = (8, pytest.param(150, marks=pytest.mark.slow))
_SECONDS = 20


def deep(levels):
  value = []
  for _ in range(levels):
    value = [value]
  return value


ODD = st.one_of(
  st.sampled_from(
    [None, True, -1, 0, 1, 2.5, 1e308, float("nan"), float("inf"), -(2**63)]
  ),
  st.sampled_from([10**30, "", "x", "1", "\ud800", "a\nb", [], {}, [[]]]),
  st.sampled_from([deep(20), deep(90), [1, "a"], {"a": None}]),
  st.integers(),
  st.text(max_size=3),
)
VALUES = st.recursive(
  ODD,
  lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3),
  max_leaves=5,
)


def _places(value, path=()):
  """Paths of all values in a JSON value."""
  yield path
  children = (
    value.items()
    if isinstance(value, dict)
    else enumerate(value)
    if isinstance(value, list)
    else ()
  )
  for key, child in children:
    yield from _places(child, (*path, key))


@st.composite
def changed(draw, base, values=VALUES):
  """Some values of `base` are others, or gone."""
  found = copy.deepcopy(base)
  for _ in range(draw(st.integers(1, 2))):
    path = draw(st.sampled_from([*_places(found)][:400]))
    if not path:
      found = copy.deepcopy(draw(values))
      continue
    parent = found
    for key in path[:-1]:
      parent = parent[key]
    if draw(st.integers(0, 3)):
      parent[path[-1]] = copy.deepcopy(draw(values))
    else:
      del parent[path[-1]]
  return found


@st.composite
def spoiled(draw, base):
  """Bytes of which some are others, more, or gone; or quite other bytes."""
  if draw(st.integers(0, 9)) == 0:
    return draw(st.binary(max_size=200))
  begin = draw(st.integers(0, len(base)))
  end = min(len(base), begin + draw(st.sampled_from([0, 1, 4, len(base)])))
  return base[:begin] + draw(st.binary(max_size=9)) + base[end:]


def contents(base):
  """Bytes of a JSON file: changed values, or spoiled bytes."""
  text = json.dumps(base)
  return st.one_of(
    changed(base).map(lambda x: json.dumps(x).encode()),
    spoiled(text.encode()),
    st.sampled_from([b"", b"null", b"[" * 100_000, b'{"a":' * 5000]),
  )


def each(number, strategy, act):
  """Calls `act` on values; it may raise an InputError of one line alone."""

  @settings(
    max_examples=number,
    derandomize=True,
    database=None,
    deadline=_SECONDS * 1000,
    suppress_health_check=list(HealthCheck),
  )
  @given(strategy)
  def check(value):
    try:
      act(value)
    except InputError as error:
      assert len(str(error).splitlines()) == 1, str(error)

  check()
