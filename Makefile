# quire: plain GNU make.   make | make serve | make check | make help
VERSION := 0.1.0
SOMAJOR := 0
BUILD   ?= build
PREFIX  ?= /usr/local
MODEL   ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
LIB_PKGS := jansson libpcre2-8 libutf8proc libxxhash
PKGS    := $(LIB_PKGS) libmicrohttpd libcurl
CFLAGS  ?= -O2 -g
OBJCOPY ?= objcopy
WARN    := -Wall -Wextra -Werror
Q       := $(if $(V),,@)# make V=1 shows the commands

# Asked of pkg-config and the compiler when first used, not when this file is read: `make serve` must get as far as
# installing them on a machine that has neither.
PKG_CFLAGS  = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
# libcurl is loaded by the one command that needs it (src/weights/http.c).
LIBS        = $(eval LIBS := $(shell pkg-config --libs $(filter-out libcurl,$(PKGS))) -lm)$(LIBS)
CMOCKA_LIBS = $(eval CMOCKA_LIBS := $(shell pkg-config --libs cmocka))$(CMOCKA_LIBS)
ARCH        = $(eval ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1))$(ARCH)

ALL_CFLAGS = -std=c11 $(WARN) -ffp-contract=off -fno-math-errno -fvisibility=hidden -fPIC -pthread -Iinclude -Isrc \
             -DQUIRE_VERSION='"$(VERSION)"' $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = -pthread $(LDFLAGS)

