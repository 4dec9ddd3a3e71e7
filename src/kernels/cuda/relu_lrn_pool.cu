// ReLU, local response normalisation (unless LRN_SIZE is 0) and max pooling in one pass, channels last
// (kernels/relu_lrn_pool.rs). Where BIAS is 1 each channel's bias is added to the map before (kernels/bias.rs).
//
// Bytes moved: forward reads the map a and writes y and one byte of argmax per output; backward reads a, dy and
// argmax and writes da. Each once from memory; what neighbouring threads share comes from the caches.
// BIAS, HEIGHT, WIDTH, CHANNELS, GROUP, WINDOW, STRIDE, IN_STACKS and OUT_STACKS are compiled in.

// Channels that lie side by side in the map and in the pooled one: all, or those of a stack (kernels/stacks.rs).
constexpr int STACK = CHANNELS / IN_STACKS, POOLED_STACK = CHANNELS / OUT_STACKS;
static_assert(LRN_SIZE == 0 || (STACK % GROUP == 0 && POOLED_STACK % GROUP == 0), "no group is cut");

constexpr int OUT_HEIGHT = (HEIGHT - WINDOW) / STRIDE + 1;
constexpr int OUT_WIDTH = (WIDTH - WINDOW) / STRIDE + 1;
constexpr int CHUNKS = CHANNELS / CHUNK;
// Rows that a window has in common with the one below, or that lie between them.
constexpr int OVERLAP = WINDOW > STRIDE ? WINDOW - STRIDE : 0;
constexpr int GAP = STRIDE > WINDOW ? STRIDE - WINDOW : 0;

// The largest of CHUNK channels so far, and its position. After ReLU no value is negative.
#if ELEMENT_BITS == 16
// In one word that orders as they do: the value's bits above, 255 less its position below. A NaN exceeds every
// number; of several the largest bits count, and of those the first, where the twin takes the last NaN.
struct Best {
    unsigned key[CHUNK];

    __device__ inline void set(int i, float value, int position) {
        key[i] = __float_as_uint(value) | (255 - position);
    }
    __device__ inline void take(int i, float value, int position) {
        unsigned other = __float_as_uint(value) | (255 - position);
        key[i] = other > key[i] ? other : key[i];
    }
    // Of equals this one stays; the other's positions are `shift` later.
    __device__ inline void take(int i, const Best& other, int shift) {
        unsigned shifted = other.key[i] - shift;
        key[i] = shifted > key[i] ? shifted : key[i];
    }
    __device__ inline float value(int i) const { return __uint_as_float(key[i] & 0xffff0000u); }
    __device__ inline unsigned char position(int i) const { return 255 - (key[i] & 255); }
};
#else
struct Best {
    Wide values[CHUNK];
    int positions[CHUNK];

    __device__ inline void set(int i, Wide value, int position) {
        values[i] = value;
        positions[i] = position;
    }
    // Of equals the first stays; a NaN exceeds everything, and the last of several counts.
    __device__ inline void take(int i, Wide value, int position) {
        bool better = value > values[i] || value != value;
        values[i] = better ? value : values[i];
        positions[i] = better ? position : positions[i];
    }
    __device__ inline void take(int i, const Best& other, int shift) {
        take(i, other.values[i], other.positions[i] + shift);
    }
    __device__ inline Wide value(int i) const { return values[i]; }
    __device__ inline unsigned char position(int i) const { return positions[i]; }
};
#endif

// The channels of a thread: the first of CHUNK within its group, and the biases of all it reads.
template <int HALO>
struct Channels {
    int first;
    Neighbourhood<HALO> bias;

    __device__ inline Channels(int channel, const Real* biases) : first(channel % GROUP) {
        if (BIAS) bias.read(biases + channel, first);
    }
    // The activations of a pixel, from the convolution's sums.
    __device__ inline void activations(Neighbourhood<HALO> sums, Wide (&to)[CHUNK + 2 * HALO]) const {
        if (BIAS) sums.add(bias);
        sums.template widen_to<RELU>(to);
    }
};

