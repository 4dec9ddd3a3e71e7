// A layer's bias (kernels/bias.rs), of maps and of vectors, channels last:
//   relu:      y = max(a + b_c, 0), the sum rounded to an element first
//   unrelu:    da = dy where y is not 0, elsewhere 0
//   gradient:  db_c = sum of da_c over all rows, a row being a pixel or an image
//
// Bytes moved: relu and unrelu read and write each map once; the gradient reads it once, and partial sums twice.
// CHANNELS, STACKS, TILE and ABREAST are compiled in. Sums are added in an order that only the shape decides.

constexpr int CHUNKS = CHANNELS / CHUNK;

// Where CHUNK channels of a row lie in `y` and `dy`, which hold the channels in STACKS, all rows of one before
// those of the next.
__device__ inline size_t in_stacks(unsigned index, unsigned num_rows) {
    constexpr int STACK = CHANNELS / STACKS;
    if (STACKS == 1) return size_t(index) * CHUNK;
    unsigned channel = index % CHUNKS * CHUNK, row = index / CHUNKS;
    return (size_t(channel / STACK) * num_rows + row) * STACK + channel % STACK;
}

// A thread computes CHUNK channels of a row. Not stacked, `y` may be `a`.
extern "C" __global__ void __launch_bounds__(THREADS)
    relu(const Real* a, const Real* __restrict__ bias, Real* y, unsigned num_rows) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_rows * CHUNKS) return;
    Elements<CHUNK> sums, biases;
    sums.read(true, a + size_t(index) * CHUNK);
    biases.read(true, bias + index % CHUNKS * CHUNK);
    sums.add(biases);
    Wide values[CHUNK];
    sums.template widen_to<RELU>(values);
    store_rounded(y + in_stacks(index, num_rows), values);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    unrelu(const Real* __restrict__ y, const Real* __restrict__ dy, Real* __restrict__ da, unsigned num_rows) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_rows * CHUNKS) return;
    size_t from = in_stacks(index, num_rows);
    Wide activations[CHUNK], gradients[CHUNK];
    load_wide<CHUNK, IDENTITY>(true, y + from, activations);
    load_wide<CHUNK, IDENTITY>(true, dy + from, gradients);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) gradients[i] = activations[i] <= 0 ? Wide(0) : gradients[i];
    store_rounded(da + size_t(index) * CHUNK, gradients);
}

// A block sums TILE chunks of a row, side by side, and reads so many rows at a time.
constexpr int ROWS = THREADS / TILE;
// As many times ROWS are on their way to a thread at once.
constexpr int AHEAD = 8;

// Block (x, y) sums every gridDim.x-th ROWS rows of tile y into row x of `partial`, [gridDim.x, CHANNELS].
extern "C" __global__ void __launch_bounds__(THREADS)
    partial_sums(const Real* __restrict__ da, Wide* __restrict__ partial, unsigned num_rows) {
    __shared__ Wide shared[THREADS * CHUNK];
    unsigned row = threadIdx.x / TILE, chunk = blockIdx.y * TILE + threadIdx.x % TILE;
    Wide sums[CHUNK] = {};
    if (row < ROWS && chunk < CHUNKS) {
        unsigned stride = gridDim.x * ROWS;
        for (unsigned at = blockIdx.x * ROWS + row; at < num_rows; at += AHEAD * stride) {
            Elements<CHUNK> rows[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                size_t next = at + i * stride;
                rows[i].read(next < num_rows, da + next * CHANNELS + chunk * CHUNK);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                Wide values[CHUNK];
                rows[i].template widen_to<IDENTITY>(values);
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) sums[j] += values[j];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) shared[threadIdx.x * CHUNK + i] = sums[i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < TILE * CHUNK; i += THREADS) {
        unsigned channel = blockIdx.y * TILE * CHUNK + i;
        if (channel >= CHANNELS) break;
        Wide sum = 0;
        for (unsigned r = 0; r < ROWS; ++r) sum += shared[r * TILE * CHUNK + i];
        partial[size_t(blockIdx.x) * CHANNELS + channel] = sum;
    }
}

// A block of the second pass sums ABREAST channels, and reads so many partial sums of each at a time.
constexpr int DEEP = THREADS / ABREAST;

extern "C" __global__ void __launch_bounds__(THREADS)
    sums(const Wide* __restrict__ partial, Real* __restrict__ db, unsigned num_partial) {
    __shared__ Wide shared[THREADS];
    unsigned channel = blockIdx.x * ABREAST + threadIdx.x % ABREAST, first = threadIdx.x / ABREAST;
    Wide sum = 0;
    if (channel < CHANNELS) {
#pragma unroll 8
        for (unsigned i = first; i < num_partial; i += DEEP) sum += partial[size_t(i) * CHANNELS + channel];
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (first > 0 || channel >= CHANNELS) return;
    sum = 0;
    for (int i = 0; i < DEEP; ++i) sum += shared[i * ABREAST + threadIdx.x];
    narrow(sum, db[channel]);
}
