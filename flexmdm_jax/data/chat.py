"""Chat templates: a conversation becomes a model's prompt, and its ids.

A Hugging Face folder may hold a template in Jinja, which is rendered in a
sandbox as `transformers` does it. Special tokens that the template writes are
those tokens; the names of special tokens in a message are text.
"""

import dataclasses
import datetime
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flexmdm_jax.data.documents import Files, Skipped, Source, check_text
from flexmdm_jax.data.tokenizers import Tokenizer, content_hash
from flexmdm_jax.errors import InputError, clear_library_errors
from flexmdm_jax.reading import read_json, read_text

# A conversation: one user's message, or messages with "role" and "content".
Messages = str | Sequence[Mapping[str, Any]]

# The largest published templates have some 20,000 characters; these take 1.5 s
# to compile.
_MOST_SOURCE = 1 << 17
_MOST_TEXT = 1 << 24
# Steps of one rendering, of .1 to .2 us each: nodes of its syntax tree that are
# visited, as the turns of loops and the calls tell. The calls alone take 14 us.
# Gemma 4's template, which looks back from each message, takes 19 million for
# 1,000 of them.
_MOST_STEPS = 50_000_000
_CALL = 100
_MOST_BITS = 1 << 16
_COPY = "take a good copy"
_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Two characters that Unicode keeps out of all texts. The first stands behind
# the first character of a name that is text; the second escapes both.
_QUOTE, _ESCAPE = "\U0010ffff", "\U0010fffe"


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """The chat template of a tokenizer's folder.

  Attributes:
    source: the template, in Jinja.
    tokens: variables of the template that the folder tells, such as
      "bos_token".
    place: where the template was read; named by errors.
  """

  source: str
  tokens: Mapping[str, str]
  place: str = "the chat template"

  def render(
    self,
    messages: Messages,
    add_generation_prompt: bool = True,
    **variables: Any,
  ) -> str:
    """Renders a conversation to the text that the model reads.

    The text is that of `transformers`. Turns of loops, calls and the length of
    the text are limited; the memory of one expression is not, so that a
    hostile template can still fill it by padding or doubling a text.

    Args:
      messages: the conversation.
      add_generation_prompt: whether to end where the answer begins.
      **variables: more variables of the template, such as `tools`.

    Raises:
      InputError: the messages have another form, or the template refuses them,
        is wrong, or does not end.
    """
    known = {
      "tools": None,
      "documents": None,
      **self.tokens,
      **variables,
      "messages": as_messages(messages),
      "add_generation_prompt": add_generation_prompt,
    }
    template, call = self._compiled
    known[_STEPS] = _Steps(call)
    pieces, length = [], 0
    with clear_library_errors(
      f"{self.place} refuses the messages", "change them, or the template"
    ):
      for piece in template.generate(known):
        pieces.append(piece)
        length += len(piece)
        if length > _MOST_TEXT:
          raise ValueError(f"it makes more than {_MOST_TEXT:,} characters")
    return "".join(pieces)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hash of all that decides a conversation's text, but for the time."""
    return content_hash(self.source, dict(self.tokens))

  @functools.cached_property
  def _compiled(self) -> tuple[Any, int]:
    """The template in Python, and the steps of a call; InputError if none."""
    if len(self.source) > _MOST_SOURCE:
      raise InputError(
        f"{self.place} has more than {_MOST_SOURCE:,} characters: {_COPY}."
      )
    environment = _environment()
    with clear_library_errors(f"{self.place} is no template", _COPY):
      tree, call = environment.counted(self.source)
      return environment.from_string(tree), call


