# pgwake: the commands one needs. Each sets up what it needs by itself.

.DEFAULT_GOAL := help
.PHONY: help demo demo-archive test test-ceph lint check matrix sim torture fuzz bench

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## from nothing to a streaming standby, on real servers
	@scripts/demo

demo-archive: ## the zero-loss drill: kill primary and receiver, restore from the store (RUNS, 3 unless set)
	@scripts/demo-archive $(or $(RUNS),3)

test: ## all tests, against PostgreSQL 15 (PGWAKE_TEST_MAJORS for others, ARGS for the runner)
	@scripts/setup-tests $(subst $(,), ,$(or $(PGWAKE_TEST_MAJORS),15))
	@scripts/run-tests $(ARGS)

test-ceph: ## the archive against a Ceph cluster of its own: a monitor, three OSDs, RADOS Gateway (as root; 0.6 GB of packages)
	@scripts/setup-tests 15
	@cargo test --no-run --test it
	@PGWAKE_REQUIRE=15,ceph scripts/ceph cargo test --test it -- --ignored --nocapture receiving::stores::ceph

lint: ## formatting and clippy
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

check: lint test ## lint and test: what a change has to pass

matrix: ## the integration tests against PostgreSQL 13 to 19 (PGWAKE_TEST_MAJORS for fewer)
	@scripts/matrix $(ARGS)

sim: ## the receiver on simulated disks and primaries (PGWAKE_SIM_SEEDS, 10000 unless set)
	PGWAKE_SIM_SEEDS=$(or $(PGWAKE_SIM_SEEDS),10000) cargo test --release --test sim -- --include-ignored --nocapture

torture: sim ## the same, and the long tests on real servers: a file over 8 GiB, a hundred cuts, a hundred kills …
	@scripts/setup-tests 15
	@if cargo nextest --version >/dev/null 2>&1; \
	then cargo nextest run --profile torture --run-ignored only --test it; \
	else cargo test --test it -- --ignored --test-threads=1; fi

fuzz: ## every fuzz target for FUZZ_SECONDS (60)
	@scripts/fuzz $(or $(FUZZ_SECONDS),60)

bench: ## the benchmarks, of pgwake as it is released (ARGS for cargo bench)
	@scripts/setup-tests
	cargo build --release
	cp target/release/pgwake target/pgwake-released
	PGWAKE_PROGRAM=$(CURDIR)/target/pgwake-released cargo bench $(ARGS)

, := ,
