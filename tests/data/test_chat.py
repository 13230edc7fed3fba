"""Chat templates: rendered in a sandbox, and read with special tokens."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data import chat
from flexmdm_jax.data.chat import (
  ChatTemplate,
  ChatTokenizer,
  encode_chat,
  load_chat_template,
)
from flexmdm_jax.data.tokenizers import FolderTokenizer, GPT2Tokenizer
from flexmdm_jax.errors import InputError
from tests import fuzz
from tests.data import tiny_text

# In the manner of published ones: 261 stands between the turns.
SOURCE = """
{%- for message in messages %}
  {%- if message.role not in ('user', 'assistant') %}
    {{- raise_exception('no role ' ~ message.role) }}
  {%- endif %}
  {{- eos_token + message['role'] + '\\n' + message['content'] }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- eos_token + 'assistant\\n' }}
{%- endif %}
"""
END, MASK = 261, 262
TOKENS = {"eos_token": "<|endoftext|>"}
TURNS = [
  {"role": "user", "content": "hello"},
  {"role": "assistant", "content": "w##"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tiny_text.write_model_folder(tmp_path_factory.mktemp("chat"))
  return FolderTokenizer(folder)


def refused(source, messages="hello"):
  with pytest.raises(InputError) as caught:
    ChatTemplate(source, TOKENS).render(messages)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_a_conversation_becomes_a_prompt():
  template = ChatTemplate(SOURCE, TOKENS)
  text = "<|endoftext|>user\nhello<|endoftext|>assistant\nw##"
  assert template.render(TURNS, add_generation_prompt=False) == text
  assert template.render("hello") == text.removesuffix("w##")
  assert "no role system" in refused(SOURCE, [{"role": "system"}])


# Worked by hand from Jinja's rules and what `transformers` adds to them.
@pytest.mark.parametrize(
  ("source", "expected"),
  [
    ("{% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
    ("{{ {'a': '<é&\"'} | tojson }}", '{"a": "<é&\\""}'),
    ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
    ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}"
     "{{ loop.last }}{% endfor %}", "0False1False"),
    ("{% for role in messages | map(attribute='role') %}{{ role }}"
     "{{ loop.length }}{% endfor %}", "user1"),
    ("{% generation %}a{% endgeneration %}{{ nothing }}", "a"),
    ("{% set n = namespace(x=1) %}{% for i in [1, 2] %}"
     "{% set n.x = n.x * 3 %}{% endfor %}{{ n.x % 5 }}", "4"),
    ("{{ strftime_now('%%') }}{{ tools is none }}{{ '%s' % 'a' }}", "%Truea"),
    ("{{ messages[::-1] | length }}{{ bos_token }}{{ more }}", "1x"),
  ],
)  # fmt: skip
def test_templates_are_rendered_as_transformers_does(source, expected):
  assert ChatTemplate(source, TOKENS).render("hello", more="x") == expected


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("{% if %}", "is no template (Expected an expression"),
    ("{{" + "(" * 5000 + ")" * 5000 + "}}", "is no template"),
    ("x" * 200_000, "more than 131,072 characters"),
    ("{{ nothing.at.all }}", "'nothing' is undefined"),
    ("{{ raise_exception('users first') }}", "messages (users first): change"),
    ("{{ ''.__class__.__mro__ }}", "'__class__' of 'str' object is unsafe"),
    ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
    ("{% include '/etc/passwd' %}", "no loader"),
    ("{% for i in range(10000000) %}{% endfor %}", "Range too big"),
    (
      "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}"
      "{% endfor %}",
      "more than 1,000,000 steps",
    ),
    (
      "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
      "{% endmacro %}{{ m(40) }}",
      "more than 1,000,000 steps",
    ),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    (
      "{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}",
      "more than 16,777,216 characters",
    ),
    ("{{ 'a' * 10 ** 12 }}", "'*' makes an enormous value"),
    ("{{ [0] * 10 ** 12 }}", "'*' makes an enormous value"),
    ("{{ 9 ** (10 ** 9) }}", "'**' makes an enormous value"),
    ("{{ '%999999999d' % 1 }}", "a format is too wide"),
  ],
)
def test_templates_that_are_wrong_or_do_not_end(monkeypatch, source, message):
  monkeypatch.setattr(chat, "_MOST_STEPS", 1_000_000)
  assert message in refused(source)


@pytest.mark.parametrize(
  "messages",
  [None, [], {}, [1], [{"content": "a"}], [{"role": "user", "content": 1}], 7],
)
def test_messages_have_a_role_and_a_content(messages):
  assert "must be a text, or a list of objects" in refused(SOURCE, messages)


def test_special_tokens_of_the_template_are_special(tokenizer):
  ids = encode_chat(tokenizer, ChatTemplate(SOURCE, TOKENS), "hello w##")
  o = tiny_text.bpe_vocab()["o"]
  plain = tokenizer.encode
  expected = [END, *plain("user\n"), 258, o, 259, 260, END]
  assert ids == [*expected, *plain("assistant\n")]
  assert tokenizer.encode("<|endoftext|>") != [END]


NAMES = st.sampled_from(
  ["<|endoftext|>", "<|mdm_mask|>", "<", "|endoftext|>", "\U0010ffff",
   "\U0010fffe", "\U0010fffe0", " ", "\n"]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(text=st.lists(NAMES | st.text(max_size=3)).map("".join))
def test_what_a_message_says_is_text(tokenizer, text):
  template = ChatTemplate(SOURCE, TOKENS)
  ids = encode_chat(tokenizer, template, text)
  assert MASK not in ids and ids.count(END) == 2
  last = len(ids) - 1 - ids[::-1].index(END)
  assert tokenizer.decode(ids[:last]) == f"<|endoftext|>user\n{text}"


def test_names_in_variables_are_text_too(tokenizer):
  chat_tokenizer = ChatTokenizer(tokenizer, ChatTemplate("{{ a[0].b }}", {}))
  ids = chat_tokenizer.encode_chat("x", a=[{"b": "<|mdm_mask|>"}])
  assert ids == tokenizer.encode("<|mdm_mask|>")


def test_the_template_writes_no_mask(tokenizer):
  with pytest.raises(InputError, match="writes the mask token"):
    encode_chat(tokenizer, ChatTemplate("<|mdm_mask|>", {}), "a")


def test_a_tokenizer_without_special_tokens_reads_text(tmp_path):
  gpt2 = GPT2Tokenizer(tiny_text.write_bpe(tmp_path))
  ids = encode_chat(gpt2, ChatTemplate(SOURCE, TOKENS), "hello")
  assert gpt2.decode(ids) == "<|endoftext|>user\nhello<|endoftext|>assistant\n"


def write(folder, name, content):
  text = content if isinstance(content, str) else json.dumps(content)
  (folder / name).write_text(text, "utf-8")


def test_templates_are_found(tmp_path):
  assert load_chat_template(tmp_path) is None
  config = {"eos_token": {"content": "E"}, "bos_token": None}
  write(tmp_path, "special_tokens_map.json", {"bos_token": "B", "unk_token": 1})
  write(tmp_path, "tokenizer_config.json", config)
  assert load_chat_template(tmp_path) is None
  write(tmp_path, "tokenizer_config.json", {**config, "chat_template": "a"})
  template = load_chat_template(tmp_path)
  assert template.source == "a"
  assert template.tokens == {"bos_token": "B", "eos_token": "E"}
  named = [{"name": n, "template": n + "!"} for n in ("default", "tool_use")]
  write(tmp_path, "tokenizer_config.json", {**config, "chat_template": named})
  assert load_chat_template(tmp_path).source == "default!"
  assert load_chat_template(tmp_path, "tool_use").source == "tool_use!"
  with pytest.raises(InputError, match="'rag': name one of default, tool_use"):
    load_chat_template(tmp_path, "rag")
  write(tmp_path, "chat_template.jinja", "b\n")
  file = load_chat_template(tmp_path)
  assert file.source == "b\n" and file.render("") == "b"
  assert file.fingerprint != template.fingerprint


@pytest.mark.parametrize("found", [1, [1], [{"name": "default"}], {"a": "b"}])
def test_templates_of_other_types(tmp_path, found):
  write(tmp_path, "tokenizer_config.json", {"chat_template": found})
  with pytest.raises(InputError, match=r"chat.template"):
    load_chat_template(tmp_path)


def test_no_template_and_no_package(tokenizer, monkeypatch):
  with pytest.raises(InputError, match="has no chat template"):
    encode_chat(tokenizer, None, "a")
  monkeypatch.setitem(sys.modules, "jinja2", None)
  chat._environment.cache_clear()
  with pytest.raises(InputError, match=r"pip install 'flexmdm_jax\[text\]'"):
    encode_chat(tokenizer, ChatTemplate("a", {}), "a")


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_folder(tmp_path, tokenizer, examples):
  def act(content, path):
    path.write_bytes(content)
    encode_chat(tokenizer, load_chat_template(tmp_path), TURNS)

  named = [{"name": "default", "template": SOURCE}]
  path = tmp_path / "tokenizer_config.json"
  for template in (SOURCE, named):
    config = {"eos_token": {"content": "a"}, "chat_template": template}
    fuzz.each(examples, fuzz.contents(config), lambda x: act(x, path))
  path.unlink()
  path = tmp_path / "chat_template.jinja"
  fuzz.each(examples, fuzz.spoiled(SOURCE.encode()), lambda x: act(x, path))


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_messages(tokenizer, examples):
  template = ChatTemplate(SOURCE, TOKENS)
  fuzz.each(
    examples,
    fuzz.changed(TURNS),
    lambda messages: encode_chat(tokenizer, template, messages),
  )
