// Space to depth (kernels/fold.rs): each STRIDE x STRIDE square of pixels becomes one pixel with all its values as
// channels, zeros where a square reaches beyond the image:
//   out[n, y, x, (dy, dx, c)] = image[n, y * STRIDE + dy - PADDING, x * STRIDE + dx - PADDING, c]
//
// Bytes moved: the image is read once, the squares are written once. A thread writes CHUNK values of a square.
// HEIGHT, WIDTH, CHANNELS, STRIDE, PADDING, and ROWS and COLUMNS of squares are compiled in.

constexpr int LINE = STRIDE * CHANNELS;
constexpr int CHUNKS = STRIDE * LINE / CHUNK;

extern "C" __global__ void __launch_bounds__(THREADS)
    fold(const Real* __restrict__ images, Real* __restrict__ out, unsigned num_threads) {
    unsigned index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= num_threads) return;
    int value = index % CHUNKS * CHUNK;
    unsigned square = index / CHUNKS;
    int left = square % COLUMNS * STRIDE - PADDING, top = square / COLUMNS % ROWS * STRIDE - PADDING;
    const Real* image = images + size_t(square / (COLUMNS * ROWS)) * HEIGHT * WIDTH * CHANNELS;
    Pack<Real, CHUNK> pack = {};
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        int line = (value + i) / LINE, along = (value + i) % LINE;
        int y = top + line, x = left + along / CHANNELS;
        bool inside = y >= 0 && y < HEIGHT && x >= 0 && x < WIDTH;
        if (inside) pack.at[i] = image[(y * WIDTH + left) * CHANNELS + along];
    }
    store(out + size_t(index) * CHUNK, pack);
}
