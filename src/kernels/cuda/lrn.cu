// Local response normalisation, channels last (kernels/lrn.rs):
//   y_i = x_i (k + alpha * sum of x_j^2 over |j - i| <= n / 2 within i's group)^-beta
//
// Bytes moved: forward reads x and writes y; backward reads x and dy and writes dx. Each once.
// A thread computes CHUNK channels of one pixel. CHANNELS and GROUP are compiled in.

constexpr int CHUNKS = CHANNELS / CHUNK;

// The pixel's group, and the first channel in it, of thread `index`.
__device__ inline size_t group_start(unsigned index, int& first) {
    int channel = index % CHUNKS * CHUNK;
    first = channel % GROUP;
    return size_t(index / CHUNKS) * CHANNELS + channel - first;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const Real* __restrict__ x, Real* __restrict__ y, unsigned num_chunks, Rule rule) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_chunks) return;
    int first;
    size_t group = group_start(index, first);
    Wide a[CHUNK + 2 * REACH], normalised[CHUNK];
    load_chunk<REACH, IDENTITY>(x + group, first, a);
    normalise(a, rule, normalised);
    store_rounded(y + group + first, normalised);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    backward(const Real* __restrict__ x, const Real* __restrict__ dy, Real* __restrict__ dx,
             unsigned num_chunks, Rule rule) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_chunks) return;
    int first;
    size_t group = group_start(index, first);
    Wide a[CHUNK + 4 * REACH], gradient[CHUNK + 2 * REACH], da[CHUNK];
    load_chunk<2 * REACH, IDENTITY>(x + group, first, a);
    load_chunk<REACH, IDENTITY>(dy + group, first, gradient);
    differentiate(a, gradient, first, rule, da);
    store_rounded(dx + group + first, da);
}
