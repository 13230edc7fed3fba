"""Shows a model on a page in the browser of this machine.

  python -m experiments.demo --model=FOLDER [--port=7860]

FOLDER is what `fm.load` takes: a work directory, an exported folder or the
public FlexMDM's. The page continues prompts, fills holes and scores texts; see
docs/demo.md. It needs the extra [demo]. Ctrl-C ends it.
"""

import pathlib

from absl import flags

from experiments.common import cli
from flexmdm_jax.demo import page, server
from flexmdm_jax.demo.writer import Writer
from flexmdm_jax.loading import load

_MODEL = flags.DEFINE_string("model", None, "Folder of the model.")
_PORT = flags.DEFINE_integer(
  "port",
  7860,
  "Port of this machine; 0 for any that is free.",
  lower_bound=0,
  upper_bound=65535,
)
flags.mark_flags_as_required(["model"])


def main(_):
  page.require_gradio()
  with server.listen(_PORT.value) as port:
    model = load(_MODEL.value)
    name = pathlib.Path(_MODEL.value).resolve().name
    url = f"http://{server.HOST}:{port.getsockname()[1]}"
    print(f"{url} shows the model; Ctrl-C ends it.", flush=True)
    page.serve(Writer(model), name, port)


if __name__ == "__main__":
  cli.run(main)
