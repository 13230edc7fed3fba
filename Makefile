# Every target makes its own virtual environment; all it needs is Python >= 3.11.
#   make test PYTHON=python3.12
#   make maze_41 EXTRAS=dev,cuda13

PYTHON ?= python3
EXTRAS ?= dev
WORKERS ?= 2
comma := ,
VENV := .venv/$(subst $(comma),-,$(notdir $(PYTHON))$(EXTRAS:dev%=%))
RUN := $(VENV)/bin/python

.PHONY: quickstart test test_all lint format maze_table maze_41 clean

quickstart: $(VENV)/installed
	$(RUN) -m experiments.quickstart --out=build/quickstart

TEST := PYTHONPATH=$(VENV)/libtpu $(RUN) -m pytest -n $(WORKERS)
# Nearly all of a test's time is compilation. What the quick tests compile is
# kept for their next run.
CACHE := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/build/jax_cache \
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

# Minutes: what is not marked slow.
test: $(VENV)/installed $(VENV)/libtpu
	$(CACHE) $(TEST) -m "not slow"

# Every test. From Python 3.12 on, sysmon makes coverage nearly free.
test_all: $(VENV)/installed $(VENV)/libtpu
	COVERAGE_CORE=sysmon $(TEST) --cov --cov-fail-under=90

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The site, in build/docs; a broken link or a missing name fails.
.PHONY: docs figures mazes notebooks
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# The pictures of the pages, in minutes; that of the mazes is the quickstart's.
figures: $(VENV)/installed
	$(RUN) -m experiments.figures --out=docs/images

mazes: quickstart
	cp build/quickstart/mazes.png docs/images/mazes.png

# The notebooks of experiments/colab with their outputs; SETTINGS=full trains for
# as long as a reader would.
SETTINGS ?= tiny
notebooks: $(VENV)/installed
	$(RUN) -m experiments.notebooks --settings=$(SETTINGS)

# The demo's picture, of a model that is trained first; needs Chromium.
.PHONY: demo_picture
DEMO_URL := http://127.0.0.1:7869
demo_picture: build/demo/model
	$(RUN) -m experiments.demo --model=$< --port=7869 & \
	  trap "kill $$!" EXIT; \
	  until $(RUN) -c 'import urllib.request as r; r.urlopen("$(DEMO_URL)")' \
	    2>/dev/null; do sleep 1; done; \
	  $(RUN) -m tests.demo.picture $(DEMO_URL) docs/images/demo.png

build/demo/model: $(VENV)/installed
	$(RUN) -m experiments.demo_model --out=build/demo

# The tables of docs/results.md; each run resumes where it stopped.
maze_table: $(VENV)/installed
	$(RUN) -m experiments.maze_table --table=small --out=build/maze_small

maze_41: $(VENV)/installed
	$(RUN) -m experiments.maze_table --table=paper --out=build/maze_41

$(VENV)/installed: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: pass PYTHON=..."; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/docs: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable '.[docs]'
	touch $@

# Compiles for TPUs that are not here. Beside the environment, not in it: where
# JAX finds it, it looks for a TPU at every start, and warns.
$(VENV)/libtpu: $(VENV)/installed
	$(RUN) -c 'from importlib.metadata import requires; \
	print(*[r.split(";")[0] for r in requires("jax") if "libtpu" in r])' \
	  > $@.txt
	rm -rf $@.new
	$(RUN) -m pip install --quiet --no-deps --target $@.new -r $@.txt
	rm -rf $@
	mv $@.new $@

clean:
	rm -rf .venv build
