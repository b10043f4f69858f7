# Needs Python 3.10 or newer, git and make. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
DEMO := demo.png

.DEFAULT_GOAL := help
.PHONY: help demo thumbnails derived pictures test wheel ci publishable publish clean distclean
.NOTPARALLEL:

help:
	@echo "make demo       draw a picture with the checkpoint that comes with the package ($(DEMO))"
	@echo "make thumbnails the pictures of workflows/ again, after a change of the checkpoint"
	@echo "make derived    what follows from the schemas of the nodes: contract, English texts, docs/nodes.md"
	@echo "make pictures   the pictures of README.md and docs/ again (docs/pictures.py)"
	@echo "make test       ruff, mypy, import-linter and pytest, in an environment of their own (PYTEST_ARGS='-k name')"
	@echo "make wheel      dist/*.whl, for pip install"
	@echo "make ci         demo, test and wheel: what .github/workflows/ci.yml runs"
	@echo "make publish    put this version on registry.comfy.org (docs/install.md); .github/workflows/publish.yml does the same"
	@echo "make clean      remove what demo, tests and builds left; distclean removes $(VENV) too"
	@echo "PYTHON=...      the Python that $(VENV) is made with (now: $(PYTHON))"

demo: $(VENV)/.installed
	@picture=$$($(BIN)/nvg-run "workflows/01 Generate.json" --set Draw.batch_size=1 --set Pictures.filename_prefix=demo --out .) \
	  && mv -f "$$picture" $(DEMO)
	@echo "Your picture is here: $(CURDIR)/$(DEMO) (it holds its workflow: drop it on the canvas of ComfyUI)"

# A thumbnail shows what the embedded checkpoint draws, so all are made again when that changes. The released ImageNet
# checkpoint is not ours to ship: its workflow has a picture of the graph.
thumbnails: $(VENV)/.installed
	@for workflow in workflows/*.json; do \
	  case "$$workflow" in *Released*) continue;; esac; \
	  thumbnail="$${workflow%.json}.jpg"; \
	  $(BIN)/nvg-run "$$workflow" --quiet --out build/thumbnails --thumbnail "$$thumbnail" > /dev/null || exit 1; \
	  echo "$$thumbnail"; \
	done

pictures: $(VENV)/.installed-test
	$(BIN)/python docs/diagram.py
	$(BIN)/python docs/pictures.py

# A node is its schema: the contract with saved workflows, the English texts and docs/nodes.md follow from it.
derived: $(VENV)/.installed
	@$(BIN)/python tests/shared/derived.py

# Byte code is written even where the environment says otherwise: else three processes rewrite every test, each time.
test: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 \
	  $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

wheel: $(VENV)/.installed-test
	$(PIP) build
	$(BIN)/python -m build --wheel --outdir dist .

ci: demo test wheel

# What only the owner knows must be there before a version is published, for it can never be changed afterwards.
TAG :=
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
publishable:
	@! grep -q '^PublisherId = ""' pyproject.toml || { echo "pyproject.toml: fill in PublisherId ([tool.comfy]) first; docs/install.md, Publishing, says how." >&2; exit 1; }
	@grep -q '^Repository = "http' pyproject.toml || { echo "pyproject.toml: fill in Repository ([project.urls]) first; docs/install.md, Publishing, says how." >&2; exit 1; }
	@test -z "$(TAG)" -o "$(TAG)" = "v$(VERSION)" || { echo "The tag is $(TAG) and the version $(VERSION): change one of them (pyproject.toml, CHANGELOG.md)." >&2; exit 1; }
	@grep -q '^## \[$(VERSION)\] - ' CHANGELOG.md || { echo "CHANGELOG.md has no section for $(VERSION)." >&2; exit 1; }
	@$(PYTHON) tests/shared/translated.py

publish: publishable $(BIN)/python
	$(PIP) comfy-cli
	$(BIN)/comfy --skip-prompt node publish

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) was not found: NVG needs Python 3.10 or newer; name one with PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$$("$(PYTHON)" --version) is too old: NVG needs Python 3.10 or newer; name one with PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) comes without venv: install it first (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# Set-up happens once, and again when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), a few minutes the first time ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), a few minutes the first time ..."
	$(PIP) -e '.[train,judge,svg,semantics,hub,test,frontend]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf build dist *.egg-info demo*.png .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
