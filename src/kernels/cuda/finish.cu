// The last pass over pixels: reflection, padding, lighting, mean and deviation, and the cast (kernels/finish.rs):
//   out[n, y, x, c] = image[n, top + y, left + x', c] * scale_c + offset_{n, c}
// with x' = CROP - 1 - x where the window is mirrored, and zero outside the image, which is the top left
// width x height of its [CROP, CROP, 3] bytes. In fp32 bit for bit the CPU's (not contracted).
//
// Bytes moved: one read and the size of an element written per value. A thread writes CHUNK neighbouring values of
// the whole batch. CROP is compiled in.

// In pixels of the image; left and top are negative where the window begins in the padding.
struct Window {
    int left, top, width, height, mirrored;
};

struct Channels {
    float at[3];
};

constexpr unsigned ROW = CROP * 3;

__device__ inline float finished(
    const unsigned char* images, const Window& window, const Channels& scale,
    const Channels& offset, size_t image, int y, int value) {
    int x = value / 3, c = value % 3;
    x = window.left + (window.mirrored ? CROP - 1 - x : x);
    y += window.top;
    if (x < 0 || x >= window.width || x >= CROP || y < 0 || y >= window.height || y >= CROP) return 0;
    unsigned char pixel = images[((image * CROP + y) * CROP + x) * 3 + c];
    return float(pixel) * scale.at[c] + (c == 0 ? offset.at[0] : c == 1 ? offset.at[1] : offset.at[2]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    finish(const unsigned char* __restrict__ images, const Window* __restrict__ windows,
           const Channels* __restrict__ offsets, Real* __restrict__ out,
           unsigned long long num_values, Channels scale) {
    unsigned long long first = ((unsigned long long)blockIdx.x * THREADS + threadIdx.x) * CHUNK;
    if (first >= num_values) return;
    unsigned long long row = first / ROW;
    int value = first % ROW;
    size_t image = row / CROP;
    int y = row % CROP;
    // Few chunks see a second image.
    Window window = windows[image];
    Channels offset = offsets[image];
    float values[CHUNK] = {};
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        if (first + i >= num_values) break;
        values[i] = finished(images, window, scale, offset, image, y, value);
        if (++value < ROW) continue;
        value = 0;
        if (++y < CROP) continue;
        y = 0;
        ++image;
        if (first + i + 1 < num_values) window = windows[image], offset = offsets[image];
    }
    if (first + CHUNK <= num_values) {
        store_rounded(out + first, values);
    } else {
        for (int i = 0; first + i < num_values; ++i) narrow(values[i], out[first + i]);
    }
}