def load_chat_template(
  folder: str | os.PathLike, name: str | None = None
) -> ChatTemplate | None:
  """Loads the chat template of a tokenizer's folder.

  Args:
    folder: holds chat_template.jinja, or tokenizer_config.json with the key
      `chat_template`; the first of them wins, as in `transformers`.
    name: which of several named templates; by default "default".

  Returns:
    The template; None if the folder has none.

  Raises:
    InputError: a file is damaged, or the folder has no template of that name.
  """
  folder = pathlib.Path(folder).expanduser()
  place = folder / "tokenizer_config.json"
  config = read_json(place, fix=_COPY) if place.exists() else {}
  older = folder / "special_tokens_map.json"
  told = [config, read_json(older, fix=_COPY) if older.exists() else {}]
  found = config.get("chat_template")
  file = folder / "chat_template.jinja"
  if file.exists():
    place, found = file, read_text(file, _COPY)
  if isinstance(found, list):
    try:
      found = {str(entry["name"]): entry["template"] for entry in found}
    except (KeyError, TypeError) as error:
      raise InputError(
        f"cannot read {place} (chat_template must be a text, or a list of"
        f" objects with name and template): {_COPY}."
      ) from error
  else:
    found = {} if found is None else {"default": found}
  if not found and name is None:
    return None
  source = found.get("default" if name is None else name)
  if source is None:
    raise InputError(
      f"{place} has no chat template {name or 'default'!r}: name one of"
      f" {', '.join(found) or 'none, as it has none'}."
    )
  if not isinstance(source, str):
    raise InputError(f"the chat template in {place} is no text: {_COPY}.")
  tokens = {}
  for key in (f"{token}_token" for token in _TOKENS):
    for settings in told:
      token = settings.get(key)
      token = token.get("content") if isinstance(token, dict) else token
      if isinstance(token, str):
        tokens.setdefault(key, token)
  return ChatTemplate(source, tokens, f"the chat template in {place}")


def as_messages(messages: Messages) -> list[dict[str, Any]]:
  """Checks a conversation; a text becomes one message of the user.

  Raises:
    InputError: it is no list of one message or more with a role and a content.
  """
  if isinstance(messages, str):
    messages = [{"role": "user", "content": messages}]
  good = isinstance(messages, (list, tuple)) and len(messages) > 0
  for message in messages if good else ():
    good = (
      good
      and isinstance(message, Mapping)
      and isinstance(message.get("role"), str)
      and isinstance(message.get("content", ""), (str, list, type(None)))
    )
  if not good:
    raise InputError(
      f"messages={messages!r:.80} must be a text, or a list of objects such as"
      " {'role': 'user', 'content': 'a text'}."
    )
  return [dict(message) for message in messages]


