"""Settings: their types, ranges and sentences."""

import dataclasses

import pytest

from flexmdm_jax import schema
from flexmdm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Oven:
  """Settings of an oven.

  It bakes.

  Attributes:
    heat: degrees above the room's, on the first of its two rails, where the
      bread lies.
    trays, racks: numbers of them.
    mode: what warms: "top" or "fan".
    times: minutes of each phase.
    brand: no setting.

  Raises:
    InputError: a setting is out of range.
  """

  heat: float = schema.setting(200.0, above=0, most=300)
  trays: int = schema.count(2)
  racks: int | None = schema.count(None, least=0)
  mode: str = schema.setting("top", among=("top", "fan"))
  times: tuple[float, ...] = schema.setting((1.0,), least=0)
  light: bool = schema.setting(False)
  brand: str = "any"

  def __post_init__(self):
    schema.require(self, "oven")


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("heat", 1),
    ("heat", 300.0),
    ("racks", 0),
    ("racks", None),
    ("mode", "fan"),
    ("times", ()),
    ("times", (0, 2.5)),
    ("light", True),
    ("brand", -1),
  ],
)
def test_good_values_are_kept(name, value):
  assert getattr(Oven(**{name: value}), name) == value


def test_a_list_is_a_tuple():
  assert Oven(times=[1, 2]).times == (1, 2)


@pytest.mark.parametrize(
  ("name", "value", "says"),
  [
    ("heat", 0, "oven.heat=0 must be above 0 and at most 300."),
    ("heat", 300.1, "above 0 and at most 300"),
    ("heat", float("nan"), "oven.heat=nan must be finite, above 0"),
    ("heat", float("inf"), "finite"),
    ("heat", 10**400, "must be finite"),
    ("heat", "200", "oven.heat='200' must be a number, above 0"),
    ("heat", True, "oven.heat=True must be a number"),
    ("heat", None, "a number"),
    ("trays", 1.0, "oven.trays=1.0 must be an integer, at least 1"),
    ("trays", True, "an integer"),
    ("trays", 10**12, "at most 1,000,000,000"),
    ("racks", -1, "at least 0"),
    ("racks", "x", "an integer or None, at least 0"),
    ("mode", "steam", "oven.mode='steam' must be one of top, fan."),
    ("mode", 3, "must be text, one of top, fan"),
    ("times", 3, "a tuple, each a number"),
    ("times", (1, -1), r"oven.times=(1, -1) must be at least 0."),
    ("light", 1, "True or False"),
  ],
)
def test_bad_values_are_named(name, value, says):
  with pytest.raises(InputError) as error:
    Oven(**{name: value})
  assert says in str(error.value)
  assert "\n" not in str(error.value)


def test_descriptions_are_of_the_docstring():
  found = {x.name: x for x in schema.describe(Oven)}
  assert list(found) == ["heat", "trays", "racks", "mode", "times", "light"]
  assert str(found["heat"]) == (
    "heat (a number, above 0 and at most 300; by default 200.0): degrees above"
    " the room's, on the first of its two rails, where the bread lies."
  )
  assert found["racks"].sentence == found["trays"].sentence
  assert found["light"].sentence == ""


def test_build_names_what_is_unknown_or_missing():
  assert schema.build(Oven, {"trays": 3}, "oven").trays == 3
  assert isinstance(schema.build(Oven, {"heat": 3}, "oven").heat, float)
  with pytest.raises(schema.KeyMismatchError, match="'steam' of oven: it take"):
    schema.build(Oven, {"steam": 1}, "oven")

  @dataclasses.dataclass
  class Fork:
    prongs: int

  with pytest.raises(schema.KeyMismatchError, match="fork has no setting 'pr"):
    schema.build(Fork, {}, "fork")
