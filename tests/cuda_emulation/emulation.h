// Enough of CUDA to run a kernel's text on the CPU, one thread after another.
//
// Threads of a block are contexts that hand over at each barrier, so that all reach it before any goes on. What this
// cannot show: races between barriers, speed, and what the GPU's approximate instructions round differently. The
// compiler's checks of alignment and bounds stand for the errors a GPU would raise.
#pragma once

#include <math.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

#include <tuple>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __shared__ static
#define __launch_bounds__(...)
#define __syncwarp()

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

namespace emulation {

struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 17);
    bool done;
};

static ucontext_t scheduler;
static Thread* running;
// The kernel with its arguments; makecontext passes none portably.
static void (*body)(void*);
static void* parameters;

static void run_thread() {
    body(parameters);
    running->done = true;
}

static void run_block(std::vector<Thread>& threads) {
    for (Thread& thread : threads) {
        getcontext(&thread.context);
        thread.context.uc_stack = {thread.stack.data(), 0, thread.stack.size()};
        thread.context.uc_link = &scheduler;
        thread.done = false;
        makecontext(&thread.context, run_thread, 0);
    }
    for (bool waiting = true; waiting;) {
        waiting = false;
        for (unsigned i = 0; i < threads.size(); ++i) {
            if (threads[i].done) continue;
            running = &threads[i];
            threadIdx = {i, 0, 0};
            swapcontext(&scheduler, &running->context);
            waiting |= !running->done;
        }
    }
}

template <typename... Parameters, size_t... I>
void call(void (*kernel)(Parameters...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<Parameters>*>(values[I])...);
}

// Runs all blocks; `values` are the addresses of the parameters, as cuLaunchKernel takes them.
template <typename... Parameters>
void run(void (*kernel)(Parameters...), Index grid, unsigned num_threads, void** values) {
    static void (*current)(Parameters...);
    current = kernel;
    body = [](void* values) {
        call(current, static_cast<void**>(values), std::index_sequence_for<Parameters...>());
    };
    parameters = values;
    gridDim = grid;
    blockDim = {num_threads, 1, 1};
    std::vector<Thread> threads(num_threads);
    for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
            blockIdx = {x, y, 0};
            run_block(threads);
        }
    }
}

}  // namespace emulation

inline void __syncthreads() {
    swapcontext(&emulation::running->context, &emulation::scheduler);
}

#define EMULATE(kernel)                                                                          \
    extern "C" void emulate_##kernel(                                                            \
        unsigned across, unsigned down, unsigned num_threads, void** values) {                   \
        emulation::run(kernel, {across, down, 1}, num_threads, values);                          \
    }
