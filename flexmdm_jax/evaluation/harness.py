"""Answers the requests of lm-evaluation-harness, a model of its name "flexmdm".

  python -m flexmdm_jax.evaluation.harness ARGUMENTS

takes the arguments of its own command `lm_eval`, which finds models by no other
way than an import; docs/sharing.md has examples. In Python, `register()`
does the same for `lm_eval.simple_evaluate`.

Only `register` and `main` need the package lm_eval.
"""

import dataclasses
import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flexmdm_jax import schema
from flexmdm_jax.data.chat import ChatTokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import Model
from flexmdm_jax.inference.likelihood import require_calls
from flexmdm_jax.loading import load

_NAME = "flexmdm"
_LOG = logging.getLogger(__name__)
_BATCH = 64
# Batches of likelihoods between two reports of the progress.
_REPORT = 16
# Names of one setting; the first that is given counts.
_ROOM = (
  "max_gen_toks",
  "max_new_tokens",
  "max_tokens",
  "max_completion_tokens",
)
_DEFAULT_ROOM = 256


class Question(NamedTuple):
  """Request for a text that continues a context.

  Attributes:
    context: the text to continue.
    settings: `generation_kwargs` of its task.
    doc: the row of its data set.
  """

  context: str
  settings: Mapping[str, Any]
  doc: Mapping[str, Any]


class Settings(NamedTuple):
  """Meaning of a task's `generation_kwargs`.

  Attributes:
    until: texts before the first of which an answer ends.
    room: most tokens of an answer.
    fields: fields of `SamplerConfig` that differ.
  """

  until: tuple[str, ...]
  room: int
  fields: dict[str, float]


class Bounds(NamedTuple):
  """Estimates of a lower bound on log-likelihoods.

  Attributes:
    log_likelihood: the estimates, in nats, f64[N].
    error: their standard errors, f64[N].
  """

  log_likelihood: np.ndarray
  error: np.ndarray


