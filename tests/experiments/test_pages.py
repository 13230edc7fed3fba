"""Commands of the pages that promise to run from start to end: they do."""

import re
import shlex

import pytest

from tests.experiments.tools import ROOT, TINY, run, run_text

PAGE = (ROOT / "docs" / "from_mdm.md").read_text("utf-8")
FOLDER = "build/from_mdm"
# Settings that make a command quick; the last value of a flag counts.
QUICK = {
  "train": [*TINY, "--config.train.num_steps=20"],
  "evaluate": ["--num=8", "--num_times=32", "--steps=4", "--batch_size=8"],
  "sample": ["--num=2", "--steps=4"],
  "export": [],
}


def blocks(language):
  """Fenced blocks of a language, in order."""
  return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def commands():
  """Words of each command of the page, in order."""
  lines = "".join(blocks("sh")).replace("\\\n", "").splitlines()
  words = [shlex.split(line) for line in lines]
  return [line for line in words if line[:1] != ["."]]


def test_every_command_is_of_this_repository():
  assert len(commands()) == 9
  for python, option, name, *_ in commands():
    assert python == "python" and option in ("-m", "-c")
    module = name.removeprefix("experiments.")
    assert option == "-c" or module in QUICK


@pytest.mark.slow
def test_runs_from_start_to_end(tmp_path):
  def here(text):
    return text.replace(FOLDER, str(tmp_path))

  for _, option, name, *flags in commands():
    if option == "-c":
      status, _, err = run_text(here(name))
    else:
      module = name.removeprefix("experiments.")
      extra = list(QUICK[module])
      if module == "train":
        # Fewer shapes to compile; the page's own data are kept elsewhere.
        extra += [
          f"--config.data.folder={tmp_path / 'cache'}",
          "--config.data.buckets=(64,)",
        ]
      status, _, err = run(module, *map(here, flags), *extra)
    assert status == 0, (name, flags, err[-2000:])
  (program,) = blocks("python")
  status, out, err = run_text(here(program).replace("steps=32", "steps=4"))
  assert status == 0, err[-2000:]
  assert out.count("Return ") >= 3 and "nats" in out