// An image's number among those of all stacks, for the stack of a channel.
template <int SIDE_BY_SIDE>
__device__ inline size_t image_of(int channel, unsigned image, unsigned num_images) {
    return SIDE_BY_SIDE == CHANNELS ? image : channel / SIDE_BY_SIDE * num_images + image;
}

// The values that are pooled: CHUNK channels of a pixel.
__device__ inline void pooled_values(
    const Neighbourhood<REACH>& sums, const Channels<REACH>& channels, const Rule& rule, Wide (&values)[CHUNK]) {
#if LRN_SIZE > 0
    Wide a[CHUNK + 2 * REACH];
    channels.activations(sums, a);
    normalise(a, rule, values);
    round_to_elements(values);
#else
    channels.activations(sums, values);
#endif
}

// A row of a window as it is read.
struct Row {
    Neighbourhood<REACH> pixels[WINDOW];

    __device__ inline void read(const Real* from, int first) {
#pragma unroll
        for (int x = 0; x < WINDOW; ++x) pixels[x].read(from + x * STACK, first);
    }
    // Asks for it, so that reading it takes less long.
    __device__ static inline void prefetch(const Real* from) {
#pragma unroll
        for (int x = 0; x < WINDOW; ++x) prefetch_line(from + x * STACK);
    }
    // The largest of its values.
    __device__ inline void pool(const Channels<REACH>& channels, const Rule& rule, Best& best) const {
#pragma unroll
        for (int x = 0; x < WINDOW; ++x) {
            Wide values[CHUNK];
            pooled_values(pixels[x], channels, rule, values);
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) {
                if (x == 0) {
                    best.set(i, values[i], 0);
                } else {
                    best.take(i, values[i], x);
                }
            }
        }
    }
};

__device__ inline void store_pooled(
    Real* y, unsigned char* argmax, size_t at, const Best& best) {
    Wide values[CHUNK];
    Pack<unsigned char, CHUNK> positions;
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        values[i] = best.value(i);
        positions.at[i] = best.position(i);
    }
    store_rounded(y + at, values);
    store(argmax + at, positions);
}

// Room for so many blocks at once lets the compiler take registers for more that is on its way: 5 % in fp32. 0 is no
// bound: by itself it takes fewer, which in bfloat16 is best (docs/results/gpu.md).
constexpr int FORWARD_BLOCKS = ELEMENT_BITS == 32 ? 5 : 0;

// A thread computes CHUNK channels of an output column, marching down `strip` output rows: rows that two windows
// share are normalised once, and while one row is pooled the next is on its way. Columns that two windows share are
// computed by both threads: their values in one would be registers that its loads need more.
extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS)
    forward(const Real* __restrict__ a, const Real* __restrict__ bias, Real* __restrict__ y,
            unsigned char* __restrict__ argmax, unsigned num_threads, unsigned num_images, int strip, Rule rule) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_threads) return;
    int channel = index % CHUNKS * CHUNK;
    Channels<REACH> channels(channel, bias);
    int out_x = index / CHUNKS % OUT_WIDTH;
    unsigned strips = (OUT_HEIGHT + strip - 1) / strip;
    unsigned at = index / (CHUNKS * OUT_WIDTH);
    int out_y = at % strips * strip;
    unsigned image = at / strips;
    int end = out_y + strip < OUT_HEIGHT ? out_y + strip : OUT_HEIGHT;
    constexpr size_t ROW = size_t(WIDTH) * STACK;
    const Real* column =
        a + image_of<STACK>(channel, image, num_images) * HEIGHT * ROW + out_x * STRIDE * STACK + channel % STACK;
    size_t pooled_image = image_of<POOLED_STACK>(channel, image, num_images);

    int next_y = out_y * STRIDE;
    Row next;
    next.read(column + next_y * ROW, channels.first);
    auto pool_next = [&](int step, Best& best) {
        Row row = next;
        next_y = next_y + step < HEIGHT ? next_y + step : HEIGHT - 1;
        next.read(column + next_y * ROW, channels.first);
        row.pool(channels, rule, best);
    };

    // carried[r] is what row r of the next window holds, for the rows it shares with the one before.
    Best carried[OVERLAP + 1], pooled, best;
