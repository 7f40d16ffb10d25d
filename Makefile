# The front door. The library is built by cargo, the C programs by meson, which runs cargo.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

PREFIX ?= /usr/local
DESTDIR ?=
BUILD_DIR ?= build
INSTALL_BUILD_DIR ?= build-install
CC ?= cc
CFLAGS ?= -O2
CARGO_TARGET_DIR ?= target
QEMU_VERSION ?= 10.0
SECONDS ?= 300
export BUILD_DIR

demo_bench = $(BUILD_DIR)/demo/laio-bench
# laio-bench without liblaio: what the requests cost by themselves.
floor = $(CC) -std=gnu11 $(CFLAGS) -D_GNU_SOURCE -Iinclude $(bench_sources) bench/floor.c -o $(demo_bench)-floor
bench_sources = $(addprefix bench/,laio-bench.c options.c report.c workload.c histogram.c pattern.c)

.PHONY: help all demo demo-build check quick lint check-qemu check-vm bench bench-scale bench-qemu check-docs check-fio soak soak-vm header pictures install uninstall dist dist-check deb rpm clean

help:
	@echo 'make demo     a million completions that would each nest, on a sparse image: see it work'
	@echo 'make quick    the tests that tell soonest, two minutes: cargo test without the mutations, with 20,000'
	@echo '              scenarios of the simulator; meson test --suite c (scaled down), examples, header, bench, tools'
	@echo 'make lint     what CI says of the sources without running them'
	@echo 'make check    every test, many minutes: all of cargo test, and meson test with its suites'
	@echo '              c, faults, valgrind, examples, programs, header, preload, bench, tools, docs'
	@echo 'make soak     looks for bugs for longer: SECONDS=$(SECONDS) for each of several ways'
	@echo 'make soak-vm  guests with random block jobs and faults, SECONDS=$(SECONDS) with each engine; SEED=N for those of before'
	@echo 'make check-qemu  builds QEMU 7.2, 10.0 and 10.2 on the library and tests their tools'
	@echo 'make check-docs  runs the commands of README.md and docs/ in a clean clone, half an hour'
	@echo 'make check-fio  the engine for fio against libaio in some hundred verify jobs, half an hour'
	@echo 'make check-vm  guests on the library, and the library in guests: a short set; FULL=1 for every case'
	@echo 'make bench-qemu  QEMU on the library against QEMU as it is: time and instructions'
	@echo 'make all      build the library and the C programs into $(BUILD_DIR)/'
	@echo 'make bench    liblaio against bare loops and fio on the same files; BENCH_ARGS="--reps 3 --into NAME"'
	@echo 'make bench-scale  what a request costs with more in flight, more states, more threads around it'
	@echo 'make header   regenerate include/laio.h from src/'
	@echo 'make install  library, header, laio.pc, laio-bench, laio-run, their man pages; PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'
	@echo 'make uninstall  takes away what was installed last'
	@echo 'make dist     the source archive of HEAD with its crates, which builds offline: build/dist/'
	@echo 'make dist-check  that, unpacked and built without a network'
	@echo 'make deb      packages of HEAD for Debian, looked at by lintian, built twice: build/deb/'
	@echo 'make rpm      packages of rpm/laio.spec from that archive, with the files that meson installs: build/rpm/'
	@echo 'make clean    remove what these have built'

all: $(BUILD_DIR)/build.ninja
	meson compile -C $(BUILD_DIR)

$(BUILD_DIR)/build.ninja:
	tools/install-deps.sh check
	meson setup $(BUILD_DIR)

# Without meson, so that a machine with Rust and a C compiler alone shows it.
demo: demo-build
	tools/demo.sh "$(abspath $(demo_bench))"
	@echo
	@preload/demo.sh

demo-build:
	tools/install-deps.sh build
	build-aux/cargo-build.sh
	@mkdir -p $(dir $(demo_bench))
	$(CC) -std=gnu11 $(CFLAGS) -D_GNU_SOURCE -DLAIO_BENCH_VERSION='"$(shell build-aux/library.sh version)"' -Iinclude \
		-o $(demo_bench) $(bench_sources) $(CARGO_TARGET_DIR)/release/liblaio.a \
		$(shell build-aux/library.sh static-libs)

check:
	tools/check.sh

lint:
	tools/install-deps.sh ci
	tools/lint.sh

quick:
	tools/check.sh --quick

bench: demo-build
	tools/install-deps.sh bench
	$(floor)-aio bench/floor-aio.c
	$(floor)-aio-eventfd -DFLOOR_EVENTFD bench/floor-aio.c
	$(floor)-uring bench/floor-uring.c -luring
	bench/table.py $(BENCH_ARGS) $(demo_bench)

bench-scale: demo-build
	tools/install-deps.sh bench
	$(CC) -std=gnu11 $(CFLAGS) -D_GNU_SOURCE -Iinclude -o $(BUILD_DIR)/demo/laio-scale bench/scale.c \
		$(CARGO_TARGET_DIR)/release/liblaio.a $(shell build-aux/library.sh static-libs) -pthread
	bench/scale.py $(BENCH_ARGS) $(BUILD_DIR)/demo/laio-scale

pictures:
	tools/install-deps.sh pictures
	dot -Tsvg docs/pictures/recursion.dot -o docs/pictures/recursion.svg

header:
	cargo run --quiet -p xtask -- header

install:
	tools/install-deps.sh install
	@[ "$(abspath $(PREFIX))" != "$(CURDIR)" ] || \
		{ echo "make install: PREFIX is this source tree; give another" >&2; exit 1; }
	meson setup $$([ -f $(INSTALL_BUILD_DIR)/build.ninja ] && echo --reconfigure) \
		--prefix "$(abspath $(PREFIX))" --buildtype release -Dwerror=false -Dtests=false \
		$(INSTALL_BUILD_DIR)
	DESTDIR="$(DESTDIR)" meson install -C $(INSTALL_BUILD_DIR)

uninstall:
	@[ -f $(INSTALL_BUILD_DIR)/build.ninja ] || \
		{ echo "make uninstall: nothing was installed from this source tree" >&2; exit 1; }
	ninja -C $(INSTALL_BUILD_DIR) uninstall

dist:
	tools/dist.sh --into $(BUILD_DIR)/dist

dist-check:
	tools/install-deps.sh build
	tools/dist.sh --check --into $(BUILD_DIR)/dist

deb:
	tools/install-deps.sh install deb
	tools/deb.sh --twice --into $(BUILD_DIR)/deb

rpm:
	tools/install-deps.sh install rpm
	tools/rpm.sh --into $(BUILD_DIR)/rpm

clean:
	cargo clean
	rm -rf $(BUILD_DIR) $(INSTALL_BUILD_DIR) build-asan

check-qemu:
	tools/check-qemu.sh

check-docs:
	tools/install-deps.sh check bench qemu
	tools/check-docs.py

check-fio: $(BUILD_DIR)/build.ninja
	meson compile -C $(BUILD_DIR) liblaio
	LAIO_TEST_DIR=$(BUILD_DIR) programs/fio/test-engine.sh --all $(BUILD_DIR)

check-vm:
	tools/check-vm.sh $(if $(FULL),--full)

bench-qemu:
	tools/install-deps.sh install qemu
	qemu/bench.sh $(QEMU_VERSION) $(BUILD_DIR)/qemu

soak:
	tools/soak.sh $(SECONDS)

soak-vm:
	tools/check-vm.sh --both --soak $(SECONDS) $(if $(SEED),--seed $(SEED))
