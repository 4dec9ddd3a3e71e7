// Dropout whose mask is a hash of (layer's key, row, unit), bit for bit kernels/dropout.rs and random.rs:
//   y = scale x where the 32 high bits of the draw reach the threshold, 0 elsewhere
//
// Bytes moved: reads x, writes y. A thread computes CHUNK units of a row; CHUNK divides the units.

__device__ inline unsigned long long mix(unsigned long long z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

constexpr unsigned long long GOLDEN = 0x9e3779b97f4a7c15ull;

extern "C" __global__ void __launch_bounds__(THREADS)
    apply(const Real* __restrict__ x, Real* __restrict__ y, unsigned num_chunks, unsigned row_chunks,
          unsigned long long layer_key, unsigned long long first_row, unsigned long long first_unit,
          unsigned long long threshold, Wide scale) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_chunks) return;
    unsigned long long row = first_row + index / row_chunks;
    unsigned long long unit = first_unit + (unsigned long long)(index % row_chunks) * CHUNK;
    unsigned long long key = mix(layer_key ^ mix(row + GOLDEN));
    Pack<Real, CHUNK> in = load<CHUNK>(x + size_t(index) * CHUNK);
    Wide out[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        bool kept = mix(key + (unit + i) * GOLDEN) >> 32 >= threshold;
        out[i] = kept ? widen(in.at[i]) * scale : Wide(0);
    }
    store_rounded(y + size_t(index) * CHUNK, out);
}
