# The scripts do the work; this is the list of them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build install deb wheel test test-package test-transformers test-clients soak demo up bench pictures man lint format lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## fetch and build the environment; the only step that needs the network
	@packaging/build

install: ## as root: put everything onto this machine, or under DESTDIR; offline once built
	@packaging/install

deb: ## build the Debian package in dist/; TARGET=bookworm-amd64, noble-arm64, noble-amd64: for another machine
	@packaging/deb $(TARGET)

wheel: ## build the wheel in dist/, for pipx: the daemon of a user of their own, without a package
	@packaging/wheel

test: build ## run every layer of tests; CI=true: a layer or test that cannot run is a failure
	@packaging/build package
	@tests/run

test-package: build ## the package alone; SUITE=noble: on Ubuntu 24.04 instead of Debian 12
	@packaging/build package
	@.venv/bin/python3 -m pytest -q tests/package -m package

test-transformers: build ## one more host test, against the real `transformers serve`; fetches some 5 GB
	@packaging/build transformers
	@.venv/bin/python3 -m pytest -q tests/transformers -m transformers

test-clients: build ## the gateway with litellm as its client, two of them behind its proxy; fetches some 650 MB
	@packaging/build clients
	@.venv/bin/python3 -m pytest -q tests/clients -m clients

soak: build ## the gateway with 200 clients for a minute, then with kills, reloads and restarts for five
	@SOAK_CLIENTS=200 SOAK_SECONDS=60 .venv/bin/python3 -m pytest -q -s tests/host/test_gateway_soak.py -k alternate
	@SOAK_CLIENTS=40 SOAK_SECONDS=300 .venv/bin/python3 -m pytest -q -s tests/host/test_gateway_soak.py -k kills

man: build ## write the manual pages into build/man
	@build/runtime/bin/python3 -I packaging/man/generate.py build/man && ls build/man/*

demo: build ## show it at work on a throwaway systemd host, with real engines and tiny models
	@.venv/bin/python3 tests/demo.py

up: build ## the demo's host left running, its API on 127.0.0.1:30100, until Ctrl-C
	@.venv/bin/python3 tests/demo.py --stay

bench: build ## run the benchmarks; ratios from one run
	@tests/bench/run

pictures: build ## renew packaging/pictures: the dashboard and the command line, from a throwaway host
	@packaging/build pictures
	@.venv/bin/python3 tests/pictures.py

lint: build ## what make test checks before it runs anything
	@tests/lint

format: build ## rewrite the Python code in the one format
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

lock: build ## pin what pyproject.toml and the .in files ask for; UPGRADE=1 takes the newest versions
	@packaging/lock $(if $(UPGRADE),--upgrade)

clean: ## remove what was built
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
