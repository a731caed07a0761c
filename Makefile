# One definition of each check; CI and people run the same.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' sidecar/__init__.py)
# The time of what is built: that of the sources, so that the same sources give the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat --format=%Y sidecar/__init__.py)

# For install-systemd: where the commands are, the sidecar's user, the group of the tenants' user, and what may be
# written to. A path that is not there does no harm.
BINDIR ?= /opt/sidecar/bin
SERVICE_USER ?= sidecar
SERVICE_GROUP ?= rails
WRITABLE ?= -/rails/config -/rails/db -/rails/log -/rails/tmp -/rails/storage -/rails/public -/data
PREFIX ?= /usr/local
UNITDIR ?= /etc/systemd/system
TMPFILESDIR ?= /etc/tmpfiles.d
SYSUSERSDIR ?= /etc/sysusers.d
DOCDIR ?= $(PREFIX)/share/doc/sidecar
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
# The drop-ins: documentation is what hosts may leave out.
DROPINDIR := $(PREFIX)/share/sidecar
FILL := sed -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@USER@|$(SERVICE_USER)|g' -e 's|@GROUP@|$(SERVICE_GROUP)|g' \
  -e 's|@WRITABLE@|$(WRITABLE)|g' -e 's|@DOCDIR@|$(DOCDIR)|g'

.PHONY: help demo check lint types test test-platforms test-builds fuzz format bench bench-quick docs site pictures dist sbom deb test-wheel lock clean install-systemd

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

demo: $(VENV)/run  ## run a small fleet on a sample index, with web servers and a folder as object store
	$(BIN)/sidecar demo

check: lint types test  ## everything that CI runs

lint: $(VENV)/dev  ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev  ## mypy, strict
	$(BIN)/mypy

test: $(VENV)/dev  ## all tests, on every core
	$(BIN)/python -m pytest -q -n auto --dist worksteal --ignore=tests/platform

test-platforms: $(VENV)/dev  ## boot a host and a Fly machine in a container, where this one can
	$(BIN)/python -m pytest -q tests/platform --ignore=tests/platform/test_builds.py

test-builds: $(VENV)/dev  ## build images and package, and run them, where this one can
	$(BIN)/python -m pytest -q tests/platform/test_builds.py

fuzz: $(VENV)/dev  ## try what comes from outside at random, for an hour or so
	FUZZ_EXAMPLES=5000 $(BIN)/python -m pytest -q -n auto --hypothesis-profile=search -m hypothesis tests

format: $(VENV)/dev  ## put the code into the project's format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(VENV)/dev  ## measure, and print a table
	$(BIN)/python benchmarks/bench.py

bench-quick: $(VENV)/dev  ## measure little, within a minute: to see that it works
	$(BIN)/python benchmarks/bench.py --quick

docs: $(VENV)/dev  ## write the generated parts of the manual anew
	$(BIN)/python docs/generate.py

site: $(VENV)/dev  ## build the manual as a site in build/site, offline
	$(BIN)/python docs/site.py build/site

pictures: $(VENV)/dev  ## take the README's pictures anew, of the demo in Chromium
	$(BIN)/python docs/pictures.py

dist: $(VENV)/dev  ## build the wheel and the source archive, with the list of parts
	$(BIN)/hatchling build --clean
	$(MAKE) --silent sbom

sbom: $(VENV)/dev  ## write the list of parts, as CycloneDX JSON
	mkdir -p dist
	$(BIN)/python package/sbom.py requirements.lock > dist/navigator_sidecar-$(VERSION).cdx.json

deb: dist  ## build the Debian package, for this Debian; SERVICE_USER, SERVICE_GROUP and WRITABLE hold here too
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) package/build-deb $(VERSION) $(BIN)/pip

# The package as it is installed, the tests from here: the first folder of the path wins.
test-wheel: dist  ## all tests against the built wheel, in an environment of its own
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes \
	  --requirement requirements-dev.lock
	build/wheel/bin/python -m pip install --disable-pip-version-check --quiet --no-deps dist/*.whl
	PYTHONPATH=$$(echo $(CURDIR)/build/wheel/lib/python*/site-packages):$(CURDIR) \
	  build/wheel/bin/pytest -q -n auto --dist worksteal -p no:cacheprovider --ignore=tests/platform

# The links: /opt/sidecar/bin is on nobody's PATH.
install-systemd:  ## install the units; DESTDIR, SERVICE_USER, SERVICE_GROUP, BINDIR and WRITABLE say where and how
	install -d $(DESTDIR)$(UNITDIR)/sidecar.service.d $(DESTDIR)$(TMPFILESDIR) $(DESTDIR)$(SYSUSERSDIR)
	install -d $(DESTDIR)$(DOCDIR) $(DESTDIR)$(DROPINDIR) $(DESTDIR)$(PREFIX)/bin
	test $(BINDIR) = $(PREFIX)/bin || ln -sf $(BINDIR)/sidecar $(BINDIR)/sidecar-cgi $(DESTDIR)$(PREFIX)/bin
	$(FILL) systemd/sidecar.service > $(DESTDIR)$(UNITDIR)/sidecar.service
	$(FILL) systemd/sidecar.socket > $(DESTDIR)$(UNITDIR)/sidecar.socket
	$(FILL) systemd/tmpfiles.conf > $(DESTDIR)$(TMPFILESDIR)/sidecar.conf
	$(FILL) systemd/sysusers.conf > $(DESTDIR)$(SYSUSERSDIR)/sidecar.conf
	install -m 0644 systemd/signal-other-user.conf systemd/commands.conf $(DESTDIR)$(DROPINDIR)
	install -m 0644 docs/*.md docs/*.svg $(DESTDIR)$(DOCDIR)
	install -D -m 0644 docs/sidecar.1 $(DESTDIR)$(PREFIX)/share/man/man1/sidecar.1
	install -D -m 0644 completion/sidecar.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/sidecar
	install -D -m 0644 completion/_sidecar $(DESTDIR)$(ZSHDIR)/_sidecar

lock: $(VENV)/dev  ## resolve the dependencies anew
	$(PIP) install pip-tools
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url \
	  --no-emit-trusted-host --no-emit-find-links --no-header --output-file requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url \
	  --no-emit-trusted-host --no-emit-find-links --no-header --extra dev --output-file requirements-dev.lock pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url \
	  --no-emit-trusted-host --no-emit-find-links --no-header --only-build-deps --build-deps-for wheel \
	  --constraint requirements-dev.lock --output-file requirements-build.lock pyproject.toml

clean:  ## remove what was built
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# --no-deps: the lock files name everything, with digests. Of a hundred packages only what is imported gets compiled.
# The forwarder is copied, even where the package itself is not.
$(VENV)/run: requirements.lock pyproject.toml sidecar/sidecar-cgi | $(VENV)/bin/python
	$(PIP) install --require-hashes --requirement requirements.lock
	$(PIP) install --no-deps --editable .
	touch $@

$(VENV)/dev: requirements-dev.lock pyproject.toml sidecar/sidecar-cgi | $(VENV)/bin/python
	$(PIP) install --require-hashes --no-deps --no-compile --requirement requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@
