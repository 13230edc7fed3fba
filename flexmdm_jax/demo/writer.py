"""What the demo's page does, without the page: text in, HTML out.

What a visitor gets wrong is told in place of a result.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from flexmdm_jax import schema
from flexmdm_jax.demo import render
from flexmdm_jax.demo.bounds import Bounds, doubled, read_text
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import Model, Preset
from flexmdm_jax.inference.likelihood import CALLS
from flexmdm_jax.inference.model import Request
from flexmdm_jax.inference.replay import token_labels
from flexmdm_jax.prediction import ignores_padding
from flexmdm_jax.rows import until_pad
from flexmdm_jax.sampling import Samples
from flexmdm_jax.sampling.config import METHODS, SamplerConfig

OWN = "the model's own"
# Shorter than that no eye sees a picture.
_PICTURE = 0.05
_FIRST_WORD = (
  "Sampling: with new settings the first step takes some seconds more."
)


@dataclasses.dataclass(frozen=True)
class Choices:
  """What a visitor chooses for samples.

  Attributes:
    samples: number of samples.
    calls: network calls a sample, at most.
    sampler: one of `Writer.samplers`.
    temperature: temperature of the tokens.
    length: most tokens that a sample may have; the model decides how many.
    seed: seed of all that is random.
    seconds: time that a sample takes at least, to be watched.
  """

  samples: int
  calls: int
  sampler: str
  temperature: float
  length: int
  seed: int
  seconds: float


def _told(make: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
  """Makes a method yield what is wrong with its input, as its last word."""

  @functools.wraps(make)
  def told(*args, **kwargs):
    try:
      yield from make(*args, **kwargs)
    except InputError as error:
      yield render.problem(str(error))

  return told


class Writer:
  """A model that writes, fills holes and scores for visitors.

  Attributes:
    model: the model.
    bounds: what a visitor may ask for.
    samplers: ways to sample it, by name.
    calls: numbers of network calls a sample to choose from.
    score_calls: the same, for each text that is scored.
    lengths: limits of a sample's tokens to choose from, evenly apart; one where
      the model has one length only.
  """

  def __init__(self, model: Model, bounds: Bounds | None = None):
    """Lists what there is to choose."""
    self.model, self.bounds = model, bounds or Bounds()
    self.calls = doubled(8, self.bounds.calls)
    self.score_calls = doubled(2 * CALLS, self.bounds.calls)
    own = Preset(model.sampler, model.path)
    self.samplers = {OWN: own, **model.presets}
    if model.method != "autoregressive":
      self.samplers |= {
        method: Preset(SamplerConfig(8, method), model.path)
        for method in METHODS
      }
    self.lengths = [model.max_length]
    if model.method == "autoregressive" or (
      model.method == "flexmdm" and ignores_padding(model.denoiser)
    ):
      # Each is a program of its own.
      step = -(-model.max_length // 8)
      self.lengths = [*range(model.max_length, 0, -step)][::-1]
    self._label = functools.cache(token_labels(model))
    self._programs: set[tuple] = set()

  @_told
  def prompt(
    self, text: str, choices: Choices, chat: bool = False
  ) -> Iterator[str]:
    """Continues a text, or writes one from nothing, and shows how.

    Args:
      text: the beginning; empty for nothing.
      choices: how.
      chat: the text is a user's word, and its answer is wanted.
    """
    given = {}
    if self.bounds.require_text(text):
      prompt = text if chat else read_text(self.model, text)
      given = {"prompts": [prompt], "chat": chat}
    yield from self._grow(given, choices)

  @_told
  def infill(self, text: str, choices: Choices) -> Iterator[str]:
    """Fills the holes of a text, each written as [...], and shows how."""
    parts = self.bounds.parts(text)
    infill = [read_text(self.model, part) for part in parts]
    yield from self._grow({"infills": [infill]}, choices)

  @_told
  def score(self, text: str, calls: int, seed: int) -> Iterator[str]:
    """Tells what each line of a text costs, in nats and bits.

    Args:
      text: a text a line.
      calls: network calls for each.
      seed: seed of the times and masks.
    """
    lines = self.bounds.lines(text)
    self.bounds.require_number("calls", calls, self.bounds.calls)
    _require_seed(seed)
    texts = [read_text(self.model, line) for line in lines]
    tokens = [len(self.model.encode(text)) for text in texts]
    room = self.model.max_length - (self.model.method == "autoregressive")
    for number, length in enumerate(tokens, start=1):
      if length > room:
        raise InputError(
          f"text {number} has {length} tokens, more than the model's {room}:"
          " shorten it."
        )
    yield render.message("Scoring: it may take a minute.")
    self._make_room("score", len(texts), calls)
    nats, errors = self.model.log_likelihood(
      texts, num_times=calls, seed=seed, batch_size=8
    )
    exact = self.model.method == "autoregressive"
    note = (
      "Exact."
      if exact
      else f"Upper bounds, from {calls} network calls a text: the lower, the"
      " likelier. After ± stands the standard error of the estimate."
    )
    yield render.scores(lines, tokens, nats, errors, note)

  def _grow(self, given: dict, choices: Choices) -> Iterator[str]:
    """Samples around what is given, and shows each step."""
    way = self._way(choices)
    model = self.model
    if len(self.lengths) > 1:
      model = dataclasses.replace(model, max_length=choices.length)
    requests = model.requests(choices.samples, **given)
    growths = [self._growth(request) for request in requests]
    yield render.message(_FIRST_WORD)
    self._make_room("sample", choices.samples, choices.length, way)
    steps, begun, shown = way.sampler.num_steps, None, 0.0
    states = model.steps(requests, way, choices.seed)
    state = next(states)
    for step in itertools.count(1):
      for row, growth in enumerate(growths):
        growth.update(*self._row(state, row))
      following = next(states, None)
      if following is None:
        break
      now = time.monotonic()
      begun = now if begun is None else begun
      wait = begun + choices.seconds * step / steps - now
      if now - shown > _PICTURE or wait > 0:
        shown = now
        yield self._page(growths, state, f"step {step} of {steps}")
      time.sleep(max(wait, 0))
      state = following
    yield self._page(growths, state)

  def _way(self, choices: Choices) -> Preset:
    """Checks the choices, and makes the way to sample of them."""
    bounds = self.bounds
    bounds.require_number("samples", choices.samples, bounds.samples)
    bounds.require_number("calls", choices.calls, bounds.calls)
    _require_seed(choices.seed)
    for name, value, known in (
      ("length", choices.length, self.lengths),
      ("sampler", choices.sampler, self.samplers),
    ):
      if value not in known:
        raise InputError(
          f"{name}={value!r:.40} must be one of {', '.join(map(str, known))}."
        )
    schema.require_value(
      "seconds", choices.seconds, float, schema.Range(0, most=bounds.seconds)
    )
    schema.require_value(
      "temperature", choices.temperature, float, schema.Range(0, most=2)
    )
    sampler, path = self.samplers[choices.sampler]
    # Sliders give 0.7000000000000001, and each number is a program.
    sampler = dataclasses.replace(
      sampler, steps=choices.calls, temperature=round(choices.temperature, 1)
    )
    return Preset(sampler, path)

  def _growth(self, request: Request) -> render.Growth:
    n = int(request.start.length)
    tokens = request.start.tokens[:n]
    given = np.full(n, self.model.method != "mdm")
    return render.Growth(tokens, given, self.model.vocab.mask, request.hidden)

  def _row(self, samples: Samples, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Takes the tokens of a sample, and which were given."""
    n = int(samples.length[row])
    given = samples.given[row][:n]
    if self.model.method == "mdm":  # it began as masks, none of which was given
      given = np.zeros_like(given)
    return samples.tokens[row][:n], given

  def _page(
    self,
    growths: Sequence[render.Growth],
    samples: Samples,
    step: str | None = None,
  ) -> str:
    """Makes the cards of all samples."""
    cards = []
    for row, growth in enumerate(growths):
      shown = growth.show()
      ids = [token for token, _ in shown]
      if self.model.method == "mdm":
        ids = until_pad(ids, self.model.vocab.pad)
      calls = int(samples.calls[row])
      note = f"{_many(len(ids), 'token')}, {_many(calls, 'network call')}"
      if len(growths) > 1:
        note = f"sample {row + 1}: {note}"
      if step:
        note += f", {step}"
      if samples.truncated[row]:
        note += ", stopped at the limit of the length"
      cards.append(
        render.sample(
          shown,
          self._label,
          self.model.decode,
          self.model.vocab.pad,
          note,
          between="" if self.model.tokenizer else " ",
        )
      )
    return "".join(cards)

  def _make_room(self, *program) -> None:
    """Drops all compiled programs before they become too many."""
    if program not in self._programs:
      if len(self._programs) >= self.bounds.programs:
        jax.clear_caches()
        self._programs.clear()
      self._programs.add(program)


def _many(n: int, thing: str) -> str:
  """Writes a number of things."""
  return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _require_seed(seed: int) -> None:
  schema.require_value(
    "seed", seed, int, schema.Range(least=0, most=schema.MAX_SEED)
  )
