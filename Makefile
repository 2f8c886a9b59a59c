# The verbs of this project; `make help` lists them. What they do stands in scripts/ and in the crates.

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## Install what building and testing needs (Debian 12; 1-3 min once)
	@scripts/setup

check: setup ## The rules of the house: format, clippy, crates alone, layers, deny, docs … (1 min; cold 6)
	@scripts/check

test: ## All tests (26 min; cold 47)
	@scripts/summary begin
	@code=0; $(MAKE) --no-print-directory -j 2 check prepare && scripts/tests units kernel e2e || code=$$?; scripts/summary show $$code; exit $$code

test-unit: setup ## Units, scenarios, properties, and the kernel in network namespaces; as root (6 min; cold 8)
	@scripts/tests units

test-kernel: setup ## The kernel's own WireGuard, in a Linux that runs as a program (6 min; cold 12)
	@scripts/tests kernel

e2e: prepare ## A real cluster on this machine; as root (15 min; cold 30)
	@scripts/tests e2e

prepare: setup ## What clusters on this machine are made of: Kubernetes, images, the chart (1 min; cold 14)
	@scripts/lab prepare
	@scripts/check charts

generate: ## Write what is generated: the CRDs of the chart
	@scripts/generate

bench: setup ## How long deciding and planning for 5,000 nodes takes, beside the goals (1 min; cold 6)
	@scripts/bench

bench-tunnel: setup ## The tunnel beside others of its kind; as root, ARGS="--rounds 1 --short" for less (70 min; cold 80)
	cargo bench -p spanwire-tunnel --bench peers --locked -- $(ARGS)

soak-tunnel: setup ## The tunnel's streams through ten rekeys while ports, MTU and addresses change; as root (21 min)
	cargo test -p spanwire-tunnel --test netns --locked -- --ignored --nocapture soak

properties: setup ## Properties with 2,000 inputs each that no run has drawn before; CASES=20000 for more (10 min; cold 20)
	@scripts/properties $(CASES)

demo: setup ## A cluster of three locations with Spanwire, to look at and play with (1 min; cold 12)
	@scripts/demo

screenshots: setup ## The pictures of `kubectl spanwire map` in docs/images, of the demo's cluster; as root (1 min; cold 15)
	@scripts/screenshots

bench-mesh: setup ## How fast the mesh follows changes, and what it costs at rest; as root (10 min; cold 35)
	@scripts/lab prepare
	cargo bench --locked -p spanwire-e2e --bench mesh -- $(ARGS)

bench-cni: setup ## The mesh on each CNI of the lab: throughput, ping, CPU, memory, MTU; as root, ARGS="--only vxlan,cloud --without-mtus" for less (25 min; cold 50)
	@scripts/lab prepare
	cargo bench --locked -p spanwire-e2e --bench cni -- $(ARGS)

chaos: setup ## What packets notice when leaders fail, in every way; as root, ARGS="--rounds 3 --only power" for less (90 min; cold 115)
	@scripts/lab prepare
	cargo bench --locked -p spanwire-e2e --bench chaos -- $(ARGS)

conformance: setup ## Kubernetes' own network tests across three locations; as root, CNI=vxlan, host-gw, calico-vxlan or cloud; ARGS="--set conformance" for a third of them (5 min)
	@scripts/lab prepare
	@e2e/conformance/build >/dev/null
	cargo bench --locked -p spanwire-e2e --bench conformance -- --cni $(or $(CNI),vxlan) $(ARGS)

bench-scale: setup ## What a mesh of 5,000 nodes costs; as root, ARGS="--nodes 500 --locations 10 --rest 20" for less (10 min; cold 35)
	@e2e/tools/build >/dev/null
	cargo build --release --locked -p spanwire-operator -p spanwire-agent -p spanwire-tunnel
	cargo bench --locked -p spanwire-e2e --bench scale -- $(ARGS)

install-plugin: ## Build kubectl-spanwire and put it where kubectl finds it; BIN=/usr/local/bin (1 min; cold 5)
	cargo build --release --locked -p spanwire-cli
	cp target/release/kubectl-spanwire $(or $(BIN),/usr/local/bin)/

image: setup ## Build the image spanwire:dev and print where its archive is (seconds; cold 6 min)
	@images/build

.PHONY: help setup check test test-unit test-kernel e2e prepare generate demo screenshots bench bench-tunnel soak-tunnel properties bench-mesh bench-cni chaos conformance bench-scale install-plugin image
