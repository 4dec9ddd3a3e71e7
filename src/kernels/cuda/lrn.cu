// Local response normalisation, channels last (kernels/lrn.rs):
//   y_i = x_i (k + alpha * sum of x_j^2 over |j - i| <= n / 2 within i's group)^-beta
//
// Bytes moved: forward reads x and writes y; backward reads x and dy and writes dx. Each once.
// A thread computes CHUNK channels of one pixel. CHANNELS and GROUP are compiled in.

constexpr int CHUNKS = CHANNELS / CHUNK;

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const Real* __restrict__ x, Real* __restrict__ y, unsigned num_chunks, Rule rule) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_chunks) return;
    int first = index % CHUNKS * CHUNK % GROUP;
    size_t chunk = size_t(index) * CHUNK;
    Wide a[CHUNK + 2 * REACH], normalised[CHUNK];
    load_chunk<REACH, IDENTITY>(x + chunk, first, a);
    normalise(a, rule, normalised);
    store_rounded(y + chunk, normalised);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    backward(const Real* __restrict__ x, const Real* __restrict__ dy, Real* __restrict__ dx,
             unsigned num_chunks, Rule rule) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_chunks) return;
    int first = index % CHUNKS * CHUNK % GROUP;
    size_t chunk = size_t(index) * CHUNK;
    Wide a[CHUNK + 4 * REACH], gradient[CHUNK + 2 * REACH], da[CHUNK];
    load_chunk<2 * REACH, IDENTITY>(x + chunk, first, a);
    load_chunk<REACH, IDENTITY>(dy + chunk, first, gradient);
    differentiate(a, gradient, first, rule, da);
    store_rounded(dx + chunk, da);
}
