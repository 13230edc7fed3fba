"""`python -m flexmdm_jax`: what is installed, and what is missing."""

import importlib.metadata

import pytest

from flexmdm_jax import __main__ as main

REQUIRES = {
  "flexmdm_jax": [
    "here>=1",
    'here[fast]>=1; extra == "speed"',
    'nowhere>=2; python_version < "9" and extra == "speed"',
    "here; extra == 'plain'",
  ],
  "here": ['plugin[more]<=3; extra == "fast"', 'other; extra == "slow"'],
}
VERSIONS = {"here": "1.5", "flexmdm_jax": "0.1"}


@pytest.fixture
def packages(monkeypatch):
  def version(name):
    if name not in VERSIONS:
      raise importlib.metadata.PackageNotFoundError(name)
    return VERSIONS[name]

  monkeypatch.setattr(importlib.metadata, "requires", REQUIRES.get)
  monkeypatch.setattr(importlib.metadata, "version", version)


def test_extras_have_the_packages_of_packages_extras(packages):
  assert main.extras() == {
    "speed": {"here": "1.5", "plugin": None, "nowhere": None},
    "plain": {"here": "1.5"},
  }


def test_what_is_missing_is_said_with_the_remedy(packages, monkeypatch, capsys):
  monkeypatch.setattr(main.files, "versions", lambda: {"jax": "1"})
  main.main()
  said = capsys.readouterr().out.splitlines()
  assert said[:2] == ["flexmdm_jax: 0.1", "jax: 1"]
  assert said[2].startswith("devices: 8 (")
  assert said[3:] == [
    "extra [speed]: lacks plugin, nowhere: pip install 'flexmdm_jax[speed]'",
    "extra [plain]: complete",
  ]


def test_it_runs_on_what_is_here(capsys):
  main.main()
  said = capsys.readouterr().out
  assert "extra [dev]: complete" in said and "jaxlib: " in said
