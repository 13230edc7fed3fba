import threading
import time

import pytest

from flexmdm_jax.evaluation.equality import Equality

pytest.importorskip("math_verify")


def test_an_endless_comparison_is_ended_and_the_next_goes_on():
  # In a thread, where no signal would stop it.
  found = []

  def compare():
    equality = Equality(1.0)
    for answer in ("0.50", "9^{9^{9^{9}}}", "\\frac{1}{2}", "2"):
      found.append(equality.tell("0.5", answer))

  begin = time.perf_counter()
  thread = threading.Thread(target=compare)
  thread.start()
  thread.join(timeout=60)
  assert found == [True, None, True, False]
  assert time.perf_counter() - begin < 60