class ChatTokenizer(Tokenizer):
  """Tokenizer of conversations, in which special tokens are themselves.

  It reads text of `render`, in which names of special tokens that a message
  had are marked to be text.
  """

  def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None):
    """Makes the tokenizer.

    Args:
      tokenizer: the tokenizer of the text.
      template: the template of its folder, as `load_chat_template` gives it.

    Raises:
      InputError: there is no template, or it cannot be compiled.
    """
    if template is None:
      raise InputError(
        "the tokenizer's folder has no chat template (chat_template.jinja, or"
        " chat_template in tokenizer_config.json): give the prompt as text, or"
        " take the folder of a model that was made for chat."
      )
    _ = template._compiled
    self.template = template
    self._base = tokenizer
    self.vocab = tokenizer.vocab
    self.unknown = tokenizer.unknown
    self.fingerprint = content_hash(
      "chat", tokenizer.fingerprint, template.fingerprint
    )
    names = sorted(tokenizer.special_tokens, key=len, reverse=True)
    either = "|".join(map(re.escape, names)) or r"(?!)"
    self._begins = re.compile(f"(?=(?:{either}))(.)", re.DOTALL)
    self._special = re.compile(f"({either})(?!{_QUOTE})")

  def render(
    self,
    messages: Messages,
    add_generation_prompt: bool = True,
    **variables: Any,
  ) -> str:
    """Renders a conversation to text for `encode`; see `ChatTemplate.render`.

    A name of a special token in a message differs by one character that no
    text has, so that a template which looks for such names does not see it.
    """
    return self.template.render(
      self._quoted(as_messages(messages)),
      add_generation_prompt,
      **self._quoted(variables),
    )

  def encode_chat(
    self,
    messages: Messages,
    add_generation_prompt: bool = True,
    **variables: Any,
  ) -> list[int]:
    """Encodes a conversation; arguments and errors are those of `render`."""
    text = self.render(messages, add_generation_prompt, **variables)
    return self.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Encodes each text of `render`.

    Raises:
      InputError: the tokenizer fails, or the template itself writes the mask.
    """
    rows = self._base.encode_special_batch(texts)
    for i, text in enumerate(texts):
      if _QUOTE in text or _ESCAPE in text:
        rows[i] = self._encode_quoted(text)
      if self.vocab.mask in rows[i]:
        raise InputError(
          f"{self.template.place} writes the mask token: take another template."
        )
    return rows

  def _encode_quoted(self, text: str) -> list[int]:
    """Encodes a text with marks: between special tokens, piece by piece."""
    ids = []
    for i, piece in enumerate(self._special.split(text)):
      if i % 2:
        ids.append(self._base.special_tokens[piece])
      elif piece:
        ids += self._base.encode(_unquoted(piece))
    return ids

  def _quoted(self, value: Any) -> Any:
    """Marks the names of special tokens in all texts of a value."""
    if isinstance(value, str):
      value = value.replace(_ESCAPE, _ESCAPE + "0")
      value = value.replace(_QUOTE, _ESCAPE + "1")
      return self._begins.sub(rf"\1{_QUOTE}", value)
    if isinstance(value, Mapping):
      return {key: self._quoted(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
      return [self._quoted(x) for x in value]
    return value

  def _mark(self, id_):
    return self._base._mark(id_)

  def _decode(self, ids):
    return self._base._decode(ids)

  def _save(self, folder):
    return self._base._save(folder)


def _unquoted(text: str) -> str:
  """Removes the marks of `ChatTokenizer.render`."""
  text = text.replace(_QUOTE, "").replace(_ESCAPE + "1", _QUOTE)
  return text.replace(_ESCAPE + "0", _ESCAPE)


def encode_chat(
  tokenizer: Tokenizer,
  template: ChatTemplate | None,
  messages: Messages,
  add_generation_prompt: bool = True,
  **variables: Any,
) -> list[int]:
  """Encodes a conversation as a prompt.

  Args:
    tokenizer: the tokenizer of the text.
    template: the template of its folder, as `load_chat_template` gives it.
    messages: the conversation; a text is one message of the user.
    add_generation_prompt: whether to end where the answer begins.
    **variables: more variables of the template.

  Raises:
    InputError: there is no template, it is wrong or refuses the messages, or
      the tokenizer fails.
  """
  return ChatTokenizer(tokenizer, template).encode_chat(
    messages, add_generation_prompt, **variables
  )


@dataclasses.dataclass(frozen=True)
class Conversations(Source):
  """Source of documents that are rendered conversations.

  A row whose `messages` the template refuses is counted as "no_chat".

  Attributes:
    files: the files, of rows {"messages"}.
    chat: the tokenizer that renders them, and reads them.
  """

  files: Files
  chat: ChatTokenizer

  def fingerprint(self) -> str:
    """Hash of the files and the template."""
    return content_hash(
      self.files.fingerprint(), self.chat.template.fingerprint
    )

  def documents(self, skipped: Skipped) -> Iterator[str]:
    """Yields the conversations of all files; see `Source`."""
    for row in self.files.rows(skipped):
      try:
        text = self.chat.render(row.get("messages"), False)
      except InputError:
        skipped["no_chat"] += 1
        continue
      text, fault = check_text(text)
      if fault:
        skipped[fault] += 1
      else:
        yield text


_STEPS = "_flexmdm_steps"


class _Steps:
  """Counter of the steps of one rendering."""

  def __init__(self, call: int):
    self._left = _MOST_STEPS
    self.call = call

  def take(self, number: int) -> None:
    """Takes steps; ValueError if there are none left."""
    self._left -= number
    if self._left < 0:
      raise ValueError(f"it takes more than {_MOST_STEPS:,} steps")

  def take_each(self, values: Iterator[Any], number: int) -> Iterator[Any]:
    """Yields values, so many steps each."""
    for value in values:
      self.take(number)
      yield value


@functools.cache
def _environment() -> Any:
  """Makes the sandbox of templates; InputError without the package jinja2."""
  try:
    import jinja2
    from jinja2 import ext, nodes, sandbox
  except ImportError as error:
    raise InputError(
      "chat templates need the package jinja2: pip install 'flexmdm_jax[text]'."
    ) from error

  class Generation(ext.Extension):
    """The tag that marks answers for training, {% generation %}."""

    tags = frozenset({"generation"})

    def parse(self, parser):
      line = next(parser.stream).lineno
      body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
      return nodes.Scope(body).set_lineno(line)

  class Sandbox(sandbox.ImmutableSandboxedEnvironment):
    """The sandbox of `transformers`, with limits of time and size."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def counted(self, source):
      """Parses a template whose loops count; finds the steps of a call."""

      def size(node):  # loops in it count by themselves
        return 1 + sum(
          size(child)
          for child in node.iter_child_nodes()
          if not isinstance(child, nodes.For)
        )

      tree = self.parse(source)
      called = map(size, tree.find_all((nodes.Macro, nodes.CallBlock)))
      call = _CALL + max(called, default=0)
      for loop in tree.find_all(nodes.For):
        turn = [nodes.Const(size(loop))]
        loop.iter = nodes.Filter(loop.iter, "_counted", turn, [], None, None)
      return tree, call

    def call(self, context, /, function, *args, **kwargs):
      steps = context.resolve(_STEPS)
      steps.take(steps.call)
      return super().call(context, function, *args, **kwargs)

    def call_binop(self, context, operator, left, right):
      _require_small(operator, left, right)
      return super().call_binop(context, operator, left, right)

  @jinja2.pass_context
  def counted(context, values, turn):
    steps = context.resolve(_STEPS)
    if not hasattr(values, "__len__"):
      return steps.take_each(values, turn)
    steps.take(turn * len(values))
    return values

  def raise_exception(message):
    raise jinja2.TemplateError(message)

  environment = Sandbox(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[Generation, ext.loopcontrols],
  )
  environment.filters["tojson"] = _to_json
  environment.filters["_counted"] = counted
  environment.globals["raise_exception"] = raise_exception
  environment.globals["strftime_now"] = _strftime_now
  del environment.globals["lipsum"]  # makes text of any length
  return environment


def _require_small(operator: str, left: Any, right: Any) -> None:
  """Raises ValueError if the operator may make an enormous value."""
  if operator == "%":
    # A width such as %999999999d; numbers have none.
    if isinstance(left, str) and re.search(r"%[^a-zA-Z%]*(\*|\d{5})", left):
      raise ValueError("a format is too wide")
    return
  sizes = [x for x in (left, right) if hasattr(x, "__len__")]
  numbers = [x for x in (left, right) if isinstance(x, int)]
  if sizes and numbers:
    large = len(sizes[0]) * numbers[0] > _MOST_TEXT
  elif len(numbers) == 2:
    bits = (abs(left).bit_length(), abs(right).bit_length())
    power = bits[0] * min(abs(right), _MOST_BITS + 1)
    large = (power if operator == "**" else sum(bits)) > _MOST_BITS
  else:
    large = False
  if large:
    raise ValueError(f"{operator!r} makes an enormous value")


def _to_json(
  value: Any,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  """Writes JSON as `transformers` does, without escapes for HTML."""
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


def _strftime_now(form: str) -> str:
  return datetime.datetime.now().strftime(form)
