# Two commands do everything: `make demo` and `make test`. Each makes .venv and builds first, if need be.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
NATIVE_SOURCES := setup.py $(shell find csrc -type f)
BUILT := $(VENV)/.built
CPP := $(shell find csrc tests/emulator benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# the compiled code under AddressSanitizer and UBSan, in a folder of its own
SANITIZED := build/sanitize
# with its exceptions, and before all other libraries
SANITIZER_LIBRARIES = $(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libstdc++.so)
SANITIZED_TESTS := $(addprefix tests/test_,lstm_ops.py lstm_infer.py lstm_matrix_unit.py lstm_packed_weights.py lstm_stress.py lstm_threads.py lstm_variant_kernels.py decode_random.py decode_read.py decode_encode.py decode_ensemble.py transducer.py transducer_beam.py transducer_bad_input.py forecast.py forecast_bad_input.py)

.PHONY: demo test sanitize lint format bench cuda-table build clean

demo: build
	$(BIN)/fast-s2s demo $(ARGS)

test: build
	$(BIN)/python -m pytest $(ARGS)

# short stacks: a leak is told by who allocated, and only our own count. Reports go to stderr itself, which
# pytest must not capture: the process ends with them
sanitize: build
	FAST_S2S_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build \
		--build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	LD_PRELOAD="$(SANITIZER_LIBRARIES)" ASAN_OPTIONS=malloc_context_size=2 \
		LSAN_OPTIONS=suppressions=tests/leaks_of_others.txt UBSAN_OPTIONS=print_stacktrace=1 \
		$(BIN)/pytest --capture=sys -o pythonpath="$(SANITIZED)/lib tests" $(SANITIZED_TESTS) $(ARGS)

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: build
	$(BIN)/python -m benchmarks lstm $(ARGS)

# what each CUDA kernel takes, by nvcc and cuobjdump, of the sources that changed; ARGS=--all: of all, a quarter of an hour
cuda-table: build
	$(BIN)/python csrc/cuda_resources.py $(ARGS)

build: $(BUILT)

# an installed torch is kept; else the CPU build of 2.13.0. No build isolation: it would fetch another torch
$(VENV)/.dependencies: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet "setuptools>=77" wheel "pybind11>=2.13" ninja
	touch $@

# as old as its beginning: what changes meanwhile is built the next time
$(BUILT): $(VENV)/.dependencies $(NATIVE_SOURCES)
	touch $@.begun
	$(BIN)/pip install --quiet --no-build-isolation -e ".[dev]"
	mv $@.begun $@

clean:
	rm -rf $(VENV) build dist *.egg-info fast_s2s/*.so
