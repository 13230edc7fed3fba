"""Our training step and sampler beside the authors' public PyTorch code.

Both have the same weights, checked by equal outputs, and are timed in turns in
one run. The public schedules are linear here, and so are ours.
"""

import contextlib
import functools
import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import sampling, shapes, training
from experiments.benchmarks.public_code import PublicCode, peak_bytes
from experiments.benchmarks.timing import in_turns
from flexmdm_jax import convert
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.models.denoiser import ModelDenoiser, denoiser
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.parameters import num_parameters
from flexmdm_jax.schedules import Linear
from flexmdm_jax.states import PathStates
from flexmdm_jax.training.objectives import Diffusion

_PATH = JointInterpolant(Linear(), Linear())


@contextlib.contextmanager
def _both(
  folder: str, shape: str, max_length: int | None, batch_size: int | None
) -> Iterator[tuple[PublicCode, ModelDenoiser, int]]:
  """Starts the public code, and gives its weights to our model.

  Raises:
    InputError: no public checkout, no such public model, or other outputs.
  """
  # On a GPU both processes need memory; JAX reads this when it starts.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  model, B = shapes.make_model(shape, max_length, batch_size)
  if not isinstance(model, DiT):
    raise InputError(
      f"--public has no model of --shape={shape}: its own are DiTs."
    )
  sizes = dict(
    vocab_size=model.vocab.size,
    mask_id=model.vocab.mask,
    pad_id=model.vocab.pad,
    max_length=model.max_length,
    hidden_size=model.hidden_size,
    n_heads=model.num_heads,
    cond_dim=model.cond_size,
    n_blocks=model.num_layers,
  )
  with PublicCode(folder, sizes, B) as public:
    config = sizes | {"length_head": "expectation"}
    ours, params = convert.dit_from_torch(config, public.call("weights"))
    ours = denoiser(ours.clone(dtype=model.dtype), params)
    _require_equal(public, ours)
    yield public, ours, B


def _require_equal(public: PublicCode, ours: ModelDenoiser) -> None:
  """Raises an InputError if two rows of tokens get different answers."""
  vocab, L = ours.model.vocab, ours.model.max_length
  tokens = np.random.default_rng(0).integers(0, vocab.mask, (2, L), np.int32)
  tokens[:, ::3] = vocab.mask
  length = np.array([L, L // 2], np.int32)
  inside = np.arange(L) < length[:, None]
  tokens = np.where(inside, tokens, np.int32(vocab.pad))
  t = np.array([0.3, 0.6], np.float32)
  answer = ours(tokens, length, t)
  gaps = np.arange(L + 1) <= length[:, None]
  on_cpu = jax.default_backend() == "cpu"
  tolerance = 1e-4 if on_cpu else 3e-2  # of the largest number
  for name, mine, yours, where in zip(
    ("logits", "expected gaps"),
    (answer.token_logits, np.exp(answer.log_gaps)),
    public.call("predict", tokens, t),
    (inside, gaps),
    strict=True,
  ):
    mine = np.asarray(mine, np.float32)[where]
    wrong = np.abs(mine - yours[where]).max() / np.abs(yours[where]).max()
    if not wrong < tolerance:
      raise InputError(
        f"the public model's {name} differ from ours by {wrong:.1e} of their"
        " largest: --public is another version of that code."
      )


def _compare(
  ours: Callable[[], Any],
  public: Callable[[bool], None],
  compiled: bool,
  repeats: int,
) -> dict[str, Any]:
  """Times ours and theirs in turns: medians, ranges, ratios over ours.

  Args:
    ours: our run.
    public: theirs, told whether its model is to be compiled.
    compiled: also time that.
    repeats: number of runs of each.
  """
  runs = {"ours": ours, "public": functools.partial(public, False)}
  if compiled:
    runs["public, compiled"] = functools.partial(public, True)
  # OpenMP's threads keep a core busy for a while after their work.
  seconds = in_turns(runs, repeats, pause=0.5)
  median = {name: statistics.median(x) for name, x in seconds.items()}
  return dict(
    seconds=median,
    range={name: (min(x), max(x)) for name, x in seconds.items()},
    over_ours={
      name: x / median["ours"] for name, x in median.items() if name != "ours"
    },
    load=os.getloadavg()[0],
  )


def _describe(
  public: PublicCode, ours: ModelDenoiser, B: int
) -> dict[str, Any]:
  """What was compared, and the peak memory of both processes."""
  return dict(
    parameters=num_parameters(ours.model),
    batch_size=B,
    max_length=ours.model.max_length,
    vocabulary=ours.model.vocab.size,
    device=jax.devices()[0].device_kind,
    cores=len(os.sched_getaffinity(0)),
    public=public.call("versions"),
    peak_bytes=dict(ours=peak_bytes(), public=public.call("peak_bytes")),
  )


def measure_training(
  *,
  folder: str,
  shape: str,
  max_length: int | None,
  batch_size: int | None,
  repeats: int,
  compiled: bool,
) -> dict[str, Any]:
  """Times updates on full rows, with clipping and a moving average.

  Args:
    folder: the public checkout.
    shape: name of the model, see `shapes.make_model`.
    max_length: L; None for the shape's.
    batch_size: B; None for the shape's.
    repeats: number of runs of each measurement.
    compiled: also time the public code with its model compiled.
  """
  with _both(folder, shape, max_length, batch_size) as (public, ours, B):
    model = ours.model
    tokens = np.random.default_rng(0).integers(
      0, model.vocab.mask, (B, model.max_length), np.int32
    )
    objective = Diffusion(PathStates(_PATH), model.vocab)
    measured = _compare(
      training.updater(model, objective, training.NEVER, B),
      functools.partial(public.call, "train", tokens),
      compiled,
      repeats,
    )
    return {**_describe(public, ours, B), **measured}


def measure_sampling(
  *,
  folder: str,
  shape: str,
  max_length: int | None,
  batch_size: int | None,
  steps: list[int],
  repeats: int,
  buckets: tuple[int, ...] | None,
  compiled: bool,
) -> dict[str, Any]:
  """Times whole samples that end at a quarter of L, and at L.

  Args:
    folder: the public checkout.
    shape: name of the model, see `shapes.make_model`.
    max_length: L; None for the shape's.
    batch_size: B; None for the shape's.
    steps: numbers of network calls.
    repeats: number of runs of each measurement.
    buckets: lengths of our sampler's canvases; None for its own.
    compiled: also time the public code with its model compiled.
  """
  with _both(folder, shape, max_length, batch_size) as (public, ours, B):
    rows = []
    for num_steps in steps:
      mine = sampling.samplers(ours.model, ours, B, num_steps, buckets, _PATH)[
        "ours"
      ]
      for share in (0.25, 1.0):
        wanted = share * ours.model.max_length
        measured = _compare(
          functools.partial(mine, wanted),
          functools.partial(public.call, "sample", num_steps, wanted),
          compiled,
          repeats,
        )
        rows.append(dict(steps=num_steps, share=share, **measured))
    return {**_describe(public, ours, B), "rows": rows}
