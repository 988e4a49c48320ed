# quire: plain GNU make.   make | make check | make serve | make help
VERSION := 0.1.0
BUILD   ?= build
CC      ?= cc
PKGS    := libmicrohttpd jansson libpcre2-8 libutf8proc libcurl libxxhash
CFLAGS  ?= -O2 -g
WARN    := -Wall -Wextra -Werror
ALL_CFLAGS := -std=c11 $(WARN) -ffp-contract=off -fno-math-errno -fvisibility=hidden -fPIC -pthread -MMD -MP -Iinclude -Isrc \
              -DQUIRE_VERSION='"$(VERSION)"' $(shell pkg-config --cflags $(PKGS)) $(CFLAGS)
ALL_LDFLAGS := -pthread $(LDFLAGS)
LIBS    := $(shell pkg-config --libs $(PKGS)) -lm

LIB_DIRS := base tensor weights text kv sched backend backend/cpu model engine
LIB_SRC  := $(foreach d,$(LIB_DIRS),$(wildcard src/$(d)/*.c))
BIN_SRC  := $(foreach d,server cli sim,$(wildcard src/$(d)/*.c))
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o)
BIN_OBJ  := $(BIN_SRC:%.c=$(BUILD)/%.o)
TEST_SRC := $(wildcard tests/test_*.c)
TESTS    := $(TEST_SRC:tests/%.c=$(BUILD)/tests/%)

ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1)
$(BUILD)/src/backend/cpu/%_avx2.o: ISA_CFLAGS := -mavx2 -mfma -mf16c
$(BUILD)/src/backend/cpu/%_avx512.o: ISA_CFLAGS := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c
$(BUILD)/src/backend/cpu/%_neon.o: ISA_CFLAGS := $(if $(filter aarch64,$(ARCH)),-march=armv8.2-a+dotprod+fp16)

all: $(BUILD)/quire $(BUILD)/libquire.a $(BUILD)/libquire.so

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(ISA_CFLAGS) -c $< -o $@

$(BUILD)/libquire.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libquire.so: $(LIB_OBJ)
	$(CC) -shared $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/quire: $(BIN_OBJ) $(BUILD)/libquire.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# One test alone: make build/tests/test_kv && build/tests/test_kv
$(BUILD)/tests/%: tests/%.c $(BUILD)/libquire.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $< $(BUILD)/libquire.a $(LIBS) $(shell pkg-config --libs cmocka)

clean:
	rm -rf $(BUILD)

.PHONY: all clean
.SECONDARY:
-include $(LIB_OBJ:.o=.d) $(BIN_OBJ:.o=.d)
