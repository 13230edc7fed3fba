"""Laws whose perfect denoiser is known, to measure samplers without training.

A sampler's error has two parts: the network's, and its own, which falls with
the number of network calls. With an exact denoiser only the second is left.
"""

from flexmdm_jax.exact.hidden_markov import HiddenMarkovLaw, markov_law

__all__ = ["HiddenMarkovLaw", "markov_law"]
