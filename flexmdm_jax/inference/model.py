"""A trained model as people use it: it generates, fills holes and scores.

`fm.load(folder)` makes one; `Model.export` writes a folder for another machine.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from flexmdm_jax import paths, schema
from flexmdm_jax.data.chat import ChatTemplate, Messages, encode_chat
from flexmdm_jax.data.tokenizers import Tokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import likelihood
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.likelihood import KINDS
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.prediction import Denoiser
from flexmdm_jax.rows import (
  Rows,
  anchor_start,
  causal_row,
  causal_start,
  closed_holes_row,
  fixed_row,
  growing_row,
  hole_row,
  holes_start,
  mask_start,
  stack,
  until_pad,
)
from flexmdm_jax.sampling import (
  Placement,
  SamplerConfig,
  Samples,
  in_batches,
  row_keys,
  sample,
  sample_autoregressive,
  sample_in_batches,
  sample_steps,
)
from flexmdm_jax.training.sharding import make_mesh
from flexmdm_jax.vocab import Vocab

METHODS = ("flexmdm", "mdm", "autoregressive")

# Batches of one call that meet: their rows lie on the host between meetings.
_TOGETHER = 16

# A text, or its ids.
Text = str | Sequence[int]

_FIELDS = tuple(field.name for field in dataclasses.fields(SamplerConfig))


class Generation(NamedTuple):
  """One sample.

  Attributes:
    text: all of it as text, what was given included; None without a tokenizer.
    tokens: its ids.
    truncated: it wanted more room than the model has, and kept what fitted.
    calls: network calls that it needed.
    filled: what was put into each hole, in order: the continuation of a prompt,
      or all of a sample that nothing was given for. Text, or ids without a
      tokenizer.
  """

  text: str | None
  tokens: list[int]
  truncated: bool
  calls: int
  filled: list[str] | list[list[int]]


class Preset(NamedTuple):
  """A way to sample a model that has a name.

  Attributes:
    sampler: the settings.
    path: the schedules on which it samples.
  """

  sampler: SamplerConfig
  path: JointInterpolant


@dataclasses.dataclass(frozen=True)
class PromptForm:
  """Tokens that a model's rows have around a prompt; they are no text.

  A model that was trained on such rows is never shown others: without a prompt
  its rows begin as those of an empty one.

  Attributes:
    before: ids before a prompt, and before the first part of an infill.
    after: ids between a prompt and its continuation.
  """

  before: tuple[int, ...] = ()
  after: tuple[int, ...] = ()


class Request(NamedTuple):
  """What one sample is made from.

  Attributes:
    start: the row of the state at time 0.
    cuts: index, among the given tokens, at which each hole lies.
    hidden: indices, among the given tokens, of those that are no text.
  """

  start: Rows
  cuts: tuple[int, ...]
  hidden: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A trained model, with all that it needs to be used.

  Attributes:
    denoiser: the network and its parameters, on the clock of `interpolant`.
    vocab: the id space.
    interpolant: the schedules of the training.
    path: the schedules of sampling, and of the likelihood's bound.
    sampler: the settings with which it samples, unless others are given.
    max_length: L, the longest row, what is given included.
    tokenizer: tokenizer of its text; None if its tokens are no text.
    method: "flexmdm"; or a baseline, "mdm", whose lengths are fixed and whose
      holes have as many masks as it is told, or "autoregressive", which takes
      no holes.
    form: what its rows have around a prompt.
    template: chat template of its tokenizer; None without one.
    presets: other ways to sample it, by name.
    about: JSON-ready facts for readers, as the settings of its training.
  """

  denoiser: ModelDenoiser
  vocab: Vocab
  interpolant: JointInterpolant
  path: JointInterpolant
  sampler: SamplerConfig
  max_length: int
  tokenizer: Tokenizer | None = None
  method: str = "flexmdm"
  form: PromptForm = PromptForm()
  template: ChatTemplate | None = None
  presets: Mapping[str, Preset] = dataclasses.field(default_factory=dict)
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def generate(
    self,
    n: int = 1,
    *,
    prompts: Sequence[Text] | None = None,
    infills: Sequence[Sequence[Text]] | None = None,
    anchors: Sequence[Text] | None = None,
    chat: bool = False,
    hole_tokens: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    preset: str | None = None,
    path: str | None = None,
    **sampler_fields: Any,
  ) -> list[Generation]:
    """Samples, from nothing or around what is given.

    A sample depends on its own place among all and on `seed`, not on the batch
    that it is in.

    Args:
      n: samples of each prompt, infill or row of anchors; without these, in
        all.
      prompts: texts to continue.
      infills: of each the parts around its holes: (prefix, suffix), or more
        with a hole between each two.
      anchors: tokens to keep in their order, with a hole on each side.
      chat: prompts are conversations, each a user's text or a list of messages,
        and are put into the model's chat template.
      hole_tokens: masks in every hole, one number for each prompt or infill; of
        a fixed-length MDM only, since a FlexMDM decides that. What it puts
        there ends at its first pad. None: all the room after a prompt.
      seed: seed of all that is random.
      batch_size: rows at once; changes nothing but the memory.
      preset: name of one of `presets`, in place of `sampler` and `path`.
      path: another path, see `paths.parse`.
      **sampler_fields: fields of `SamplerConfig` that differ.

    Returns:
      The samples: n of the first, n of the second, and so on.

    Raises:
      InputError: more than one kind is given; a text holds the mask or an
        unknown id, or is longer than the model; there is no tokenizer for it;
        a field or a preset is unknown or out of range; or the model cannot do
        what is asked, as a baseline.
    """
    requests = self.requests(
      n,
      prompts=prompts,
      infills=infills,
      anchors=anchors,
      chat=chat,
      hole_tokens=hole_tokens,
    )
    way = self.way(preset=preset, path=path, **sampler_fields)
    done: list[Generation | None] = [None] * len(requests)
    found = self.stream(
      requests, way, seed=seed, batch_size=batch_size, together=_TOGETHER
    )
    for batch in found:
      for place, generation in batch:
        done[place] = generation
    return done

  def way(
    self, *, preset: str | None = None, path: str | None = None, **fields: Any
  ) -> Preset:
    """Chooses how to sample; see `generate` for the arguments.

    Raises:
      InputError: the preset or a field is unknown, or a value out of range.
    """
    sampler, schedules = self.sampler, self.path
    if preset is not None:
      known = ", ".join(self.presets) or "none, as this model has no presets"
      if preset not in self.presets:
        raise InputError(
          f"preset={preset!r} is unknown to this model: choose one of {known}."
        )
      sampler, schedules = self.presets[preset]
    for name in fields:
      if name not in _FIELDS:
        raise InputError(
          f"{name}={fields[name]!r:.60} is no setting of a sampler: choose of"
          f" {', '.join(_FIELDS)}."
        )
    sampler = dataclasses.replace(sampler, **fields)
    if path is not None:
      self._require_inserts(f"path={path!r}")
      schedules = paths.parse(path, self.interpolant)
      paths.require_path(schedules)
    return Preset(sampler, schedules)

  def requests(
    self,
    n: int = 1,
    *,
    prompts: Sequence[Text] | None = None,
    infills: Sequence[Sequence[Text]] | None = None,
    anchors: Sequence[Text] | None = None,
    chat: bool = False,
    hole_tokens: Sequence[int] | None = None,
  ) -> list[Request]:
    """Makes the starts of samples, and checks them; see `generate`.

    Raises:
      InputError: as `generate`.
    """
    schema.require_value("n", n, int, schema.Range(least=0))
    kinds = {"prompts": prompts, "infills": infills, "anchors": anchors}
    given = [kind for kind, texts in kinds.items() if texts is not None]
    if len(given) > 1:
      raise InputError(
        f"{given[0]} and {given[1]} are both given: make two calls, a sample"
        " has one kind."
      )
    if chat and prompts is None:
      raise InputError(
        "chat=True is of prompts, but none are given: give prompts, or leave"
        " chat out."
      )
    if hole_tokens is not None:
      self._require_hole_tokens(hole_tokens, kinds)
    if not given:
      return [self._free()] * n
    (kind,) = given
    if isinstance(kinds[kind], str):
      raise InputError(
        f"{kind} is one text, but must be a list of them: write [text]."
      )
    make = {
      "prompts": self._chat_prompt if chat else self._prompt,
      "infills": self._infill,
      "anchors": self._anchors,
    }[kind]
    made = []
    for i, item in enumerate(kinds[kind]):
      more = () if hole_tokens is None else (hole_tokens[i],)
      try:
        made.append(make(item, *more))
      except InputError as error:
        raise InputError(f"{kind}[{i}]: {error}") from error
    return [request for request in made for _ in range(n)]

  def stream(
    self,
    requests: Sequence[Request],
    way: Preset | None = None,
    *,
    seed: int = 0,
    places: Sequence[int] | None = None,
    batch_size: int = 64,
    together: int = 1,
  ) -> Iterator[list[tuple[int, Generation]]]:
    """Samples batch by batch, rows that begin alike long together.

    Args:
      requests: what to sample, from `requests`.
      way: how, from `way`; None for the model's own.
      seed: seed of all that is random.
      places: places of the requests among those of a larger call, from which
        their keys are made; None for 0, 1, ...
      batch_size: rows at once.
      together: batches that meet on the way, which saves time where rows differ
        in length (see `sampling.sample_in_batches`), and are there at once. One
        device alone; on several, batches come one by one.

    Yields:
      The places and samples of a batch, or of those that met.

    Raises:
      InputError: batch_size < 1.
    """
    way = way or Preset(self.sampler, self.path)
    schema.require_value("batch_size", batch_size, int, schema.Range(least=1))
    places = range(len(requests)) if places is None else places
    schema.require_value(
      "seed", seed, int, schema.Range(least=0, most=schema.MAX_SEED)
    )
    keys = row_keys(jax.random.key(seed), jnp.asarray(places, jnp.int32))
    lengths = [int(request.start.length) for request in requests]
    order = np.argsort(lengths, kind="stable")
    size = min(batch_size, len(requests))
    step = batch_size * (together if jax.device_count() == 1 else 1)
    for first in range(0, len(requests), step):
      chosen = order[first : first + step]
      # The last batch is filled up: one compiled program serves them all.
      rows = np.resize(chosen, max(size, len(chosen)))
      start = stack(requests[i].start for i in rows)
      samples = self.sample(keys[rows], start, size, way)
      yield [
        (int(places[i]), self._generation(requests[i], samples, row))
        for row, i in enumerate(chosen)
      ]

  def sample(
    self,
    key: Key[Array, "*N"],
    start: Rows,
    batch_size: int,
    way: Preset | None = None,
  ) -> Samples:
    """Samples from rows, split over the devices that are here.

    A causal model samples from left to right, on one device.

    Args:
      key: one key, or one for each row.
      start: N rows.
      batch_size: rows at once; changes nothing but the memory.
      way: how; None for the model's own.

    Returns:
      N `Samples`, as NumPy arrays on the host.

    Raises:
      InputError: batch_size < 1.
    """
    way = way or Preset(self.sampler, self.path)
    if self.method == "autoregressive":
      draw = functools.partial(
        sample_autoregressive,
        denoiser=self.denoiser,
        vocab=self.vocab,
        temperature=way.sampler.temperature,
        top_p=way.sampler.top_p,
      )
      return in_batches(draw, key, start, batch_size)
    return sample_in_batches(
      key,
      self.on_path(way.path),
      start,
      way.path,
      self.vocab,
      way.sampler,
      batch_size,
      Placement(make_mesh()),
    )

  def trace(
    self, key: Key[Array, "*N"], start: Rows, way: Preset | None = None
  ) -> Samples:
    """Samples as `sample` does, in one batch, and keeps every state.

    Args:
      key: one key, or one for each row.
      start: N rows.
      way: how; None for the model's own.

    Returns:
      N `Samples` with their `trace`, as NumPy arrays on the host; its last
      state is the sample.

    Raises:
      InputError: the model reads from left to right.
    """
    if self.method == "autoregressive":
      raise InputError(
        "method=autoregressive has no trace: give a model of another method."
      )
    way = way or Preset(self.sampler, self.path)
    placement = Placement(make_mesh())
    N = start.tokens.shape[0]
    # Rows are repeated until they divide over the devices.
    rows = np.arange(N + -N % placement.shares) % N
    keys = row_keys(key, N) if key.ndim == 0 else key
    samples = sample(
      keys[rows],
      self.on_path(way.path),
      jax.tree.map(lambda x: np.asarray(x)[rows], start),
      way.path,
      self.vocab,
      way.sampler,
      trace=True,
      placement=placement,
    )
    trace = jax.tree.map(lambda x: np.asarray(x)[:, :N], samples.trace)
    return Samples(*(np.asarray(x)[:N] for x in samples[:-1]), trace)

  def steps(
    self, requests: Sequence[Request], way: Preset | None = None, seed: int = 0
  ) -> Iterator[Samples]:
    """Samples as `stream` does its first rows, and shows them after each step.

    Args:
      requests: what to sample, all in one batch.
      way: how; None for the model's own.
      seed: seed of all that is random.

    Yields:
      The `Samples` so far, as NumPy arrays on the host; the last are complete.
      A causal model's come at once.
    """
    way = way or Preset(self.sampler, self.path)
    keys = row_keys(jax.random.key(seed), len(requests))
    start = stack(request.start for request in requests)
    if self.method == "autoregressive":
      yield self.sample(keys, start, len(requests), way)
      return
    for samples in sample_steps(
      *(keys, self.on_path(way.path), start),
      *(way.path, self.vocab, way.sampler),
    ):
      yield Samples(*(np.asarray(x) for x in samples[:-1]))

  def log_likelihood(
    self,
    texts: Sequence[Text],
    *,
    prompts: Sequence[Text] | None = None,
    infills: Sequence[Sequence[Text]] | None = None,
    kind: str = "tight",
    num_times: int = 128,
    max_stderr: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Estimates an upper bound on `-log p` of texts, their lengths included.

    Args:
      texts: the texts, or their ids.
      prompts: texts that they continue, one each: the estimate is of
        `-log p(text | prompt)`.
      infills: a (prefix, suffix) each that they lie between, likewise.
      kind: "tight" or "paper", see `log_likelihood_bound`. An autoregressive
        model's number is exact.
      num_times: network calls a text, at most.
      max_stderr: standard error of the mean, in nats, at which to stop.
      seed: seed of the times and masks.
      batch_size: rows at once.

    Returns:
      (nats f64[N], standard error of each f64[N]), the error of the estimate of
      the bound: 0 where the number is exact.

    Raises:
      InputError: both prompts and infills are given, or not one for each text;
        a text is longer than the model, or has unknown ids; `kind` is unknown,
        or `num_times` too small to tell an error.
    """
    schema.require_value("kind", kind, str, schema.Range(among=KINDS))
    schema.require_value("batch_size", batch_size, int, schema.Range(least=1))
    if self.method != "autoregressive":
      likelihood.require_calls(num_times)
    rows, given = self._scored_rows(texts, prompts, infills)
    if not rows:
      return np.zeros(0), np.zeros(0)
    batches = likelihood.make_batches(rows, min(batch_size, len(rows)))
    if self.method == "autoregressive":
      nats = likelihood.exact_nats(self.denoiser, batches, self.vocab)
      return nats, np.zeros_like(nats)
    found = likelihood.bound(
      *(jax.random.key(seed), self.on_path(self.path), batches),
      *(self.path, self.vocab),
      num_times=num_times,
      kind=kind,
      max_stderr=max_stderr,
      given=given,
    )
    return found.nats, found.error

  def export(self, folder: str | os.PathLike, **options: Any) -> None:
    """Writes a folder that `fm.load` reads on any machine.

    Args:
      folder: folder to make; it must be empty or not exist.
      **options: `dtype`, `evaluations` and `max_bytes`, see
        `inference.folder.write`.

    Raises:
      InputError: as `inference.folder.write`.
    """
    from flexmdm_jax.inference.folder import write  # it imports this module

    write(self, folder, **options)

  def on_path(self, path: JointInterpolant) -> Denoiser:
    """Shows the denoiser times on another path; see `paths.on_path`."""
    return paths.on_path(self.denoiser, self.interpolant, path)

  def encode(self, text: Text) -> list[int]:
    """Tokenises a text; ids are checked and stay.

    Raises:
      InputError: there is no tokenizer for the text, or an id is none.
    """
    if not isinstance(text, str):
      ids = [int(token) for token in text]
      for token in ids:
        if token == self.vocab.mask or not 0 <= token < self.vocab.size:
          why = (
            "is the mask, which stands for what is not known yet"
            if token == self.vocab.mask
            else f"is out of range [0, {self.vocab.size})"
          )
          raise InputError(f"the id {token} {why}: remove it.")
      return ids
    if self.tokenizer is None:
      raise InputError(
        f"the text {text[:40]!r} needs a tokenizer, which this model has not:"
        " give lists of ids."
      )
    return self.tokenizer.encode(text)

  def decode(self, tokens: Sequence[int]) -> str | None:
    """Decodes ids to text; None without a tokenizer."""
    return None if self.tokenizer is None else self.tokenizer.decode(tokens)

  def _free(self) -> Request:
    """Makes the start of a sample that nothing is given for."""
    if self.method == "mdm":
      return Request(_one(mask_start(1, self.max_length, self.vocab)), (0,))
    if self.form != PromptForm() or self.method == "autoregressive":
      return self._prompt([])
    return Request(_one(anchor_start([[]], self.max_length, self.vocab)), (0,))

  def _prompt(self, text: Text, hole_tokens: int | None = None) -> Request:
    """Makes the start of a sample that continues a prompt."""
    ids = self.encode(text)
    before, after = self.form.before, self.form.after
    row = [*before, *ids, *after]
    self._require_room(len(row), "a prompt")
    if self.method == "autoregressive":
      start = causal_start([row], self.max_length, self.vocab)
      return Request(_one(start), (1 + len(row),), (0,))
    if hole_tokens is None:
      hole_tokens = self.max_length - len(row)
    start = self._holes([row, []], hole_tokens)
    return Request(start, (len(row),), _hidden(before, len(ids), after))

  def _holes(self, parts: list[list[int]], hole_tokens: int | None) -> Rows:
    """Makes a row with holes: of masks, where the model's lengths are fixed."""
    row = _one(holes_start([parts], self.max_length, self.vocab))
    if self.method != "mdm":
      return row
    holes = [[self.vocab.mask] * hole_tokens] * (len(parts) - 1)
    total = sum(map(len, (*parts, *holes)))
    self._require_room(total, "what is given with its masks")
    return closed_holes_row(parts, self.max_length, self.vocab, holes)

  def _chat_prompt(
    self, messages: Messages, hole_tokens: int | None = None
  ) -> Request:
    """Makes the start of a sample that answers a conversation."""
    if self.tokenizer is None:
      raise InputError(
        "a conversation needs a tokenizer, which this model has not."
      )
    ids = encode_chat(self.tokenizer, self.template, messages)
    return self._prompt(ids, hole_tokens)

  def _infill(
    self, parts: Sequence[Text], hole_tokens: int | None = None
  ) -> Request:
    """Makes the start of a sample that fills the holes between its parts."""
    if hole_tokens is None:
      self._require_inserts("an infill of unknown length")
    if isinstance(parts, str):
      raise InputError(
        f"{parts[:40]!r} is one text: give the parts before and after the hole."
      )
    ids = [self.encode(part) for part in parts]
    before = self.form.before
    if ids:
      ids[0] = [*before, *ids[0]]
    total = sum(map(len, ids))
    self._require_room(total, "the parts of an infill")
    start = self._holes(ids, hole_tokens)
    cuts = tuple(int(cut) for cut in np.cumsum([len(x) for x in ids[:-1]]))
    return Request(start, cuts, _hidden(before))

  def _anchors(self, text: Text) -> Request:
    """Makes the start of a sample that keeps anchors."""
    self._require_inserts("anchors")
    ids = self.encode(text)
    self._require_room(len(ids), "anchors")
    start = anchor_start([ids], self.max_length, self.vocab)
    return Request(_one(start), tuple(range(len(ids) + 1)))

  def _require_inserts(self, what: str) -> None:
    if self.method != "flexmdm":
      raise InputError(
        f"{what} needs a model that inserts, but this one's method is"
        f" {self.method}: give a FlexMDM."
      )

  def _require_hole_tokens(
    self, hole_tokens: Sequence[int], kinds: Mapping[str, Any]
  ) -> None:
    if self.method != "mdm":
      raise InputError(
        "hole_tokens is for a fixed-length MDM, but this model's method is"
        f" {self.method}: leave it out."
      )
    rows = kinds["prompts"] if kinds["infills"] is None else kinds["infills"]
    if rows is None or len(rows) != len(hole_tokens):
      raise InputError(
        f"hole_tokens has {len(hole_tokens)} numbers: give one to each of the"
        f" {len(rows or ())} prompts or infills."
      )
    for number in hole_tokens:
      schema.require_value(
        "hole_tokens",
        number,
        int,
        schema.Range(least=0, most=self.max_length),
      )

  def _require_room(self, length: int, what: str) -> None:
    room = self.max_length - (self.method == "autoregressive")
    if length > room:
      raise InputError(
        f"{what} has {length} tokens, more than the model's {room}: shorten it."
      )

  def _scored_rows(
    self,
    texts: Sequence[Text],
    prompts: Sequence[Text] | None,
    infills: Sequence[Sequence[Text]] | None,
  ) -> tuple[list[Rows], bool]:
    """Makes the rows of `log_likelihood`, and tells if any token is given."""
    if isinstance(texts, str):
      raise InputError("texts is one text, but must be a list: write [text].")
    if prompts is not None and infills is not None:
      raise InputError("prompts and infills are both given: make two calls.")
    for kind, given in (("prompts", prompts), ("infills", infills)):
      if given is not None and len(given) != len(texts):
        raise InputError(
          f"{len(given)} {kind} but {len(texts)} texts: give one to each."
        )
    if infills is not None or (prompts is not None and self.method == "mdm"):
      self._require_inserts("a likelihood around what is given")
    formed = self.form != PromptForm()
    rows = []
    for i, text in enumerate(texts):
      try:
        before, after = [], []
        if infills is not None:
          parts = [self.encode(part) for part in infills[i]]
          if len(parts) != 2:
            raise InputError(
              f"infills[{i}] has {len(parts)} parts: give (prefix, suffix)."
            )
          before, after = [*self.form.before, *parts[0]], parts[1]
        elif prompts is not None or formed:
          prompt = self.encode(prompts[i]) if prompts is not None else []
          before = [*self.form.before, *prompt, *self.form.after]
        rows.append(self._scored_row(before, self.encode(text), after))
      except InputError as error:
        raise InputError(f"texts[{i}]: {error}") from error
    return rows, infills is not None or prompts is not None or formed

  def _scored_row(
    self, before: list[int], ids: list[int], after: list[int]
  ) -> Rows:
    L, vocab = self.max_length, self.vocab
    if self.method == "mdm":
      return fixed_row(ids, (), L, vocab.pad)
    if self.method == "autoregressive":
      return causal_row([*before, *ids], range(len(before)), L, vocab)
    if before or after:
      return hole_row(before, ids, after, L, vocab)
    return growing_row(ids, (), L, vocab)

  def _generation(
    self, request: Request, samples: Samples, row: int
  ) -> Generation:
    """Reads one sample of a batch."""
    n = int(samples.length[row])
    tokens = [int(token) for token in samples.tokens[row][:n]]
    given = np.flatnonzero(samples.given[row][:n])
    if self.method == "mdm":  # it began with masks, which were not given
      given = np.flatnonzero(request.start.frozen[:n])
      tokens, given = self._without_pads(tokens, given)
      n = len(tokens)
    hidden = {int(given[i]) for i in request.hidden}
    ends = [-1, *(int(i) for i in given), n]
    # Of holes without a part between them, the first has all.
    holes = [
      tokens[ends[cut] + 1 : ends[cut + 1]] if cut != before else []
      for before, cut in itertools.pairwise((None, *request.cuts))
    ]
    text = None
    if self.tokenizer is not None:
      text = self._text([x for i, x in enumerate(tokens) if i not in hidden])
      holes = [self._text(hole) for hole in holes]
    if self.method == "autoregressive":
      tokens = tokens[1:]  # the first stands for the beginning
    return Generation(
      text,
      tokens,
      bool(samples.truncated[row]),
      int(samples.calls[row]),
      holes,
    )

  def _without_pads(
    self, tokens: list[int], given: np.ndarray
  ) -> tuple[list[int], np.ndarray]:
    """Cuts what stands between given tokens at its first pad."""
    kept: list[int] = []
    places = []
    for before, at in itertools.pairwise((-1, *given, len(tokens))):
      kept += until_pad(tokens[before + 1 : at], self.vocab.pad)
      if at < len(tokens):
        places.append(len(kept))
        kept.append(tokens[at])
    return kept, np.array(places, int)

  def _text(self, tokens: list[int]) -> str:
    """Decodes tokens; where a pad parts a prompt from its answer, without."""
    if self.vocab.pad in self.form.after:
      tokens = [token for token in tokens if token != self.vocab.pad]
    return self.tokenizer.decode(tokens)


def _hidden(before, length=0, after=()) -> tuple[int, ...]:
  """Lists the indices of `before` and `after` around `length` tokens."""
  begin = len(before) + length
  return (*range(len(before)), *range(begin, begin + len(after)))


def _one(rows: Rows) -> Rows:
  """Takes the only row of a batch."""
  return Rows(*(np.asarray(x)[0] for x in rows))
