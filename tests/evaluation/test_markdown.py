"""Tables as Markdown."""

from flexmdm_jax.evaluation import markdown


def test_a_row_is_a_line():
  found = markdown.table(["a", "b"], [[1, "x"], [2, None]])
  assert found == "| a | b |\n|---|---|\n| 1 | x |\n| 2 | None |\n"
  assert markdown.table(["a"], []) == "| a |\n|---|\n"
