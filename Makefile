CARGO ?= cargo

.PHONY: help build run test lint tools clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

build: ## the program, optimised: target/release/tbot
	$(CARGO) build --release --locked

run: build ## start it with an example configuration
	@echo
	@echo 'In another terminal:'
	@echo '  curl http://127.0.0.1:3001/readyz'
	@echo '  curl http://127.0.0.1:3001/metrics'
	@echo '  ssh -F $(CURDIR)/.tbot/ssh_config USER@HOST'
	@echo
	$(CARGO) run --release --locked --quiet -- start -c tests/example.yaml

test: tools lint ## every check and every test, with what they need
	$(CARGO) test --locked --no-fail-fast

lint: ## format, clippy and documentation, warnings as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --lib --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

tools: ## install what the tests need beside a Rust toolchain
	@.ci/tools

clean: ## remove what was built and what `make run` wrote
	$(CARGO) clean
	rm -rf .tbot
