// The last pass over pixels: reflection, padding, lighting, mean and deviation, and the cast (kernels/finish.rs):
//   out[n, y, x, c] = image[n, top + y, left + x', c] * scale_c + offset_{n, c}
// with x' = CROP - 1 - x where the window is mirrored, and zero outside the image, which is the top left
// width x height of its [CROP, CROP, 3] bytes. Bit for bit the CPU's (not contracted).
//
// Bytes moved: one read and the size of an element written per value. A thread writes PIXELS neighbouring pixels of
// the whole batch, 48 bytes. CROP is compiled in.

// In pixels of the image; left and top are negative where the window begins in the padding.
struct Window {
    int left, top, width, height, mirrored;
};

struct Channels {
    float at[3];
};

constexpr int VALUES = 3 * PIXELS;
// Words in which as many bytes lie wherever they begin.
constexpr int WORDS = (VALUES + 3) / 4 + 1;

// The words from `from` on, which is aligned to nothing: the first byte is the lowest of the first word.
__device__ inline void load_bytes(const unsigned char* from, unsigned (&words)[WORDS - 1]) {
    unsigned shift = size_t(from) % 4;
    const unsigned* aligned = reinterpret_cast<const unsigned*>(from - shift);
    unsigned low = aligned[0];
#pragma unroll
    for (int i = 0; i < WORDS - 1; ++i) {
        unsigned high = aligned[i + 1];
        words[i] = ((unsigned long long)high << 32 | low) >> 8 * shift;
        low = high;
    }
}

// All pixels of a thread that lie side by side in the image, from the one at `from` on.
__device__ inline void finish_neighbours(
    const unsigned char* from, bool mirrored, const Channels& scale, const Channels& offset,
    float (&values)[VALUES]) {
    unsigned words[WORDS - 1];
    load_bytes(from, words);
#pragma unroll
    for (int i = 0; i < VALUES; ++i) {
        int c = i % 3, reflected = VALUES - 3 - i + 2 * c;
        unsigned plain = words[i / 4] >> 8 * (i % 4) & 0xff;
        unsigned reversed = words[reflected / 4] >> 8 * (reflected % 4) & 0xff;
        values[i] = float(mirrored ? reversed : plain) * scale.at[c] + offset.at[c];
    }
}

// Whether they do lie so: the thread's first is (x, y) of the window, and (left, top) of the image is the first of
// theirs there.
__device__ inline bool are_neighbours(const Window& window, int x, int y, int left, int top) {
    int width = window.width < CROP ? window.width : CROP, height = window.height < CROP ? window.height : CROP;
    if (top < 0 || top >= height) return false;
    if (x + PIXELS <= CROP) return left >= 0 && left + PIXELS <= width;
    // The next row goes on where this one ends.
    bool whole_rows = !window.mirrored && window.left == 0 && width == CROP && PIXELS <= CROP;
    return whole_rows && y + 1 < CROP && top + 1 < height;
}

__device__ inline void finish_pixel(
    const unsigned char* image, const Window& window, const Channels& scale, const Channels& offset,
    int y, int x, float* values) {
    x = window.left + (window.mirrored ? CROP - 1 - x : x);
    y += window.top;
    bool inside = x >= 0 && x < window.width && x < CROP && y >= 0 && y < window.height && y < CROP;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        float pixel = inside ? image[(y * CROP + x) * 3 + c] : 0;
        values[c] = inside ? pixel * scale.at[c] + offset.at[c] : 0;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    finish(const unsigned char* __restrict__ images, const Window* __restrict__ windows,
           const Channels* __restrict__ offsets, Real* __restrict__ out,
           unsigned num_pixels, Channels scale) {
    constexpr size_t IMAGE = size_t(CROP) * CROP * 3;
    unsigned pixel = (blockIdx.x * THREADS + threadIdx.x) * PIXELS;
    if (pixel >= num_pixels) return;
    int x = pixel % CROP, y = pixel / CROP % CROP;
    size_t image = pixel / (CROP * CROP), first = size_t(pixel) * 3;
    Window window = windows[image];
    Channels offset = offsets[image];

    float values[VALUES] = {};
    int left = window.left + (window.mirrored ? CROP - x - PIXELS : x), top = window.top + y;
    size_t from = image * IMAGE + (top * CROP + left) * 3;
    // Whole words around the bytes have to lie in the array too.
    if (are_neighbours(window, x, y, left, top) && from >= 4 && from + 4 * WORDS <= size_t(num_pixels) * 3) {
        finish_neighbours(images + from, window.mirrored, scale, offset, values);
    } else {
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            if (pixel + i >= num_pixels) break;
            finish_pixel(images + image * IMAGE, window, scale, offset, y, x, values + 3 * i);
            if (++x < CROP) continue;
            x = 0;
            if (++y < CROP) continue;
            y = 0;
            ++image;
            if (pixel + i + 1 < num_pixels) window = windows[image], offset = offsets[image];
        }
    }
    if (pixel + PIXELS <= num_pixels) {
        store_rounded(out + first, values);
    } else {
        for (unsigned i = 0; i < 3 * (num_pixels - pixel); ++i) narrow(values[i], out[first + i]);
    }
}
