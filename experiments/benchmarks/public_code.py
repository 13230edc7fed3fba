"""The authors' public PyTorch code, to run beside ours with the same weights.

It is a checkout that the user names: none of it is part of this project. It
runs in a process of its own, so that neither library's threads wait for the
other's, and its functions run unchanged. Modules that they import and never
call are left out. Without CUDA `scaled_dot_product_attention`, with the same
mask, stands in for FlexAttention.

Source: the PyTorch code that goes with arXiv 2509.01025.
"""

import importlib.util
import inspect
import multiprocessing
import pathlib
import resource
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexmdm_jax.errors import InputError

_FILES = ("interpolant.py", "model/transformer.py", "sampling.py")
_FILES += ("schedule.py", "lightning_modules/any_order.py")
_PACKAGES = ("torch", "einops", "omegaconf")
_SECONDS_TO_END = 10
_SCALE = 0.02  # of the random weights that the public code starts at zero


class PublicCode:
  """A process that runs the public code.

  Use it as a context manager: it ends with it.

  Args:
    folder: the checkout.
    sizes: `vocab_size`, `mask_id`, `pad_id`, `max_length`, `hidden_size`,
      `n_heads`, `cond_dim` and `n_blocks`, as `convert.dit_from_torch` has
      them.
    batch_size: B.

  Raises:
    InputError: there is no PyTorch, or the folder is no such checkout.
  """

  def __init__(
    self, folder: str, sizes: Mapping[str, int], batch_size: int
  ) -> None:
    require_checkout(folder)
    context = multiprocessing.get_context("spawn")
    self._pipe, end = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(end, folder, dict(sizes), batch_size), daemon=True
    )

  def __enter__(self) -> "PublicCode":
    self._process.start()
    return self

  def __exit__(self, *_) -> None:
    if self._process.is_alive():
      self._pipe.send(None)
    self._process.join(_SECONDS_TO_END)
    self._process.terminate()

  def call(self, name: str, *args: Any) -> Any:
    """Calls a method of `_Server` over there, and returns its result.

    Raises:
      InputError: it failed; the message has its last line.
    """
    self._pipe.send((name, args))
    try:
      failed, result = self._pipe.recv()
    except EOFError:
      failed, result = True, "its process ended"
    if failed:
      raise InputError(f"the public code failed in {name}: {result}.")
    return result


def require_checkout(folder: str) -> None:
  """Raises an InputError if PyTorch or a file of the public code is missing."""
  absent = [x for x in _PACKAGES if importlib.util.find_spec(x) is None]
  if absent:
    raise InputError(
      f"--public={folder} needs {', '.join(absent)}, not installed here:"
      " pip install 'flexmdm_jax[peers]'."
    )
  top = pathlib.Path(folder)
  if missing := [x for x in _FILES if not (top / x).is_file()]:
    raise InputError(
      f"--public={folder} is no checkout of the public FlexMDM code: it lacks"
      f" {', '.join(missing)}."
    )


def peak_bytes() -> int:
  """Reads the largest resident memory of this process so far, in bytes."""
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _serve(pipe, folder, sizes, batch_size):
  """Answers calls until it is sent None."""
  server = None
  while (call := pipe.recv()) is not None:
    name, args = call
    try:
      server = server or _Server(folder, sizes, batch_size)
      pipe.send((False, getattr(server, name)(*args)))
    except Exception as error:
      text = (str(error).strip() or type(error).__name__).splitlines()[-1]
      pipe.send((True, text))


