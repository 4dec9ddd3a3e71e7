// The last pass over pixels: reflection, padding, lighting, mean and deviation, and the cast (kernels/finish.rs):
//   out[n, y, x, c] = image[n, top + y, left + x', c] * scale_c + offset_{n, c}
// with x' = CROP - 1 - x where the window is mirrored, and zero outside the image, which is the top left
// width x height of its [CROP, CROP, 3] bytes. Bit for bit the CPU's (not contracted).
//
// Bytes moved: one read and the size of an element written per value. A thread writes VALUES neighbouring values of
// the whole batch, wherever in a pixel they begin: what a warp reads and writes lies side by side.
// VALUES and CROP are compiled in.

// In pixels of the image; left and top are negative where the window begins in the padding.
struct Window {
    int left, top, width, height, mirrored;
};

struct Channels {
    float at[3];
};

constexpr unsigned IMAGE = CROP * CROP * 3;
// As many pixels as hold VALUES values wherever in the first these begin, and words as hold those pixels.
constexpr int PIXELS = (VALUES + 4) / 3;
constexpr int BYTES = 3 * PIXELS;
constexpr int WORDS = (BYTES + 3) / 4;

// Where in the output a value lies.
struct Place {
    unsigned image;
    int x, y, channel;

    __device__ inline Place(unsigned value) : image(value / IMAGE) {
        unsigned in_image = value % IMAGE;
        y = in_image / (3 * CROP);
        x = in_image / 3 % CROP;
        channel = in_image % 3;
    }
};

// The value at a place; zero outside the image.
__device__ inline float finish_value(
    const unsigned char* images, const Window* windows, const Channels* offsets, const Channels& scale, Place at) {
    Window window = windows[at.image];
    int x = window.left + (window.mirrored ? CROP - 1 - at.x : at.x), y = window.top + at.y;
    if (x < 0 || x >= window.width || x >= CROP || y < 0 || y >= window.height || y >= CROP) return 0;
    const unsigned char* image = images + size_t(at.image) * IMAGE;
    return float(image[(y * CROP + x) * 3 + at.channel]) * scale.at[at.channel] + offsets[at.image].at[at.channel];
}

// PIXELS pixels from a place on, which reach into the next row at most.
struct Run {
    Place at;
    Window window;

    __device__ inline bool crosses_rows() const { return at.x + PIXELS > CROP; }

    // Whether all lie in the image, and so far within the batch that whole words around them are of it too.
    __device__ inline bool is_inside(unsigned num_rows) const {
        int width = window.width < CROP ? window.width : CROP;
        int height = window.height < CROP ? window.height : CROP;
        int top = window.top + at.y, left = window.left + (window.mirrored ? CROP - at.x - PIXELS : at.x);
        bool whole_rows = window.left == 0 && width == CROP && at.y + 1 < CROP;
        bool columns = crosses_rows() ? whole_rows : left >= 0 && left + PIXELS <= width;
        unsigned row = at.image * CROP + top;
        return columns && top >= 0 && top + crosses_rows() < height && row >= 1 && row + 3 <= num_rows;
    }

    // Their bytes in the output's order, the first in the lowest of the first word.
    __device__ inline void load(const unsigned char* image, unsigned (&words)[WORDS]) const {
        load_row(image, at.x, at.y, words);
        if (!crosses_rows()) return;
        unsigned below[WORDS];
        load_row(image, at.x - CROP, at.y + 1, below);
        int num_above = 3 * (CROP - at.x);
#pragma unroll
        for (int i = 0; i < WORDS; ++i) {
            int num = num_above - 4 * i;
            unsigned above = num <= 0 ? 0 : num >= 4 ? ~0u : ~(~0u << 8 * num);
            words[i] = words[i] & above | below[i] & ~above;
        }
    }

   private:
    // As if all lay in row y: those beyond its ends are what is beside it in memory.
    __device__ inline void load_row(const unsigned char* image, int x, int y, unsigned (&words)[WORDS]) const {
        int left = window.left + (window.mirrored ? CROP - x - PIXELS : x);
        const unsigned char* from = image + ((window.top + y) * CROP + left) * 3;
        unsigned shift = size_t(from) % 4;
        const unsigned* aligned = reinterpret_cast<const unsigned*>(from - shift);
        unsigned low = aligned[0];
#pragma unroll
        for (int i = 0; i < WORDS; ++i) {
            unsigned high = aligned[i + 1];
            words[i] = ((unsigned long long)high << 32 | low) >> 8 * shift;
            low = high;
        }
        if (!window.mirrored) return;
        unsigned reflected[WORDS] = {};
#pragma unroll
        for (int i = 0; i < BYTES; ++i) {
            int to = BYTES - 3 - i + 2 * (i % 3);
            reflected[to / 4] |= (words[i / 4] >> 8 * (i % 4) & 0xff) << 8 * (to % 4);
        }
#pragma unroll
        for (int i = 0; i < WORDS; ++i) words[i] = reflected[i];
    }
};

// VALUES values of the pixels in `words`, the first being of channel `channel` of the first.
__device__ inline void finish_values(
    const unsigned (&words)[WORDS], int channel, const Channels& scale, const Channels& offset,
    float (&values)[VALUES]) {
    float scales[3], offsets[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        int next = (i + 1) % 3, last = (i + 2) % 3;
        scales[i] = channel == 0 ? scale.at[i] : channel == 1 ? scale.at[next] : scale.at[last];
        offsets[i] = channel == 0 ? offset.at[i] : channel == 1 ? offset.at[next] : offset.at[last];
    }
#pragma unroll
    for (int i = 0; i < VALUES; ++i) {
        unsigned long long both = (unsigned long long)words[i / 4 + 1] << 32 | words[i / 4];
        unsigned byte = unsigned(both >> 8 * channel) >> 8 * (i % 4) & 0xff;
        values[i] = float(byte) * scales[i % 3] + offsets[i % 3];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    finish(const unsigned char* __restrict__ images, const Window* __restrict__ windows,
           const Channels* __restrict__ offsets, Real* __restrict__ out,
           unsigned num_values, Channels scale) {
    unsigned first = (blockIdx.x * THREADS + threadIdx.x) * VALUES;
    if (first >= num_values) return;
    Place at(first);
    Run run{at, windows[at.image]};
    if (PIXELS + 3 <= CROP && first + VALUES <= num_values && run.is_inside(num_values / (3 * CROP))) {
        Channels offset = offsets[at.image];
        unsigned words[WORDS];
        float values[VALUES];
        run.load(images + size_t(at.image) * IMAGE, words);
        finish_values(words, at.channel, scale, offset, values);
        store_rounded(out + first, values);
    } else {
#pragma unroll 1
        for (unsigned i = first; i < first + VALUES && i < num_values; ++i) {
            narrow(finish_value(images, windows, offsets, scale, Place(i)), out[i]);
        }
    }
}