# The library, the program around it, and everything that proves them is found by where it lies.
LIB_DIRS := base tensor weights text kv sched backend backend/cpu backend/cuda model engine
APP_DIRS := server cli report sim paper bench
LIB_SRC  := $(foreach d,$(LIB_DIRS),$(wildcard src/$(d)/*.c))
APP_SRC  := $(filter-out src/cli/main.c,$(foreach d,$(APP_DIRS),$(wildcard src/$(d)/*.c)))
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o)
APP_OBJ  := $(APP_SRC:%.c=$(BUILD)/%.o)
MAIN_OBJ := $(BUILD)/src/cli/main.o
TESTS    := $(patsubst tests/%,$(BUILD)/tests/%,$(basename $(wildcard tests/test_*.c tests/test_*.cu)))
FUZZERS  := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
EXAMPLES := $(patsubst %.c,$(BUILD)/%,$(wildcard examples/*.c))

# Every kernel file is compiled for its own instruction set and chosen at run time.
x86_avx2     := -mavx2 -mfma -mf16c
x86_avx512bw := $(x86_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
x86_avx512   := $(x86_avx512bw) -mavx512vnni
arm_neon     := -march=armv8.2-a+dotprod+fp16
$(BUILD)/src/backend/cpu/%_avx2.o:   ISA_CFLAGS = $(if $(filter x86_64,$(ARCH)),$(x86_avx2))
$(BUILD)/src/backend/cpu/%_avx512bw.o: ISA_CFLAGS = $(if $(filter x86_64,$(ARCH)),$(x86_avx512bw))
$(BUILD)/src/backend/cpu/%_avx512.o: ISA_CFLAGS = $(if $(filter x86_64,$(ARCH)),$(x86_avx512))
$(BUILD)/src/backend/cpu/%_neon.o:   ISA_CFLAGS = $(if $(filter aarch64,$(ARCH)),$(arm_neon))

# Tensor parallelism, where there is an MPI: a library that the program loads when it is asked for.
MPI_LIB = $(eval MPI_LIB := $(if $(shell command -v mpicc),$(BUILD)/libquire-mpi.so))$(MPI_LIB)

all: program $(if $(filter 1,$(CUDA)),cuda,$(if $(filter 0,$(CUDA)),,cuda-if-found)) ## build all (the default); CUDA=1: fail without nvcc, CUDA=0: without CUDA
program: $(BUILD)/quire $(BUILD)/quire.1 $(BUILD)/libquire.a $(BUILD)/libquire.so mpi ## build quire, libquire.a and libquire.so, for the CPU

# Changes when the compiler or its flags do, and everything is rebuilt; says what is missing before the compiler does.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@test -z "$(PKGS)" || pkg-config --exists --print-errors $(PKGS) || \
	    { echo "quire: libraries are missing: 'make deps' installs them (Debian)" >&2; exit 1; }
	@echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS)' > $@

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '  CC   $<'
	$(Q)$(CC) $(ALL_CFLAGS) $(ISA_CFLAGS) -MMD -MP -c $< -o $@

# The vector kernels are small pieces unrolled a thousandfold: minutes of compile time under a sanitizer, little to
# find. Sanitizer builds check them with their own compiler and take the plain objects; the scalar reference, made of
# the same pieces, is instrumented.
VECTOR_OBJ := $(filter %_avx2.o %_avx512bw.o %_avx512.o %_neon.o,$(LIB_OBJ))
ifdef PLAIN
$(BUILD)/src/backend/cpu/kernels_ref.o: ISA_CFLAGS = -fno-sanitize=undefined,fuzzer-no-link
$(VECTOR_OBJ): $(BUILD)/%.o: %.c $(PLAIN)/%.o $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '  CC   $< (check only)'
	$(Q)$(CC) $(ALL_CFLAGS) $(ISA_CFLAGS) -fsyntax-only $<
	@cp $(PLAIN)/$*.o $@
endif

$(BUILD)/src/sim/embedded.o: data/traces/sharegpt_lengths.csv data/beam_parents.csv # are in it

$(BUILD)/libquire.a: $(LIB_OBJ)
	@echo '  AR   $@'
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

# What tests and fuzz targets take of the program: an archive, so that each links only what it uses.
$(BUILD)/libapp.a: $(APP_OBJ)
	@mkdir -p $(@D)
	@echo '  AR   $@'
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(BUILD)/libquire.so: $(LIB_OBJ)
	@echo '  LD   $@'
	$(Q)$(CC) -shared -Wl,-soname,libquire.so.$(SOMAJOR) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
	@ln -sf libquire.so $@.$(SOMAJOR)

$(BUILD)/quire: $(MAIN_OBJ) $(APP_OBJ) $(BUILD)/libquire.a
	@echo '  LD   $@'
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
ifndef PLAIN # debug information goes beside it, where gdb finds it; sanitizer builds keep theirs
	$(Q)$(OBJCOPY) --only-keep-debug $@ $@.debug
	$(Q)$(OBJCOPY) --strip-debug --add-gnu-debuglink=$@.debug $@
endif

$(BUILD)/libquire-mpi.so: src/mpi/mpi.c src/base/comm.h $(BUILD)/flags
	@echo '  LD   $@'
	$(Q)OMPI_CC="$(CC)" MPICH_CC="$(CC)" mpicc $(ALL_CFLAGS) -shared $(ALL_LDFLAGS) -o $@ $<
mpi: $(MPI_LIB)

$(BUILD)/quire.1: $(BUILD)/quire
	$(Q)$< help --man > $@.part && mv $@.part $@

# ---- tests, fuzz targets, examples.   One test alone: make build/tests/test_kv && build/tests/test_kv

LINK_TEST = $(CC) $(ALL_CFLAGS) -Itests -MMD -MP -MF $@.d -MT $@ $(ALL_LDFLAGS) -o $@ $<

$(BUILD)/tests/%: tests/%.c $(BUILD)/libapp.a $(BUILD)/libquire.a
	@mkdir -p $(@D)
	@echo '  LD   $@'
	$(Q)$(LINK_TEST) $(BUILD)/libapp.a $(BUILD)/libquire.a $(LIBS) $(CMOCKA_LIBS)

$(BUILD)/fuzz/%: tests/fuzz/%.c $(BUILD)/libapp.a $(BUILD)/libquire.a
	@mkdir -p $(@D)
	@echo '  LD   $@'
	$(Q)$(LINK_TEST) -fsanitize=fuzzer $(BUILD)/libapp.a $(BUILD)/libquire.a $(LIBS)

$(BUILD)/examples/%: examples/%.c $(BUILD)/libquire.so
	@mkdir -p $(@D)
	@echo '  LD   $@'
	$(Q)$(LINK_TEST) -L$(BUILD) -lquire -Wl,-rpath,'$$ORIGIN/..'

# ---- CUDA: libquire-cuda.so, which the program loads where there is one. Plain make builds it where there is an nvcc.

CUDA_ARCHS ?= 80 89 90a 100
CUDA_PTX   ?= 100# for what comes later
NVCC       ?= $(eval NVCC := $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc)))$(NVCC)
# The architectures that it is too old for.
NVCC_LACKS  = $(filter-out $(shell $(NVCC) --list-gpu-code),$(patsubst %a,%,$(addprefix sm_,$(CUDA_ARCHS))))
# nvcc goes through ccache where the C compiler does.
CCACHE      = $(eval CCACHE := $(if $(findstring ccache,$(CC) $(realpath $(shell command -v $(firstword $(CC))))),ccache))$(CCACHE)
CUDA_OBJ   := $(patsubst %.cu,$(BUILD)/%.cu.o,$(wildcard src/backend/cuda/*.cu))
NVCC_FLAGS = -std=c++17 -O3 -lineinfo -fmad=false -Isrc -Iinclude -Werror all-warnings \
             -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden \
             $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
             $(foreach a,$(CUDA_PTX),-gencode arch=compute_$(a),code=compute_$(a))

cuda: $(BUILD)/libquire-cuda.so ## build libquire-cuda.so, the CUDA backend (needs nvcc)

cuda-if-found:
	$(if $(NVCC),$(if $(NVCC_LACKS),@echo '  no CUDA: $(NVCC) is too old for $(NVCC_LACKS)',@$(MAKE) --no-print-directory cuda))

have-nvcc: # for tools/run-tests.py
	@test -n '$(NVCC)' -a -z '$(if $(NVCC),$(NVCC_LACKS))'

$(BUILD)/nvcc-flags: FORCE
	@mkdir -p $(@D)
	@test -n '$(NVCC)' || { echo "quire: nvcc is missing: install the CUDA toolkit or name it with NVCC=" >&2; exit 1; }
	@echo '$(NVCC) $(NVCC_FLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVCC_FLAGS)' > $@

$(BUILD)/%.cu.o: %.cu $(BUILD)/nvcc-flags
	@mkdir -p $(@D)
	@echo '  NVCC $<'
	$(Q)$(CCACHE) $(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $@.d -c $< -o $@

$(BUILD)/libquire-cuda.so: $(CUDA_OBJ)
	@echo '  LD   $@'
	$(Q)$(NVCC) -shared -cudart static -o $@ $^

# Tests of the kernels themselves for a GPU; below they are built over the shim.
GPU_TESTS := $(patsubst tests/%.cu,$(BUILD)/gpu/%,$(wildcard tests/test_*.cu))
gpu-tests: cuda $(GPU_TESTS)
$(BUILD)/gpu/%: $(BUILD)/tests/%.cu.o $(CUDA_OBJ) $(BUILD)/libquire.a
	@mkdir -p $(@D)
	@echo '  LD   $@'
	$(Q)$(NVCC) -cudart static -o $@ $^ $(CMOCKA_LIBS) -lm

# The same sources as C++ for this processor, over the emulation in tests/cuda_shim.
SHIM_CXXFLAGS = -std=c++17 $(WARN) -Wno-unknown-pragmas -ffp-contract=off -march=native -fvisibility=hidden -fPIC -pthread -Iinclude -Isrc \
                -Itests/cuda_shim $(CFLAGS) $(SHIM_SAN)

$(BUILD)/shim/%.o: % $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '  CXX  $<'
	$(Q)$(CXX) $(SHIM_CXXFLAGS) -MMD -MP -x c++ -c $< -o $@

SHIM_OBJ := $(patsubst %,$(BUILD)/shim/%.o,$(wildcard tests/cuda_shim/*.cpp src/backend/cuda/*.cu))
$(BUILD)/libshim.a: $(SHIM_OBJ)
	@echo '  AR   $@'
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(BUILD)/tests/%: $(BUILD)/shim/tests/%.cu.o $(BUILD)/libshim.a $(BUILD)/libquire.a
	@mkdir -p $(@D)
	@echo '  LD   $@'
	$(Q)$(CXX) $(ALL_LDFLAGS) -o $@ $^ $(CMOCKA_LIBS) -lm

# The whole CUDA backend on the CPU, for tests.
$(BUILD)/libquire-cuda-shim.so: $(SHIM_OBJ) $(filter $(BUILD)/src/tensor/%,$(LIB_OBJ))
	@echo '  LD   $@'
	$(Q)$(CXX) -shared $(ALL_LDFLAGS) -o $@ $^ -lm

# Its libnccl.so.2, in a folder of its own where nothing finds it that is not told.
$(BUILD)/shim/libnccl.so.2: tests/cuda_shim/nccl.c src/backend/cuda/nccl_api.h $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '  LD   $@'
	$(Q)$(CC) $(ALL_CFLAGS) -shared -Wl,-soname,libnccl.so.2 $(ALL_LDFLAGS) -o $@ $< -lrt

SHIM_LIB  := $(BUILD)/libquire-cuda-shim.so
SHIM_NCCL := $(BUILD)/shim/libnccl.so.2
$(filter %/test_backend %/test_backend_attention %/test_engine_golden %/test_engine_cuda %/test_engine_ranks_cuda %/test_engine_sampler_cuda %/test_cuda_gemm_lt %/test_determinism,$(TESTS)): | $(SHIM_LIB)
$(filter %/test_engine_ranks_cuda %/test_determinism,$(TESTS)): | $(SHIM_NCCL)

tests: program $(TESTS) $(EXAMPLES) ## build the test programs
fuzzers: $(FUZZERS)

# One clang build with ASan, UBSan and fuzzing hooks serves unit tests, the program and the fuzz targets alike.
# QUIRE_CHECKS: the engine recounts the scheduler's books whenever it falls idle.
CLANG ?= clang-14
SAN = PLAIN=$(BUILD) CC=$(CLANG) CXX=$(CLANG:clang%=clang++%) CFLAGS="-O1 -g -DQUIRE_CHECKS -fno-omit-frame-pointer -fno-sanitize-recover=all
# SHIM_SAN: checks that the runtime of a C program lacks, and one that maps memory for each of the shim's fibers.
asan: $(VECTOR_OBJ) ## build-asan/: the program, tests and fuzz targets with AddressSanitizer and UBSan (clang)
	@$(MAKE) --no-print-directory -k BUILD=build-asan $(SAN) -fsanitize=address,undefined,fuzzer-no-link" \
	    SHIM_SAN="-fno-sanitize=function,vptr -fsanitize-address-use-after-return=never" \
	    LDFLAGS=-fsanitize=address,undefined build-asan/quire $(TESTS:$(BUILD)/%=build-asan/%) $(FUZZERS:$(BUILD)/%=build-asan/%)

TSAN_TESTS := $(filter-out %_golden %_cuda,$(filter %/test_base $(BUILD)/tests/test_engine% $(BUILD)/tests/test_server%,$(TESTS)))
tsan: $(VECTOR_OBJ) ## build-tsan/: the tests that have threads, with ThreadSanitizer (clang)
	@$(MAKE) --no-print-directory -k BUILD=build-tsan $(SAN) -fsanitize=thread" LDFLAGS=-fsanitize=thread \
	    $(TSAN_TESTS:$(BUILD)/%=build-tsan/%)

# ---- from nothing to a running server, or to a checked one

serve: ## install what is missing, build, fetch the model, serve it on http://127.0.0.1:8000/v1 (ARGS="--port 9000")
	@tools/install-deps.sh build
	@$(MAKE) --no-print-directory -j"$$(nproc)" $(BUILD)/quire
	@tools/fetch-model.sh
	$(BUILD)/quire serve $(MODEL) $(ARGS)

deps: ## install the Debian packages needed to build
	@tools/install-deps.sh build

model: ## fetch SmolLM2-135M-Instruct into models/ (98 MB, checksummed)
	@tools/fetch-model.sh

check: ## everything that needs no GPU: unit, sanitizers, fuzzing, end to end, format, includes, install
	@tools/install-deps.sh build check
	@tools/fetch-model.sh
	@tools/venv.sh
	@python3 tools/run-tests.py all

check-fast: ## what a developer runs before each commit: unit tests, format, includes
	@python3 tools/run-tests.py fast

check-docs: $(BUILD)/quire ## fail when a page names an option or file that is not there
	@python3 tools/check-docs.py

check-cuda: ## on a machine with a GPU: op tests, goldens, determinism, compute-sanitizer; fails where there is none
	@python3 tools/run-tests.py cuda

check-arm: ## cross-compile base, tensor and backend for AArch64, run their tests under qemu
	@tools/install-deps.sh build arm
	@python3 tools/run-tests.py arm

fuzz: asan ## every fuzz target for SECONDS seconds each (default 60)
	@python3 tools/run-tests.py --seconds $(or $(SECONDS),60) fuzz

C_FILES = $(shell git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' '*.cuh' '*.cpp')
format: ## clang-format all C files in place
	clang-format-14 -i $(C_FILES)

check-format: ## fail when clang-format would change a file
	@clang-format-14 --dry-run -Werror $(C_FILES)

check-includes: ## fail when a folder includes what docs/STRUCTURE.md does not allow it
	@python3 tools/check-includes.py

# AArch64: the libraries are not at hand for the cross compiler, so only what needs none, with a small cmocka.
ARM_DIRS  := base tensor backend backend/cpu backend/cuda
ARM_OBJ   := $(patsubst %.c,build-arm/%.o,$(foreach d,$(ARM_DIRS),$(wildcard src/$(d)/*.c)))
ARM_TESTS := $(patsubst tests/%.c,build-arm/tests/%,$(wildcard $(addprefix tests/test_,base*.c tensor*.c backend*.c)))
arm: ## build-arm/: what check-arm runs
	@$(MAKE) --no-print-directory BUILD=build-arm CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar \
	    PKGS= PKG_CFLAGS= LIBS=-lm CMOCKA_LIBS= APP_OBJ= LIB_OBJ="$(ARM_OBJ)" SHIM_LIB= CFLAGS="-O2 -g -Itests/shim" LDFLAGS=-static \
	    $(ARM_TESTS)

# ---- install

DEST := $(DESTDIR)$(PREFIX)
install: all ## install under PREFIX (default /usr/local), staged below DESTDIR
	install -d $(DEST)/bin $(DEST)/include $(DEST)/lib/pkgconfig $(DEST)/share/man/man1 $(DEST)/share/doc/quire
	install -s $(BUILD)/quire $(DEST)/bin/
	install -m 644 include/quire.h $(DEST)/include/
	install -m 644 $(BUILD)/libquire.a $(DEST)/lib/
	install -s $(BUILD)/libquire.so $(DEST)/lib/libquire.so.$(VERSION)
	ln -sf libquire.so.$(VERSION) $(DEST)/lib/libquire.so.$(SOMAJOR)
	ln -sf libquire.so.$(SOMAJOR) $(DEST)/lib/libquire.so
	$(if $(MPI_LIB),install -s -m 644 $(MPI_LIB) $(DEST)/lib/)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@PKGS@|$(LIB_PKGS)|' tools/quire.pc.in \
	    > $(DEST)/lib/pkgconfig/quire.pc
	test ! -f $(BUILD)/libquire-cuda.so || install -s $(BUILD)/libquire-cuda.so $(DEST)/lib/
	install -m 644 $(BUILD)/quire.1 $(DEST)/share/man/man1/
	install -m 644 LICENSE README.md $(DEST)/share/doc/quire/

uninstall: ## remove what install put there
	rm -f $(DEST)/bin/quire $(DEST)/include/quire.h $(DEST)/lib/libquire.* $(DEST)/lib/libquire-mpi.so $(DEST)/lib/libquire-cuda.so $(DEST)/lib/pkgconfig/quire.pc \
	    $(DEST)/share/man/man1/quire.1
	rm -rf $(DEST)/share/doc/quire

clean: ## remove all builds; models and the Python environment stay
	rm -rf build build-asan build-tsan build-arm

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

.PHONY: all program mpi cuda cuda-if-found have-nvcc gpu-tests tests fuzzers asan tsan arm serve deps model check check-fast check-arm check-cuda fuzz format check-format \
        check-includes check-docs install uninstall clean help FORCE
.SECONDARY:
-include $(CUDA_OBJ:=.d) $(GPU_TESTS:$(BUILD)/gpu/%=$(BUILD)/tests/%.cu.o.d) $(wildcard $(BUILD)/shim/*/*.d $(BUILD)/shim/*/*/*.d $(BUILD)/shim/*/*/*/*.d)
-include $(LIB_OBJ:.o=.d) $(APP_OBJ:.o=.d) $(MAIN_OBJ:.o=.d) $(TESTS:=.d) $(FUZZERS:=.d) $(EXAMPLES:=.d)