class _Server:
  """The public model, its training step and its sampler."""

  def __init__(self, folder, sizes, batch_size):
    import torch

    _stand_in(torch)
    sys.path.insert(0, str(pathlib.Path(folder).resolve()))
    self._torch = torch
    self._device = "cuda" if torch.cuda.is_available() else "cpu"
    if self._device == "cpu":
      _without_flex_attention(torch)
    else:
      # PyTorch 2.11's own compiler of scripts fails on their functions there.
      torch.jit.script = lambda function: function
    from lightning_modules.any_order import AnyOrderInsertionFlowModule

    torch.manual_seed(0)
    module = AnyOrderInsertionFlowModule(_config(sizes)).to(self._device)
    with torch.no_grad():
      for parameter in module.parameters():
        if not parameter.any():
          parameter.normal_(std=_SCALE)
    self._sizes, self._batch_size = sizes, batch_size
    # Theirs is compiled as it is made, and holds the plain model.
    # FlexAttention is compiled in either.
    self._module, self._model = module, module.model._orig_mod
    self._models = {True: module.model, False: _plain(torch, self._model)}
    self._optimizer = self._schedule = None

  def versions(self) -> dict[str, Any]:
    """What it runs on."""
    return {
      "torch": self._torch.__version__,
      "device": self._device,
      "threads": self._torch.get_num_threads(),
    }

  def peak_bytes(self) -> int:
    """Largest resident memory of this process so far."""
    return peak_bytes()

  def weights(self) -> dict[str, np.ndarray]:
    """The model's tensors by name, float32."""
    state = self._model.state_dict()
    return {name: x.float().cpu().numpy() for name, x in state.items()}

  def predict(self, tokens, t) -> tuple[np.ndarray, np.ndarray]:
    """Logits and expected gaps, without dropout."""
    torch = self._torch
    self._model.eval()
    with torch.no_grad():
      answer = self._model(self._place(tokens).long(), self._place(t))
    parts = (answer.token_logits, answer.expected_gaps)
    return tuple(x.float().cpu().numpy() for x in parts)

  def train(self, tokens, compiled) -> None:
    """Takes a training step with clipping, schedule and moving average."""
    torch, module = self._torch, self._module
    tokens = self._place(tokens).long()
    if self._optimizer is None:
      module.on_train_start()
      (self._optimizer,), (schedule,) = module.configure_optimizers()
      self._schedule = schedule["scheduler"]
    module.train()

    def closure():
      self._optimizer.zero_grad()
      loss = module.training_step(tokens, 0)
      loss.backward()
      torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
      return loss

    module.model = self._models[compiled]
    module.optimizer_step(0, 0, self._optimizer, closure)
    self._schedule.step()
    self._wait()

  def sample(self, steps, wanted, compiled) -> None:
    """Samples texts of about `wanted` tokens."""
    from sampling import any_order_mask_insertion_tau_leaping_sampling

    torch, sizes = self._torch, self._sizes
    self._model.eval()
    # Their decorator compiles the loop with all of its steps unrolled, which
    # takes far longer than to sample: the loop runs as it stands.
    draw = inspect.unwrap(any_order_mask_insertion_tau_leaping_sampling)
    with torch.no_grad():
      draw(
        _steer(
          torch,
          self._models[compiled],
          self._module.interpolant,
          sizes["pad_id"],
          wanted,
        ),
        steps,
        sizes["mask_id"],
        sizes["pad_id"],
        self._batch_size,
        sizes["max_length"],
        confidence_based_sampling=False,
      )
    self._wait()

  def _place(self, x: np.ndarray):
    return self._torch.from_numpy(x).to(self._device)

  def _wait(self) -> None:
    if self._device == "cuda":
      self._torch.cuda.synchronize()


def _plain(torch, model):
  """Holds a model uncompiled, under the names that a compiled one gives it."""

  class Plain(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self._orig_mod = model

    def forward(self, *args):
      return self._orig_mod(*args)

  return Plain()


def _steer(torch, model, interpolant, pad, wanted):
  """Makes a model whose samples have about `wanted` tokens, at its own cost."""
  from interpolant import ModelPrediction

  class Steered(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.model, self.interpolant = model, interpolant
      self.device = next(model.parameters()).device

    def forward(self, tokens, t):
      answer = self.model(tokens, t)
      length = (tokens != pad).sum(dim=1, keepdim=True)
      missing = (wanted - length).clamp(min=1e-6) / (length + 1)
      return ModelPrediction(
        answer.token_logits, expected_gaps=missing + 0 * answer.expected_gaps
      )

  return Steered()


def _config(sizes):
  """Makes the public configuration of a model; its schedules are linear."""
  from omegaconf import OmegaConf

  return OmegaConf.create(
    {
      "model": {
        "hidden_size": sizes["hidden_size"],
        "n_heads": sizes["n_heads"],
        "cond_dim": sizes["cond_dim"],
        "n_blocks": sizes["n_blocks"],
        "dropout": 0.0,
      },
      "interpolant": {
        "type": "any-order",
        "tokens": sizes["vocab_size"],
        "mask_token": sizes["mask_id"],
        "pad_token": sizes["pad_id"],
        "max_length": sizes["max_length"],
        "insert_schedule": {"type": "linear"},
        "unmask_schedule": {"type": "linear"},
      },
      "training": {
        "only_embed_insert": False,
        "learning_rate": 3e-4,
        "weight_decay": 0.03,
        "warmup_steps": 2000,
        "max_steps": 1_000_000,
        "ema_decay": 0.9999,
        "loss_fn": {"unmask": "elbo", "insert": "expectation"},
      },
    }
  )


def _stand_in(torch) -> None:
  """Replaces what the public modules import and these functions never call."""

  class LightningModule(torch.nn.Module):
    device = property(lambda self: next(self.parameters()).device)

    def save_hyperparameters(self):
      pass

    def log(self, *_, **__):
      pass

    def optimizer_step(self, epoch, batch, optimizer, optimizer_closure=None):
      optimizer.step(closure=optimizer_closure)

  def add(name, **names):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(names)

  add("pytorch_lightning", LightningModule=LightningModule)
  add("lightning_modules.autoregressive", AutoregressiveModule=None)
  add("lightning_modules.mdm", MaskedDiffusionModule=None)


def _without_flex_attention(torch) -> None:
  """Gives the public model plain attention, with the mask that it makes."""
  from model import transformer

  def create_block_mask(mask_mod, B, H, Q_LEN, KV_LEN):
    del H
    row = torch.arange(B)[:, None, None, None]
    query = torch.arange(Q_LEN)[:, None]
    return mask_mod(row, None, query, torch.arange(KV_LEN))

  def flex_attention(q, k, v, block_mask):
    return torch.nn.functional.scaled_dot_product_attention(
      q, k, v, attn_mask=block_mask
    )

  transformer.create_block_mask = create_block_mask
  transformer.flex_attention = flex_attention