#pragma unroll
    for (int r = 0; r < OVERLAP; ++r) pool_next(1, carried[r]);
    for (; out_y < end; ++out_y) {
#pragma unroll
        for (int r = OVERLAP; r < WINDOW; ++r) {
            int below = (out_y + 1) * STRIDE + r;
            if (below < HEIGHT) Row::prefetch(column + below * ROW);
        }
#pragma unroll
        for (int r = 0; r < WINDOW; ++r) {
            if (r >= OVERLAP) pool_next(r + 1 < WINDOW ? 1 : 1 + GAP, pooled);
            const Best& largest = r < OVERLAP ? carried[r] : pooled;
            if (r == 0) best = largest;
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) {
                if (r > 0) best.take(i, largest, r * WINDOW);
            }
            if (r >= STRIDE) carried[r - STRIDE] = largest;
        }
        size_t pixel = (pooled_image * OUT_HEIGHT + out_y) * OUT_WIDTH + out_x;
        store_pooled(y, argmax, pixel * POOLED_STACK + channel % POOLED_STACK, best);
    }
}

// The first and one past the last of `num` windows along one side that hold `position`.
__device__ inline int first_window(int position) {
    return position < WINDOW ? 0 : (position - WINDOW) / STRIDE + 1;
}
__device__ inline int end_window(int position, int num) {
    int end = position / STRIDE + 1;
    return end < num ? end : num;
}

// Windows over a pixel along one side, at most.
constexpr int DEPTH = (WINDOW - 1) / STRIDE + 1;
// Cells of STRIDE neighbouring pixels in a row. All windows over a cell begin in it or in the DEPTH - 1 before.
constexpr int CELLS = (WIDTH + STRIDE - 1) / STRIDE;

// N outputs: their gradients, and their positions four to a word.
template <int N>
struct Outputs {
    Wide gradients[N];
    Pack<unsigned, (N + 3) / 4> positions;

    // No gradients where `inside` is false.
    __device__ inline void read(bool inside, const Real* dy, const unsigned char* argmax) {
        load_wide<N, IDENTITY>(inside, dy, gradients);
        positions = {};
        if (!inside) return;
        if constexpr (N == 1) positions.at[0] = *argmax;
        if constexpr (N == 2) positions.at[0] = *reinterpret_cast<const unsigned short*>(argmax);
        if constexpr (N >= 4) positions = load<N / 4>(reinterpret_cast<const unsigned*>(argmax));
    }

    // Adds those that came from a position, which `pattern` holds four times: bytes that meet it become zero.
    __device__ inline void add_to(Wide* gradient, unsigned pattern) const {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            unsigned difference = positions.at[i / 4] ^ pattern;
            if (!(difference & 0xffu << 8 * (i % 4))) gradient[i] += gradients[i];
        }
    }
};

// A window's outputs: a chunk's and of REACH channels on each side.
struct WindowOutputs {
    static constexpr int STEP = common_power_of_two(CHUNK, REACH, 8);
    static constexpr int PARTS = REACH / STEP;
    Outputs<CHUNK> middle;
    // One more than there are: no array has none.
    Outputs<STEP> left[PARTS + 1], right[PARTS + 1];

    __device__ inline void read(bool inside, const Real* dy, const unsigned char* argmax, int first) {
        middle.read(inside, dy, argmax);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            int i = part * STEP;
            left[part].read(inside && first >= REACH - i, dy - REACH + i, argmax - REACH + i);
            right[part].read(inside && first < GROUP - CHUNK - i, dy + CHUNK + i, argmax + CHUNK + i);
        }
    }

    __device__ inline void add_to(Wide (&gradient)[CHUNK + 2 * REACH], int position) const {
        unsigned pattern = position * 0x01010101u;
        middle.add_to(gradient + REACH, pattern);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            left[part].add_to(gradient + part * STEP, pattern);
            right[part].add_to(gradient + REACH + CHUNK + part * STEP, pattern);
        }
    }
};