class Answers:
  """Answers of one model, with the counts of all that was cut for it."""

  def __init__(
    self,
    model: Model,
    *,
    infill: bool = False,
    num_times: int = 128,
    seed: int = 0,
    batch_size: int = _BATCH,
    preset: str | None = None,
    path: str | None = None,
    **sampler_fields: Any,
  ):
    """Checks how a model is to answer.

    Args:
      model: a model of text.
      infill: whether questions are holes between `prompt` and `suffix` of their
        data, and the context is left aside.
      num_times: network calls of the bound of one text.
      seed: seed of all that is random. A sample depends on it, on its own
        question, and on how often that was asked before, for repeats differ.
      batch_size: rows at once.
      preset: name of one of the model's presets.
      path: another path, see `paths.parse`.
      **sampler_fields: fields of `SamplerConfig` that differ, such as `steps`.
        The task's own temperature and top_p come before these.

    Raises:
      InputError: the model has no tokenizer, or a value is wrong.
    """
    if model.tokenizer is None:
      raise InputError(
        "the model has no tokenizer, but tasks are text: give a model of text."
      )
    schema.require_value("infill", infill, bool)
    schema.require_value("num_times", num_times, int)
    seeds = schema.Range(least=0, most=schema.MAX_SEED)
    schema.require_value("seed", seed, int, seeds)
    schema.require_value("batch_size", batch_size, int, schema.Range(least=1))
    require_calls(num_times)
    self.model = model
    self.counts: Counter[str] = Counter()
    self._way = model.way(preset=preset, path=path, **sampler_fields)
    self._infill = infill
    self._num_times = num_times
    self._seed = seed
    self._batch_size = batch_size
    self._chat: ChatTokenizer | None = None
    self._errors: dict[str, list[float]] = {}

  def use_chat_template(self) -> ChatTokenizer:
    """Reads all contexts from here on as texts of the model's chat template.

    Raises:
      InputError: the model has no chat template.
    """
    if self._chat is None:
      self._chat = ChatTokenizer(self.model.tokenizer, self.model.template)
    return self._chat

  def generate(
    self, questions: Sequence[Question]
  ) -> Iterator[tuple[int, str]]:
    """Samples an answer to each question; a batch's together.

    A context that leaves too little room loses its beginning. An answer is cut
    after its most tokens, and before the first text that ends it.

    Yields:
      The place of a question, and its answer.

    Raises:
      InputError: a setting or a text is wrong.
    """
    ways, rooms, taken = {}, {}, {}
    for i, question in enumerate(questions):
      try:
        settings = parse_settings(question.settings)
        request = self._request(question, settings.room)
      except InputError as error:
        raise InputError(f"request {i}: {error}") from error
      rooms[i] = settings
      place = self._place(question, taken)
      taken[place] = i
      key = tuple(sorted(settings.fields.items()))
      ways.setdefault(key, []).append((place, request))
    for key, group in ways.items():
      sampler = dataclasses.replace(self._way.sampler, **dict(key))
      requests = dict(group)
      for batch in self.model.stream(
        list(requests.values()),
        self._way._replace(sampler=sampler),
        seed=self._seed,
        places=list(requests),
        batch_size=self._batch_size,
      ):
        for place, sample in batch:
          i = taken[place]
          text = self._answer(requests[place], sample, rooms[i].room)
          yield i, cut_until(text, rooms[i].until)

  def log_likelihood(
    self, pairs: Sequence[tuple[str, str]]
  ) -> Iterator[tuple[list[int], Bounds]]:
    """Estimates `log p(continuation | context)`, that it ends there included.

    A context that leaves too little room loses its beginning.

    Yields:
      The places of some pairs, and their bounds.

    Raises:
      InputError: a continuation is longer than the model, or a text is wrong.
    """
    texts, prompts = [], []
    for i, (context, continuation) in enumerate(pairs):
      try:
        ids, text = self._pair(context, continuation)
        room = self._room() - len(text)
        if room < 0:
          raise InputError(
            f"the continuation {continuation[:40]!r} has {len(text)} tokens,"
            f" more than the model's {self._room()}: leave it out."
          )
      except InputError as error:
        raise InputError(f"request {i}: {error}") from error
      prompts.append(self._last(ids, room))
      texts.append(text)
    for places, found in self._bounds(texts, prompts):
      self._note("loglikelihood", found.error)
      yield places, found

  def rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float, float]]:
    """Estimates `log p` of whole texts.

    A text that is longer than the model is the sum of its windows; see
    `windows`.

    Yields:
      The place of a text, its log-likelihood, and its standard error.

    Raises:
      InputError: a text is wrong.
    """
    parts, prompts, owner = [], [], []
    given = self.model.method != "mdm"
    for i, text in enumerate(texts):
      try:
        ids = self.model.encode(text)
      except InputError as error:
        raise InputError(f"request {i}: {error}") from error
      found = list(windows(ids, self._room(), given))
      self.counts["texts_in_windows"] += len(found) > 1
      for prompt, part in found:
        prompts.append(prompt)
        parts.append(part)
        owner.append(i)
    left = Counter(owner)
    total, variance = np.zeros(len(texts)), np.zeros(len(texts))
    for places, found in self._bounds(parts, prompts if given else None):
      for place, value, error in zip(places, *found, strict=True):
        i = owner[place]
        total[i] += value
        variance[i] += error**2
        left[i] -= 1
        if not left[i]:
          stderr = np.sqrt(variance[i])
          self._note("loglikelihood_rolling", stderr)
          yield i, float(total[i]), float(stderr)

  def info(self) -> dict[str, Any]:
    """Describes the answers, for the results' config; JSON-ready."""
    exact = self.model.method == "autoregressive"
    return {
      "flexmdm_method": self.model.method,
      "jax_device": jax.devices()[0].device_kind,
      "max_length": self.model.max_length,
      "sampler": dataclasses.asdict(self._way.sampler),
      "seed": self._seed,
      "log_likelihood": (
        "exact; that the text ends is part of it"
        if exact
        else "a lower bound (tight kind), estimated with num_times network"
        " calls; that the text ends is part of it; is_greedy is unknown and"
        " given as false"
      ),
      "num_times": None if exact else self._num_times,
      "stderr_nats": {
        kind: {"mean": float(np.mean(x)), "max": float(np.max(x))}
        for kind, x in self._errors.items()
      },
      "cut": dict(self.counts),
    }

  def _room(self) -> int:
    """Counts the tokens of text that a row has room for."""
    form, begin = self.model.form, self.model.method == "autoregressive"
    taken = len(form.before) + len(form.after) + begin
    return max(self.model.max_length - taken, 0)

  def _last(self, ids: list[int], room: int) -> list[int]:
    """Takes the last tokens for which there is room, and counts cuts."""
    self.counts["contexts"] += len(ids) > room
    return ids[max(len(ids) - room, 0) :]

  def _encode(self, context: str) -> list[int]:
    if self._chat is not None:
      return self._chat.encode(context)
    return self.model.encode(context)

  def _request(self, question: Question, answer: int) -> Any:
    """Makes the start of an answer."""
    all_ = self._room()
    room = all_ - min(answer, all_ // 2)
    if not self._infill:
      ids = self._last(self._encode(question.context), room)
      return self.model.requests(prompts=[ids])[0]
    parts = [question.doc.get(name) for name in ("prompt", "suffix")]
    if not all(isinstance(part, str) for part in parts):
      raise InputError(
        "its row has no texts prompt and suffix, but infill is true: give"
        " infill=false, or a task of infilling."
      )
    prefix, suffix = map(self.model.encode, parts)
    most = max(room // 2, room - len(prefix))
    self.counts["suffixes"] += len(suffix) > most
    suffix = suffix[:most]
    prefix = self._last(prefix, room - len(suffix))
    return self.model.requests(infills=[(prefix, suffix)])[0]

  def _place(self, question: Question, taken: Mapping[int, int]) -> int:
    """Makes the number that a question's random numbers are drawn from.

    It is the question's own, so that other questions change nothing; asked
    again, or by the rare chance of an equal hash, it is the next one.
    """
    told = [question.context, dict(question.settings)]
    if self._infill:
      told += [question.doc["prompt"], question.doc["suffix"]]
    content = json.dumps(told, sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode()).digest()
    place = int.from_bytes(digest[:4], "big") >> 1
    while place in taken:
      place = (place + 1) % 2**31
    return place

  def _answer(self, request: Any, sample: Any, room: int) -> str:
    """Reads what was put into the hole, cut to its most tokens."""
    (cut,) = request.cuts
    begin = cut - (self.model.method == "autoregressive")
    after = int(request.start.length) - cut
    hole = sample.tokens[begin : len(sample.tokens) - after]
    if len(hole) <= room:
      return sample.filled[0]
    self.counts["answers"] += 1
    hole = hole[:room]
    if (pad := self.model.vocab.pad) in self.model.form.after:
      hole = [token for token in hole if token != pad]  # as `sample.filled`
    return self.model.decode(hole)

  def _pair(
    self, context: str, continuation: str
  ) -> tuple[list[int], list[int]]:
    """Encodes a context and its continuation, as one text where they are."""
    if self._chat is not None or self.model.form.after:
      return self._encode(context), self.model.encode(continuation)
    # As the harness does: a space goes with the word after it.
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    ids = self.model.encode(stripped)
    whole = self.model.encode(stripped + continuation)
    if whole[: len(ids)] != ids:
      return ids, self.model.encode(continuation)
    return ids, whole[len(ids) :]

  def _note(self, kind: str, errors: Any) -> None:
    self._errors.setdefault(kind, []).extend(np.ravel(errors).tolist())

  def _bounds(
    self,
    texts: list[list[int]],
    prompts: list[list[int]] | None,
  ) -> Iterator[tuple[list[int], Bounds]]:
    """Bounds texts, those of like length together."""
    lengths = [
      len(text) + len(prompts[i] if prompts else ())
      for i, text in enumerate(texts)
    ]
    order = [int(i) for i in np.argsort(lengths, kind="stable")]
    for first in range(0, len(order), _REPORT * self._batch_size):
      places = order[first : first + _REPORT * self._batch_size]
      nats, error = self.model.log_likelihood(
        [texts[i] for i in places],
        prompts=[prompts[i] for i in places] if prompts else None,
        num_times=self._num_times,
        seed=self._seed,
        batch_size=self._batch_size,
      )
      yield places, Bounds(-nats, error)


def parse_settings(given: Mapping[str, Any]) -> Settings:
  """Reads a task's `generation_kwargs` as the harness means them.

  Without sampling the temperature is 0: tokens are the likeliest, though
  lengths and the order stay random. Keys that a FlexMDM has no meaning for are
  logged.

  Raises:
    InputError: a value is of a wrong type or out of range.
  """
  left = dict(given)
  until = left.pop("until", None) or ()
  until = (until,) if isinstance(until, str) else tuple(until)
  if not all(isinstance(end, str) for end in until):
    raise InputError(f"until={until!r:.80} must be a text, or a list of texts.")
  rooms = [left.pop(name, None) for name in _ROOM]
  room = next((x for x in rooms if x is not None), _DEFAULT_ROOM)
  room = _number("max_gen_toks", room)
  schema.require_value("max_gen_toks", int(room), int, schema.Range(least=1))
  fields = {
    name: _number(name, left.pop(name))
    for name in ("temperature", "top_p")
    if left.get(name) is not None
  }
  sample = left.pop("do_sample", None)
  if sample is None:
    sample = fields.get("temperature", 0) > 0
  if not sample:
    fields = {"temperature": 0.0}
  for name, value in left.items():
    _warn_once(f"{name}={value!r:.60} has no meaning for a FlexMDM: left out.")
  return Settings(tuple(filter(None, until)), int(room), fields)


def cut_until(text: str, until: Sequence[str]) -> str:
  """Cuts a text before the first of the texts that end it."""
  found = [text.find(end) for end in until if end]
  return text[: min((i for i in found if i >= 0), default=len(text))]


def windows(
  ids: Sequence[int], room: int, given: bool = True
) -> Iterator[tuple[list[int], list[int]]]:
  """Splits a long text into contexts and parts, each token in one part.

  The first part is as long as there is room. Each further one has at most half
  of that, and as many tokens before it for a context as there is room.

  Args:
    ids: the text.
    room: most tokens of a window, its context included.
    given: whether parts have contexts; else all parts are as long as the first.

  Raises:
    InputError: there is no room.
  """
  if room < 1:
    raise InputError("the model has no room for text: give a longer one.")
  ids, begin, end = list(ids), 0, min(room, len(ids))
  yield [], ids[:end]
  while end < len(ids):
    begin = end
    end = min(begin + (-(-room // 2) if given else room), len(ids))
    yield ids[max(end - room, 0) : begin] if given else [], ids[begin:end]


def _number(name: str, value: Any) -> float:
  try:
    return float(value)
  except (TypeError, ValueError) as error:
    raise InputError(f"{name}={value!r:.60} must be a number.") from error


_WARNED: set[str] = set()


def _warn_once(message: str) -> None:
  if message not in _WARNED:
    _WARNED.add(message)
    _LOG.warning(message)


def register() -> type:
  """Tells lm-evaluation-harness of the model "flexmdm"; returns its class.

  The class takes `folder`, whatever `fm.load` reads, and the arguments of
  `Answers`.

  Raises:
    InputError: the package lm_eval is missing.
  """
  try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import model_registry
    from tqdm import tqdm
  except ImportError as error:
    raise InputError(
      "lm-evaluation-harness needs the package lm-eval: pip install"
      " 'flexmdm_jax[eval]'."
    ) from error
  if _NAME in model_registry:
    return model_registry.get(_NAME)

  @model_registry.register(_NAME)
  class FlexMDM(LM):
    """The face that the harness sees."""

    def __init__(
      self,
      folder=None,
      batch_size=_BATCH,
      max_batch_size=None,
      device=None,
      **options,
    ):
      # The harness names a device always, "cuda:0" by default; JAX chooses its
      # own, which `info` tells.
      del device
      super().__init__()
      if folder is None:
        raise InputError("the model has no folder: give folder=FOLDER.")
      size = _batch_size(batch_size, max_batch_size)
      self.answers = Answers(load(folder), batch_size=size, **options)

    def generate_until(self, requests, disable_tqdm=False):
      questions = [
        Question(request.args[0], request.args[1], request.doc or {})
        for request in requests
      ]
      found = [""] * len(requests)
      with tqdm(total=len(requests), disable=disable_tqdm) as bar:
        for i, text in self.answers.generate(questions):
          found[i] = text
          self.cache_hook.add_partial("generate_until", requests[i].args, text)
          bar.update()
      self._tell()
      return found

    def loglikelihood(self, requests, disable_tqdm=False):
      found = [(0.0, False)] * len(requests)
      pairs = [request.args for request in requests]
      with tqdm(total=len(requests), disable=disable_tqdm) as bar:
        for places, bounds in self.answers.log_likelihood(pairs):
          for i, value in zip(places, bounds.log_likelihood, strict=True):
            found[i] = (float(value), False)
            self.cache_hook.add_partial("loglikelihood", pairs[i], found[i])
          bar.update(len(places))
      self._tell()
      return found

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
      found = [0.0] * len(requests)
      texts = [request.args[0] for request in requests]
      with tqdm(total=len(requests), disable=disable_tqdm) as bar:
        for i, value, _ in self.answers.rolling(texts):
          found[i] = value
          self.cache_hook.add_partial(
            "loglikelihood_rolling", requests[i].args, value
          )
          bar.update()
      self._tell()
      return found

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
      chat = self.answers.use_chat_template()
      return chat.render(chat_history, add_generation_prompt)

    def chat_template(self, chat_template=False):
      if not chat_template:
        return None
      if isinstance(chat_template, str):
        raise InputError(
          f"the chat template {chat_template!r:.40} cannot be chosen: leave its"
          " name out, for the model's own one."
        )
      return self.answers.use_chat_template().template.source

    @property
    def tokenizer_name(self):
      return self.answers.use_chat_template().fingerprint

    def get_model_info(self):
      return self.answers.info()

    def _tell(self):
      told = self.answers.info()
      _LOG.warning(
        "flexmdm: cut for room: %s; standard errors in nats of lower bounds on"
        " log-likelihoods: %s",
        json.dumps(told["cut"]),
        json.dumps(told["stderr_nats"]),
      )

  return FlexMDM


def _batch_size(given: Any, most: Any = None) -> int:
  """Reads a batch size of the harness, whose "auto" is `most` or 64."""
  if str(given).startswith("auto"):
    return _BATCH if most is None else _batch_size(most)
  try:
    return int(given)
  except (TypeError, ValueError) as error:
    raise InputError(
      f"batch_size={given!r:.40} must be a number, or auto."
    ) from error


def main() -> int:
  """Runs the harness's own command, which then knows the model.

  Returns:
    The exit status: 2, with one line, if the input is wrong.
  """
  try:
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
  except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
