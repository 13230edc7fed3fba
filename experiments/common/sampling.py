"""What `experiments.sample` does with a model and rows."""

import dataclasses
import functools
import sys
from collections.abc import Sequence

from tqdm import tqdm

from experiments.common import sample_file, sample_rows, watch
from experiments.common.sample_rows import Row
from flexmdm_jax import memory
from flexmdm_jax.inference import Model, Preset
from flexmdm_jax.inference.model import Request
from flexmdm_jax.inference.replay import replay, require_replay, write_page

# Batches that meet on the way: those that a stopped command may lose.
_TOGETHER = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """Samples to make; which they are depends on all of this alone.

  Attributes:
    model: the model.
    way: how to sample.
    rows: what to sample from.
    num: samples of each row.
    seed: seed of all that is random.
  """

  model: Model
  way: Preset
  rows: Sequence[Row]
  num: int
  seed: int

  def require_memory(self, batch_size: int) -> None:
    """Refuses more samples than surely fit on what is here."""
    memory.require_to_sample(
      self.model.denoiser.model, len(self.rows) * self.num, batch_size
    )

  def show(self, most: int, watched: bool, page: str | None) -> None:
    """Plays the first samples in the terminal, or writes a page of them.

    Args:
      most: number of samples, at most.
      watched: whether to play them in the terminal.
      page: HTML file to write, or None.

    Raises:
      InputError: the model or the sampler cannot be played.
    """
    require_replay(self.model, self.way)
    requests = self._requests[:most]
    names = [
      f"row {row}, sample {sample}"
      for row, sample in map(self._place, range(len(requests)))
    ]
    played = replay(
      self.model,
      requests,
      self.way,
      seed=self.seed,
      names=names,
      chances=page is not None,
    )
    if page is not None:
      write_page(page, "How samples come about", played)
      print(f"wrote {page}")
    if watched:
      watch.watch(played)

  def write(self, path: str, batch_size: int) -> None:
    """Writes the samples to a file, as `SampleFile` does.

    Args:
      path: JSONL file to write.
      batch_size: rows at once.

    Raises:
      InputError: as `SampleFile`.
    """
    requests = self._requests
    settings = sample_file.settings(
      self.model, self.way, self.rows, self.num, self.seed
    )
    with sample_file.SampleFile(path, settings) as file:
      left = [
        i for i in range(len(requests)) if self._place(i) not in file.lines
      ]
      found = self.model.stream(
        [requests[i] for i in left],
        self.way,
        seed=self.seed,
        places=left,
        batch_size=batch_size,
        together=_TOGETHER,
      )
      with tqdm(
        total=len(requests),
        initial=len(requests) - len(left),
        disable=not sys.stderr.isatty(),
        unit="seq",
        dynamic_ncols=True,
      ) as bar:
        for batch in found:
          places = [self._place(i) for i, _ in batch]
          file.write(
            {
              place: sample_file.sample_line(self.rows[place[0]], place, sample)
              for place, (_, sample) in zip(places, batch, strict=True)
            }
          )
          bar.update(len(batch))
      file.finish()
    print(f"wrote {len(requests)} samples to {path}")

  @functools.cached_property
  def _requests(self) -> list[Request]:
    return sample_rows.make_requests(self.model, self.rows, self.num)

  def _place(self, number: int) -> tuple[int, int]:
    """Finds the row of a sample, and its number among that row's."""
    return divmod(number, self.num)