// The gradient of a pixel's chunk, from that of the pooled values with REACH more on each side.
__device__ inline void backward_pixel(
    const Real* a, Wide (&gradient)[CHUNK + 2 * REACH], const Channels<2 * REACH>& channels,
    const Rule& rule, Real* da) {
    Neighbourhood<2 * REACH> sums;
    sums.read(a, channels.first);
    Wide activation[CHUNK + 4 * REACH], out[CHUNK];
    channels.activations(sums, activation);
    round_to_elements(gradient);
#if LRN_SIZE > 0
    differentiate(activation, gradient, channels.first, rule, out);
#else
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) out[i] = gradient[i];
#endif
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        out[i] = activation[2 * REACH + i] == 0 ? Wide(0) : out[i];
    }
    store_rounded(da, out);
}

// As for forward. Registers leave room for five blocks in bfloat16 anyway; that they are asked for takes 3 % off
// conv2's map (docs/results/gpu.md).
constexpr int BACKWARD_BLOCKS = ELEMENT_BITS == 16 ? 5 : 0;

// A thread computes CHUNK channels of a cell of da, gathering from the windows over it.
extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS)
    backward(const Real* __restrict__ a, const Real* __restrict__ bias, const Real* __restrict__ dy,
             const unsigned char* __restrict__ argmax, Real* __restrict__ da, unsigned num_threads,
             unsigned num_images, Rule rule) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_threads) return;
    // Threads are numbered as the map lies, of a row one stack after the other: so warps read side by side.
    constexpr int IN_STACK = CHUNKS / IN_STACKS;
    int cell = index / IN_STACK % CELLS;
    int stack = index / (IN_STACK * CELLS) % IN_STACKS;
    int channel = (stack * IN_STACK + index % IN_STACK) * CHUNK, first = channel % GROUP;
    unsigned row = index / (CHUNKS * CELLS);
    int y = row % HEIGHT;
    unsigned image = row / HEIGHT;
    size_t in_map = image_of<STACK>(channel, image, num_images) * HEIGHT + y;
    size_t chunk = (in_map * WIDTH + cell * STRIDE) * STACK + channel % STACK;
    long long pooled_image = image_of<POOLED_STACK>(channel, image, num_images);

    // The map is read when its gradient is gathered, and is on its way until then.
#pragma unroll
    for (int i = 0; i < STRIDE; ++i) {
        if (cell * STRIDE + i < WIDTH) prefetch_line(a + chunk + i * STACK);
    }
    // Without this the assembler puts the prefetches off until right before the reads: 5 % and more.
    __syncwarp();
    Wide gradients[STRIDE][CHUNK + 2 * REACH] = {};
    for (int wy = first_window(y); wy < end_window(y, OUT_HEIGHT); ++wy) {
#pragma unroll
        for (int back = DEPTH - 1; back >= 0; --back) {
            int wx = cell - back;
            bool inside = wx >= 0 && wx < OUT_WIDTH;
            long long window = (pooled_image * OUT_HEIGHT + wy) * OUT_WIDTH + wx;
            long long from = window * POOLED_STACK + channel % POOLED_STACK;
            WindowOutputs outputs;
            outputs.read(inside, dy + from, argmax + from, first);
#pragma unroll
            for (int i = 0; i < STRIDE; ++i) {
                int column = back * STRIDE + i;
                if (column < WINDOW) {
                    outputs.add_to(gradients[i], (y - wy * STRIDE) * WINDOW + column);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < STRIDE; ++i) {
        if (cell * STRIDE + i >= WIDTH) break;
        // Read anew for each pixel: kept, biases would hold registers that more threads need.
        Channels<2 * REACH> channels(channel, bias);
        backward_pixel(a + chunk, gradients[i], channels, rule, da + chunk);
        chunk += STACK;
    }
}
