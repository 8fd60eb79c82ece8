CARGO ?= cargo
RUSTC ?= rustc

# This machine's target, and where cargo puts what it builds.
TRIPLE = $(shell $(RUSTC) -vV | sed -n 's/^host: //p')
OUT = $(abspath $(or $(CARGO_TARGET_DIR),target))
STATIC = $(OUT)/$(TRIPLE)/release/tbot
STATIC_LIMIT = $(if $(PACKED),4000000,4150000)
, := ,
# Without `lines`: it has no debug information.
STATIC_FEATURES = cli,pprof

# 120 kB less of relocations, where the C library that is linked unpacks them: glibc from 2.36 on.
PACKED = $(if $(shell printf 'glibc 2.36\n%s\n' "$$(getconf GNU_LIBC_VERSION)" | sort -VC && echo yes),\
	-C link-arg=-Wl$(,)-z$(,)pack-relative-relocs)

# Frame pointers are what profiles walk by. Position-independent it stays: with relocation-model=static
# the profiler takes a lock in its signal handler. Paths of this machine stay out of the program (the last
# prefix that fits counts), so that the same sources give the same bytes anywhere, also where those of the
# standard library are installed. What seldom runs lies apart.
STATIC_FLAGS = $(if $(word 2,$(CURDIR)$(OUT)$(or $(CARGO_HOME),$(HOME))),$(error the static program \
	cannot be built where a path has a space in it: $(CURDIR), $(OUT))) \
	-C target-feature=+crt-static -C force-frame-pointers=yes $(PACKED) -C link-arg=-Wl$(,)-T$(,).ci/seldom.ld \
	--remap-path-prefix=$(CURDIR)=/tbot-rs \
	--remap-path-prefix=$(OUT)=/target \
	--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo \
	--remap-path-prefix=$(shell $(RUSTC) --print sysroot)/lib/rustlib/src/rust=/rustc/$(shell $(RUSTC) -vV | sed -n 's/^commit-hash: //p')

# Most of the tests wait most of the time.
export RUST_TEST_THREADS ?= 6

# Each feature alone, and none. Tests that take their time and differ by no feature ask for `pprof`, too, and so run
# with the default ones only.
FEATURES = "" gzip identity multiplexer pprof lines cli heap

.PHONY: help build run static reproducible dist test soak fuzz bench lint api tools clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

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

# By --target, so that build scripts and procedural macros, which run here, are built without the flags.
static: ## the program without any library: target/TRIPLE/release/tbot
	RUSTFLAGS='$(STATIC_FLAGS)' $(CARGO) build --release --locked --target $(TRIPLE) \
		--no-default-features --features $(STATIC_FEATURES) $(STATIC_TOO)
	@.ci/pack $(STATIC)
	@size=$$(stat -c %s $(STATIC)) && echo "$(STATIC): $$size bytes" && \
	if [ $$size -gt $(STATIC_LIMIT) ]; then \
		echo "ERROR: that is over the limit of $(STATIC_LIMIT) bytes" >&2; exit 1; \
	fi

reproducible: static ## build it again elsewhere, and compare
	@.ci/reproducible $(STATIC)

dist: static ## archive it for other machines: target/dist
	@.ci/dist $(STATIC) $(OUT)/dist

test: STATIC_TOO = --bins --example busy
test: tools lint static ## every check and every test, with what they need
	$(CARGO) test --locked --no-fail-fast
	@set -ex; for features in $(FEATURES); do \
		$(CARGO) test --locked --no-fail-fast --quiet --no-default-features --features "$$features"; \
	done

# SOAK_MINUTES=5 for the mixture, SOAK_SEED=… of another run, which it printed. With the features of the static
# program, as `lines` keeps what it has read of debug information.
soak: STATIC_TOO = --bins --example busy
soak: tools static ## what shows only after a while: a mixture of all that is bad, profiles under stress, idle connections
	$(CARGO) test --locked --no-default-features --features $(STATIC_FEATURES) --test bastion soak -- --ignored --nocapture
	TBOT_STRESS_SECONDS=60 $(CARGO) test --locked --test profiles nothing_breaks_under_stress
	$(CARGO) test --locked --test bastion idle -- --ignored

# FUZZ_SECONDS=60 for each kind.
fuzz: ## have hostile inputs of six kinds looked for: six minutes, on two cores three
	@.ci/fuzz

# What is installed is measured. callgrind alone has the program that cargo builds here: rustix asks the kernel where
# the vDSO is, which it does not have there, and the C library knows that. BENCH_QUICK=1 for a minute of it.
bench: static ## tbot against Go, HAProxy and OpenSSH, side by side: seven minutes, and a table
	@.ci/tools bench
	BENCH_PROGRAM=$(STATIC) $(CARGO) bench --locked --features rustix/use-libc-auxv --bench peers

lint: ## format, clippy, documentation and dependencies, warnings as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps
	@set -ex; for features in $(FEATURES); do \
		$(CARGO) clippy --locked --all-targets --no-default-features --features "$$features" -- -D warnings; \
		RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --no-default-features --features "$$features"; \
	done
	@.ci/deny

api: ## record the public API of the library, after a change that is meant: tests/api.txt
	TBOT_RECORD=1 $(CARGO) test --locked --quiet --test tbot api::it_is_as_recorded
	@git --no-pager diff --stat tests/api.txt 2>/dev/null || true

tools: ## install what the tests need beside a Rust toolchain
	@.ci/tools

clean: ## remove what was built and what `make run` wrote
	$(CARGO) clean
	rm -rf .tbot
